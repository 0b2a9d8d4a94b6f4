"""Rates that results are compared with: `python -m benchmarks.gpu.limits --results FILE`.

Copy, fill and reads from the L2 cache in GB/s; atomic additions in G sectors of 32 bytes/s, with adjacent lanes and
with lanes a sector apart; multiply-adds in G/s; the time from one tiny launch to the next in microseconds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import forked
from .device import open_device
from .store import Store


def measure(store: Store) -> None:
    device = open_device()
    store.update("limits", device=device.describe(), clocks=device.clocks())
    device.warm_up()
    for limit in device.limits():
        taken = device.time(limit.call, samples=20)
        rate = taken["us"] / limit.amount if limit.unit == "us" else limit.amount / taken["us"] / 1e3
        cell = {"name": limit.name, "rate": float(f"{rate:.4g}"), "unit": limit.unit, **taken}
        print(f"{limit.name} {cell['rate']} {limit.unit}", flush=True)
        store.append("limits", cell)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    how = forked.run(lambda: measure(Store(options.results)), float("inf"))
    if how:
        print(how, flush=True)
    return int(bool(how))


if __name__ == "__main__":
    sys.exit(main())
