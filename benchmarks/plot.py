"""The plot of a run: how many times faster than torchvision, forward and backward."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from .contestants import TORCHVISION
from .markdown import times
from .tables import Cases, Document
from .workloads import MAIN

_COLOURS = {"NCHW": ("#9ecae1", "#2171b5"), "channels_last": ("#fdbe85", "#d94701")}


def draw(document: Document, path: Path) -> None:
    """Bars on a log axis: one group per workload, a bar from 1 for each layout and number of threads."""
    cases = Cases(document)
    workloads = [workload for workload in cases.workloads if workload in MAIN]
    bars = [(layout, threads) for layout in _COLOURS for threads in cases.threads]
    width = 0.84 / len(bars)
    figure, axes = plt.subplots(2, 1, figsize=(10, 7), sharex=True, layout="constrained")
    for axis, direction in zip(axes, ("forward", "backward"), strict=True):
        for place, (layout, threads) in enumerate(bars):
            ratios = [
                cases.ratio(TORCHVISION, workload, direction, "avg", "float32", layout, threads=threads)
                for workload in workloads
            ]
            offset = (place - (len(bars) - 1) / 2) * width
            measured = [(at + offset, ratio) for at, ratio in enumerate(ratios) if ratio is not None]
            colours = _COLOURS[layout]
            drawn = axis.bar(
                [at for at, _ in measured],
                [ratio - 1 for _, ratio in measured],
                width,
                bottom=1,
                color=colours[min(cases.threads.index(threads), len(colours) - 1)],
                label=f"{layout}, {threads} thread{'s' * (threads > 1)}",
            )
            axis.bar_label(drawn, [times(ratio) for _, ratio in measured], fontsize=7, padding=1)
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.margins(y=0.12)
        axis.set_ylabel(f"{direction}: times faster")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(ncols=len(bars), fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.18), frameon=False)
    axes[1].set_xticks(range(len(workloads)), [f"{key}\n{cases.workloads[key]['name']}" for key in workloads])
    cpu = document["machine"]["cpu"]
    figure.suptitle(f"roialign_ext against torchvision on the same input, float32, {cpu['model']}", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)
