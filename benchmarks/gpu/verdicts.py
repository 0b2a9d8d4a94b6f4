"""Results of first calls, tests, sanitizers and profile as text. Requires neither torch nor a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..markdown import ABSENT, table

Document = dict[str, Any]
SHOWN = 10
"""Printed failures of each kind; the results hold all."""
COLUMNS = {
    "us": ("ns", 1e-3),
    "instructions, M": ("instructions", 1e-6),
    "issue, %": ("issue_active_percent", 1.0),
    "scoreboard": ("stall_long_scoreboard", 1.0),
    "no instruction": ("stall_no_instruction", 1.0),
    "throttle": ("stall_lg_throttle", 1.0),
    "barrier": ("stall_barrier", 1.0),
    "L1 hit, %": ("l1_hit_percent", 1.0),
    "L2 sectors, M": ("l2_sectors", 1e-6),
    "DRAM read, MB": ("dram_bytes_read", 1e-6),
    "written, MB": ("dram_bytes_write", 1e-6),
}


def shortened(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], f"and {more} more"] if more > 0 else lines


def first_calls(document: Document) -> Iterator[str]:
    cells = document.get("smoke", {}).get("cells", [])
    calls = [cell for cell in cells if "tool" not in cell]
    if calls:
        failed = [cell for cell in calls if cell["state"] != "passed"]
        yield f"first calls: {len(calls) - len(failed)} of {len(calls)} passed"
        yield from shortened([f"  {cell['name']}: {cell['state']}, {cell['why']}" for cell in failed])
        for cell in cells:
            if "tool" in cell:
                yield f"  {cell['tool']} of {cell['name']}: {cell['state']}, {cell['why']}"


def runs_of_pytest(document: Document, phase: str) -> Iterator[str]:
    for name, run in document.get(phase, {}).items():
        if isinstance(run, dict) and "failures" in run:
            counts = f"{run['passed']} passed, {run['failed']} failed, {run['skipped']} skipped"
            where = f", at {run['last']}" if run["state"] in ("running", "timed out") else ""
            yield f"{phase}, {name}: {run['state']}, {counts}{where}"
            yield from shortened([f"  {test}: {reason}" for test, reason in run["failures"].items()])


def profile(document: Document) -> str:
    rows: list[list[object]] = []
    for cell in document.get("profile", {}).get("cells", []):
        if "error" in cell:
            rows.append([cell["case"], cell["error"], *[""] * len(COLUMNS)])
            continue
        case = " ".join(cell[name] for name in ("contestant", "workload", "dtype", "layout"))
        numbers = [f"{factor * cell[name]:.3g}" if name in cell else ABSENT for name, factor in COLUMNS.values()]
        rows.append([case, cell["kernel"], *numbers])
    return table(["", "kernel", *COLUMNS], rows) if rows else ""


def text(document: Document) -> str:
    """The whole text, tables first."""
    lines = [profile(document), *first_calls(document)]
    for phase in ("tests", "sanitizers"):
        lines += runs_of_pytest(document, phase)
    return "\n".join(filter(None, lines))
