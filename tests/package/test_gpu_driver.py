"""Does the driver of the GPU phases keep results and deadlines, whatever the phases, which are stand-ins, do?"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.gpu_phases import LATE, call, document, states

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of this copy")
SLOW_MACHINE = 10
"""Seconds that a busy machine may add to a deadline."""


def started(environment: dict[str, str], folder: Path, *phases: str, deadline: float = LATE) -> subprocess.Popen[str]:
    """A run of stand-in phases; see gpu_stand_in.py."""
    command = [sys.executable, "-m", "support.gpu_stand_in", "run", str(folder), str(deadline), *phases]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    """Everything that it printed."""
    with process:
        return process.communicate(timeout=LATE)[0]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


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
    """The results of a failed phase are kept, the processes of a hung one end with it, and the other phases run."""
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
                for contestant, workload, dtype, layout in (case.split(":") for case in phase.arguments):
                    assert contestant in ("roialign_ext", "torchvision")
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
