"""Commands in their own process groups, with a time limit that is always enforced."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

MARK = "BENCHMARK_CHILD"
"""Environment variable with the chain of children that a process belongs to, to find processes left behind."""
UNTIL = "BENCHMARK_UNTIL"
"""Environment variable with the deadline of a phase, on the monotonic clock."""
GRACE = 4.0
"""Seconds from the interrupt to the kill, by default."""
SECONDS_FOR_A_KILL = 2.0
_numbers = itertools.count(1)


class Child:
    """A running command. A thread passes the lines of both streams to ``each`` as they arrive."""

    def __init__(
        self,
        command: Sequence[str],
        each: Callable[[str], None],
        environment: Mapping[str, str] = os.environ,
        folder: Path | None = None,
    ) -> None:
        above = os.environ.get(MARK)
        name = f"{os.getpid()}.{next(_numbers)}"
        self._mark = f"{above}/{name}" if above else name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, MARK: self._mark},
            cwd=folder,
            # Not a new session: ending the session of this process must end its children too.
            preexec_fn=os.setpgrp,
            text=True,
            errors="replace",
        )
        # A process that escapes the kill may keep the pipe open, so callers wait for this thread at most a second.
        self._reader = threading.Thread(target=self._read, args=(each,), daemon=True)
        self._reader.start()

    def _read(self, each: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                each(line.rstrip("\n"))

    def status(self) -> int | None:
        """The exit status, negative for a signal; None while the command runs."""
        return self._process.poll()

    def interrupt(self) -> None:
        self._send(signal.SIGINT)

    def kill(self) -> None:
        """Ends the group, and every process that the command started in other groups."""
        self._send(signal.SIGKILL)
        for pid in _marked(self._mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        try:
            self._process.wait(SECONDS_FOR_A_KILL)
        except subprocess.TimeoutExpired:
            return  # the process is in a system call and ends when that call returns
        self._reader.join(1.0)

    def _send(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # it has already ended


def _marked(mark: str) -> list[int]:
    """Processes started by the child with that mark, the child included."""
    own = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or is not ours
        if any(variable == own or variable.startswith(own + b"/") for variable in variables):
            found.append(int(folder.name))
    return found


def run(
    command: Sequence[str],
    seconds: float,
    each: Callable[[str], None],
    environment: Mapping[str, str] = os.environ,
    folder: Path | None = None,
    grace: float = GRACE,
) -> int | None:
    """The exit status of a command, negative for a signal; None if its time was up. No process of it remains."""
    child = Child(command, each, environment, folder)
    try:
        if wait([child], seconds):
            return child.status()
        child.interrupt()
        wait([child], grace)
        return None
    finally:
        child.kill()


def wait(children: Sequence[Child], seconds: float) -> bool:
    """Whether all of them ended in time."""
    end = time.monotonic() + seconds
    while any(child.status() is None for child in children):
        if time.monotonic() >= end:
            return False
        time.sleep(0.02)
    return True


def seconds_left() -> float:
    """Seconds until the deadline of this phase."""
    return float(os.environ.get(UNTIL, "inf")) - time.monotonic()
