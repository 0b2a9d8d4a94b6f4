"""The plot of a run: speedup over torchvision, forward and backward."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from .contestants import TORCHVISION
from .markdown import times
from .tables import Cases, Document
from .workloads import MAIN

# A dark and a light colour for the regimes of allocation, in the order of the tables: stock, recycled.
_COLOURS = {"NCHW": ("#2171b5", "#9ecae1"), "channels_last": ("#d94701", "#fdbe85")}


def draw(document: Document, path: Path) -> None:
    """Bars on a log axis, starting at 1: one group per workload, one bar per layout and regime, at the most threads."""
    regimes = [Cases(document, regime) for regime in document["settings"]["allocation"]]
    workloads = [workload for workload in regimes[0].workloads if workload in MAIN]
    threads = max(regimes[0].threads)
    bars = [(layout, shade) for layout in _COLOURS for shade in range(len(regimes))]
    width = 0.84 / len(bars)
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.4), sharey=True, layout="constrained")
    for axis, direction in zip(axes, ("forward", "backward"), strict=True):
        for place, (layout, shade) in enumerate(bars):
            cases = regimes[shade]
            ratios = [
                cases.ratio(TORCHVISION, workload, direction, "avg", "float32", layout, threads=threads)
                for workload in workloads
            ]
            offset = (place - (len(bars) - 1) / 2) * width
            measured = [(at + offset, ratio) for at, ratio in enumerate(ratios) if ratio is not None]
            drawn = axis.bar(
                [at for at, _ in measured],
                [ratio - 1 for _, ratio in measured],
                width,
                bottom=1,
                color=_COLOURS[layout][shade],
                label=f"{layout}, {cases.allocation} memory",
            )
            axis.bar_label(drawn, [times(ratio).rstrip("x") for _, ratio in measured], fontsize=7, padding=1)
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}x")
        axis.margins(y=0.1)
        axis.set_title(direction, fontsize=10)
        axis.set_xticks(range(len(workloads)), [regimes[0].workloads[key]["name"].split(",")[0] for key in workloads])
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("times faster")
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=len(bars), fontsize=8, loc="outside lower center")
    cpu = document["machine"]["cpu"]
    figure.suptitle(
        f"roialign_ext against torchvision on the same input: float32, {threads} threads, {cpu['model']}", fontsize=11
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
