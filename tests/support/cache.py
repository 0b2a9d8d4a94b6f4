"""Compiled files of tests, cached in build/tests from run to run, and made again if a dependency changed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "tests"


def compiler() -> list[str]:
    """The C++ compiler that built Python, unless CXX names another."""
    return shlex.split(os.environ.get("CXX") or (sysconfig.get_config_var("CXX") or "c++").split()[0])


@cache
def compiler_version() -> str:
    """The words of the compiler for --version."""
    return subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True).stdout


def headers() -> list[Path]:
    """All that kernels and their glue include: of csrc, but for the CPU's, and of the shim."""
    folders = (ROOT / "csrc", ROOT / "csrc" / "core", ROOT / "csrc" / "cuda", ROOT / "tests" / "cuda" / "shim")
    found = [path for folder in folders[:3] for path in folder.glob("*.*h")]
    return sorted([*found, *folders[3].rglob("*.h")])


def cached(name: str, depends_on: Iterable[str | Path], make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` fills. It depends on texts (commands, versions) and on the contents of files."""
    digest = hashlib.sha256(name.encode())
    for part in depends_on:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    folder = FOLDER / f"{name}-{digest.hexdigest()[:16]}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making the same
        if not folder.is_dir():
            for older in FOLDER.glob(f"{name}-{'?' * 16}"):
                shutil.rmtree(older)
            unfinished = FOLDER / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder
