"""Times as a detector sees them: `python -m benchmarks.gpu.layers --results FILE`.

Workload E with whole MultiScaleRoIAlign layers on an idle device, so that launches, copies and waiting count. Then
microseconds of tiny calls, one after the other.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .. import overhead
from ..contestants import OURS, TORCHVISION
from ..workloads import LAYOUTS, WORKLOADS
from . import forked
from .device import SAMPLES, open_device
from .measure import HALF, Plan, line, measure_cases
from .store import Store

ROUNDS, SECONDS = 2, 0.05


def measure(store: Store, samples: int, quick: bool) -> None:
    device = open_device()
    store.update("layers", device=device.describe(), quick=quick)
    workload = WORKLOADS["E"].shrunk() if quick else WORKLOADS["E"]
    for dtype in ("float32", "half"):
        for contestant in (TORCHVISION, OURS):
            dtypes = [HALF[contestant] if dtype == "half" else dtype]
            plan = Plan(contestant, dtypes, list(LAYOUTS), ["layer"], samples)

            def add(cell: dict[str, Any], contestant: str = contestant) -> None:
                print(line({"contestant": contestant, **cell}), flush=True)
                store.append("layers", {"contestant": contestant, **cell})

            measure_cases(device, plan, workload, add)
    entries = []
    for entry in overhead.measure([OURS, TORCHVISION], ROUNDS, SECONDS, device.name):
        entries.append(entry)
        store.update("layers", overhead=entries)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--quick", action="store_true", help="a small problem: shows that everything works")
    options = parser.parse_args()
    how = forked.run(lambda: measure(Store(options.results), options.samples, options.quick), float("inf"))
    if how:
        print(how, flush=True)
    return int(bool(how))


if __name__ == "__main__":
    sys.exit(main())
