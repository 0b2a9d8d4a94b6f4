"""Text files in the folder that is packed into log.tar.gz."""

from __future__ import annotations

import contextlib

from .environment import LOGS

BYTES_OF_A_LOG = 8 << 20


class LogFile:
    """A file of lines, of limited size. On a full disk lines are lost, without an error."""

    def __init__(self, name: str) -> None:
        self.path = LOGS / name
        self._written = 0
        with contextlib.suppress(OSError):
            LOGS.mkdir(parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)

    def __call__(self, line: str) -> None:
        data = (line + "\n").encode(errors="replace")
        self._written += len(data)
        if self._written <= BYTES_OF_A_LOG:
            with contextlib.suppress(OSError), self.path.open("ab") as file:
                file.write(data)
