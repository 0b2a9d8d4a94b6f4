"""A fake device for benchmarks/gpu: the CPU, with the methods of `Cuda`.

`FAKE_DEVICE` names a fault: `hangs` (its third timing never ends), `fails` (its third timing raises), `lost`
(and nothing works after that)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.device import Call, Cuda, Limit, summary


class Fake(Cuda):
    name = "cpu"

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._fault = os.environ.get("FAKE_DEVICE", "")
        self._timings = 0
        self._lost = False

    def describe(self) -> dict[str, Any]:
        return {"device": "a stand-in", "driver": "none", "cuda": "none", "l2_bytes": 1 << 20}

    def clocks(self) -> str:
        return "none"

    def synchronize(self) -> None:
        if self._lost:
            raise RuntimeError("the device is lost")

    def release(self) -> None:
        self.synchronize()

    def warm_up(self) -> None:
        self.synchronize()

    def time(self, call: Call, *, samples: int = 3, queued: bool = True) -> dict[str, float]:
        self._timings += 1
        if self._timings == 3 and self._fault == "hangs":
            time.sleep(3600)
        if self._timings == 3 and self._fault:
            self._lost = self._fault == "lost"
            raise RuntimeError("an illegal memory access was encountered\nwith advice on the next line")
        taken = []
        for _ in range(min(samples, 3)):
            start = time.perf_counter()
            call()
            taken.append(1e6 * (time.perf_counter() - start))
        return summary(taken)

    def split(self, call: Call) -> dict[str, float]:
        call()
        return {"fill_tables<float>": 1.5, "average_pool_channels_last<float, int, 4>": 10.0}

    def captured(self, call: Call) -> Call:
        return call

    def limits(self) -> Iterator[Limit]:
        data = torch.zeros(1 << 16)
        for name, unit in (
            ("copy", "GB/s"),
            ("fill", "GB/s"),
            ("launch", "us"),
            ("cached_read", "GB/s"),
            ("atomics_together", "G sectors/s"),
            ("atomics_apart", "G sectors/s"),
            ("multiply_adds", "G/s"),
        ):
            yield Limit(name, unit, 1 << 18, lambda: data.add_(1.0))
