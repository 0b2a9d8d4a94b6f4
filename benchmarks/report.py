"""Convert the JSON of a run to tables, a plot and the README's sections: `python -m benchmarks.report`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from . import plot, tables
from .machine import progress
from .readme import fill
from .tables import Document

_ROOT = Path(__file__).parent.parent


def full_report(document: Document, image: str) -> str:
    """Every table of the run."""
    settings = document["settings"]
    sections = {
        "float32 against torchvision": tables.main_table(document),
        "Other operators": tables.other_operators_table(document),
        "float32 against both": tables.comparison_table(
            document, mode="avg", dtypes=["float32"], directions=["forward", "backward"]
        ),
        "Other dtypes": tables.comparison_table(
            document, mode="avg", dtypes=["float64", "float16", "bfloat16"], directions=["forward", "backward"]
        ),
        "Max mode": tables.comparison_table(
            document, mode="max", dtypes=["float32"], directions=["forward", "backward"]
        ),
        "Gradient with respect to the boxes": tables.comparison_table(
            document, mode="avg", dtypes=["float32"], directions=["grad_boxes"]
        ),
        "Overhead of a call": tables.overhead_table(document),
        "Not taking part": tables.unsupported_list(document),
        "Every case": tables.every_case_table(document),
    }
    parts = [
        "# Benchmark results",
        "Made by `python -m benchmarks.report` from the JSON file of the same name. " + tables.machine_line(document),
        " ".join(f"Allocation `{name}`: {meaning}." for name, meaning in settings["allocation"].items())
        + " Tables without a regime in their head are of the first.",
        f"![Times faster than torchvision]({image})",
    ]
    if document["left_out"]:
        parts.append(f"Left out when the time limit was reached: {'; '.join(document['left_out'])}.")
    for title, body in sections.items():
        if body:
            parts += [f"## {title}", body]
    return "\n\n".join(parts) + "\n"


def readme_section(document: Document, details: str) -> str:
    return "\n\n".join(
        [
            tables.short_table(document),
            tables.machine_line(document),
            f"[All operators, dtypes, modes and layouts, and the overhead of a call]({details}).",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("json", nargs="?", type=Path, default=_ROOT / "benchmarks" / "results" / "cpu.json")
    parser.add_argument("--readme", type=Path, default=_ROOT / "README.md")
    options = parser.parse_args(arguments)
    document: Document = json.loads(options.json.read_text())
    if document["quick"]:
        raise SystemExit(f"{options.json.name} comes from a quick run: its numbers are not for publishing")
    picture, details = options.json.with_suffix(".png"), options.json.with_suffix(".md")
    plot.draw(document, picture)
    details.write_text(full_report(document, picture.name))
    folder = options.readme.resolve().parent
    link = Path(os.path.relpath(details.resolve(), folder)).as_posix()
    fill(options.readme, "claim", tables.claim(document))
    fill(options.readme, "benchmarks", readme_section(document, link))
    progress(f"written beside {options.json.name}: {picture.name}, {details.name}; sections of {options.readme.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
