"""Does each phase on a GPU find and report what it should, where tools and devices are stand-ins?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.gpu_phases import LATE, Tool, call, document

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of this copy")


def test_facts(module: Callable[[str], ModuleType], tool: Tool, tmp_path: Path, monkeypatch: Any) -> None:
    tool("nvidia-smi", "print('a GPU, 580.1, 81559')")
    tool("nvcc", "print('Cuda compilation tools, release 13.0, V13.0.88')")
    tool("ncu", "time.sleep(3600)")
    facts = module("facts")
    monkeypatch.setattr(facts, "SECONDS_OF_A_TOOL", 3)
    assert call(facts, "--results", tmp_path / "results.json") == 0
    found = document(tmp_path)["facts"]
    assert found["nvidia_smi"] == "a GPU, 580.1, 81559"
    assert "13.0" in found["tools"]["nvcc"]
    assert found["tools"]["ncu"].startswith("no answer")
    assert found["device"]["device"] == "a stand-in"


@pytest.mark.parametrize("works", [True, False])
def test_build(module: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: Any, works: bool) -> None:
    """A copy of the sources without pyproject.toml is built, and what it made is imported."""
    sources = tmp_path / "sources"
    for name in ("csrc", "roialign_ext"):
        (sources / name).mkdir(parents=True)
    (sources / "pyproject.toml").touch()
    (sources / "roialign_ext" / "__init__.py").touch()
    (sources / "roialign_ext" / "__main__.py").write_text(
        "from pathlib import Path; print(Path(__file__).with_name('_C.so').read_text())"
    )
    (sources / "setup.py").write_text(
        "import os, sys; from pathlib import Path\n"
        "assert not Path('pyproject.toml').exists() and os.environ['FORCE_CUDA'] == '1'\n"
        + (
            "site = Path(sys.argv[sys.argv.index('--build-lib') + 1], 'roialign_ext', '_C.so'); site.write_text('here')"
            if works
            else "sys.exit('roialign_ext: no toolkit of CUDA 13.0 was found')"
        )
    )
    build = module("build")
    monkeypatch.setattr(build, "ROOT", sources)
    monkeypatch.setenv("PYTHONPATH", str(build.SITE))
    assert call(build, "--results", tmp_path / "results.json") == int(not works)
    assert document(tmp_path)["build"]["status"] == int(not works)
    log = (tmp_path / "work" / "logs" / ("environment.txt" if works else "build.txt")).read_text()
    assert ("here" if works else "no toolkit") in log


TESTS = """
import os, time, warnings
import pytest

def test_kernels_agree_with_others():
    warnings.warn("somebody else's", DeprecationWarning)

@pytest.mark.skip(reason="not here")
def test_kernels_agree_elsewhere(): ...

@pytest.mark.parametrize("what", ["a b-c", "d"])
def test_of_the_device(what):
    assert what == "d", "the device is lost"

def test_that_is_last():
    time.sleep(float(os.environ.get("STAND_IN_SLEEP", "0")))
"""


@pytest.fixture
def file_of_tests(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    file = tmp_path / "tests" / "test_on_a_device.py"
    file.write_text(TESTS)
    (tmp_path / "tests" / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\nmarkers = large\n")
    return file


def test_tests(module: Callable[[str], ModuleType], tmp_path: Path, file_of_tests: Path) -> None:
    assert call(module("tests"), "--results", tmp_path / "results.json", "--file", file_of_tests) == 1
    found = document(tmp_path)["tests"]
    assert (found["kernels"]["state"], found["kernels"]["passed"], found["kernels"]["skipped"]) == ("passed", 1, 1)
    device = found["device"]
    assert (device["state"], device["passed"], device["failed"]) == ("failed with status 1", 2, 1)
    (failure,) = device["failures"].items()
    assert failure[0].endswith("test_of_the_device[a b-c]")
    assert "the device is lost" in failure[1]
    text = module("verdicts").text(document(tmp_path))
    assert "tests, kernels: passed, 1 passed, 0 failed, 1 skipped" in text
    assert "tests, device: failed with status 1, 2 passed, 1 failed, 0 skipped" in text


def test_a_test_that_hangs_is_named(
    module: Callable[[str], ModuleType], tmp_path: Path, file_of_tests: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("STAND_IN_SLEEP", "3600")
    tests = module("tests")
    monkeypatch.setattr(tests, "GRACE", 0.4)
    monkeypatch.setattr(tests, "seconds_left", lambda: 5.0)
    assert call(tests, "--results", tmp_path / "results.json", "--file", file_of_tests) == 1
    device = document(tmp_path)["tests"]["device"]
    assert device["state"] == "timed out"
    assert device["last"].endswith("test_that_is_last")


def test_sanitizers(module: Callable[[str], ModuleType], tool: Tool, tmp_path: Path, file_of_tests: Path) -> None:
    tool(
        "compute-sanitizer",
        "command = sys.argv[sys.argv.index('--error-exitcode') + 2 :]\n"
        "if sys.argv[2] == 'racecheck': sys.exit(42)\n"
        "if command[0] == '--kernel-name': command = command[2:]\n"
        "os.execvp(command[0], command)",
    )
    arguments = ("--results", tmp_path / "results.json", "--file", file_of_tests, "--cases", "kernels")
    assert call(module("sanitizers"), *arguments) == 1
    found = document(tmp_path)["sanitizers"]
    assert (found["memcheck"]["state"], found["memcheck"]["passed"]) == ("passed", 1)
    assert found["racecheck"]["state"] == "found errors"


def test_profile(module: Callable[[str], ModuleType], tool: Tool, tmp_path: Path) -> None:
    """ncu's CSV becomes cells; a metric that this ncu lacks is left out; a case that fails costs that case."""
    tool(
        "ncu",
        "metrics = sys.argv[sys.argv.index('--metrics') + 1].split(',')\n"
        "assert sys.argv[sys.argv.index('--cache-control') + 1] == 'none'\n"
        "if 'launch__registers_per_thread' in metrics:\n"
        "    sys.exit('==ERROR== Failed to find metric launch__registers_per_thread')\n"
        "if 'roialign_ext:D:float32:NCHW' in sys.argv:\n"
        "    sys.exit('==ERROR== The application returned an error code (1).')\n"
        "print('==PROF== Connected to process 7')\n"
        "kernel = 'void roialign_ext::(anonymous namespace)::average_pool_nchw<float, int>(Args)'\n"
        "row = ['0', kernel, '(8, 1, 1)', '(256, 1, 1)']\n"
        "for cells in (['ID', 'Kernel Name', 'Grid Size', 'Block Size', *metrics],\n"
        "              ['', '', '', '', *['unit'] * len(metrics)], [*row, *['1,234.5'] * len(metrics)]):\n"
        "    print(','.join(f'\"{cell}\"' for cell in cells))",
    )
    profile = module("profile")
    cases = ("roialign_ext:A:float32:NCHW", "roialign_ext:D:float32:NCHW")
    assert call(profile, "--results", tmp_path / "results.json", *cases) == 1
    first, second = document(tmp_path)["profile"]["cells"]
    assert (first["kernel"], first["ns"], first["grid"]) == ("average_pool_nchw<float, int>", 1234.5, "(8, 1, 1)")
    assert set(first) == {"contestant", "workload", "dtype", "layout", "kernel", "grid", "block", *profile.METRICS} - {
        "registers"
    }
    assert second["case"] == cases[1]
    assert "returned an error code" in second["error"]
    assert "average_pool_nchw<float, int>" in module("verdicts").text(document(tmp_path))


SMOKE = """
import os, signal, sys, time
from benchmarks.gpu import smoke

real = smoke.fault
FAULTS = {
    "roi_align float32 NCHW": lambda name: "",
    "roi_pool float32 NCHW": lambda name: "the output differs between two runs",
    "roi_warp float32 NCHW": lambda name: os.kill(os.getpid(), signal.SIGSEGV),
    "prroi_pool float32 NCHW": lambda name: time.sleep(3600),
}
smoke.fault = lambda name: FAULTS[name](name)
smoke.SECONDS_OF_A_CALL = 2
sys.argv[1:] = ["--results", sys.argv[1], "--only", *FAULTS]
status = smoke.main()
names = ["roi_align max float16 channels_last", "crop_and_resize float64 NCHW", "roi_align_rotated bfloat16 NCHW"]
assert [real(name) for name in names] == [""] * 3
call = smoke.families()["roi_align"]
smoke.families = lambda: {"roi_align": lambda x, rows: call(x, rows) * (1 + 1e-1 * (x.stride(1) == 1))}
assert "of its norm from the CPU's" in real("roi_align float32 channels_last")
sys.exit(10 + status)
"""


def test_first_calls(
    module: Callable[[str], ModuleType], environment: dict[str, str], tool: Tool, tmp_path: Path
) -> None:
    """A right one, a wrong one, one that crashes and one that hangs; the first two that fail are looked into."""
    tool("compute-sanitizer", "print('========= COMPUTE-SANITIZER\\n========= Invalid write of size 4'); sys.exit(42)")
    command = [sys.executable, "-c", SMOKE, str(tmp_path / "results.json")]
    assert subprocess.run(command, env=environment, timeout=LATE).returncode == 11
    cells = document(tmp_path)["smoke"]["cells"]
    found = {cell["name"].split()[0]: cell["state"] for cell in cells if "tool" not in cell}
    assert found == {"roi_align": "passed", "roi_pool": "failed", "roi_warp": "crashed", "prroi_pool": "timed out"}
    looked_into = [cell for cell in cells if "tool" in cell]
    assert [(cell["state"], cell["why"]) for cell in looked_into] == [("found errors", "Invalid write of size 4")] * 2
    text = module("verdicts").text(document(tmp_path))
    assert "first calls: 1 of 4 passed" in text
    assert "memcheck of" in text
