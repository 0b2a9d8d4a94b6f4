"""`results.json`: the results of all phases of a run on a GPU so far, written after every cell."""

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
"""Start of a line that reports a result that could not be written."""


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Store:
    """One JSON file, `{phase: {"cells": [...], field: value, ...}}`, that several processes write.

    Each change reads the file and replaces it as a whole, under a lock. So the file stays valid if a process is killed
    or the disk is full. A change that cannot be written is lost and reported. The process continues, because later
    results may fit again and its output is in the log.
    """

    def __init__(self, path: Path | str, report: Callable[[str], None] = to_stderr) -> None:
        self.path = Path(path)
        self.report = report
        self.lost = 0

    def read(self) -> dict[str, Any]:
        """The whole document; empty if there is no file yet."""
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
        """Holds the lock. It is on the folder, because the file is replaced and a lock file would be one more file.

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
