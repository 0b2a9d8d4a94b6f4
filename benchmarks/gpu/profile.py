"""Counters of ncu for each kernel: `python -m benchmarks.gpu.profile --results FILE CASE...`.

Each case of `once.py` is a separate process, so that a failure does not lose earlier cases. Clocks and caches are those
of a normal call: the tables that a kernel reads were just written.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .children import run, seconds_left
from .device import short_name
from .environment import ROOT
from .logs import LogFile
from .store import Store

STALLED = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
METRICS = {
    "ns": "gpu__time_duration.sum",
    "instructions": "smsp__inst_executed.sum",
    "issue_active_percent": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "warps_active_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
    "stall_long_scoreboard": STALLED.format("long_scoreboard"),
    "stall_no_instruction": STALLED.format("no_instruction"),
    "stall_lg_throttle": STALLED.format("lg_throttle"),
    "stall_barrier": STALLED.format("barrier"),
    "l1_hit_percent": "l1tex__t_sector_hit_rate.pct",
    "l2_sectors": "lts__t_sectors.sum",
    "l2_sectors_read": "lts__t_sectors_op_read.sum",
    "l2_sectors_write": "lts__t_sectors_op_write.sum",
    "l2_sectors_reduction": "lts__t_sectors_op_red.sum",
    "l2_sectors_atomic": "lts__t_sectors_op_atom.sum",
    "l2_throughput_percent": "lts__t_sectors.avg.pct_of_peak_sustained_elapsed",
    "dram_bytes_read": "dram__bytes_read.sum",
    "dram_bytes_write": "dram__bytes_write.sum",
}
"""Our names and ncu's. Stalls are waiting warps per issued instruction."""
KERNELS = "regex:roialign_ext|roi_align"
"""Kernels of this package and of torchvision."""
UNKNOWN = re.compile(r"Failed to find metric ([\w.]+)")
SECONDS_OF_A_CASE = 25.0


def rows(lines: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows of ncu's CSV, `--page raw`: a header, a row of units, a row per launch, with other lines between."""
    table = [line for line in lines if line.startswith('"')]
    reader = csv.DictReader(table)
    next(reader, None)  # units
    yield from reader


def number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def cell(case: str, row: dict[str, str]) -> dict[str, object]:
    contestant, workload, dtype, layout = case.split(":")
    found = {name: number(row.get(metric, "")) for name, metric in METRICS.items()}
    kernel = row.get("Kernel Name", "")
    where = {
        "contestant": contestant,
        "workload": workload,
        "dtype": dtype,
        "layout": layout,
        "kernel": short_name(kernel),
    }
    shape = {"grid": row.get("Grid Size", ""), "block": row.get("Block Size", "")}
    return {**where, **shape, **{name: value for name, value in found.items() if value is not None}}


def profile(case: str, metrics: list[str], arguments: list[str]) -> tuple[int | None, list[str]]:
    """The exit status of ncu, None if its time was up, and its output."""
    seconds = min(SECONDS_OF_A_CASE, seconds_left() - 3)
    if seconds < 1:
        return None, []
    log, lines = LogFile(f"ncu_{case.replace(':', '_')}.csv"), list[str]()

    def each(line: str) -> None:
        log(line)
        lines.append(line)

    settings = ["--cache-control", "none", "--clock-control", "none", "--target-processes", "all"]
    choice = ["--kernel-name-base", "demangled", "--kernel-name", KERNELS, "--metrics", ",".join(metrics)]
    form = ["--csv", "--page", "raw", "--print-units", "base"]
    once = [sys.executable, "-m", "benchmarks.gpu.once", case, *arguments]
    status = run(["ncu", *settings, *choice, *form, *once], seconds, each, os.environ, ROOT, grace=1.0)
    return status, lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", metavar="CASE", help="as of once.py")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="small problems")
    options = parser.parse_args()
    if shutil.which("ncu") is None:
        print("there is no ncu on the PATH")
        return 1
    store = Store(options.results)
    metrics = list(METRICS.values())
    failed = 0
    for case in options.cases:
        arguments = ["--quick"] if options.quick else []
        status, lines = profile(case, metrics, arguments)
        # Another version of ncu may lack a metric and then counts nothing, so the others are requested again.
        if unknown := set(UNKNOWN.findall("\n".join(lines))):
            print(f"this ncu has no {', '.join(sorted(unknown))}", flush=True)
            metrics = [metric for metric in metrics if metric not in unknown]
            status, lines = profile(case, metrics, arguments)
        cells = [cell(case, row) for row in rows(lines)]
        for found in cells:
            print(case, found["kernel"], f"{found.get('ns', 'no')} ns", flush=True)
            store.append("profile", found)
        if status != 0 or not cells:
            failed += 1
            how = "its time was up" if status is None else f"status {status}"
            why = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "")[:300]
            print(f"{case}: {how}, {len(cells)} kernels; {why}", flush=True)
            store.append("profile", {"case": case, "error": f"{how}; {why}"})
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
