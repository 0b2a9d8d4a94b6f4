"""The measured device. All access of the phases to the device goes through this module, except tensors.

`BENCHMARK_DEVICE=MODULE:CLASS` names another class with the methods of `Cuda`: for another kind of device, or a fake
one as in the tests.
"""

from __future__ import annotations

import importlib
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

Call = Callable[[], object]

SAMPLES, WARM_UP, MIN_SAMPLES = 30, 3, 5
SECONDS_OF_A_TIMING = 1.0
PROFILED_CALLS = 5
LAUNCHES = 200
# About 2 ms, longer than the processor needs to launch a forward or backward pass of any operator here.
CYCLES_IN_FRONT = 4_000_000
WARM_UP_SECONDS = 0.3
# Sizes of the buffers for the limits: larger than any cache, and a gradient to which boxes are added.
LARGE_BYTES, ATOMICS_BYTES = 1 << 30, 64 << 20
SECTOR = 32
"""Bytes of the smallest transfer between caches."""


class NoDeviceError(RuntimeError):
    """The reason why there is no device to measure."""


class Limit(NamedTuple):
    """A rate of the device: one call does `amount` units. For `launches`, the time per launch counts."""

    name: str
    unit: str
    amount: float
    call: Call


def open_device() -> Cuda:
    """The device of this process."""
    module, _, name = os.environ.get("BENCHMARK_DEVICE", f"{__name__}:Cuda").partition(":")
    device: Cuda = getattr(importlib.import_module(module), name)()
    return device


def ask_driver(names: str) -> str:
    """The answer of nvidia-smi for the first GPU."""
    command = ["nvidia-smi", f"--query-gpu={names}", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown, {type(error).__name__} of nvidia-smi"


def summary(samples: list[float]) -> dict[str, float]:
    """Median, quartiles and least of samples in microseconds."""
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    rounded = {"us": median, "p25": low, "p75": high, "min": min(samples)}
    return {**{name: round(value, 2) for name, value in rounded.items()}, "n": len(samples)}


def short_name(kernel: str) -> str:
    """A kernel's name without its namespaces and parameters."""
    bare = re.sub(r"\(anonymous namespace\)::|^void ", "", kernel)
    return re.sub(r"\w+::", "", bare.split("(")[0])[:80]


class Cuda:
    """The first CUDA device."""

    name = "cuda"
    """The name in torch."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            built = torch.version.cuda or "no CUDA"
            raise NoDeviceError(f"torch {torch.__version__} (built with {built}) finds no CUDA device here")

    def describe(self) -> dict[str, Any]:
        properties = torch.cuda.get_device_properties(0)
        return {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "driver": ask_driver("driver_version"),
            "cuda": str(torch.version.cuda),
        }

    def clocks(self) -> str:
        """Current clocks and the like, as text."""
        return ask_driver("clocks.sm,clocks.mem,pstate,temperature.gpu,power.draw")

    def synchronize(self) -> None:
        """Waits for all work; raises if an earlier error has made the device unusable."""
        torch.cuda.synchronize()

    def release(self) -> None:
        """Frees memory that no tensor holds."""
        torch.cuda.empty_cache()

    def warm_up(self) -> None:
        """Runs work, so that the clocks are up when samples are taken."""
        square = torch.randn(4096, 4096, device=self.name)
        end = time.perf_counter() + WARM_UP_SECONDS
        while time.perf_counter() < end:
            torch.mm(square, square)
            self.synchronize()

    def time(self, call: Call, *, samples: int = SAMPLES, queued: bool = True) -> dict[str, float]:
        """Microseconds of one call between two events.

        With ``queued``, launches wait behind other work, so that only device time counts. Otherwise the device is idle
        and waits for the processor, as it would for a caller.
        """
        for _ in range(WARM_UP):
            call()
        self.synchronize()
        taken: list[float] = []
        end = time.perf_counter() + SECONDS_OF_A_TIMING
        while len(taken) < samples and (len(taken) < MIN_SAMPLES or time.perf_counter() < end):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            if queued:
                torch.cuda._sleep(CYCLES_IN_FRONT)  # type: ignore[no-untyped-call]
            first.record()
            call()
            last.record()
            last.synchronize()
            taken.append(1e3 * first.elapsed_time(last))
        return summary(taken)

    def split(self, call: Call) -> dict[str, float]:
        """Microseconds of each kernel in one call."""
        from torch.profiler import ProfilerActivity, profile

        call()
        self.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(PROFILED_CALLS):
                call()
            self.synchronize()
        found: dict[str, float] = {}
        for event in profiler.events():
            if event.device_type.name == "CUDA":
                name = short_name(event.name)
                found[name] = found.get(name, 0.0) + event.time_range.elapsed_us() / PROFILED_CALLS
        return {name: round(us, 2) for name, us in found.items()}

    def captured(self, call: Call) -> Call:
        """Replays of the call as a CUDA graph."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()

        def replay() -> object:
            graph.replay()
            return result  # the graph writes to it

        return replay

    def limits(self) -> Iterator[Limit]:
        """The rates that kernels are compared with."""
        large = torch.randn(LARGE_BYTES // 4, device=self.name)
        other = torch.empty_like(large)
        yield Limit("copy", "GB/s", 2 * LARGE_BYTES, lambda: other.copy_(large))
        yield Limit("fill", "GB/s", LARGE_BYTES, lambda: other.fill_(1.5))
        counter = torch.zeros(1, device=self.name)
        yield Limit("launch", "us", LAUNCHES, lambda: [counter.add_(1.0) for _ in range(LAUNCHES)])
        from . import limit_kernels as kernels  # they need Triton

        properties = torch.cuda.get_device_properties(0)
        read = kernels.CachedRead(properties.L2_cache_size // 2, properties.multi_processor_count, self.name)
        yield Limit("cached_read", "GB/s", read.bytes, read)
        sums = torch.zeros(ATOMICS_BYTES // 4, device=self.name)
        for name, stride in (("atomics_together", 1), ("atomics_apart", SECTOR // 4)):
            add = kernels.Additions(sums, stride)
            yield Limit(name, "G sectors/s", add.sectors, add)
        multiply_adds = kernels.MultiplyAdds(properties.multi_processor_count, self.name)
        yield Limit("multiply_adds", "G/s", multiply_adds.count, multiply_adds)
