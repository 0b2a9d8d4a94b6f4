"""Times between two CUDA events."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

SAMPLES, WARM_UP, FEWEST = 100, 5, 5
SECONDS_OF_A_CELL = 2.0
# About 2 ms, longer than the processor takes for a forward or backward pass of any operator here.
CYCLES_IN_FRONT = 4_000_000
SPIN_SECONDS = 0.5


def spin() -> None:
    """Work, so that the clocks are up when samples are taken."""
    square = torch.randn(4096, 4096, device="cuda")
    started = time.perf_counter()
    while time.perf_counter() - started < SPIN_SECONDS:
        torch.mm(square, square)
        torch.cuda.synchronize()


def microseconds(call: Callable[[], object], queued: bool = True) -> dict[str, float]:
    """Time of one call: median, quartiles and the number of samples.

    Queued behind other work, launches are ready when the device gets to them, so that its time alone counts; otherwise
    the device is idle, and waits for the processor as it would for a caller.
    """
    for _ in range(WARM_UP):
        call()
    torch.cuda.synchronize()
    samples: list[float] = []
    started = time.perf_counter()
    while len(samples) < SAMPLES and (len(samples) < FEWEST or time.perf_counter() - started < SECONDS_OF_A_CELL):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        if queued:
            torch.cuda._sleep(CYCLES_IN_FRONT)  # type: ignore[no-untyped-call]
        begin.record()
        call()
        end.record()
        end.synchronize()
        samples.append(1e3 * begin.elapsed_time(end))
    low, median, high = statistics.quantiles(samples, n=4)
    return {"us": round(median, 2), "p25": round(low, 2), "p75": round(high, 2), "samples": len(samples)}
