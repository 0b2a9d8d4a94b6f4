"""Runs phases on a GPU against a deadline: `python -m benchmarks.gpu.driver FOLDER [--table sweep] [--dry-run]`.

Every phase is a process group with a time limit: it is interrupted at the limit and killed soon after. A phase may
fail, hang or lose the device, the disk may be full, and the run may be interrupted. FOLDER still has the results so
far, and the summary is printed last.

FOLDER gets `results.json` (see store.py; the phase "run" says how each phase ended) and `log.tar.gz`.

Exit status: 0 if every phase passed, 1 if one did not or the run was interrupted, 2 if nothing was started (the message
gives the reason), 3 if there is no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import sys
import tarfile
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from .children import UNTIL, Child, wait
from .environment import LOGS, ROOT, prepare
from .logs import LogFile
from .store import LOST, Store

NO_DEVICE = 3
"""Exit status of the phase `facts`, and then of the run, if there is no GPU."""
LINES_OF_A_PHASE, CHARACTERS_OF_A_LINE = 2000, 400
PERIOD = 0.02
SLOW_BUILD = 260.0
"""Seconds for a build that compiles files one after the other."""


@dataclass(frozen=True)
class Phase:
    """One child process `python -m MODULE --results FILE ARGUMENTS`, and its conditions to run.

    The first phase of a table runs alone. The others run in the order of the table, phases of different lanes side by
    side. `after` names phases that must have ended, `needs` those that must have passed.
    """

    name: str
    box: float  # seconds
    about: str
    module: str
    arguments: tuple[str, ...] = ()
    lane: str = "device"
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    least: float = 5.0  # with fewer seconds left it is not started


@dataclass(frozen=True)
class Table:
    """Phases and their total time; the tests scale it down."""

    phases: tuple[Phase, ...]
    deadline: float
    grace: float = 4.0  # from a phase's interrupt to its kill
    ending: float = 4.0  # for the summary

    def scaled(self, factor: float) -> Table:
        phases = tuple(replace(phase, box=phase.box * factor, least=phase.least * factor) for phase in self.phases)
        return Table(phases, self.deadline * factor, self.grace * factor, self.ending * factor)

    def box(self, phase: Phase, now: float) -> float:
        """Seconds for a phase that starts now; with fewer than its least, it is not started."""
        return min(phase.box, self.deadline - self.ending - self.grace - now)


def phase(
    name: str,
    box: float,
    about: str,
    command: str = "",
    lane: str = "device",
    after: tuple[str, ...] = (),
    needs: tuple[str, ...] = (),
    least: float = 5.0,
) -> Phase:
    """A phase that runs a module of this package with arguments, by default the module of its name."""
    module, *arguments = shlex.split(command) or [name]
    return Phase(name, box, about, f"{__package__}.{module}", tuple(arguments), lane, after, needs, least)


BUILT = ("build",)
_FACTS = phase("facts", 30, "the machine, its tools and versions")
_BUILD = phase("build", 100, "the module, for this device, on all cores but two", lane="host")
_LIMITS = phase("limits", 15, "rates that results are held against")
_GOALS = "--workloads A B D E 'A sorted'"
_MORE = (
    "--workloads A 'A sorted' C D E 'E sorted' 'E clustered' 'E two images' 'E many' 'E few' --calls kernel layer graph"
)
_MORE_LAYOUTS = "--layouts NCHW channels_last 'channels_last, NCHW gradient'"
_TOOLS = "--tools memcheck racecheck synccheck initcheck --cases 'test_kernels_agree and (dtype or channels_last)'"
_PROFILES = (
    "profile roialign_ext:A:float32:channels_last roialign_ext:A:float32:NCHW roialign_ext:D:float32:channels_last "
    "roialign_ext:D:float32:NCHW torchvision:A:float32:NCHW roialign_ext:A:bfloat16:channels_last "
    "torchvision:D:float32:NCHW"
)
_MORE_PROFILES = "profile " + " ".join(
    f"{contestant}:{workload}:float32:{layout}"
    for workload in ("B", "E")
    for contestant, layout in (("roialign_ext", "NCHW"), ("roialign_ext", "channels_last"), ("torchvision", "NCHW"))
)
FIRST = Table(
    # The most important phases come first; the sanitizers get the remaining time.
    (
        _FACTS,
        _BUILD,
        phase("variants build", 60, "one source file of each variant", "variants --build", lane="host", needs=BUILT),
        phase(
            "baseline",
            60,
            "torchvision on the workloads of the goals",
            "measure --contestant torchvision --workloads A B D E",
        ),
        _LIMITS,
        phase("smoke", 45, "the first call of every kernel, dtype and layout", needs=BUILT),
        phase("tests", 75, "tests/cuda/test_device.py", needs=BUILT),
        phase(
            "ours", 75, "this package on the same workloads", f"measure --contestant roialign_ext {_GOALS}", needs=BUILT
        ),
        phase("layers", 20, "a pyramid end to end; the host's time", needs=BUILT, after=("variants build",)),
        phase("profile", 70, "ncu on A and D", _PROFILES, needs=BUILT, least=20),
        phase("variants", 50, "the kernels with other constants", needs=BUILT, after=("variants build",)),
        phase("sanitizers", 100, "memcheck and racecheck on small cases", needs=BUILT, least=15),
    ),
    deadline=440,
)
SWEEP = Table(
    (
        _FACTS,
        _BUILD,
        phase(
            "baseline",
            100,
            "torchvision: more workloads, float64, graphs",
            f"measure --contestant torchvision {_MORE} --dtypes float32 float16 float64",
        ),
        _LIMITS,
        phase(
            "ours",
            150,
            "this package on the same workloads",
            f"measure --contestant roialign_ext {_MORE} {_MORE_LAYOUTS} --dtypes float32 float16 bfloat16 float64",
            needs=BUILT,
        ),
        phase("profile", 70, "ncu on B and E", _MORE_PROFILES, needs=BUILT, least=20),
        phase("sanitizers", 300, "all four tools, more cases", f"sanitizers {_TOOLS}", needs=BUILT, least=15),
    ),
    deadline=560,
)
TABLES = {"first": FIRST, "sweep": SWEEP}


@dataclass
class Entry:
    """The state of a phase."""

    phase: Phase
    state: str = "waiting"  # then running, then passed, failed, timed out, interrupted or skipped
    why: str = ""
    child: Child | None = None
    box: float = 0.0
    begun: float = 0.0
    seconds: float = 0.0
    cut: bool = False  # whether it was told to end
    lines: int = 0
    last_line: str = ""

    @property
    def over(self) -> bool:
        return self.state not in ("waiting", "running")


class Printer:
    """Prints, and copies everything to log/run.txt. Neither a closed pipe nor a full disk stops the run."""

    def __init__(self) -> None:
        self._file = LogFile("run.txt")
        self._lock = threading.Lock()

    def __call__(self, text: str) -> None:
        with self._lock:
            data = (text + "\n").encode(errors="replace")
            with contextlib.suppress(OSError):
                while data:
                    data = data[os.write(1, data) :]
            self._file(text)


class Run:
    """One run of a table."""

    def __init__(self, table: Table, folder: Path, sentences: Sequence[str], environment: dict[str, str]) -> None:
        self.started = time.monotonic()
        self.table, self.folder, self.environment = table, folder, environment
        self.entries = {phase.name: Entry(phase) for phase in table.phases}
        self.first = self.entries[table.phases[0].name]
        self.interrupted = ""
        self.lost = 0  # results of phases that could not be written
        self.say = Printer()
        self.store = Store(folder / "results.json", self.say)
        for sentence in sentences:
            self.say(sentence)
        self.store.update("run", deadline=table.deadline, missing=list(sentences), commit=environment["COMMIT"])

    def now(self) -> float:
        return time.monotonic() - self.started

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = signal.Signals(number).name

    def go(self) -> int:
        """Runs the phases, prints the summary, and returns the exit status."""
        # Sets a handler even if the shell started this in the background and ignores SIGINT, because children would
        # inherit that.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.interrupt)
        crash = ""
        try:
            while not self.interrupted and not all(entry.over for entry in self.entries.values()):
                self.reap()
                self.begin()
                time.sleep(PERIOD)
        except Exception:
            crash = traceback.format_exc()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.end_all(crash)
        self.pack()
        self.summarize(crash)
        if self.no_device:
            return NO_DEVICE
        return int(self.all_lost > 0 or any(entry.state != "passed" for entry in self.entries.values()))

    @property
    def all_lost(self) -> int:
        """Results that could not be written, including those of this process."""
        return self.lost + self.store.lost

    @property
    def no_device(self) -> bool:
        return self.first.state == "no device"

    def begin(self) -> None:
        """Starts every phase whose turn it is."""
        for lane in dict.fromkeys(entry.phase.lane for entry in self.entries.values()):
            mine = [entry for entry in self.entries.values() if entry.phase.lane == lane]
            for entry in mine:
                if entry.over:
                    continue
                if entry.state == "running" or not self.ready(entry):
                    break
                self.begin_one(entry)
                if entry.state == "running":
                    break

    def ready(self, entry: Entry) -> bool:
        if entry is self.first:
            return True
        names = (*entry.phase.after, *entry.phase.needs)
        return self.first.over and all(self.entries[name].over for name in names)

    def begin_one(self, entry: Entry) -> None:
        if self.no_device:
            return self.end(entry, "skipped", "there is no GPU")
        if failed := [name for name in entry.phase.needs if self.entries[name].state != "passed"]:
            return self.end(entry, "skipped", f"{failed[0]} did not pass")
        entry.begun, entry.box = self.now(), self.table.box(entry.phase, self.now())
        if entry.box < entry.phase.least:
            entry.box = 0.0
            return self.end(entry, "skipped", "no time is left")
        cut = f", of {entry.phase.box:.0f}, since the deadline is near" if entry.box < entry.phase.box else ""
        self.say(f"#### {entry.phase.name}: {entry.phase.about} ({entry.box:.0f} s{cut}; {entry.begun:.0f} s are over)")
        module = [sys.executable, "-m", entry.phase.module, "--results", str(self.store.path), *entry.phase.arguments]
        environment = {**self.environment, UNTIL: f"{time.monotonic() + entry.box:.2f}"}
        try:
            entry.child = Child(module, lambda line: self.line(entry, line), environment, ROOT)
        except OSError as error:
            return self.end(entry, "failed", str(error))
        entry.state = "running"
        return None

    def line(self, entry: Entry, line: str) -> None:
        """Handles one line printed by a phase."""
        entry.lines += 1
        self.lost += line.startswith(LOST)
        if line.strip():
            entry.last_line = line.strip()[:CHARACTERS_OF_A_LINE]
        if entry.lines <= LINES_OF_A_PHASE:
            self.say(f"{entry.phase.name}: {line[:CHARACTERS_OF_A_LINE]}")
        elif entry.lines == LINES_OF_A_PHASE + 1:
            self.say(f"{entry.phase.name}: (further lines are left out)")

    def reap(self) -> None:
        """Records the phases that ended, and ends those over their time."""
        for entry in self.entries.values():
            if entry.child is None or entry.over:
                continue
            status, age = entry.child.status(), self.now() - entry.begun
            if status is None and age >= entry.box and not entry.cut:
                entry.cut = True
                entry.child.interrupt()
            if status is None and age < entry.box + self.table.grace:
                continue
            entry.child.kill()
            if entry.cut:
                self.end(entry, "timed out", f"after {entry.box:.0f} s")
            elif status == 0:
                self.end(entry, "passed", "")
            elif status == NO_DEVICE and entry is self.first:
                self.end(entry, "no device", entry.last_line)
            else:
                assert status is not None
                how = f"status {status}" if status >= 0 else signal.Signals(-status).name
                self.end(entry, "failed", f"{how}: {entry.last_line}")

    def end(self, entry: Entry, state: str, why: str) -> None:
        entry.state, entry.why = state, why
        entry.seconds = self.now() - entry.begun if entry.child is not None else 0.0
        self.store.append("run", self.cell(entry))
        self.say(f"#### {entry.phase.name}: {state}{f', {why}' if why else ''} ({entry.seconds:.1f} s)")
        if entry.child is not None:
            self.pack()

    def cell(self, entry: Entry) -> dict[str, object]:
        numbers = {"seconds": entry.seconds, "box": entry.box, "begun": entry.begun}
        rounded = {name: round(value, 2) for name, value in numbers.items()}
        return {"phase": entry.phase.name, "state": entry.state, "why": entry.why, **rounded}

    def end_all(self, crash: str) -> None:
        """Ends the running phases, after an interrupt or an error of this program."""
        running = [entry for entry in self.entries.values() if entry.child is not None and not entry.over]
        children = [entry.child for entry in running if entry.child is not None]
        for child in children:
            child.interrupt()
        wait(children, min(self.table.grace, 2.0))
        for entry, child in zip(running, children, strict=True):
            child.kill()
            self.end(entry, "interrupted", self.interrupted or "a fault of the driver")
        for entry in self.entries.values():
            if not entry.over:
                self.end(entry, "skipped", f"interrupted, {self.interrupted or 'a fault of the driver'}")
        self.store.update("run", interrupted=self.interrupted, fault=crash, seconds=round(self.now(), 2))

    def pack(self) -> None:
        """Packs all logs so far into one file."""
        archive = self.folder / "log.tar.gz"
        part = archive.with_name(archive.name + ".part")
        try:
            with tarfile.open(part, "w:gz", compresslevel=1) as tar:
                for file in sorted(LOGS.rglob("*")):
                    if file.is_file():
                        tar.add(file, Path("log") / file.relative_to(LOGS))
            part.replace(archive)
        except (OSError, tarfile.TarError) as error:
            self.say(f"{LOST} {archive} could not be written: {error}")
            part.unlink(missing_ok=True)

    def summarize(self, crash: str) -> None:
        """Prints the findings and the outcome of each phase; always the last output."""
        lines = ["", f"{'phase':<16}{'state':<14}{'seconds':>8}  why"]
        for entry in self.entries.values():
            lines.append(f"{entry.phase.name:<16}{entry.state:<14}{entry.seconds:>8.1f}  {entry.why}"[:200])
        phases = "\n".join(lines)
        try:
            from . import summary, verdicts

            document = self.store.read()
            parts = [verdicts.text(document), phases, summary.text(document)]
        except Exception:
            parts = [f"There is no table of the results, because making it failed:\n{traceback.format_exc()}", phases]
        parts.append(f"{self.now():.0f} s of {self.table.deadline:.0f}. {self.verdict(crash)}")
        self.say("\n\n".join(filter(None, parts)))

    def verdict(self, crash: str) -> str:
        if crash:
            return "The driver failed:\n" + crash
        if self.interrupted:
            return f"Interrupted by {self.interrupted}."
        if self.no_device:
            return f"There is no GPU here, so nothing was measured: {self.first.why}."
        bad = [entry.phase.name for entry in self.entries.values() if entry.state != "passed"]
        lost = f"{self.all_lost} results could not be written: they are above. " if self.all_lost else ""
        return lost + (f"Not passed: {', '.join(bad)}." if bad else "All phases passed.")


def plan(table: Table) -> list[tuple[Phase, float, float]]:
    """Every phase with its latest start, if each uses all of its box, and the box that is left."""
    ends: dict[str, float] = {}
    lanes: dict[str, float] = {}
    result = []
    for planned in table.phases:
        first = table.phases[0]
        waits = [ends[name] for name in (*planned.after, *planned.needs)]
        begin = max([lanes.get(planned.lane, 0.0), ends.get(first.name, 0.0), *waits])
        box = table.box(planned, begin)
        box = box if box >= planned.least else 0.0
        ends[planned.name] = lanes[planned.lane] = begin + box
        result.append((planned, begin, box))
    return result


def print_plan(name: str, table: Table) -> None:
    print(f"{name}: {table.deadline:.0f} s in all; phases begin earlier where earlier ones end earlier")
    print(f"{'at latest':>9} {'box':>5}  {'phase':<16}{'lane':<8}{'needs':<24}what")
    for planned, begin, box in plan(table):
        left = f"{box:.0f}" if box == planned.box else f"{box:.0f}/{planned.box:.0f}"
        needs = ", ".join((*planned.needs, *(f"({name})" for name in planned.after)))
        print(f"{begin:>8.0f}s {left:>5}  {planned.name:<16}{planned.lane:<8}{needs:<24}{planned.about}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Tests and measures the CUDA kernels on a GPU, against a deadline.",
        epilog="Exit status: 0 all phases passed, 1 one did not, 2 nothing was begun, 3 there is no GPU.",
    )
    parser.add_argument("folder", type=Path, nargs="?", help="where results.json and log.tar.gz go")
    parser.add_argument("--table", choices=list(TABLES), default="first")
    parser.add_argument("--seconds", type=float, help="another deadline than the table's")
    parser.add_argument("--dry-run", action="store_true", help="print the phases with their time boxes, run nothing")
    arguments = parser.parse_args()
    table = TABLES[arguments.table]
    if arguments.seconds is not None:
        table = replace(table, deadline=arguments.seconds)
    setting = prepare()
    if setting.slow_build:
        boxes = {"build": SLOW_BUILD, "variants build": 0.0}
        table = replace(
            table, phases=tuple(replace(phase, box=boxes.get(phase.name, phase.box)) for phase in table.phases)
        )
    if arguments.dry_run:
        print(*setting.sentences, sep="\n")
        print_plan(arguments.table, table)
        return 0
    if arguments.folder is None:
        parser.error("FOLDER is missing: where results.json and log.tar.gz go")
    return start(table, arguments.folder, setting.sentences, setting.variables)


def start(table: Table, folder: Path, sentences: Sequence[str], environment: dict[str, str]) -> int:
    """Creates the folders and runs the table."""
    folder = folder.resolve()
    if (folder / "results.json").exists():
        print(f"{folder} holds the results of an earlier run: name another folder", file=sys.stderr)
        return 2
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(LOGS, ignore_errors=True)
        LOGS.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"there is nowhere to write to: {error}", file=sys.stderr)
        return 2
    return Run(table, folder, sentences, environment).go()


if __name__ == "__main__":
    sys.exit(main())
