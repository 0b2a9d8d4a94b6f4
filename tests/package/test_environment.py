"""Does the environment report tell the truth, and does an import that fails say why in one sentence?"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import roialign_ext
from roialign_ext import _C, _build_info, _environment
from roialign_ext._environment import Environment, load_failure, outdated_torch
from support.children import Ended, Program, run_all

PACKAGE = Path(roialign_ext.__file__).parent
IN_ORDER = Environment(
    package="0.1.0",
    folder="site-packages/roialign_ext",
    python="3.12.1 on Linux x86_64",
    torch_running="2.13.0+cpu",
    torch_built="2.11.0",
    library="site-packages/roialign_ext/libroialign_ext_cpu.so",
    compiler="g++ 12.2.0",
    flags="-O2",
    cuda_built="",
    cuda_architectures="",
    cuda_missing="torch 2.13.0+cpu was built without CUDA",
    torch_cuda=None,
    cuda_device=None,
    cuda_capability=None,
    instruction_set="AVX2",
    instruction_set_request=None,
    threads=8,
    threads_seen=8,
)


def run(*command: str, folder: Path = Path(__file__).parent, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python, by default where the folder of the sources is not on its path."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **variables}
    return subprocess.run(
        [sys.executable, *command],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def rows(report: str) -> dict[str, str]:
    """The report's facts by name."""
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in report.splitlines() if "  " in line)


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_report_of_this_process() -> None:
    found = rows(Environment.collect().report())
    assert found["roialign_ext"] == f"{roialign_ext.__version__} in {PACKAGE}"
    assert torch.__version__ in found["torch"]
    assert _build_info.TORCH_VERSION in found["torch"]
    assert Path(found["CPU library"]).is_file()
    assert found["compiler"] == _build_info.COMPILER
    assert found["CUDA kernels"].startswith("built with CUDA " if _build_info.CUDA else "no: ")
    assert bool(_build_info.CUDA) == bool(_build_info.CUDA_ARCHITECTURES) == (not _build_info.NO_CUDA)
    assert found["instruction set"].startswith(roialign_ext.cpu_capability())
    assert found["threads"].startswith(f"{torch.get_num_threads()} asked for")


def test_the_command_prints_the_report() -> None:
    result = run("-m", "roialign_ext", ATEN_CPU_CAPABILITY="default")
    assert rows(result.stdout)["instruction set"] == "DEFAULT (ATEN_CPU_CAPABILITY=default)"
    steps = [line for line in result.stdout.splitlines() if line.startswith("Next step: ")]
    assert result.returncode == bool(steps), result.stderr
    assert bool(steps) == ("-fsanitize" in _build_info.FLAGS)


def test_nothing_to_do() -> None:
    assert IN_ORDER.next_steps() == []
    assert IN_ORDER.report().endswith("everything is in order.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flags": "-O1 -fsanitize=address,undefined"}, ["ROIALIGN_EXT_SANITIZE"]),
    ],
)
def test_next_step(change: dict[str, str | int], words: list[str]) -> None:
    environment = replace(IN_ORDER, **change)  # type: ignore[arg-type]
    (step,) = environment.next_steps()
    assert all(word in step for word in words)
    assert f"Next step: {step}" in environment.report()


GPU = {"torch_cuda": "13.0", "cuda_device": "Some GPU", "cuda_capability": "9.0"}
NO_TOOLKIT = {"cuda_missing": "no toolkit of CUDA 13.0 was found: /usr/local/cuda (the usual place) has no bin/nvcc"}
BUILT = {"cuda_built": "13.0", "cuda_architectures": "8.0;9.0+PTX", "cuda_missing": ""}


@pytest.mark.parametrize(
    ("change", "row", "step"),
    [
        (
            {},
            "no: torch 2.13.0+cpu was built without CUDA (no CUDA in this torch; no CUDA device visible)",
            None,
        ),
        (
            {"torch_cuda": "13.0", **BUILT},
            "built with CUDA 13.0 for 8.0;9.0+PTX (torch has CUDA 13.0; no CUDA device visible)",
            None,
        ),
        ({**GPU, **BUILT}, "built with CUDA 13.0 for 8.0;9.0+PTX (torch has CUDA 13.0; Some GPU, 9.0)", None),
        (
            {**GPU, **NO_TOOLKIT},
            f"no: {NO_TOOLKIT['cuda_missing']} (torch has CUDA 13.0; Some GPU, 9.0, stays unused)",
            "The GPU (Some GPU) stays unused, because no toolkit of CUDA 13.0 was found",
        ),
        (
            {**GPU, **BUILT, "cuda_capability": "7.5"},
            "built with CUDA 13.0 for 8.0;9.0+PTX (torch has CUDA 13.0; Some GPU, 7.5)",
            "The CUDA kernels, built for 8.0;9.0+PTX, do not run on Some GPU: rebuild with `TORCH_CUDA_ARCH_LIST=7.5 ",
        ),
    ],
    ids=["no CUDA", "no GPU", "in order", "no kernels", "other architecture"],
)
def test_the_report_speaks_of_cuda(change: dict[str, str], row: str, step: str | None) -> None:
    environment = replace(IN_ORDER, **change)  # type: ignore[arg-type]
    assert rows(environment.report())["CUDA kernels"] == row
    assert [s[: len(step or "")] for s in environment.next_steps()] == ([] if step is None else [step])


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("8.0;9.0", "9.0", True),
        ("8.0;9.0", "8.6", True),
        ("8.6", "8.0", False),
        ("8.0", "9.0", False),
        ("8.0+PTX", "12.1", True),
        ("8.0;9.0+PTX", "7.5", False),
        ("7.5 9.0a", "9.0", True),
        ("Hopper", "7.5", True),
    ],
)
def test_architectures_and_devices(architectures: str, capability: str, runs: bool) -> None:
    assert _environment.runs_on(architectures, capability) == runs


@pytest.mark.parametrize(
    ("running", "fits"),
    [
        ("2.11.0", True),
        ("2.11.0a0+git123", True),
        ("2.13.1+cpu", True),
        ("2.14.0+cu130", True),
        ("3.0.0", True),
        ("2.10.1", False),
        ("2.9.0+cu126", False),
        ("1.13.0", False),
    ],
)
def test_only_an_older_torch_is_refused(running: str, fits: bool) -> None:
    sentence = f"roialign_ext needs torch 2.11 or newer, and torch {running} is running: install a newer torch."
    assert outdated_torch(running) == (None if fits else sentence)


def test_load_failure_names_the_reason() -> None:
    sentence = load_failure(OSError("libmissing.so: cannot open shared object file"))
    assert "libmissing.so: cannot open shared object file" in sentence
    assert "rebuild it" in sentence


# The words of the error; files of the package, and what runs before the import.
NOT_BUILT: tuple[str, dict[str, str]] = (f"is installed in {PACKAGE}, but Python found its sources in", {})
OLD_TORCH = (
    "needs torch 2.11 or newer, and torch 2.10.0 is running",
    {"_C.py": "", "before": "import torch; torch.__version__ = '2.10.0'"},
)
NO_LIBRARY = ("libroialign_ext_cpu.so: cannot open shared object file", {"_C.py": ""})
BROKEN_LIBRARY = ("could not be loaded beside torch", {"_C.py": "", "libroialign_ext_cpu.so": "no library"})


def copy_without_compiled_parts(folder: Path) -> Path:
    """The package's Python files, as the sources have them."""
    ignored = shutil.ignore_patterns("*.so", "_build_info.py", "__pycache__")
    return Path(shutil.copytree(PACKAGE, folder / "roialign_ext", ignore=ignored))


BROKEN = {"not built": NOT_BUILT, "old torch": OLD_TORCH, "no library": NO_LIBRARY, "broken library": BROKEN_LIBRARY}
COMMAND = "import runpy; runpy._run_module_as_main('roialign_ext')"  # what python -m calls


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Ended]]:
    """The ends of an import and of the command, for packages that cannot be imported."""
    programs = []
    for _, files in BROKEN.values():
        folder = tmp_path_factory.mktemp("broken")
        copy = copy_without_compiled_parts(folder)
        for name, text in files.items():
            if name != "before":
                (copy / name).write_text(f"{text}\n")
        for code in ("import roialign_ext", COMMAND):
            before, path = files.get("before", "pass"), [str(folder)]
            programs.append(Program(f"{before}\n{code}", path=path, variables={"PYTHONPATH": str(folder)}))
    ended = iter(run_all(programs))
    return {name: [next(ended), next(ended)] for name in BROKEN}


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_failing_import_says_what_to_do(failures: dict[str, list[Ended]], name: str) -> None:
    result = failures[name][0]
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: roialign_ext")
    assert BROKEN[name][0] in last
    assert result.stderr.count("Traceback") == 1  # of the import alone


@pytest.mark.parametrize("name", list(BROKEN))
def test_the_command_says_it_without_a_traceback(failures: dict[str, list[Ended]], name: str) -> None:
    result = failures[name][1]
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "ImportError: roialign_ext" in line
    assert BROKEN[name][0] in line


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the sources of the package, which were never built there."""
    copy_without_compiled_parts(tmp_path)
    return tmp_path


def test_sources_that_hide_the_installed_package(clone: Path) -> None:
    sentence = (
        f"roialign_ext is installed in {PACKAGE}, but Python found its sources in {clone / 'roialign_ext'} first: "
        f"start Python, or the notebook, in another folder than {clone}"
    )
    remedy = ", or start it with `python -P`." if sys.version_info >= (3, 11) else "."
    result = run("-c", "import roialign_ext", folder=clone)
    assert result.stderr.splitlines()[-1] == f"ImportError: {sentence}{remedy}"
    assert result.stderr.count("Traceback") == 1
    result = run("-m", "roialign_ext", folder=clone)
    (line,) = result.stderr.splitlines()
    assert sentence in line
    if sys.version_info >= (3, 11):
        assert run("-P", "-c", "import roialign_ext", folder=clone).returncode == 0


def test_sources_on_pythonpath(clone: Path) -> None:
    result = run("-c", "import roialign_ext", PYTHONPATH=f"{clone}{os.pathsep}{PACKAGE.parent}")
    assert result.stderr.splitlines()[-1].endswith(f"first: take {clone} off PYTHONPATH.")


def test_sources_that_are_installed_nowhere(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = clone / "roialign_ext"
    monkeypatch.setattr(_environment, "__file__", str(folder / "_environment.py"))
    monkeypatch.setattr(_environment, "has_compiled_module", lambda: False)
    monkeypatch.setattr(_environment, "installed_elsewhere", lambda: None)
    sentence = load_failure(ImportError("no _C"))
    assert sentence.startswith(
        f"roialign_ext in {folder} has no compiled module: build and install it with `pip install"
    )


def test_no_torch(clone: Path) -> None:
    (clone / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    result = run("-m", "roialign_ext", folder=clone)
    (line,) = result.stderr.splitlines()
    assert re.search(r"roialign_ext needs torch, which \S+ does not have: start the Python", line)


def test_the_libraries_know_no_python() -> None:
    """A program without Python loads them; beside torch they need what every system has."""
    for path in PACKAGE.glob("libroialign_ext_*.so"):
        listed = subprocess.run(["readelf", "--dynamic", str(path)], capture_output=True, text=True, check=True)
        needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", listed.stdout))
        system = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "ld-linux-x86-64.so.2"}
        assert "libtorch_cpu.so" in needed
        assert needed <= system | {"libtorch_cpu.so", "libtorch_cuda.so"}


@pytest.mark.parametrize("count", [1, 2])
def test_the_kernels_use_the_threads_of_torch(threads: int, count: int) -> None:
    torch.set_num_threads(count)
    assert _C.num_threads_seen() == count
