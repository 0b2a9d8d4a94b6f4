"""Tables of the results of a run on a GPU so far, from its `results.json`: `python -m benchmarks.gpu.summary FILE`.

Requires neither torch nor a GPU, and shows the results of an incomplete run too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..markdown import ABSENT, table, times

Document = dict[str, Any]
Cell = dict[str, Any]

OURS, BASELINE = "ours", "baseline"
# torchvision has no bfloat16 kernels, and copies tensors that are not NCHW, for every layout of the gradient.
STAND_IN = {"bfloat16": "float16", "channels_last, NCHW gradient": "channels_last"}
RATES = {"memory": "copy", "cache": "cached_read", "multiply_adds": "multiply_adds"}
"""The rate of the device for each part of a floor."""
PARTS = {
    "fill": ("fill_",),
    "copy": ("transpose_",),
    "main": ("average_", "max_pool", "argmax_", "rotated_", "roi_align_"),
}
"""Kernels by the prefix of their names; the others copy or fill with zeros."""
AS_IT_IS = "as it is"
"""Name of the unmodified kernels among the variants."""


def cells(document: Document, phase: str) -> list[Cell]:
    found: list[Cell] = document.get(phase, {}).get("cells", [])
    return found


def rates(document: Document) -> dict[str, float]:
    return {cell["name"]: cell["rate"] for cell in cells(document, "limits")}


def floor(cell: Cell, limits: dict[str, float]) -> tuple[float, str] | None:
    """Lower bound of the time of a cell in microseconds, and the bounding resource; None if a rate was not measured."""
    if "least" not in cell or not set(RATES.values()) <= set(limits):
        return None
    return max((amount / limits[RATES[part]] / 1e3, part) for part, amount in cell["least"].items())


def split(cell: Cell) -> dict[str, float]:
    """Microseconds of the kernels of a cell, by purpose."""
    found: dict[str, float] = {}
    for kernel, us in cell.get("kernels", {}).items():
        part = next((part for part, names in PARTS.items() if kernel.startswith(names)), "other")
        found[part] = found.get(part, 0.0) + us
    return found


def key(cell: Cell) -> tuple[str, ...]:
    return tuple(cell.get(name, "") for name in ("contestant", "workload", "direction", "dtype", "layout", "call"))


def peer_of(cell: Cell, others: dict[tuple[str, ...], Cell], contestant: str = "") -> Cell:
    """torchvision's cell for one of ours; empty if there is none."""
    changed = {name: STAND_IN.get(cell.get(name, ""), cell.get(name, "")) for name in ("dtype", "layout")}
    peer = {**cell, **changed}
    if contestant:
        peer["contestant"] = contestant
    return others.get(key(peer), {})


def against_torchvision(
    ours: Iterable[Cell], others: Iterable[Cell], limits: dict[str, float], contestant: str = ""
) -> str:
    """Ours beside torchvision's, with floors and, if kernels were split, their parts; empty without cells."""
    by_key = {key(cell): cell for cell in others}
    rows: list[list[object]] = []
    for cell in ours:
        name = [cell.get(part, "") for part in ("workload", "direction", "dtype", "layout", "call")]
        if "us" not in cell:
            rows.append([*name, cell.get("error", ABSENT), *[""] * 5])
            continue
        us, peer = float(cell["us"]), peer_of(cell, by_key, contestant)
        least = floor(cell, limits)
        rows.append(
            [
                *name,
                f"{us:.1f}",
                f"{peer['us']:.1f}" if "us" in peer else peer.get("error", ABSENT),
                times(peer["us"] / us) if "us" in peer and us else ABSENT,
                f"{least[0]:.0f} {least[1]}" if least else ABSENT,
                f"{least[0] / us:.0%}" if least and us else ABSENT,
                " + ".join(f"{part} {taken:.0f}" for part, taken in split(cell).items()) or ABSENT,
            ]
        )
    header = ["", "pass", "dtype", "layout", "call", "us", "torchvision", "faster", "floor, us", "share", "kernels, us"]
    return table(header, rows) if rows else ""


def machine(document: Document) -> str:
    """Device and versions, from the phases that have them."""
    device: dict[str, Any] = next((phase["device"] for phase in document.values() if "device" in phase), {})
    facts = document.get("facts", {})
    parts = {**device, **facts.get("versions", {}), "commit": facts.get("commit", "unknown")}
    return ", ".join(f"{name} {value}" for name, value in parts.items()) if device else ""


def limits_line(document: Document) -> str:
    return "; ".join(f"{cell['name']} {cell['rate']} {cell['unit']}" for cell in cells(document, "limits"))


def kernels(document: Document) -> str:
    return against_torchvision(cells(document, OURS), cells(document, BASELINE), rates(document))


def lone_baseline(document: Document) -> str:
    """torchvision's times of cases without a time of this package."""
    if cells(document, OURS):
        return ""
    rows = [[*key(cell)[1:], cell.get("us", cell.get("error", ABSENT))] for cell in cells(document, BASELINE)]
    return table(["", "pass", "dtype", "layout", "call", "torchvision, us"], rows) if rows else ""


def layers(document: Document) -> str:
    both = cells(document, "layers")
    ours = [cell for cell in both if cell.get("contestant") == "roialign_ext"]
    return against_torchvision(ours, both, {}, "torchvision")


def overhead(document: Document) -> str:
    """As for the CPU: one row per call, one column per library."""
    entries = document.get("layers", {}).get("overhead", [])
    names = list(entries[0]["microseconds"]) if entries else []
    rows = [[e["problem"], e["call"], *(e["microseconds"].get(name, ABSENT) for name in names)] for e in entries]
    return table(["tiny calls, us", "", *names], rows) if rows else ""


def variants(document: Document) -> str:
    """Microseconds of every variant of a kernel, and the ratio to the unmodified kernel."""
    found = cells(document, "variants")
    columns = list(dict.fromkeys(key(cell)[1:5] for cell in found if "us" in cell))
    base = {key(cell)[1:5]: cell["us"] for cell in found if cell["variant"] == AS_IT_IS and "us" in cell}
    rows: list[list[object]] = []
    for variant in dict.fromkeys(cell["variant"] for cell in found):
        mine = [cell for cell in found if cell["variant"] == variant]
        us = {key(cell)[1:5]: cell["us"] for cell in mine if "us" in cell}
        errors = [cell["error"] for cell in mine if "error" in cell]
        row: list[object] = [variant]
        for column in columns:
            share = f" ({us[column] / base[column] - 1:+.0%})" if column in us and base.get(column) else ""
            row.append(f"{us[column]:.1f}{share}" if column in us else ABSENT)
        rows.append([*row, errors[0] if errors else ""])
    return table(["variant", *(" ".join(column) for column in columns), "error"], rows) if rows else ""


def disagreements(document: Document) -> str:
    wrong = [
        cell for phase in (OURS, "layers") for cell in cells(document, phase) if "differs" in cell.get("error", "")
    ]
    return f"{len(wrong)} cells differ from torchvision: they were not timed." if wrong else ""


def unfinished(document: Document) -> str:
    lines = [
        f"{phase}: {workload} {how}"
        for phase, fields in document.items()
        for workload, how in fields.get("unfinished", {}).items()
    ]
    return "\n".join(lines)


SECTIONS: Sequence[tuple[str, Callable[[Document], str]]] = (
    ("Device", machine),
    ("Rates", limits_line),
    ("Variants of kernels", variants),
    ("torchvision", lone_baseline),
    ("Whole layers", layers),
    ("Host", overhead),
    ("Kernels against torchvision, medians in microseconds", kernels),
    ("Not finished", unfinished),
    ("Wrong results", disagreements),
)


def text(document: Document) -> str:
    """All sections that have results, the most important last. Never raises."""
    parts = []
    for title, section in SECTIONS:
        try:
            body = section(document)
        except Exception as error:  # an incomplete result must not hide the others
            body = f"cannot be shown: {type(error).__name__}: {error}"
        if body:
            parts.append(f"{title}\n{body}")
    return "\n\n".join(parts) if parts else "There are no results."


if __name__ == "__main__":
    print(text(json.loads(Path(sys.argv[1]).read_text())))
