"""The commands that test and measure on a GPU, without one: phases, tools and devices are stand-ins."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of this copy")
LATE = 60
"""Seconds after which a stand-in that should have been ended has not been."""
SLOW_MACHINE = 10
"""Seconds that a busy machine may add to a deadline."""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a child that finds the benchmarks, the stand-ins and, first of all, the tools in a folder."""
    tools = tmp_path / "tools"
    tools.mkdir()
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "BENCHMARK_WORK": str(tmp_path / "work"),
        "BENCHMARK_DEVICE": "support.fake_device:Fake",
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "STAND_IN_BOX": str(LATE),
        "PATH": os.pathsep.join([str(tools), os.environ["PATH"]]),
    }


Tool = Callable[[str, str], None]


@pytest.fixture
def tool(tmp_path: Path, environment: dict[str, str]) -> Tool:
    """Puts a script under a tool's name in front of the real one."""

    def write(name: str, script: str) -> None:
        file = tmp_path / "tools" / name
        file.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{script}\n")
        file.chmod(0o755)

    return write


@pytest.fixture
def module(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ModuleType]]:
    """A module of benchmarks.gpu in this process, with the variables of a child."""
    for name in ("BENCHMARK_WORK", "BENCHMARK_DEVICE", "PATH"):
        monkeypatch.setenv(name, environment[name])
    for path in (ROOT / "tests", ROOT):
        monkeypatch.syspath_prepend(path)
    before = {name for name in sys.modules if name.startswith("benchmarks.gpu")}
    for name in before:
        del sys.modules[name]  # they read their variables when they are imported
    yield lambda name: importlib.import_module(f"benchmarks.gpu.{name}")
    for name in [name for name in sys.modules if name.startswith("benchmarks.gpu")]:
        del sys.modules[name]


def call(module: ModuleType, *arguments: object) -> int:
    """A phase's `main`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        return int(module.main())


def started(environment: dict[str, str], folder: Path, *phases: str, deadline: float = LATE) -> subprocess.Popen[str]:
    """A run of stand-in phases; see gpu_stand_in.py."""
    command = [sys.executable, "-m", "support.gpu_stand_in", "run", str(folder), str(deadline), *phases]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    """Everything that it printed."""
    with process:
        return process.communicate(timeout=LATE)[0]


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def states(folder: Path) -> dict[str, str]:
    return {cell["phase"]: cell["state"] for cell in document(folder)["run"]["cells"]}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# The driver


def test_a_run_that_passes(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    run = started(environment, folder, "facts=answers", "build@host=answers", "tests<build=floods")
    printed = ended(run)
    assert run.returncode == 0
    assert states(folder) == {"facts": "passed", "build": "passed", "tests": "passed"}
    assert document(folder)["answers"]["cells"] == [{"cell": i} for i in (0, 1, 2)] * 2
    assert "tests: (further lines are left out)" in printed
    with tarfile.open(folder / "log.tar.gz") as tar:
        log = tar.extractfile("log/run.txt")
        assert log is not None
        assert "build: cell 2" in log.read().decode()
    assert sorted(file.name for file in folder.iterdir()) == ["log.tar.gz", "results.json"]
    # The summary is the end of what is printed.
    end = printed[printed.rindex("####") :].splitlines()
    assert any(line.startswith("build           passed") for line in end)
    assert any(line.endswith("All phases passed.") for line in end)
    assert ended(started(environment, folder, "facts=answers")).endswith("name another folder\n")


def test_phases_that_fail_hang_and_crash(environment: dict[str, str], tmp_path: Path) -> None:
    """What a phase had is there, the hung one takes what it started with it, and the others run."""
    folder = tmp_path / "out"
    environment["STAND_IN_BOX"] = "2"
    phases = ("facts=crashes", "slow=hangs", "build@host=fails", "tests<build=answers", "last=answers")
    run = started(environment, folder, *phases)
    printed = ended(run)
    assert run.returncode == 1
    assert states(folder) == {
        "facts": "failed",
        "slow": "timed out",
        "build": "failed",
        "tests": "skipped",
        "last": "passed",
    }
    assert document(folder)["fails"]["cells"] == [{"cell": 0}, {"cell": 1}]
    assert not any(map(alive, document(folder)["hangs"]["pids"]))
    assert "status 1: RuntimeError: the device is lost" in printed
    assert "SIGSEGV" in printed
    assert "Not passed: facts, slow, build, tests." in printed


def test_the_deadline_holds(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    begun = time.monotonic()
    environment["STAND_IN_BOX"] = "2"
    phases = ("facts=answers", "first=hangs", "second=hangs", "third=answers")
    run = started(environment, folder, *phases, deadline=4.5)
    printed = ended(run)
    assert time.monotonic() - begun < 4.5 + SLOW_MACHINE
    assert run.returncode == 1
    cells = {cell["phase"]: cell for cell in document(folder)["run"]["cells"]}
    # On a slow machine the second one gets no time either; the third never does.
    assert cells["first"]["state"] == "timed out"
    assert cells["second"]["state"] in ("timed out", "skipped")
    assert cells["second"]["box"] < 2.0
    assert cells["third"]["state"] == "skipped"
    ends = [cell["begun"] + cell["box"] for cell in cells.values() if cell["box"] > 0]
    assert max(ends) <= 4.5 - 0.4 + 0.01  # a grace and the summary come after
    assert "third           skipped            0.0  no time is left" in printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_prints_its_summary(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "out"
    run = started(environment, folder, "facts=answers", "slow=hangs", "last=answers", deadline=3 * LATE)
    limit = time.monotonic() + LATE
    while not (folder / "results.json").exists() or "hangs" not in document(folder):
        assert time.monotonic() < limit
        time.sleep(0.01)
    run.send_signal(number)
    printed = ended(run)
    assert run.returncode == 1
    assert states(folder) == {"facts": "passed", "slow": "interrupted", "last": "skipped"}
    assert not any(map(alive, document(folder)["hangs"]["pids"]))
    end = printed[printed.rindex("####") :]
    assert f"Interrupted by {number.name}." in end
    assert "facts           passed" in end


def test_a_full_disk_costs_the_newest_cells_alone(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    environment["STAND_IN_FILE_SIZE"] = "1500"
    run = started(environment, folder, "facts=answers", "build=much")
    printed = ended(run)
    assert run.returncode == 1
    assert "LOST: a result of much" in printed
    assert "build: cell 99" in printed
    assert "results could not be written: they are above." in printed[printed.rindex("####") :]
    cells = document(folder)["much"]["cells"]
    assert cells == [{"cell": i} for i in range(len(cells))]
    assert 10 < len(cells) < 100


def test_a_run_goes_on_where_nobody_reads(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    run = started(environment, folder, "facts=answers", "build=answers")
    assert run.stdout is not None
    run.stdout.close()
    assert run.wait(LATE) == 0
    assert states(folder) == {"facts": "passed", "build": "passed"}


def test_a_summary_that_fails_hides_nothing(
    module: Callable[[str], ModuleType], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    driver, summary = module("driver"), module("summary")

    def fail(found: object) -> str:
        raise ValueError("no table today")

    monkeypatch.setattr(summary, "text", fail)
    table = driver.Table((driver.Phase("facts", 30.0, "", "no_such_module"),), 60)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        status = driver.start(table, tmp_path / "out", [], {**os.environ, "COMMIT": "none"})
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    printed = capfd.readouterr().out
    assert status == 1
    assert "no table today" in printed
    assert "No module named no_such_module" in printed[printed.rindex("phase ") :]


def test_plans_fit_their_deadlines(module: Callable[[str], ModuleType]) -> None:
    driver = module("driver")
    for table in driver.TABLES.values():
        names = [phase.name for phase in table.phases]
        assert len(set(names)) == len(names)
        for phase, begin, box in driver.plan(table):
            assert begin + box <= table.deadline - table.grace - table.ending
            assert {*phase.needs, *phase.after} <= set(names[: names.index(phase.name)])
    phase = driver.Phase("one", 50.0, "", "")
    times = [driver.FIRST.box(phase, driver.FIRST.deadline - seconds) for seconds in (200, 38, 8)]
    assert times == [50, 30, 0]  # the last eight seconds are for a kill and the summary
    half = driver.FIRST.scaled(0.5)
    assert (half.deadline, half.phases[0].box) == (220, driver.FIRST.phases[0].box / 2)


def test_phases_take_the_arguments_of_the_tables(module: Callable[[str], ModuleType]) -> None:
    with_torchvision = importlib.util.find_spec("torchvision") is not None
    workloads = importlib.import_module("benchmarks.workloads").WORKLOADS
    for table in module("driver").TABLES.values():
        for phase in table.phases:
            name = phase.module.rpartition(".")[2]
            if name in ("measure", "layers") and not with_torchvision:
                continue  # they import what they measure
            with pytest.raises(SystemExit) as end:
                call(module(name), "--results", "no such file", *phase.arguments, "--help")
            assert end.value.code == 0, phase.name
            if name == "profile":
                for who, workload, dtype, layout in (case.split(":") for case in phase.arguments):
                    assert who in ("roialign_ext", "torchvision")
                    assert workload in workloads
                    assert (dtype in ("float32", "bfloat16"), layout in ("NCHW", "channels_last")) == (True, True)


def test_results_of_two_processes_are_all_there(environment: dict[str, str], tmp_path: Path) -> None:
    script = (
        "import sys; from benchmarks.gpu.store import Store\n"
        "for i in range(40): Store(sys.argv[1]).append(sys.argv[2], {'i': i})"
    )
    file = tmp_path / "results.json"
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(file), phase], env=environment) for phase in ("a", "b")
    ]
    assert [writer.wait(LATE) for writer in writers] == [0, 0]
    assert json.loads(file.read_text()) == {phase: {"cells": [{"i": i} for i in range(40)]} for phase in ("a", "b")}


# The command


def test_the_command_without_a_gpu(environment: dict[str, str], tmp_path: Path, tool: Tool) -> None:
    """To its end, from another folder, saying so; and its plan."""
    (tmp_path / "no_device.py").write_text(
        "from benchmarks.gpu.device import NoDeviceError\n\n\ndef none():\n    raise NoDeviceError('nothing there')\n"
    )
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    environment |= {"BENCHMARK_DEVICE": "no_device:none", "PYTHON": sys.executable}
    tool("nvidia-smi", "sys.exit('NVIDIA-SMI has failed')")
    script = ROOT / "benchmarks" / "gpu" / "first_run.sh"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(script), *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=LATE)

    done = run("out")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "There is no GPU here, so nothing was measured: nothing there." in done.stdout
    assert set(states(tmp_path / "out").values()) == {"no device", "skipped"}
    facts = document(tmp_path / "out")["facts"]
    assert facts["nvidia_smi"].startswith("failed with 1")
    assert facts["versions"]["python"] == sys.version.split()[0]
    plan = run("--dry-run")
    assert plan.returncode == 0
    assert "sanitizers" in plan.stdout
    assert run().returncode == 2
    environment["PYTHON"] = "no-such-python"
    assert "there is no no-such-python: set PYTHON" in run("out").stdout


def test_what_is_missing_is_said(module: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: Any) -> None:
    found = module("environment")
    monkeypatch.setattr(found, "search_path", lambda: str(tmp_path / "tools"))
    monkeypatch.setattr(found, "headers", lambda: Path("/elsewhere/include"))
    monkeypatch.setattr(found, "versions", lambda: {**dict.fromkeys(found.PACKAGES, "1.0"), "setuptools": "68.1.2"})
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5 8.0 9.0")
    shutil.copy(shutil.which("true") or "/bin/true", tmp_path / "tools" / "clang++")
    setting = found.prepare()
    said = "\n".join(setting.sentences)
    assert "setuptools is 68.1.2, older than 77: it does here" in said
    assert "ninja is missing" in said
    assert setting.slow_build
    assert "g++ is missing: clang++ compiles" in said
    assert "that of /elsewhere/include is used" in said
    assert setting.variables["CXX"] == "clang++"
    assert setting.variables["CPATH"].startswith("/elsewhere/include")
    assert "TORCH_CUDA_ARCH_LIST" not in setting.variables
    assert "ncu, compute-sanitizer, nvidia-smi: missing, so there are no profile, sanitizers, clocks" in said
    monkeypatch.setattr(found, "versions", lambda: dict.fromkeys(found.PACKAGES, "missing"))
    monkeypatch.setattr(found, "headers", lambda: None)
    assert len(found.prepare().sentences) == 9  # everything, within the first ten lines


# The phases


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
    said = module("verdicts").text(document(tmp_path))
    assert "tests, kernels: passed, 1 passed, 0 failed, 1 skipped" in said
    assert "tests, device: failed with status 1, 2 passed, 1 failed, 0 skipped" in said


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
    assert set(first) == {"who", "workload", "dtype", "layout", "kernel", "grid", "block", *profile.METRICS} - {
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
    said = module("verdicts").text(document(tmp_path))
    assert "first calls: 1 of 4 passed" in said
    assert "memcheck of" in said
