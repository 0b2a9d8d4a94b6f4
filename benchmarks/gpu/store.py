"""`results.json`: what every phase of a run on a GPU has found so far, on disk after every cell."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS_FOR_THE_LOCK = 3.0
LOST = "LOST:"
"""What a line begins with that says what could not be written."""


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Store:
    """One JSON file, `{phase: {"cells": [...], field: value, ...}}`, that several processes write.

    Each change reads the file, changes it and puts a whole new one in its place, under a lock: a process may be killed
    at any time and the disk may be full, and the file stays valid. A change that cannot be written is lost and
    reported; the process goes on, since its later results may fit again and what it prints is in the log.
    """

    def __init__(self, path: Path | str, report: Callable[[str], None] = to_stderr) -> None:
        self.path = Path(path)
        self.report = report
        self.lost = 0

    def read(self) -> dict[str, Any]:
        """The whole document; empty where there is no file yet."""
        try:
            document: dict[str, Any] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        return document

    def update(self, phase: str, **fields: Any) -> None:
        """Sets fields of a phase."""
        self._change(phase, lambda entry: entry.update(fields))

    def append(self, phase: str, cell: dict[str, Any]) -> None:
        """Adds one cell to a phase."""
        self._change(phase, lambda entry: entry["cells"].append(cell))

    def _change(self, phase: str, change: Callable[[dict[str, Any]], None]) -> None:
        part = self.path.with_name(self.path.name + ".part")
        try:
            with self._locked():
                document = self.read()
                change(document.setdefault(phase, {"cells": []}))
                try:
                    part.write_text(json.dumps(document, indent=1) + "\n")
                    part.replace(self.path)
                except OSError:
                    part.unlink(missing_ok=True)
                    raise
        except (OSError, ValueError) as error:
            self.lost += 1
            self.report(f"{LOST} a result of {phase} could not be written to {self.path}: {error}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock, which is on the folder: the file itself is replaced, and a lock file would be one more.

        The system drops the lock of a process that dies.
        """
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            end = time.monotonic() + SECONDS_FOR_THE_LOCK
            while True:
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.002)
            yield
        finally:
            os.close(folder)
