"""Writes the tables of counts in docs/performance.md: `python -m benchmarks.gpu.count_tables`. Needs neither a GPU nor
kernels. Counts are read from results/gpu_counts.json and results/gpu_loops.json, and those of the earlier kernels from
the files with _before in their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..floors import least
from ..markdown import table
from ..readme import fill
from ..workloads import WORKLOADS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
# Rates of an H200 that the predictions assume: bytes and multiply-adds per second.
MEMORY, CACHE, MULTIPLY_ADDS = 4.3e12, 5.5e12, 132 * 128 * 1.9e9
NOT_MEASURED = "not yet measured on a GPU"

Cell = dict[str, Any]
Amounts = dict[str, float]


def totals(cell: Cell) -> Amounts:
    """Counts of all launches of a call."""
    launches = cell["launches"]
    loads = sum(launch["loads"]["requests"] for launch in launches)
    shared = [launch[kind]["wavefronts"] for launch in launches for kind in ("shared_loads", "shared_stores")]
    return {
        "loads": loads,
        "sectors": sum(launch["loads"]["sectors"] for launch in launches) / loads,
        "stores": sum(launch["stores"]["requests"] for launch in launches),
        "tables": sum(launch["table_reads"]["requests"] for launch in launches),
        "wavefronts": sum(shared),
        "cache": sum(launch["cache_bytes"] for launch in launches),
    }


def change(before: Amounts, after: Amounts, name: str, unit: float, digits: int) -> str:
    return " → ".join(f"{amounts[name] / unit:.{digits}f}" for amounts in (before, after))


def floor(case: dict[str, str]) -> float:
    """Microseconds at the assumed rates."""
    amounts = least(WORKLOADS[case["workload"]], case["direction"], case["dtype"], case["layout"])
    return 1e6 * max(amounts.memory / MEMORY, amounts.cache / CACHE, amounts.multiply_adds / MULTIPLY_ADDS)


def section(before: list[Cell], after: list[Cell], predicted: dict[str, list[str]]) -> str:
    header = ["workload", "pass", "dtype", "layout", "loads, M", "sectors of a load", "stores, M", "table reads, M",
              "shared wavefronts, M", "cache, MB", "floor, us", "predicted, us", "measured"]  # fmt: skip
    rows = []
    for old, new in zip(before, after, strict=True):
        case = new["case"]
        assert old["case"] == case, f"counts before are of {old['case']}, now of {case}"
        old_totals, new_totals = totals(old), totals(new)
        times = " → ".join(predicted.get(" ".join(case.values()), ["-"]))
        row = [*(case[name] for name in ("workload", "direction", "dtype", "layout"))]
        row += [change(old_totals, new_totals, name, 1e6, 2) for name in ("loads",)]
        row += [change(old_totals, new_totals, "sectors", 1, 1)]
        row += [change(old_totals, new_totals, name, 1e6, 2) for name in ("stores", "tables", "wavefronts")]
        rows.append([*row, change(old_totals, new_totals, "cache", 1e6, 0), f"{floor(case):.0f}", times, NOT_MEASURED])
    return table(header, rows)


def loops(before: dict[str, list[list[int]]], after: dict[str, list[list[int]]]) -> str:
    """Loops of the earlier and the present kernels; kernels that no longer exist come first."""
    rows = []
    for when, found in (("before", before), ("now", after)):
        for name, sizes in found.items():
            rows.append([when, f"`{name}`", ", ".join(f"{size} / {loads}" for size, loads in sizes)])
    return table(["", "kernel", "instructions / loads"], rows)


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def main() -> None:
    files = ("gpu_counts_before.json", "gpu_counts.json", "gpu_predicted.json")
    fill(PAGE, "counts", section(*map(read, files)))
    fill(PAGE, "loops", loops(*map(read, ("gpu_loops_before.json", "gpu_loops.json"))))


if __name__ == "__main__":
    main()
