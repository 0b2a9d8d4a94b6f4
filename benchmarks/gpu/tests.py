"""Tests on the device: `python -m benchmarks.gpu.tests --results FILE`.

The kernels have their own process, because a lost device fails every later test of the process. Plugins and warnings of
the environment are disabled.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .children import GRACE, Child, seconds_left, wait
from .environment import ROOT
from .logs import LogFile
from .store import Store

FILE = ROOT / "tests" / "cuda" / "test_device.py"
MAX_FAILURES = 20
"""After this many failures, further ones tell nothing new."""
EVERY = 25
"""Tests between two updates of the results."""
OUTCOME = re.compile(r"^(\S+?::.+?)\s(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
REASON = re.compile(r"^(?:FAILED|ERROR) (\S+?::.+?) - (.*)$")
STARTED = re.compile(r"^(\S+?::.+?)\s*$")


def pytest_command(file: Path, chosen: str, failures: int) -> list[str]:
    options = ["-v", "--tb=short", f"--maxfail={failures}", "-p", "no:cacheprovider", "-o", "filterwarnings="]
    return [sys.executable, "-m", "pytest", *options, "-k", chosen, "-m", "not large", file.name]


def pytest_environment() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0))
    # Wide lines, because pytest shortens reasons to the width of the terminal.
    settings = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "400", "OMP_NUM_THREADS": str((cores + 1) // 2)}
    return {**os.environ, **settings}


@dataclass
class Watched:
    """A run of pytest, recorded in the results as a field of a phase while it runs.

    The field is `{"state", "passed", "failed", "skipped", "last", "failures": {test: reason}}`.
    """

    phase: str
    name: str
    store: Store
    command: Sequence[str]
    folder: Path
    environment: dict[str, str]
    findings: int | None = None  # the exit status with which a tool reports findings
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    last: str = ""
    state: str = "running"
    failures: dict[str, str] = field(default_factory=dict)

    def start(self) -> Watched:
        self.log = LogFile(f"{self.phase}_{self.name}.txt")
        self.child = Child(self.command, self.line, self.environment, self.folder)
        return self

    def line(self, line: str) -> None:
        self.log(line)
        if found := REASON.match(line):
            self.failures[found[1]] = found[2][:300]
            print(f"{self.name}: {found[1]}: {found[2][:300]}", flush=True)
        elif found := OUTCOME.match(line):
            self.last = found[1]
            if found[2] in ("FAILED", "ERROR"):
                self.failed += 1
                self.failures.setdefault(found[1], "")
                print(f"{self.name}: {found[2]} {found[1]}", flush=True)
                self.note()
            elif found[2] == "SKIPPED":
                self.skipped += 1
            else:
                self.passed += 1
                if self.passed % EVERY == 0:
                    self.note()
        elif found := STARTED.match(line):
            self.last = found[1]  # the process ended in the middle of it

    def note(self) -> None:
        names = ("state", "passed", "failed", "skipped", "last", "failures")
        self.store.update(self.phase, **{self.name: {name: getattr(self, name) for name in names}})

    def end(self) -> bool:
        """Ends the run if it still runs, and records the outcome. Returns whether it passed."""
        status = self.child.status()
        if status is None:
            self.child.interrupt()  # pytest then prints its results so far
            wait([self.child], GRACE / 2)
        self.child.kill()
        if status is None:
            self.state = "timed out"
        elif status == 0:
            self.state = "passed" if self.passed else "ran nothing"
        elif status == self.findings:
            self.state = "found errors"
        else:
            self.state = f"failed with status {status}"
        self.note()
        where = f", at {self.last}" if self.state not in ("passed", "ran nothing") else ""
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        print(f"{self.name}: {self.state}, {counts}{where}", flush=True)
        return self.state == "passed"


def together(runs: list[Watched]) -> bool:
    """Runs them side by side until the time of the phase is over. Returns whether all passed."""
    started: list[Watched] = []
    ended = []
    try:
        started += [run.start() for run in runs]
        wait([run.child for run in started], seconds_left() - GRACE)
    finally:
        ended += [run.end() for run in started]
    return all(ended)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--file", type=Path, default=FILE, help="the tests")
    options = parser.parse_args()
    store = Store(options.results)
    groups = {"kernels": "test_kernels_agree", "device": "not test_kernels_agree"}
    runs = [
        Watched(
            "tests",
            name,
            store,
            pytest_command(options.file, chosen, MAX_FAILURES),
            options.file.parent,
            pytest_environment(),
        )
        for name, chosen in groups.items()
    ]
    return int(not together(runs))


if __name__ == "__main__":
    sys.exit(main())
