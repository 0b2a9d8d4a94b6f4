"""Do the GPU phases measure every cell once, and lose no more than a fault costs, on a device that only answers?"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import roialign_ext  # noqa: F401  (the installed one, before its sources come onto the path)
from support.gpu_phases import RATES, ROOT, Document, python

pytestmark = pytest.mark.usefixtures("path_to_benchmarks")


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
    for contestant, dtypes in (("torchvision", ["float32"]), ("roialign_ext", ["float32", "bfloat16"])):
        plan = measure.Plan(contestant, dtypes, ["channels_last, NCHW gradient", "NCHW"], ["kernel", "graph"], 2)
        measure.measure_workload(plan, workload, store, measure.PHASES[contestant])
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
    assert {cell["contestant"] for cell in results["layers"]["cells"]} == {"roialign_ext", "torchvision"}
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
    assert ["us" in cell for cell in cells] == [True, True, False, True][: 3 if fault == "lost" else 4]
    assert cells[2]["error"] == "an illegal memory access was encountered"


def test_what_differs_is_not_timed(measure: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(importlib.import_module("benchmarks.agreement")._MAX_DIFFERENCE, "float32", 0.0)
    device = importlib.import_module("benchmarks.gpu.device").open_device()
    cells: list[Document] = []
    plan = measure.Plan("roialign_ext", ["float32"], ["NCHW"], ["kernel"], 2)
    measure.measure_cases(device, plan, measure.ALL["F"], cells.append)
    assert [("us" in cell, "differs from torchvision" in cell["error"]) for cell in cells] == [(False, True)] * 2


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
    arguments = ["--results", str(results), "--contestant", "torchvision", "--quick", "--workloads", "F", "E"]
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
