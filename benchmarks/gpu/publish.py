"""Publishes the results of a run: `python -m benchmarks.gpu.publish FOLDER`. Needs neither torch nor a GPU.

They become gpu.json and gpu.md in benchmarks/results, and the README's GPU section. Incomplete results and results of
several machines are rejected.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..readme import fill
from . import summary
from .summary import BASELINE, OURS, RATES, Document, cells

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("limits", BASELINE, OURS, "layers")
SAME = ("device", "driver", "cuda")
CHECKS = {"smoke": "first calls", "tests": "tests", "sanitizers": "sanitizers"}
# The part of the table shown in the README.
MAIN = ("A", "B", "D", "E")
LEGEND = """\
Medians. *kernel*: boxes are prepared as rows; for torchvision they are split by level beforehand, with one `roi_align`
per level. Launches are queued, so that only device time counts. *layer*: `MultiScaleRoIAlign` with lists of boxes on an
idle device, so that the processor's part and waiting count for both libraries. torchvision's times for channels_last
include its copy to NCHW. torchvision has no kernels for bfloat16, so bfloat16 is compared with its float16. The floor
is the longest of three times at rates measured on this device: traffic of the device's memory, reads from the L2 cache,
and multiply-adds. [docs/performance.md](docs/performance.md) defines how they are counted."""


def problem(document: Document) -> str:
    """The reason why the results cannot be published; empty if they can."""
    if missing := [phase for phase in NEEDED if not cells(document, phase)]:
        return f"there are no results of {', '.join(missing)}"
    if missing := sorted(set(RATES.values()) - set(summary.rates(document))):
        return f"these rates were not measured: {', '.join(missing)}"
    if unfinished := summary.unfinished(document):
        return f"workloads are not finished: {unfinished}"
    if quick := [phase for phase in NEEDED if document[phase].get("quick")]:
        return f"{', '.join(quick)} measured small problems"
    for name in SAME:
        values = {str(document[phase].get("device", {}).get(name, "unknown")) for phase in NEEDED}
        if len(values) > 1:
            return f"they are of different machines, {name} {' and '.join(sorted(values))}"
    return ""


def checks(document: Document) -> str:
    """The findings of the run about the measured kernels."""
    states = {cell["phase"]: cell["state"] for cell in cells(document, "run")}
    parts = [f"{name} {states.get(phase, 'not run')}" for phase, name in CHECKS.items()]
    sentence = f"On this device: {', '.join(parts)}."
    if {states.get("smoke"), states.get("tests")} != {"passed"}:
        sentence += " **Not all tests passed: the numbers may be those of wrong results.**"
    return sentence


def readme_section(document: Document, details: str) -> str:
    shown = [cell for cell in cells(document, OURS) if cell["workload"] in MAIN]
    limits = summary.rates(document)
    parts = [
        summary.against_torchvision(shown, cells(document, BASELINE), limits),
        summary.layers(document),
        f"{summary.machine(document)}. {checks(document)}",
        LEGEND,
        f"[All results]({details}); how it is measured: [benchmarks/README.md](benchmarks/README.md).",
    ]
    return "\n\n".join(part for part in parts if part)


def report(document: Document) -> str:
    """Every table of the run."""
    parts = ["# Results on a GPU", checks(document), LEGEND.replace("](docs/", "](../../docs/")]
    for title, section in summary.SECTIONS:
        if body := section(document):
            parts += [f"## {title}", body]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the run, with its results.json")
    parser.add_argument("--into", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args()
    document: Document = json.loads((options.folder / "results.json").read_text())
    if why := problem(document):
        raise SystemExit(f"nothing is published: {why}")
    fill(options.readme, "gpu", readme_section(document, "benchmarks/results/gpu.md"))
    (options.into / "gpu.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.into / "gpu.md").write_text(report(document))


if __name__ == "__main__":
    main()
