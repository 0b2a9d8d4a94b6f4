"""Requirements of a run on a GPU, the missing ones, and their substitutes."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
WORK = Path(os.environ.get("BENCHMARK_WORK") or ROOT / "build" / "gpu")
"""Folder for the build of the module, and for logs until they are packed."""
SITE = WORK / "site"
OBJECTS = WORK / "objects"
LOGS = WORK / "logs"
PACKAGES = ("torch", "torchvision", "triton", "numpy", "setuptools", "ninja", "pytest", "hypothesis")
OLDEST_SETUPTOOLS = 77


class Setting(NamedTuple):
    """The environment of every phase, sentences on missing requirements, and whether files are compiled one by one."""

    variables: dict[str, str]
    sentences: list[str]
    slow_build: bool


def versions() -> dict[str, str]:
    """Installed versions, without importing anything."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def search_path() -> str:
    """PATH, preceded by the interpreter's folder and followed by the usual folders of Nvidia's tools."""
    # Newest ncu first.
    profilers = sorted(map(str, Path("/opt/nvidia/nsight-compute").glob("*/")), reverse=True)
    usual = ["/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", *profilers]
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), *usual])


def headers() -> Path | None:
    """The folder of Python.h for this version of Python; None if there is none."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    prefixes = (sys.base_prefix, "/usr", "/usr/local")
    folders = [Path(sysconfig.get_path("include")), *(Path(prefix, "include", version) for prefix in prefixes)]
    return next((folder for folder in folders if (folder / "Python.h").is_file()), None)


def major(version: str) -> int:
    first = version.split(".")[0]
    return int(first) if first.isdigit() else 0


def prepare() -> Setting:
    """Checks all requirements. Each sentence names a missing one and its consequence. Writes nothing."""
    variables = {**os.environ, "PATH": search_path(), "PYTHONUNBUFFERED": "1"}
    variables.pop("TORCH_CUDA_ARCH_LIST", None)  # the build uses the architecture of the device
    sentences = []
    have = versions()
    path = [str(SITE)]

    def which(name: str) -> str | None:
        return shutil.which(name, path=variables["PATH"])

    if have["torch"] == "missing":
        sentences.append("torch is missing: nothing can run")
    if have["torchvision"] == "missing":
        sentences.append("torchvision is missing: there is no baseline")
    if major(have["setuptools"]) < OLDEST_SETUPTOOLS:
        if have["setuptools"] == "missing":
            sentences.append("setuptools is missing: the build fails")
        else:
            older = f"setuptools is {have['setuptools']}, older than {OLDEST_SETUPTOOLS}"
            sentences.append(f"{older}: it does here, where the module is built without pyproject.toml")
    slow_build = which("ninja") is None
    if slow_build:
        sentences.append("ninja is missing: files are compiled one after the other, in a longer box; no variants")
    if which("nvcc") is None:
        sentences.append("nvcc is not on the PATH: the build looks where torch's packages keep a toolkit")
    compiler = os.environ.get("CXX", "g++")
    if which(compiler.split()[-1]) is None:
        instead = next((other for other in ("c++", "clang++") if which(other)), None)
        if instead is not None:
            variables["CXX"] = instead
        sentences.append(f"{compiler} is missing: " + (f"{instead} compiles" if instead else "the build fails"))
    found = headers()
    if found is None:
        sentences.append("Python.h is missing: the build fails, and so does Triton")
    elif found != Path(sysconfig.get_path("include")):
        variables["CPATH"] = os.pathsep.join(filter(None, [str(found), os.environ.get("CPATH")]))
        sentences.append(f"Python.h is not in {sysconfig.get_path('include')}: that of {found} is used")
    uses = {"ncu": "profile", "compute-sanitizer": "sanitizers", "nvidia-smi": "clocks"}
    if missing := {tool: use for tool, use in uses.items() if which(tool) is None}:
        sentences.append(f"{', '.join(missing)}: missing, so there are no {', '.join(missing.values())}")
    if have["pytest"] == "missing" or have["hypothesis"] == "missing":
        sentences.append("pytest or hypothesis is missing: no tests and no sanitizers")
    if os.environ.get("PYTHONPATH"):
        path.append(os.environ["PYTHONPATH"])
    variables["PYTHONPATH"] = os.pathsep.join(path)
    variables.setdefault("COMMIT", commit())
    return Setting(variables, sentences, slow_build)


def commit() -> str:
    """The measured commit; "unknown" outside a git checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
