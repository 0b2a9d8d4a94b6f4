"""One table from the JSON files of the other phases, or from the one that it made of them. Needs no GPU.

`python -m benchmarks.gpu.table FOLDER|FILE [--output FILE] [--readme README.md]`
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..readme import fill
from .workloads import DTYPES, WORKLOADS

HEADER = "| workload | dtype | layout | pass | us | GB/s | share of the roofline | torchvision us | ratio |"
# torchvision has no bfloat16 kernel: ours is held against its float16.
STAND_IN = {"bf16": "f16"}


def rows(ours: dict[str, Any], torchvision: dict[str, Any] | None, limits: dict[str, Any] | None) -> list[str]:
    """The table's lines. The roofline is the least traffic at the copy bandwidth measured in the same run."""
    theirs = {(c["workload"], c["dtype"], c["layout"]): c for c in (torchvision or {}).get("cells", [])}
    workloads = {workload.key: workload for workload in WORKLOADS}
    least = {
        (key, dtype): workload.least_bytes(DTYPES[dtype].itemsize)
        for key, workload in workloads.items()
        for dtype in DTYPES
    }
    lines = [HEADER, "|---|---|---|---|---|---|---|---|---|"]
    for cell in ours["cells"]:
        name = f"| {cell['workload']} | {cell['dtype']} | {cell['layout']} "
        if "error" in cell:
            lines.append(f"{name}| {cell['error']} | | | | | |")
            continue
        other = theirs.get((cell["workload"], STAND_IN.get(cell["dtype"], cell["dtype"]), cell["layout"]), {})
        for i, direction in enumerate(("forward", "backward")):
            us = cell[direction]["us"]
            rate = least[cell["workload"], cell["dtype"]][i] / us / 1e3
            share = f"{rate / limits['limits']['copy']:.0%}" if limits else ""
            peer = other.get(direction, {}).get("us")
            ratio = f"{peer:.1f} | {peer / us:.1f} |" if peer else " | |"
            lines.append(f"{name}| {direction} | {us:.1f} | {rate:.0f} | {share} | {ratio}")
    return lines


def device_line(environment: dict[str, str]) -> str:
    names = ("device", "multiprocessors", "torch", "cuda")
    return "Medians. " + ", ".join(f"{name} {environment[name]}" for name in names if name in environment) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="the folder with the phases' files, or the file of all of them")
    parser.add_argument("--output", type=Path, help="where all results go as one JSON file")
    parser.add_argument("--readme", type=Path, help="whose GPU section is replaced by the table")
    arguments = parser.parse_args()
    if arguments.results.is_dir():
        phases = ("limits", "torchvision", "ours", "variants")
        files = [arguments.results / f"{phase}.json" for phase in phases]
        results = {path.stem: json.loads(path.read_text()) for path in files if path.is_file()}
    else:
        results = json.loads(arguments.results.read_text())
    if "ours" not in results:
        raise SystemExit(f"{arguments.results} has no results of this package: run the phase `ours` first")
    table = "\n".join(rows(results["ours"], results.get("torchvision"), results.get("limits")))
    print(table)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.readme is not None:
        fill(arguments.readme, "gpu", f"{table}\n\n{device_line(results['ours']['environment'])}")


if __name__ == "__main__":
    main()
