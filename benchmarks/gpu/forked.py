"""Work in a separate process, so that a hung kernel or a lost device ends only that process.

A forked process needs no second import of torch. Therefore the process that forks never touches the device."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable

from .children import seconds_left
from .device import NoDeviceError
from .driver import NO_DEVICE

_AT_THE_END = 1.0
"""Seconds reserved for the time after the work."""


def run(work: Callable[[], object], seconds: float) -> str:
    """How the work ended, in words; empty if it completed. Without a device, this process ends too."""

    def call() -> None:
        try:
            work()
        except NoDeviceError as error:
            print(f"nothing is measured: {error}", flush=True)
            sys.exit(NO_DEVICE)
        except Exception as error:
            print(f"failed: {type(error).__name__}: {first_line(error)}", flush=True)
            sys.exit(1)

    # The driver's interrupt ends both at once, even in a call that does not return; results are already on disk.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit = min(seconds, seconds_left() - _AT_THE_END)
    if limit <= 0:
        return "not begun, no time is left"
    process = multiprocessing.get_context("fork").Process(target=call, daemon=True)
    process.start()
    process.join(None if limit == float("inf") else limit)
    if process.exitcode is None:
        process.kill()
        process.join(1.0)
        return f"ended after {limit:.0f} s"
    if process.exitcode == NO_DEVICE:
        sys.exit(NO_DEVICE)
    return "" if process.exitcode == 0 else f"its process ended with {process.exitcode}"


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
