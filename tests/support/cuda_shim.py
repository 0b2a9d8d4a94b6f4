"""CUDA sources compiled for the CPU: libraries made with the host shim (tests/cuda/shim), in four builds.

``plain``; ``asan`` with the address and undefined-behaviour sanitizers; ``tsan`` with the thread sanitizer, which sees
CUDA threads as threads; ``counted``, which counts requests to memory (shim/counter.cpp in place of the thread
sanitizer's runtime). Libraries with sanitizers can be loaded in a process of their own alone: ``sanitized_python``.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import cpp_extension

import roialign_ext  # noqa: F401  (its operators have the schemas)
from support.cache import ROOT, cached, compiler, compiler_version, headers

SHIM = ROOT / "tests" / "cuda" / "shim"
SCHEDULER, GLUE = SHIM / "scheduler.cpp", SHIM / "operators.cpp"
COUNTER, COUNTED_CALLS = SHIM / "counter.cpp", SHIM / "counted_calls.cpp"
# Calls of the kernels go through COUNTED_CALLS in a counted build.
WRAPPED = "-Wl,--wrap=_ZN12roialign_ext4cuda7enqueueB5cxx11ENS0_9OperationERKNS0_8CallArgsEPvS5_"
FLAGS = ["-std=c++20", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-unknown-pragmas"]
# GCC 12 warns of uninitialised values in inlined callbacks, wrongly.
FLAGS += ["-Wno-maybe-uninitialized", "-ffp-contract=off", "-DROIALIGN_EXT_SHIM"]
BUILDS = {
    "shim": ["-O2"],  # the shim itself, in every build
    "plain": ["-Og"],
    # With -Og and checks as calls, the compiler takes a quarter of the time of -O1 with inline checks.
    "asan": [
        *("-Og", "-g1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
        "--param=asan-instrumentation-with-call-threshold=0",
    ],
    "tsan": ["-Og", "-g1", "-fsanitize=thread"],
    # Objects are loaded as a whole, as on the device, and basic blocks keep the order of the program.
    "counted": [
        *("-O1", "-g1", "-fsanitize=thread", "-fsanitize-coverage=trace-pc"),
        *("-fno-tree-sra", "-fno-reorder-blocks", "-fno-thread-jumps"),
    ],
}
SCHEMAS: list[torch.library.Library] = []  # operators exist as long as these objects
LINKED = {kind: flags for kind, flags in BUILDS.items() if kind != "counted"}
RUNTIMES = {
    "plain": [],
    "asan": ["libasan.so", "libubsan.so", "libstdc++.so"],
    "tsan": ["libtsan.so", "libstdc++.so"],
}
OPTIONS = {
    # Python and torch keep memory until exit, which a leak report would list.
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:exitcode=66",
}


def needs_gcc() -> pytest.MarkDecorator:
    """For tests of counted builds: other compilers have other flags."""
    is_gcc = shutil.which(compiler()[0]) is not None and "Free Software Foundation" in compiler_version()
    return pytest.mark.skipif(not is_gcc, reason="counted builds need GCC")


def compiled(source: Path, kind: str) -> Path:
    """The object of a file for that kind of build."""
    # The shim's headers come first: they stand in for CUDA's, and for those of torch that need CUDA's.
    includes = [f"-I{SHIM / 'include'}", f"-I{ROOT / 'csrc'}"]
    includes += [word for path in cpp_extension.include_paths() for word in ("-isystem", path)]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    command = [*compiler(), *FLAGS, abi, *BUILDS[kind], *includes, "-x", "c++", "-c", str(source)]
    files = [source, *headers()]
    if source == GLUE:  # includes them
        files += sorted(path for part in ("", "cuda") for path in (ROOT / "csrc" / part).glob("*.cpp"))
    depends_on = [compiler_version(), torch.__version__, shlex.join(command), *files]

    def make(folder: Path) -> None:
        run([*command, "-o", str(folder / "object.o")])

    return cached(f"{source.parent.name}.{source.stem}.{kind}", depends_on, make) / "object.o"


def build(name: str, kind: str, checked: list[Path], unchecked: list[Path] | None = None) -> Path:
    """A library of ``checked``, compiled for that kind of build, and of what is compiled without sanitizers."""
    shim, plain, linked = [SCHEDULER], [], list(LINKED.get(kind, []))
    if kind == "counted":
        shim.append(COUNTER)
    if unchecked:
        plain += unchecked
        linked += [*(f"-L{path}" for path in cpp_extension.library_paths()), "-lc10", "-ltorch_cpu"]
        if kind == "counted":
            plain.append(COUNTED_CALLS)
            linked.append(WRAPPED)
    jobs = [
        *((source, kind) for source in checked),
        *((source, "plain") for source in plain),
        *((source, "shim") for source in shim),
    ]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        objects = list(map(str, pool.map(lambda job: compiled(*job), jobs)))
    # Its own functions come first: with a CUDA build of torch, CUDA's runtime has functions of the same names.
    command = [*compiler(), "-shared", "-Wl,-Bsymbolic", *objects, *linked]
    folder = cached(f"{name}.{kind}", command, lambda folder: run([*command, "-o", str(folder / "library.so")]))
    return folder / "library.so"


def run(command: list[str]) -> None:
    """Runs a command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"


def load_operators(library: Path) -> Any:
    """The private operators of a library with tests/cuda/shim/operators.cpp, once in a process."""
    schemas = torch.library.Library("roialign_ext_shim", "DEF")
    for name in ("_pool", "_max_pool", "_pool_grad_input", "_pool_grad_boxes"):
        schemas.define(str(getattr(torch.ops.roialign_ext, name).default._schema).removeprefix("roialign_ext::"))
    torch.ops.load_library(library)
    SCHEMAS.append(schemas)
    return torch.ops.roialign_ext_shim


def sanitized_python(kind: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs this Python with the sanitizers' runtimes; skips the test where the compiler has none."""
    found = [
        subprocess.run(
            [*compiler(), f"-print-file-name={library}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for library in RUNTIMES[kind]
    ]
    missing = [path for path in found if not Path(path).is_absolute()]
    if missing:
        pytest.skip(f"the compiler has no {missing[0]}")
    command = [sys.executable, *arguments]
    if kind == "tsan":
        # The runtime of GCC 12 does not work with address space randomisation.
        if shutil.which("setarch") is None:
            pytest.skip("the thread sanitizer needs setarch (util-linux)")
        command = ["setarch", platform.machine(), "-R", *command]
    environment = {**os.environ, **OPTIONS, **variables, "LD_PRELOAD": " ".join(found)}
    return subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
