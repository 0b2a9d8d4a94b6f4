"""The tables of benchmarks/gpu, made of invented results: what they show, and when nothing is published."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of this copy")
ENVIRONMENT = {"device": "a GPU", "driver": "1", "cuda": "13.0", "torch": "2.11", "torchvision": "0.26"}
EMPTY = "<!-- gpu:begin -->\n<!-- gpu:end -->\n"


def cell(dtype: str, us: float) -> dict[str, Any]:
    name = {"workload": "C4 head", "dtype": dtype, "layout": "NCHW", "call": "kernel"}
    return {**name, "forward": {"us": us}, "backward": {"us": 2 * us}}


def invented() -> dict[str, Any]:
    broken = {"workload": "C4 head", "dtype": "f64", "layout": "NCHW", "call": "kernel", "error": "a | b"}
    common = {"environment": ENVIRONMENT, "unfinished": []}
    return {
        "limits": {"environment": ENVIRONMENT, "limits": {"copy": 4000.0, "fill": 3000.0, "cached_read": 5000.0}},
        "torchvision": {**common, "cells": [cell("f16", 3000.0)]},
        "ours": {**common, "cells": [cell("bf16", 500.0), broken]},
        "tests": {"kernels": "passed", "device": "passed"},
    }


Publish = Callable[[dict[str, Any]], None]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """The phase `table` on the files of the other phases."""
    monkeypatch.syspath_prepend(ROOT)
    table = importlib.import_module("benchmarks.gpu.table")

    def call(results: dict[str, Any]) -> None:
        for phase, one in results.items():
            (tmp_path / f"{phase}.json").write_text(json.dumps(one))
        (tmp_path / "README.md").write_text(EMPTY)
        arguments = [tmp_path, "--publish", tmp_path, "--readme", tmp_path / "README.md"]
        monkeypatch.setattr(sys, "argv", ["table", *map(str, arguments)])
        table.main()

    return call


def test_tables_are_made_of_results(tmp_path: Path, publish: Publish) -> None:
    publish(invented())
    readme = (tmp_path / "README.md").read_text()
    # The output and the map, of 2 bytes an element, are 418.5 MB, 105 us of 4000 GB/s; the pixels that boxes touch are
    # 970.7 MB, 194 us of 5000 GB/s.
    assert "| C4 head | bf16 | NCHW | kernel | forward | 500.0 | 837 | 39% | 3000.0 | 6.0 |" in readme
    assert "| C4 head | bf16 | NCHW | kernel | backward | 1000.0 | 419 | 10% | 6000.0 | 6.0 |" in readme
    assert (
        "Tests on this device: kernels passed, device passed. Sanitizers on this device: not run to the end." in readme
    )
    assert "wrong results" not in readme
    assert "| C4 head | f64 | NCHW | kernel | a \\| b |" in (tmp_path / "gpu.md").read_text()
    assert json.loads((tmp_path / "gpu.json").read_text()) == invented()


def test_numbers_of_kernels_that_fail_tests_are_marked(tmp_path: Path, publish: Publish) -> None:
    results = invented()
    results["tests"]["device"] = "failed (1)"
    publish(results)
    assert "the numbers may be those of wrong results" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("phase", "change", "words"),
    [
        ("limits", None, "has no results of limits"),
        ("torchvision", None, "has no results of torchvision"),
        ("ours", {"unfinished": ["mask head"]}, "nothing was published, because these workloads are not finished"),
        ("ours", {"environment": {**ENVIRONMENT, "device": "another"}}, "device a GPU and another"),
        ("limits", {"limits": {"copy": 4000.0}}, "not all limits"),
    ],
)
def test_nothing_is_published_of_partial_results(
    tmp_path: Path, publish: Publish, phase: str, change: dict[str, Any] | None, words: str
) -> None:
    results = invented()
    if change is None:
        del results[phase]
    else:
        results[phase].update(change)
    with pytest.raises(SystemExit, match=words):
        publish(results)
    assert not (tmp_path / "gpu.json").exists()
    assert (tmp_path / "README.md").read_text() == EMPTY


def test_bytes_are_those_of_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least traffic, against a count sample by sample; maps have rows of no whole number of sectors."""
    monkeypatch.syspath_prepend(ROOT)
    workloads = importlib.import_module("benchmarks.gpu.workloads")
    workload = workloads.Workload("small", 2, 20, 3, 3, 0, (16, 32))
    rows = workload.corners()
    union, pixels, sectors = set(), 0, 0
    for (image, x1, y1, x2, y2), level in zip(rows.tolist(), workload.levels(rows).tolist(), strict=True):
        height, width = workload.planes[level]
        scale = workload.scales[level]
        ys = touched(y1 * scale, y2 * scale, workload.bins, height)
        xs = touched(x1 * scale, x2 * scale, workload.bins, width)
        union |= {(image, level, y, x) for y in ys for x in xs}
        pixels += len(ys) * len(xs)
        sectors += sum(len({(y * width + x) * 4 // 32 for x in xs}) for y in ys)
    output, maps = 20 * 3 * 9 * 4, 2 * 3 * 4 * sum(height * width for height, width in workload.planes)
    assert workload.least_bytes(4) == (output + len(union) * 3 * 4, output + maps)
    assert workload.cached_bytes(4, channels_last=True) == pixels * 3 * 4
    assert workload.cached_bytes(4, channels_last=False) == sectors * 3 * 32


def touched(low: float, high: float, bins: int, length: int) -> set[int]:
    """Pixels of an axis that adaptive samples read."""
    size = max(high - low, 1.0) / bins
    count = math.ceil(size)
    found = set()
    for place in (low + p * size + (i + 0.5) * size / count for p in range(bins) for i in range(count)):
        if -1 <= place <= length:
            first = min(int(max(place, 0.0)), length - 1)
            found |= {first, min(first + 1, length - 1)}
    return found
