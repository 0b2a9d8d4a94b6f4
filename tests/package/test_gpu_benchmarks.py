"""Do the GPU benchmarks know their kernels, boxes, times, bytes and products?"""

from __future__ import annotations

import importlib
import math
import re

import pytest
import torch

import roialign_ext  # noqa: F401  (the installed one, before its sources come onto the path)
from support.gpu_phases import ROOT, python

pytestmark = pytest.mark.usefixtures("path_to_benchmarks")
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


def test_limits_count_what_their_kernels_do() -> None:
    """The kernels behind the rates, in Triton's interpreter: what they compute follows from how much they do."""
    # The interpreter of older ones turns arrays of one element into numbers, which NumPy 2.4 refuses.
    pytest.importorskip("triton", "3.8", "Triton 3.8, which comes with torch 2.14 for CUDA, is not installed")
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
        key: float(workloads.make_boxes(workload, torch.Generator().manual_seed(workloads.SEED)).double().sum())
        for key, workload in workloads.WORKLOADS.items()
    }
    expected = [
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
    assert sums == pytest.approx(dict(zip("ABCDEFGHIJKLM", expected, strict=True)), abs=0.1)


def test_variations_are_of_their_workload() -> None:
    """Boxes lie inside the image and visit the images in turn; sorting changes their order alone."""
    workloads = importlib.import_module("benchmarks.workloads")
    boxes = {
        key: workloads.make_boxes(workload, torch.Generator().manual_seed(workloads.SEED))
        for key, workload in (workloads.WORKLOADS | workloads.VARIATIONS).items()
    }
    for key, workload in workloads.VARIATIONS.items():
        rows, (height, width) = boxes[key], workload.image_size
        assert rows.shape == (workload.boxes, 5)
        assert rows[:, 1:3].min() >= 0
        assert (rows[:, 3:] <= torch.tensor([width, height]) + 1e-3).all()
        assert (rows[:, 3:] > rows[:, 1:3]).all()
        assert rows[:, 0].unique().tolist() == list(range(workload.images))
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
        tiles_y, tiles_x = (sum(len({i // 8 for i in indices}) for indices in axis) for axis in (rows, columns))
        tiles += tiles_y * tiles_x
        terms_y, terms_x = (sum(map(len, axis)) for axis in (rows, columns))
        full_y, full_x = (sum(bool(indices) for indices in axis) for axis in (rows, columns))
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
