"""Builds the compiled module `roialign_ext._C` against the torch of the running environment.

Environment variables: MAX_JOBS limits the compilers that run at once, CXX and CXXFLAGS are honoured as usual,
ROIALIGN_EXT_SANITIZE=1 builds with the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import setuptools

ROOT = Path(__file__).parent
OLDEST_TORCH = (2, 11)
OLDEST_SETUPTOOLS = 77
INSTALL = "then run `pip install --no-build-isolation .`"
SANITIZE = os.environ.get("ROIALIGN_EXT_SANITIZE", "0") not in ("", "0")


def stop(sentence: str) -> NoReturn:
    """Ends the build with one sentence and no traceback."""
    sys.exit(f"roialign_ext: {sentence}")


if sys.platform != "linux":
    stop(f"builds on Linux only so far, and this platform is {sys.platform}.")
try:
    import torch
except ModuleNotFoundError:
    stop(f"install torch {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]} or newer first, {INSTALL}.")
TORCH_VERSION = str(torch.__version__)
if tuple(int(number) for number in re.findall(r"\d+", TORCH_VERSION)[:2]) < OLDEST_TORCH:
    stop(
        f"install torch {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]} or newer first (version {TORCH_VERSION} is installed), "
        f"{INSTALL}."
    )
if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
    stop(
        f'run `pip install "setuptools>={OLDEST_SETUPTOOLS}"` first (version {setuptools.__version__} is installed), '
        f"{INSTALL}."
    )

from torch.utils import cpp_extension  # noqa: E402  (needs the checks above)


def compile_flags() -> list[str]:
    """Flags for every C++ file. No -std: torch adds the one that its headers need (C++17 or C++20)."""
    # A fused multiply-add would move sample coordinates by a rounding, and with them floor decisions.
    # -Wno-psabi: vectors wider than the baseline are passed between functions of one file only.
    # -Wno-stringop-overflow: GCC 12 finds overflows in torch's reference counts that are not there.
    flags = ["-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi", "-Wno-stringop-overflow"]
    # at::parallel_for is a header template, serial without this flag. The linker does not get it: torch brings the
    # runtime.
    flags.append("-fopenmp")
    # Python's own flags end in -g, which makes the module twenty times larger.
    flags += ["-O1", "-g", *sanitizer_flags()] if SANITIZE else ["-O2", "-g0"]
    return flags


def sanitizer_flags() -> list[str]:
    """Flags for compiler and linker of the sanitizer build; empty otherwise."""
    return ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"] if SANITIZE else []


def compiler_version() -> str:
    """First line of what the C++ compiler says of itself."""
    command = [*shlex.split(cpp_extension.get_cxx_compiler()), "--version"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError):
        stop(f"found no working C++ compiler (`{shlex.join(command)}` failed): install g++ or set CXX, {INSTALL}.")


def relative(paths: list[Path]) -> list[str]:
    """Sorted paths from the source folder, as setuptools wants them."""
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


class Build(cpp_extension.BuildExtension):
    """Builds the module and writes beside it what it was built with, for messages that must work without it."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # Timestamps cannot tell that another torch or other flags built the objects; ninja compares command lines.
        self.force = True

    def run(self) -> None:
        compiler = compiler_version()
        print(f"roialign_ext: torch {TORCH_VERSION}, {compiler}; CUDA kernels: no, this release has CPU kernels only")
        super().run()
        info = {"TORCH_VERSION": TORCH_VERSION, "COMPILER": compiler, "FLAGS": shlex.join(compile_flags())}
        lines = ['"""Written by setup.py: what the compiled module was built with."""', ""]
        lines += [f"{name} = {value!r}" for name, value in info.items()]
        self.build_info().write_text("\n".join(lines) + "\n")

    def build_info(self) -> Path:
        return Path(self.get_ext_fullpath("roialign_ext._C")).with_name("_build_info.py")

    def get_outputs(self) -> list[str]:
        return [*super().get_outputs(), str(self.build_info())]


def extension() -> setuptools.Extension:
    """The compiled module: every C++ file of csrc."""
    sources = [path for folder in (".", "core", "cpu") for path in (ROOT / "csrc" / folder).glob("*.cpp")]
    module: setuptools.Extension = cpp_extension.CppExtension(
        name="roialign_ext._C",
        sources=relative(sources),
        depends=relative(list((ROOT / "csrc").rglob("*.h"))),
        extra_compile_args=compile_flags(),
        extra_link_args=sanitizer_flags(),
    )
    # torch's headers are not ours to warn about.
    module.extra_compile_args += [argument for path in module.include_dirs for argument in ("-isystem", path)]
    module.include_dirs = ["csrc"]
    return module


# One build folder for each torch and kind of build, so that no object or module of another one is ever packed.
build_folder = f"build/torch-{TORCH_VERSION}{'-sanitize' if SANITIZE else ''}"
options: dict[str, dict[str, Any]] = {"build": {"build_base": build_folder}}
setuptools.setup(ext_modules=[extension()], cmdclass={"build_ext": Build}, options=options)
