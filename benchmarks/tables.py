"""Markdown tables made from the JSON of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .contestants import GRID_SAMPLE, OURS, PEERS, STAND_INS, TORCHVISION
from .markdown import ABSENT, table, times
from .workloads import MAIN

Document = dict[str, Any]


def milliseconds(value: float) -> str:
    """Three digits; microseconds below a tenth of a millisecond."""
    if value < 0.1:
        return f"{1e3 * value:.3g} µs"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


class Cases:
    """The measured cases of one regime of allocation, by default the first of the run, by their keys."""

    def __init__(self, document: Document, allocation: str | None = None) -> None:
        self.threads: list[int] = document["settings"]["threads"]
        self.workloads: dict[str, Any] = document["workloads"]
        self.allocation = allocation or next(iter(document["settings"]["allocation"]))
        entries = (entry for entry in document["cases"] if entry["allocation"] == self.allocation)
        self._entries = {self._key(entry): entry for entry in entries}

    @staticmethod
    def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(entry[key] for key in ("workload", "direction", "mode", "dtype", "layout", "threads"))

    def median(self, name: str, *case: str, threads: int) -> float | None:
        """Milliseconds of a contestant for (workload, direction, mode, dtype, layout), None if not measured."""
        entry = self._entries.get((*case, threads))
        measured = entry["results"].get(name) if entry else None
        return float(measured["median_ms"]) if measured else None

    def ratio(self, peer: str, *case: str, threads: int) -> float | None:
        """Speedup of ours over the peer."""
        ours = self.median(OURS, *case, threads=threads)
        other = self.median(peer, *case, threads=threads)
        return other / ours if ours and other else None

    def present(self, *, mode: str, dtypes: Sequence[str], directions: Sequence[str]) -> list[tuple[str, str, str]]:
        """The measured (workload, direction, dtype) of the main workloads, in the order of the run."""
        found = dict.fromkeys((key[0], key[1], key[3]) for key in self._entries if key[2] == mode and key[0] in MAIN)
        return [case for case in found if case[1] in directions and case[2] in dtypes]

    def others(self) -> list[tuple[str, str, str]]:
        """The measured (workload, direction, mode) of the other workloads, in the order of the run."""
        return list(dict.fromkeys((key[0], key[1], key[2]) for key in self._entries if key[0] not in MAIN))

    def times_cell(self, name: str, *case: str) -> str:
        """Milliseconds at each number of threads; * marks a case timed once."""
        cells = []
        for threads in self.threads:
            entry = self._entries.get((*case, threads))
            measured = entry["results"].get(name) if entry else None
            once = "*" if measured and measured["n"] == 1 else ""
            cells.append(milliseconds(measured["median_ms"]) + once if measured else ABSENT)
        return " / ".join(cells) if set(cells) != {ABSENT} else ABSENT

    def ratio_cell(self, peer: str, *case: str) -> str:
        ratios = [self.ratio(peer, *case, threads=threads) for threads in self.threads]
        return " / ".join(times(ratio) if ratio else ABSENT for ratio in ratios) if any(ratios) else ABSENT


def _thread_words(threads: Sequence[int]) -> str:
    return f"{' / '.join(map(str, threads))} thread{'s' if max(threads) > 1 else ''}"


def machine_line(document: Document) -> str:
    cpu, software = document["machine"]["cpu"], document["machine"]["software"]
    model = " / ".join(cpu["family_model_stepping"])
    parts = [
        f"{cpu['model']}{f' (family / model / stepping {model})' if model else ''}, {cpu['cores']} cores",
        f"torch {software['torch']}",
        f"torchvision {software['torchvision']}",
        f"{document['settings']['cache']} caches",
        document["date"],
    ]
    if "roialign_ext" in software:
        parts.insert(1, f"roialign_ext {software['roialign_ext']} on {software['roialign_ext_capability']}")
    loads = [load for load in document["other_load"].values() if load is not None]
    if loads:
        parts.append(f"{100 * max(loads):.0f} % of the processor taken by others during the run")
    return "; ".join(parts) + "."


def _against_torchvision(cases: Cases, *case: str, stand_in: bool = False) -> list[str]:
    """Cells of both layouts for (workload, direction, mode) in float32; no ratio to a stand-in."""
    cells = []
    for layout in ("NCHW", "channels_last"):
        key = (*case, "float32", layout)
        ratio = ABSENT if stand_in else cases.ratio_cell(TORCHVISION, *key)
        cells += [cases.times_cell(TORCHVISION, *key), cases.times_cell(OURS, *key), ratio]
    return cells


_AGAINST_TORCHVISION = [
    heading
    for layout in ("NCHW", "channels_last")
    for heading in (f"torchvision, {layout}", f"roialign_ext, {layout}", "faster")
]


def _milliseconds_note(cases: Cases) -> str:
    return f"float32, milliseconds at {_thread_words(cases.threads)}, medians; * timed once."


def _regimes(document: Document) -> list[Cases]:
    return [Cases(document, regime) for regime in document["settings"]["allocation"]]


def main_table(document: Document) -> str:
    """float32 averages of the main workloads against torchvision on the same input, regimes side by side."""
    regimes = _regimes(document)
    header = ["workload", "pass", "layout"]
    for cases in regimes:
        header += [f"{name}, {cases.allocation}" for name in (TORCHVISION, OURS, "faster")]
    rows = []
    for workload, direction, dtype in regimes[0].present(
        mode="avg", dtypes=["float32"], directions=["forward", "backward"]
    ):
        for layout in ("NCHW", "channels_last"):
            case = (workload, direction, "avg", dtype, layout)
            row = [f"{workload} {regimes[0].workloads[workload]['name']}", direction, layout]
            for cases in regimes:
                row += [cases.times_cell(TORCHVISION, *case), cases.times_cell(OURS, *case)]
                row.append(cases.ratio_cell(TORCHVISION, *case))
            rows.append(row)
    return f"{table(header, rows)}\n\n{_milliseconds_note(regimes[0])}"


def short_table(document: Document) -> str:
    """One row per main workload, at the most threads: times and ratios of NCHW, and the ratio of channels_last."""
    regimes = _regimes(document)
    threads = max(regimes[0].threads)
    header = ["workload"]
    header += [f"{direction}, {cases.allocation}" for direction in ("forward", "backward") for cases in regimes]
    rows = []
    for workload in (key for key in regimes[0].workloads if key in MAIN):
        row = [f"{workload} {regimes[0].workloads[workload]['name']}"]
        for direction in ("forward", "backward"):
            for cases in regimes:
                case = (workload, direction, "avg", "float32")
                both = [cases.median(name, *case, "NCHW", threads=threads) for name in (TORCHVISION, OURS)]
                ratios = [
                    cases.ratio(TORCHVISION, *case, layout, threads=threads) for layout in ("NCHW", "channels_last")
                ]
                figures = [ABSENT if ratio is None else times(ratio) for ratio in ratios]
                spans = " → ".join(ABSENT if median is None else milliseconds(median) for median in both)
                row.append(f"{spans}: **{figures[0]}** ({figures[1]})")
        rows.append(row)
    meanings = "; ".join(f"*{name}*: {meaning}" for name, meaning in document["settings"]["allocation"].items())
    note = (
        f"torchvision → roialign_ext, milliseconds in NCHW at {_thread_words([threads])}, and how many times faster "
        f"that is; in parentheses how many times faster channels_last is. float32, medians. {meanings}."
    )
    return f"{table(header, rows)}\n\n{note}"


def claim(document: Document) -> str:
    """The ratios to torchvision in one sentence, over the main workloads, passes, layouts, threads and regimes."""
    ranges = []
    for workloads in ([key for key in MAIN if key != "F"], ["F"]):
        ratios = [
            ratio
            for cases in _regimes(document)
            for workload in workloads
            for direction in ("forward", "backward")
            for layout in ("NCHW", "channels_last")
            for threads in cases.threads
            if (ratio := cases.ratio(TORCHVISION, workload, direction, "avg", "float32", layout, threads=threads))
        ]
        # Both ends of the range are rounded down.
        ranges.append(f"{math.floor(min(ratios))} to {math.floor(max(ratios))}")
    return (
        f"On the CPU `roi_align` is {ranges[0]} times as fast as torchvision's, forward and backward (tiny calls "
        f"{ranges[1]} times)."
    )


def other_operators_table(document: Document) -> str:
    """The other operators against torchvision's counterparts; empty if the run has none of them."""
    cases = Cases(document)
    rows = []
    for workload, direction, mode in cases.others():
        name, operator = cases.workloads[workload]["name"], cases.workloads[workload]["operator"]
        cells = _against_torchvision(cases, workload, direction, mode, stand_in=operator in STAND_INS)
        rows.append([f"{workload} {name}", PEERS[operator], direction, *cells])
    if not rows:
        return ""
    header = ["workload", "torchvision's part", "pass", *_AGAINST_TORCHVISION]
    return f"{table(header, rows)}\n\n{_milliseconds_note(cases)}"


def comparison_table(document: Document, *, mode: str, dtypes: Sequence[str], directions: Sequence[str]) -> str:
    """Any other selection: every contestant, one line per layout; empty if the run has no such case."""
    cases = Cases(document)
    header = ["workload", "pass", "dtype", "layout", OURS, TORCHVISION, "faster", GRID_SAMPLE, "faster"]
    rows = []
    for workload, direction, dtype in cases.present(mode=mode, dtypes=dtypes, directions=directions):
        for layout in ("NCHW", "channels_last"):
            case = (workload, direction, mode, dtype, layout)
            row = [workload, direction, dtype, layout, cases.times_cell(OURS, *case)]
            for peer in (TORCHVISION, GRID_SAMPLE):
                row += [cases.times_cell(peer, *case), cases.ratio_cell(peer, *case)]
            rows.append(row)
    return table(header, rows) if rows else ""


def overhead_table(document: Document) -> str:
    names = list(document["overhead"][0]["microseconds"]) if document["overhead"] else []
    rows = [
        [entry["problem"], entry["call"], *(f"{entry['microseconds'][name]:.1f}" for name in names)]
        for entry in document["overhead"]
    ]
    return table(["call, microseconds", "", *names], rows)


def every_case_table(document: Document) -> str:
    header = [
        "case",
        "allocation",
        "threads",
        "contestant",
        "median ms",
        "quartiles",
        "n",
        "GB/s",
        "page faults",
        "relative error",
    ]
    rows = []
    for entry in document["cases"]:
        case = " ".join(entry[key] for key in ("workload", "direction", "mode", "dtype", "layout"))
        errors = entry["agreement"].get("relative_error", {})
        for name, measured in entry["results"].items():
            faults = measured["page_faults"]
            rows.append(
                [
                    case,
                    entry["allocation"],
                    str(entry["threads"]),
                    name,
                    f"{measured['median_ms']:.4g}",
                    f"{measured['p25_ms']:.4g} .. {measured['p75_ms']:.4g}",
                    str(measured["n"]),
                    f"{measured['gb_per_s']:.3g}",
                    ABSENT if faults is None else f"{faults:.0f}",
                    f"{errors[name]:.1g}" if name in errors else ABSENT,
                ]
            )
    return table(header, rows)


def unsupported_list(document: Document) -> str:
    """Contestants that did not take part: one line per reason."""
    where: dict[tuple[str, str], dict[str, None]] = {}
    for entry in document["cases"]:
        for name, reason in entry["unsupported"].items():
            case = " ".join(entry[key] for key in ("workload", "direction", "mode", "dtype"))
            where.setdefault((name, reason), {})[case] = None
    return "\n".join(f"- {name}: {reason} ({'; '.join(cases)})." for (name, reason), cases in where.items())
