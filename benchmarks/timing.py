"""The timer: contestants take turns in one process, slower ones take fewer turns, and the median counts."""

from __future__ import annotations

import dataclasses
import gc
import math
import random
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[], object]

# A faster call is repeated within one sample, so that the cost of the clock (about 0.1 us) is negligible.
_SHORTEST_SAMPLE = 1e-3
_MAX_SAMPLES = 40
_MIN_SAMPLES = 3
# A slow contestant may take this many times the requested seconds, to reach the fewest samples.
_PATIENCE = 8
# For calls slower than this, the cold first call of the check counts as a sample, because another one costs too much.
_SECONDS_TOO_SLOW_TO_REPEAT = 2.0


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Times in milliseconds per call over `n` samples of `calls_per_sample` calls each."""

    median_ms: float
    p25_ms: float
    p75_ms: float
    min_ms: float
    n: int
    calls_per_sample: int
    page_faults: float | None  # median of minor faults per call; None if the single call was made outside the timer

    def as_json(self) -> dict[str, Any]:
        def rounded(value: object) -> object:
            return float(f"{value:.4g}") if isinstance(value, float) else value

        return {key: rounded(value) for key, value in dataclasses.asdict(self).items()}


def timed(call: Call) -> float:
    """Seconds of one call. The result is freed inside, because a caller also pays for freeing memory."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _sample(call: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def number_of_samples(seconds_per_call: float, seconds: float) -> int:
    """As many as fit into `seconds`; if fewer than three, up to three within the patience factor; at least one."""
    fitting = int(seconds / max(seconds_per_call, _SHORTEST_SAMPLE))
    if fitting >= _MIN_SAMPLES:
        return min(fitting, _MAX_SAMPLES)
    return min(max(int(_PATIENCE * seconds / seconds_per_call), 1), _MIN_SAMPLES)


def _summary(samples: list[float], calls: int, page_faults: float | None) -> Measurement:
    ordered = sorted(1e3 * sample for sample in samples)
    quartiles = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    return Measurement(
        median_ms=statistics.median(ordered),
        p25_ms=quartiles[0],
        p75_ms=quartiles[2],
        min_ms=ordered[0],
        n=len(ordered),
        calls_per_sample=calls,
        page_faults=page_faults,
    )


def interleave(
    calls: Mapping[str, Call],
    seconds: float,
    first_calls: Mapping[str, float],
    first_calls_count: bool,
    before_sample: Call | None = None,
) -> dict[str, Measurement]:
    """Time every contestant, each for about `seconds`, with evenly interleaved samples in random order.

    `first_calls` holds the seconds of an earlier call of each contestant, so slow ones need no warm-up. If these calls
    count (same settings), the one of a very slow contestant is its only sample. `before_sample` runs untimed before
    each sample."""
    result: dict[str, Measurement] = {}
    estimates: dict[str, float] = {}
    for name, call in calls.items():
        first = first_calls[name]
        if first_calls_count and first > _SECONDS_TOO_SLOW_TO_REPEAT and number_of_samples(first, seconds) == 1:
            result[name] = _summary([first], 1, None)
        else:
            estimates[name] = first if first > _SECONDS_TOO_SLOW_TO_REPEAT else timed(call)

    repeats = {name: max(1, math.ceil(_SHORTEST_SAMPLE / estimate)) for name, estimate in estimates.items()}
    if before_sample is not None:
        repeats = dict.fromkeys(estimates, 1)
    turns = _turns({name: number_of_samples(estimate, seconds) for name, estimate in estimates.items()})
    samples: dict[str, list[float]] = {name: [] for name in estimates}
    faults: dict[str, list[float]] = {name: [] for name in estimates}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for name in turns:
            if before_sample is not None:
                before_sample()
            faults_before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            samples[name].append(_sample(calls[name], repeats[name]))
            faults_after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            faults[name].append((faults_after - faults_before) / repeats[name])
    finally:
        if collecting:
            gc.enable()
    for name, taken in samples.items():
        result[name] = _summary(taken, repeats[name], statistics.median(faults[name]))
    return {name: result[name] for name in calls}


def _turns(counts: Mapping[str, int]) -> list[str]:
    """An order with each name `counts[name]` times, evenly spread, at a random place within its step, so that no
    contestant always follows the same other one."""
    chance = random.Random(0)
    places = [((step + chance.random()) / count, name) for name, count in counts.items() for step in range(count)]
    return [name for _, name in sorted(places)]
