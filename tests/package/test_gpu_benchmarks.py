"""Do the GPU benchmarks measure and publish the right things, on a device that only answers?"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import roialign_ext  # noqa: F401  (the installed one, before its sources come onto the path)

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of this copy")
DEVICE = {"device": "a GPU", "driver": "1", "cuda": "13.0"}
EMPTY = "<!-- gpu:begin -->\n<!-- gpu:end -->\n"
RATES = {"copy": 4000.0, "fill": 3000.0, "cached_read": 5000.0, "multiply_adds": 30000.0}

Document = dict[str, Any]


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


def cell(dtype: str, us: float, direction: str = "forward", **more: Any) -> dict[str, Any]:
    name = {"workload": "D", "direction": direction, "dtype": dtype, "layout": "NCHW", "call": "kernel"}
    return {**name, "us": us, "p25": us, "p75": us, "min": us, "n": 30, **more}


def invented() -> Document:
    least = {"memory": 4e8, "cache": 1e9, "multiply_adds": 3e9}  # 100, 200 and 100 us
    kernels = {"fill_tables<float>": 7.0, "average_pool_nchw<float, int>": 493.0}
    broken = {**cell("float64", 1.0), "error": "a | b"}
    del broken["us"]
    both = {"device": DEVICE, "quick": False}
    layer = [
        {**cell("float32", us), "who": who, "call": "layer"}
        for who, us in (("torchvision", 6.0), ("roialign_ext", 2.0))
    ]
    return {
        "run": {"cells": [{"phase": phase, "state": "passed"} for phase in ("smoke", "tests")]},
        "limits": {"device": DEVICE, "cells": [{"name": n, "rate": rate, "unit": "GB/s"} for n, rate in RATES.items()]},
        "baseline": {**both, "unfinished": {}, "cells": [cell("float16", 3000.0), cell("float16", 4.0, "backward")]},
        "ours": {**both, "unfinished": {}, "cells": [cell("bfloat16", 500.0, least=least, kernels=kernels), broken]},
        "layers": {**both, "cells": layer},
        "variants": {"cells": [cell("float32", us, variant=v) for v, us in (("as it is", 10.0), ("other", 9.0))]},
    }


Publish = Callable[[Document], str]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Publishes results into the folder; returns the README."""
    module = importlib.import_module("benchmarks.gpu.publish")

    def call(results: Document) -> str:
        (tmp_path / "results.json").write_text(json.dumps(results))
        (tmp_path / "README.md").write_text(EMPTY)
        arguments = [tmp_path, "--into", tmp_path, "--readme", tmp_path / "README.md"]
        monkeypatch.setattr(sys, "argv", ["publish", *map(str, arguments)])
        module.main()
        return (tmp_path / "README.md").read_text()

    return call


def test_tables_are_made_of_results(tmp_path: Path, publish: Publish) -> None:
    readme = publish(invented())
    row = "| D | forward | bfloat16 | NCHW | kernel | 500.0 | 3000.0 | 6.0x | 200 cache | 40% | fill 7 + main 493 |"
    assert row in readme
    assert "| D | forward | float32 | NCHW | layer | 2.0 | 6.0 | 3.0x |" in readme
    assert "On this device: first calls passed, tests passed, sanitizers not run." in readme
    assert "wrong results" not in readme
    report = (tmp_path / "gpu.md").read_text()
    assert "| D | forward | float64 | NCHW | kernel | a \\| b |" in report
    assert "| other | 9.0 (-10%) |" in report
    assert json.loads((tmp_path / "gpu.json").read_text()) == invented()


def test_numbers_of_kernels_that_fail_tests_are_marked(publish: Publish) -> None:
    results = invented()
    results["run"]["cells"][1]["state"] = "failed"
    assert "the numbers may be those of wrong results" in publish(results)


@pytest.mark.parametrize(
    ("phase", "change", "words"),
    [
        ("limits", None, "no results of limits"),
        ("baseline", None, "no results of baseline"),
        ("ours", {"cells": []}, "no results of ours"),
        ("ours", {"unfinished": {"B": "ended after 25 s"}}, "not finished: ours: B ended after 25 s"),
        ("ours", {"device": {**DEVICE, "device": "another"}}, "device a GPU and another"),
        ("ours", {"quick": True}, "ours measured small problems"),
        ("limits", {"cells": [{"name": "copy", "rate": 4000.0}]}, "not measured: cached_read, multiply_adds"),
    ],
)
def test_nothing_is_published_of_partial_results(
    tmp_path: Path, publish: Publish, phase: str, change: Document | None, words: str
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


def test_summary_shows_what_there_is() -> None:
    """Whatever phases are missing or broken; what is there is shown."""
    text = importlib.import_module("benchmarks.gpu.summary").text
    assert text({}) == "There are no results."
    whole = invented()
    for phase in whole:
        shown = text({name: fields for name, fields in whole.items() if name != phase})
        assert ("| 500.0 |" in shown) == (phase != "ours")
    whole["variants"] = {"cells": [{"no variant": 1}]}
    whole["ours"]["cells"].append(cell("float32", 1.0, error="roialign_ext differs from torchvision by 1"))
    shown = text(whole)
    assert "cannot be shown: KeyError: 'variant'" in shown
    assert "| 500.0 | 3000.0 |" in shown
    assert "1 cells differ from torchvision" in shown


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks.gpu.measure, on a device that only answers."""
    pytest.importorskip("torchvision", reason="torchvision, which this package is held against, is not installed")
    monkeypatch.setenv("BENCHMARK_DEVICE", "support.fake_device:Fake")
    threads = torch.get_num_threads()
    yield importlib.import_module("benchmarks.gpu.measure")
    torch.set_num_threads(threads)


def test_limits_are_measured(tmp_path: Path, measure: ModuleType) -> None:
    store = importlib.import_module("benchmarks.gpu.store").Store(tmp_path / "results.json")
    importlib.import_module("benchmarks.gpu.limits").measure(store)
    found = {cell["name"]: cell for cell in store.read()["limits"]["cells"]}
    assert set(found) >= {*RATES, "launch", "atomics_together", "atomics_apart"}
    assert found["copy"]["rate"] == pytest.approx((1 << 18) / found["copy"]["us"] / 1e3, rel=1e-2)
    assert found["launch"]["rate"] == pytest.approx(found["launch"]["us"] / (1 << 18), rel=1e-2)


def test_kernels_and_layers_are_measured(tmp_path: Path, measure: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of cell, of both contestants, with what the tables are made of."""
    store = importlib.import_module("benchmarks.gpu.store").Store(tmp_path / "results.json")
    layers = importlib.import_module("benchmarks.gpu.layers")
    monkeypatch.setattr(layers, "SECONDS", 0.001)
    workload = replace(measure.ALL["E two images"], boxes=20, channels=4)
    monkeypatch.setitem(layers.WORKLOADS, "E", replace(layers.WORKLOADS["E"], boxes=20, channels=32))
    for who, dtypes in (("torchvision", ["float32"]), ("roialign_ext", ["float32", "bfloat16"])):
        plan = measure.Plan(who, dtypes, ["channels_last, NCHW gradient", "NCHW"], ["kernel", "graph"], 2)
        measure.measure_workload(plan, workload, store, measure.PHASES[who])
    layers.measure(store, 2, quick=True)
    results = store.read()
    ours, theirs = results["ours"]["cells"], results["baseline"]["cells"]
    assert [cell for cell in (*ours, *theirs, *results["layers"]["cells"]) if "error" in cell] == []
    assert (len(theirs), len(ours)) == (4, 10)  # torchvision takes no part with the gradient of another layout
    kernel = next(cell for cell in ours if cell["call"] == "kernel" and cell["layout"] == "NCHW")
    assert set(kernel["least"]) == {"memory", "cache", "multiply_adds"}
    assert not any("least" in cell for cell in ours if cell["call"] != "kernel")
    assert kernel["kernels"]["fill_tables<float>"] == 1.5
    assert 0 < kernel["relative_error"] < 1e-4
    assert results["ours"]["clocks of E two images"] == ["none", "none"]
    assert {cell["who"] for cell in results["layers"]["cells"]} == {"roialign_ext", "torchvision"}
    assert len(results["layers"]["overhead"]) == 12
    shown = importlib.import_module("benchmarks.gpu.summary").text(results)
    assert "cannot be shown" not in shown
    assert "| E two images | backward | bfloat16 | channels_last, NCHW gradient | kernel |" in shown


@pytest.mark.parametrize("fault", ["fails", "lost"])
def test_a_fault_costs_no_more_than_it_has_to(measure: ModuleType, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The third timing raises: the cells before it stay, and the one after it follows if the device is not lost."""
    monkeypatch.setenv("FAKE_DEVICE", fault)
    device = importlib.import_module("benchmarks.gpu.device").open_device()
    cells: list[Document] = []
    plan = measure.Plan("torchvision", ["float32"], ["NCHW", "channels_last"], ["kernel"], 2)
    if fault == "lost":
        with pytest.raises(RuntimeError, match="the device is lost"):
            measure.measure_cases(device, plan, measure.ALL["F"], cells.append)
    else:
        measure.measure_cases(device, plan, measure.ALL["F"], cells.append)
    assert ["us" in one for one in cells] == [True, True, False, True][: 3 if fault == "lost" else 4]
    assert cells[2]["error"] == "an illegal memory access was encountered"


def test_what_differs_is_not_timed(measure: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(importlib.import_module("benchmarks.agreement")._LARGEST, "float32", 0.0)
    device = importlib.import_module("benchmarks.gpu.device").open_device()
    cells: list[Document] = []
    plan = measure.Plan("roialign_ext", ["float32"], ["NCHW"], ["kernel"], 2)
    measure.measure_cases(device, plan, measure.ALL["F"], cells.append)
    assert [("us" in one, "differs from torchvision" in one["error"]) for one in cells] == [(False, True)] * 2


def test_what_forks_has_asked_for_no_device(measure: ModuleType) -> None:
    """A process that has asked the CUDA runtime for its devices, as some modules of torch do when they are imported,
    has no children that can use one."""
    program = """
import torch
asked = []
torch._C._cuda_getDeviceCount = lambda: asked.append(1) or 0
import roialign_ext
from benchmarks.gpu import layers, limits, measure, smoke, variants
import torch.fx.experimental.symbolic_shapes
print("asked", len(asked))
"""
    assert python(program) == "asked 0\n"


def test_a_hung_device_ends_with_the_time(tmp_path: Path, measure: ModuleType) -> None:
    """The command as the driver runs it: what was measured is on disk, what was not is named, nothing runs on."""
    variables = {
        **os.environ,
        "FAKE_DEVICE": "hangs",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
    }
    results = tmp_path / "results.json"
    arguments = ["--results", str(results), "--who", "torchvision", "--quick", "--workloads", "F", "E"]
    # The time counts from here on, and not while torch is imported.
    script = (
        "import os, sys, time; from benchmarks.gpu import measure\n"
        "os.environ['BENCHMARK_UNTIL'] = str(time.monotonic() + 4); sys.exit(measure.main())"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1, done.stderr
    phase = json.loads(results.read_text())["baseline"]
    assert len(phase["cells"]) == 2
    assert phase["unfinished"]["F"].startswith("ended after")
    assert phase["unfinished"]["E"] == "not begun, no time is left"


def test_the_kernels_as_they_are_stand_beside_the_variants(
    tmp_path: Path, measure: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = importlib.import_module("benchmarks.gpu.variants")
    monkeypatch.setattr(variants, "WORKLOADS", ("F",))
    monkeypatch.setattr(variants, "FOLDER", tmp_path)
    assert [name for name, _ in variants.turns(list(variants.VARIANTS))] == [variants.AS_IT_IS, variants.AGAIN]
    library = variants.library("grad_input: 2 blocks")
    library.parent.mkdir()
    library.touch()
    assert [variant for _, variant in variants.turns(list(variants.VARIANTS))][1] == variants.VARIANTS[
        "grad_input: 2 blocks"
    ]
    store = importlib.import_module("benchmarks.gpu.store").Store(tmp_path / "results.json")
    variants.measure_variant(variants.AS_IT_IS, None, ["float32"], store, quick=False)
    cells = store.read()["variants"]["cells"]
    assert {(cell["direction"], cell["layout"]) for cell in cells} == {
        (direction, layout) for direction in ("forward", "backward") for layout in ("NCHW", "channels_last")
    }
    assert all(cell["us"] > 0 and "kernels" not in cell for cell in cells)


def test_no_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    device = importlib.import_module("benchmarks.gpu.device")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(device.NoDeviceError, match="finds no CUDA device"):
        device.open_device()


LIMITS = """
import torch
from benchmarks.gpu import limit_kernels as kernels

kernels.READS, kernels.STEPS = 2, 3
read = kernels.CachedRead(1 << 17, 1, "cpu")
read()
assert read.bytes == 2 * (1 << 17)
torch.testing.assert_close(read.sums.reshape(4, -1), 2 * read.data.reshape(2, 4, -1).sum(0))
for stride in (1, 8):
    sums = torch.zeros(1 << 14)
    add = kernels.Additions(sums, stride)
    add()
    assert torch.equal(sums.reshape(-1, stride)[:, 0], torch.full(((1 << 14) // stride,), 4.0))
    # Side by side eight additions fall into a sector of 32 bytes, a sector apart one.
    assert add.sectors == sums.sum() / (8 if stride == 1 else 1)
multiply_adds = kernels.MultiplyAdds(1, "cpu")
before = multiply_adds.sums.clone()
multiply_adds()
torch.testing.assert_close(multiply_adds.sums, before / 8 + 7 / 8)
assert multiply_adds.count == 3 * before.numel()
"""


def python(program: str, **variables: str) -> str:
    """The output of a program that imports the benchmarks, and the installed package before its sources."""
    path = os.pathsep.join(filter(None, [*sys.path[1:], str(ROOT)]))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_limits_count_what_their_kernels_do() -> None:
    """The kernels behind the rates, in Triton's interpreter: what they compute follows from how much they do."""
    pytest.importorskip("triton", reason="Triton, which comes with torch for CUDA, is not installed")
    python(LIMITS, TRITON_INTERPRET="1")


def test_times_are_those_between_two_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Cuda` with stand-ins for what it asks of torch: what is in front of a call, and what is between its events."""
    module = importlib.import_module("benchmarks.gpu.device")
    happened: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            happened.append("event")

        def synchronize(self) -> None:
            happened.append("wait")

        def elapsed_time(self, last: Event) -> float:
            return 0.25 if happened.count("call") % 2 else 0.75  # ms

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: happened.append("wait"))
    monkeypatch.setattr("torch.cuda._sleep", lambda cycles: happened.append("other work"))
    device = module.Cuda()
    for queued in (True, False):
        happened.clear()
        taken = device.time(lambda: happened.append("call"), samples=5, queued=queued)
        assert happened[: module.WARM_UP + 1] == [*["call"] * module.WARM_UP, "wait"]
        sample = [*["other work"] * queued, "event", "call", "event", "wait"]
        assert happened[module.WARM_UP + 1 :] == 5 * sample
        assert (taken["us"], taken["min"], taken["n"]) == (750.0, 250.0, 5)


def test_kernels_are_known_by_their_names() -> None:
    """Names as a profiler gives them, and the names that the sources have."""
    summary = importlib.import_module("benchmarks.gpu.summary")
    short_name = importlib.import_module("benchmarks.gpu.device").short_name
    cuda = "roialign_ext::cuda::"
    assert short_name(f"void {cuda}(anonymous namespace)::fill_tables<float, {cuda}WeightsByPixel<float> >(X)") == (
        "fill_tables<float, WeightsByPixel<float> >"
    )
    assert short_name("void vision::ops::(anonymous namespace)::roi_align_forward_kernel_impl<float>(int)") == (
        "roi_align_forward_kernel_impl<float>"
    )
    names: list[str] = []
    for path in sorted((ROOT / "csrc" / "cuda").glob("*.cu*")):
        names += re.findall(r"__global__ void (?:__launch_bounds__\([^;{]*?\)\s+)?(\w+)\(const", path.read_text())
    assert set(names) >= {
        "average_pool_channels_last",
        "average_pool_nchw",
        "average_grad_input_channels_last",
        "average_grad_input_nchw",
        "transpose_channels",
        "average_grad_input_few_channels",
        "rotated_grad_input_nchw",
        "fill_tables",
    }
    for name in names:
        assert "other" not in summary.split({"kernels": {f"{name}<float>": 1.0}}), name
    assert summary.split({"kernels": {"vectorized_elementwise_kernel<4>": 1.0}}) == {"other": 1.0}


def test_boxes_are_those_of_earlier_results() -> None:
    """Sums of all coordinates of A to M: results stay comparable as long as these do."""
    workloads = importlib.import_module("benchmarks.workloads")
    sums = {
        key: float(workloads.make_boxes(one, torch.Generator().manual_seed(workloads.SEED)).double().sum())
        for key, one in workloads.WORKLOADS.items()
    }
    wanted = [
        2153354.4,
        220776.7,
        2152108.4,
        1130194.2,
        2153354.4,
        2298.6,
        1062261.7,
        1062261.7,
        *[1062335.3] * 4,
        656199.6,
    ]
    assert sums == pytest.approx(dict(zip("ABCDEFGHIJKLM", wanted, strict=True)), abs=0.1)


def test_variations_are_of_their_workload() -> None:
    """Boxes lie inside the image and visit the images in turn; sorting changes their order alone."""
    workloads = importlib.import_module("benchmarks.workloads")
    boxes = {
        key: workloads.make_boxes(one, torch.Generator().manual_seed(workloads.SEED))
        for key, one in (workloads.WORKLOADS | workloads.VARIATIONS).items()
    }
    for key, one in workloads.VARIATIONS.items():
        rows, (height, width) = boxes[key], one.image_size
        assert rows.shape == (one.boxes, 5)
        assert rows[:, 1:3].min() >= 0
        assert (rows[:, 3:] <= torch.tensor([width, height]) + 1e-3).all()
        assert (rows[:, 3:] > rows[:, 1:3]).all()
        assert rows[:, 0].unique().tolist() == list(range(one.images))
    assert not torch.equal(boxes["A sorted"], boxes["A"])
    assert torch.equal(boxes["A sorted"].unique(dim=0), boxes["A"].unique(dim=0))
    centres = (boxes["E clustered"][:, 1:3] + boxes["E clustered"][:, 3:]) / 2
    near = torch.cdist(centres, centres) < 40  # pixels
    scattered = (boxes["E"][:, 1:3] + boxes["E"][:, 3:]) / 2
    assert near.float().mean() > 3 * (torch.cdist(scattered, scattered) < 40).float().mean()


def test_bytes_and_products_are_those_of_every_sample() -> None:
    """Floors, against a count sample by sample; maps have rows of no whole number of sectors."""
    floors = importlib.import_module("benchmarks.floors")
    workloads = importlib.import_module("benchmarks.workloads")
    maps = ((50, 81), (25, 41))
    workload = workloads.Workload(
        "small", "small", 3, maps, (16, 32), 20, (16, 800), 3, 0, "multiscale_roi_align", images=2
    )
    generator = workloads.torch.Generator().manual_seed(workloads.SEED)
    boxes = workloads.make_boxes(workload, generator)
    union, pixels, sectors, tiles, forward, backward = set(), 0, 0, 0, 0, 0
    for (image, x1, y1, x2, y2), level in zip(boxes.tolist(), workloads.assign_levels(boxes, 2).tolist(), strict=True):
        (height, width), stride = maps[level], workload.strides[level]
        rows = bins_of(y1 / stride, y2 / stride, 3, height)
        columns = bins_of(x1 / stride, x2 / stride, 3, width)
        ys, xs = set().union(*rows), set().union(*columns)
        union |= {(image, level, y, x) for y in ys for x in xs}
        pixels += len(ys) * len(xs)
        sectors += sum(len({(y * width + x) * 4 // 32 for x in xs}) for y in ys)
        tiles_y, tiles_x = (sum(len({i // 8 for i in one}) for one in axis) for axis in (rows, columns))
        tiles += tiles_y * tiles_x
        terms_y, terms_x = (sum(map(len, axis)) for axis in (rows, columns))
        full_y, full_x = (sum(bool(one) for one in axis) for axis in (rows, columns))
        forward += min(terms_y * len(xs) + full_y * terms_x, terms_x * len(ys) + full_x * terms_y)
        backward += min(terms_y * tiles_x + len(ys) * terms_x, terms_x * tiles_y + len(xs) * terms_y)
    assert len({row[0] for row in boxes.tolist()}) == 2
    output, of_maps = 20 * 9, 2 * sum(height * width for height, width in maps)
    least = floors.least(workload, "forward", "float32", "channels_last")
    assert least == ((output + len(union)) * 12, pixels * 12, forward * 3)
    assert floors.least(workload, "forward", "float32", "NCHW").cache == sectors * 3 * 32
    least = floors.least(workload, "backward", "bfloat16", "channels_last")
    assert least == ((output + of_maps) * 6, tiles * 6, backward * 3)


def bins_of(low: float, high: float, bins: int, length: int) -> list[set[int]]:
    """Pixels of an axis that adaptive samples of each bin read."""
    size = max(high - low, 1.0) / bins
    count = math.ceil(size)
    found: list[set[int]] = [set() for _ in range(bins)]
    for p in range(bins):
        for place in (low + p * size + (i + 0.5) * size / count for i in range(count)):
            if -1 <= place <= length:
                first = min(int(max(place, 0.0)), length - 1)
                found[p] |= {first, min(first + 1, length - 1)}
    return found
