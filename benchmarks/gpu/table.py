"""Tables from the JSON files of the other phases, or from the one that was made of them. Needs no GPU.

`python -m benchmarks.gpu.table FOLDER|FILE [--publish FOLDER --readme README.md]` prints the whole table. With
`--publish` all results go to gpu.json and gpu.md of that folder, and the main rows into the README.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..readme import fill
from .results import write
from .workloads import DTYPES, WORKLOADS

NEEDED, OPTIONAL = ("limits", "torchvision", "ours"), ("tests", "sanitizers", "variants")
COLUMNS = ("workload", "dtype", "layout", "call", "pass", "us", "GB/s", "share of the floor", "torchvision us", "ratio")
# torchvision has no bfloat16 kernel and copies what is not NCHW, whatever the gradient is.
STAND_IN = {"bf16": "f16", "channels_last, NCHW gradient": "channels_last"}
# What the README shows of the table.
MAIN = {"workload": ("box head", "mask head", "C4 head"), "dtype": ("f32", "bf16"), "layout": ("NCHW", "channels_last")}
SAME = ("device", "driver", "cuda", "torch", "torchvision")
LEGEND = """\
Medians, in microseconds. *kernel*: boxes are ready as rows, for torchvision split by level beforehand, one `roi_align`
a level; launches are queued, so that the device's time alone counts. *layer*: `MultiScaleRoIAlign` given lists of
boxes, on an idle device: the processor's part and waiting count on both sides. *graph*: replays of a captured CUDA
graph, the same inputs each time. torchvision's times for channels_last include its copy to NCHW; bf16 is held against
its f16, since it has no bfloat16 kernel. GB/s: the least traffic with the device's memory over the time. The floor is
the longer of that traffic at the measured bandwidth of a copy ({copy} GB/s) and, forward, the pixels that each box
touches, once, at the measured bandwidth of reading what lies in the second-level cache ({cached_read} GB/s)."""


def text(value: object) -> str:
    """As a cell of a table."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def line(cells: list[object]) -> str:
    return f"| {' | '.join(text(cell) for cell in cells)} |"


def head(columns: tuple[str, ...]) -> list[str]:
    return [line(list(columns)), "|---" * len(columns) + "|"]


def floors(limits: dict[str, float]) -> dict[tuple[str, str, str, str], tuple[int, float]]:
    """By workload, dtype, layout and pass: the least bytes of device memory, and the least time in microseconds."""
    result = {}
    for workload in WORKLOADS:
        for dtype in workload.dtypes:
            size = DTYPES[dtype].itemsize
            forward, backward = workload.least_bytes(size)
            for layout in ("NCHW", "channels_last", "channels_last, NCHW gradient"):
                cached = workload.cached_bytes(size, channels_last=layout != "NCHW")
                least = max(forward / limits["copy"], cached / limits["cached_read"]) / 1e3
                result[workload.key, dtype, layout, "forward"] = (forward, least)
                result[workload.key, dtype, layout, "backward"] = (backward, backward / limits["copy"] / 1e3)
    return result


def rows(results: dict[str, Any], main_only: bool = False) -> list[str]:
    """The lines of the table."""
    theirs = {
        (cell["workload"], cell["dtype"], cell["layout"], cell["call"]): cell
        for cell in results["torchvision"]["cells"]
    }
    least = floors(results["limits"]["limits"])
    lines = head(COLUMNS)
    for cell in results["ours"]["cells"]:
        if main_only and any(cell.get(key, wanted[0]) not in wanted for key, wanted in MAIN.items()):
            continue
        name = [cell.get(key, "") for key in COLUMNS[:4]]
        if "error" in cell:
            lines.append(line([*name, cell["error"], *[""] * 5]))
            continue
        workload, *choice, call = name
        peer = theirs.get((workload, *(STAND_IN.get(one, one) for one in choice), call), {})
        for direction in ("forward", "backward", "forward and backward"):
            if direction not in cell:
                continue
            us = cell[direction]["us"]
            figures: list[object] = ["", ""]
            if call == "kernel":
                moved, floor = least[workload, choice[0], choice[1], direction]
                figures = [f"{moved / us / 1e3:.0f}", f"{floor / us:.0%}"]
            other = peer.get(direction, {}).get("us")
            ratio = [f"{other:.1f}", f"{other / us:.1f}"] if other else [peer.get("error", ""), ""]
            lines.append(line([*name, direction, f"{us:.1f}", *figures, *ratio]))
    return lines


def variants(results: dict[str, Any]) -> list[str]:
    """The sweep over the constants of the kernels, forward / backward."""
    found = results["variants"]["variants"]
    columns: dict[str, None] = {}
    for cells in found.values():
        columns |= dict.fromkeys(f"{c['workload']} {c['dtype']} {c['layout']}" for c in cells if "layout" in c)
    lines = head(("variant", *columns))
    for name, cells in found.items():
        times = {
            f"{cell['workload']} {cell['dtype']} {cell['layout']}": " / ".join(
                f"{cell[direction]['us']:.1f}" for direction in ("forward", "backward") if direction in cell
            )
            for cell in cells
            if "layout" in cell
        }
        errors = [cell["error"] for cell in cells if "error" in cell]
        lines.append(line([name, *(times.get(column, "") for column in columns)] if times else [name, *errors]))
    return lines


def outcome(results: dict[str, Any]) -> str:
    """What the tests and the sanitizers said of the kernels that were measured."""
    sentences = []
    for phase in ("tests", "sanitizers"):
        said = results.get(phase)
        words = "not run to the end" if said is None else ", ".join(f"{name} {what}" for name, what in said.items())
        sentences.append(f"{phase.capitalize()} on this device: {words}.")
    if any(what != "passed" for what in results.get("tests", {"": ""}).values()):
        sentences.append("**Not all tests passed: the numbers may be those of wrong results.**")
    return " ".join(sentences)


def where(results: dict[str, Any]) -> str:
    environment = results["ours"]["environment"]
    return ", ".join(f"{name} {value}" for name, value in environment.items()) + "."


def load(path: Path) -> dict[str, Any]:
    """Results of all phases; ends with a sentence where some are missing or of different machines."""
    if path.is_dir():
        files = {phase: path / f"{phase}.json" for phase in NEEDED + OPTIONAL}
        found = {phase: json.loads(file.read_text()) for phase, file in files.items() if file.is_file()}
    else:
        found = json.loads(path.read_text())
    if missing := [phase for phase in NEEDED if phase not in found]:
        raise SystemExit(f"{path} has no results of {', '.join(missing)}: run these phases first")
    unfinished = {name: found[name].get("environment") is None for name in NEEDED}
    if any(unfinished.values()) or set(found["limits"]["limits"]) < {"copy", "fill", "cached_read"}:
        raise SystemExit(f"{path} has results that hold no measurement, or not all limits: run these phases again")
    for name in SAME:
        values = {found[phase]["environment"][name] for phase in NEEDED}
        if len(values) > 1:
            raise SystemExit(f"{path} has results of different machines, {name} {' and '.join(sorted(values))}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="the folder with the phases' files, or the file of all of them")
    parser.add_argument("--publish", type=Path, help="the folder where gpu.json and gpu.md go")
    parser.add_argument("--readme", type=Path, help="whose GPU section is replaced by the main rows of the table")
    arguments = parser.parse_args()
    results = load(arguments.results)
    notes = [where(results), outcome(results), LEGEND.format(**results["limits"]["limits"])]
    sections = ["\n".join(rows(results)), *notes]
    if "variants" in results:
        sections += ["Kernels with other constants, forward / backward:", "\n".join(variants(results))]
    print("\n\n".join(sections))
    unfinished = {phase: results[phase]["unfinished"] for phase in ("torchvision", "ours")}
    if any(unfinished.values()) and (arguments.publish or arguments.readme):
        raise SystemExit(f"nothing was published, because these workloads are not finished: {unfinished}")
    if arguments.publish is not None:
        write(arguments.publish / "gpu.json", results)
        (arguments.publish / "gpu.md").write_text("# Measurements on a GPU\n\n" + "\n\n".join(sections) + "\n")
    if arguments.readme is not None:
        main_rows = "\n".join(rows(results, main_only=True))
        more = (
            "[All cells](benchmarks/results/gpu.md); how it is measured: [benchmarks/README.md](benchmarks/README.md)."
        )
        fill(arguments.readme, "gpu", "\n\n".join([main_rows, *notes, more]))


if __name__ == "__main__":
    main()
