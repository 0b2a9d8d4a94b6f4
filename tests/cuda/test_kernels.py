"""The CUDA kernels and their glue, compiled for the CPU by the host shim, against the CPU's operators and the oracle.

``ROIALIGN_EXT_SHIM`` names the build (``cuda_shim.BUILDS``); the sanitizers' builds run this file in a separate
process. Memory is poisoned: new tensors and shared memory hold NaN until they are written.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import deterministic

from support import cuda_shim
from support.cuda_cases import (
    CASES,
    CPU,
    OF_ONE_OPERATOR,
    RULES,
    SANITIZED,
    Calculation,
    Case,
    Operators,
    assert_agree,
    calculations,
    same_bits,
)
from support.inputs import BOX_SETS, generator, random_tensor, spread, with_layout
from support.operators import WITHOUT_BOX_DERIVATIVE, RoIAlignCall
from support.tolerance import assert_within_rounding

KIND = os.environ.get("ROIALIGN_EXT_SHIM", "plain")
SEEDS = ("0", "1") if KIND == "plain" else ("0",)  # orders of threads and blocks
SELECTION = OF_ONE_OPERATOR if KIND == "plain" else OF_ONE_OPERATOR[::3]
CSRC = cuda_shim.ROOT / "csrc"
KERNELS = sorted((CSRC / "cuda").glob("*.cu"))

pytestmark = pytest.mark.filterwarnings("ignore:Warning only once for all operators:UserWarning")


@pytest.fixture(scope="module")
def library() -> Path:
    """The kernels of that kind, and the glue without sanitizers."""
    return cuda_shim.build("kernels", KIND, KERNELS, [cuda_shim.GLUE])


@pytest.fixture(scope="module")
def shim(library: Path) -> Operators:
    """The private operators on the shim."""
    return Operators(cuda_shim.load_operators(library))


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fills new tensors with NaN or the largest integers, and scratch memory with 0xFF."""
    monkeypatch.setattr(deterministic, "fill_uninitialized_memory", True)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def test_memory_is_poisoned() -> None:
    assert torch.empty(3).isnan().all()
    assert (torch.empty(3, dtype=torch.uint8) == 255).all()


@pytest.fixture
def assert_agrees(shim: Operators, monkeypatch: pytest.MonkeyPatch) -> Callable[[Case, Calculation], None]:
    """Compares a calculation with the CPU's; its results do not depend on the order of threads and blocks."""

    def assert_agrees(case: Case, calculation: Calculation) -> None:
        results = []
        for seed in SEEDS:
            monkeypatch.setenv("SHIM_SEED", seed)
            results.append(calculation.run(shim))
        assert_agree(case, calculation, results[0])
        assert all(same_bits(result, results[0]) for result in results), calculation.name

    return assert_agrees


@pytest.mark.parametrize("case", CASES if KIND == "plain" else SANITIZED, ids=str)
def test_kernels_agree_with_the_cpu(assert_agrees: Callable[[Case, Calculation], None], case: Case) -> None:
    for calculation in calculations(case):
        assert_agrees(case, calculation)


@pytest.mark.parametrize(("case", "names"), SELECTION, ids=[str(case) for case, _ in SELECTION])
def test_operator_agrees_with_the_cpu(
    assert_agrees: Callable[[Case, Calculation], None], case: Case, names: tuple[str, ...]
) -> None:
    """Averages with their derivative along a direction, and grad_input of many blocks."""
    chosen = [calculation for calculation in calculations(case) if calculation.name in names]
    assert len(chosen) == len(names)
    for calculation in chosen:
        assert_agrees(case, calculation)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 3])
@pytest.mark.parametrize(("channels", "layout"), [(3, "contiguous"), (33, "contiguous"), (34, "channels_last")])
def test_kernels_agree_with_the_definition(
    shim: Operators, aligned: bool, ratio: int, channels: int, layout: str
) -> None:
    """The float64 oracle of roi_align, averages and maxima."""
    features = with_layout(random_tensor(2, channels, 7, 9), layout)
    boxes = spread(torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"]]), 2)
    rule = "roi_align_half_pixel" if aligned else "roi_align_legacy"
    arguments = ([0.75], [224.0, 4.0], ratio, rule)
    grad = with_layout(random_tensor(len(boxes), channels, 3, 2, seed=1), layout)
    is_channels_last = layout == "channels_last"
    for mode in ("avg", "max"):
        call = RoIAlignCall((3, 2), 0.75, ratio, aligned, mode)
        argmax = None
        if mode == "max":
            out, argmax = shim("_max_pool", [features], boxes, (3, 2), *arguments)
        else:
            (out,) = shim("_pool", [features], boxes, None, None, None, (3, 2), *arguments)
        expected = call.forward(features, boxes)
        assert_within_rounding(out, expected, features.abs().max())
        size = list(features.shape)
        (grad_input,) = shim("_pool_grad_input", grad, boxes, None, None, argmax, size, is_channels_last, *arguments)
        assert_within_rounding(grad_input, call.grad_input(grad, features, boxes), grad.abs().max() * 16)
        (grad_boxes,) = shim("_pool_grad_boxes", grad, [features], boxes, None, argmax, *arguments)
        assert_within_rounding(grad_boxes, call.grad_boxes(grad, features, boxes), grad.abs().max() * 64)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Asserts equality up to the rounding of sums whose terms are as large as the largest result."""
    largest = expected.abs().max() if expected.numel() > 0 else torch.zeros(())
    assert_within_rounding(actual, expected.double(), 4 * largest.double())


def bad_boxes(case: Case) -> tuple[Tensor, Tensor]:
    """Rows of ``case`` with some invalid batch indices, and a mask of the valid ones."""
    boxes = case.boxes_tensor()
    spoilt = torch.tensor([-1.0, case.images, 0.5, float("nan"), float("inf"), -0.5, 1e30], dtype=boxes.dtype)
    good = torch.ones(len(boxes), dtype=torch.bool)
    for i, index in enumerate(spoilt):
        boxes[2 * i, 0] = index
        good[2 * i] = False
    return boxes, good


@pytest.mark.parametrize("rule", ["roi_align_legacy", "prroi_pool", "roi_pool", "crop_bilinear", "rotated_half_pixel"])
@pytest.mark.parametrize(("channels", "channels_last"), [(3, False), (34, False), (34, True)])
def test_bad_batch_indices_read_nothing(shim: Operators, rule: str, channels: int, channels_last: bool) -> None:
    """Their bins are NaN, their argmax -1, their gradients 0; the other boxes do not notice."""
    case = Case(rule=rule, boxes="20", channels=channels, layout="channels_last" if channels_last else "contiguous")
    boxes, good = bad_boxes(case)
    maps, grad, arguments = case.maps(), case.grad(), case.geometry
    argmaxes = [(None, None)] if case.has_mean else []
    if case.has_maximum:
        values, argmax = shim("_max_pool", maps, boxes, case.bins, *arguments)
        expected, good_argmax = CPU("_max_pool", maps, boxes[good], case.bins, *arguments)
        assert values[~good].isnan().all()
        assert (argmax[~good] == -1).all()
        assert torch.equal(argmax[good], good_argmax)
        assert_close(values[good], expected)
        argmaxes.append((argmax, good_argmax))
    for argmax, good_argmax in argmaxes:
        (out,) = shim("_pool", maps, boxes, None, None, argmax, case.bins, *arguments)
        (expected,) = CPU("_pool", maps, boxes[good], None, None, good_argmax, case.bins, *arguments)
        assert out[~good].isnan().all()
        assert_close(out[good], expected)
        size = case.input_size
        (grad_input,) = shim("_pool_grad_input", grad, boxes, None, None, argmax, size, channels_last, *arguments)
        (expected,) = CPU(
            "_pool_grad_input", grad[good], boxes[good], None, None, good_argmax, size, channels_last, *arguments
        )
        assert_close(grad_input, expected)
        if not case.has_mean:
            continue
        (grad_boxes,) = shim("_pool_grad_boxes", grad, maps, boxes, None, argmax, *arguments)
        (expected,) = CPU("_pool_grad_boxes", grad[good], maps, boxes[good], None, good_argmax, *arguments)
        assert (grad_boxes[~good] == 0).all()
        assert_close(grad_boxes[good], expected)
        assert (grad_boxes[:, 0] == 0).all()


@pytest.mark.parametrize("channels", [3, 33])
def test_boxes_of_no_images_are_nan(shim: Operators, channels: int) -> None:
    arguments = (None, None, None, (2, 3), [1.0], [8.0, 1.0], 2, "roi_align_legacy")
    for format in (torch.contiguous_format, torch.channels_last):
        maps = [torch.empty(0, channels, 4, 5).contiguous(memory_format=format)]
        (out,) = shim("_pool", maps, torch.tensor([[0.0, 1.0, 1.0, 3.0, 3.0]]), *arguments)
        assert out.isnan().all()


def test_boxes_choose_their_pixels(shim: Operators) -> None:
    """NaN reaches a result only from pixels with weight."""
    features = torch.full((2, 33, 20, 40), float("nan"))
    features[:, :, 4:9, 4:9] = 1.0
    boxes = torch.tensor([[0.0, 4.5, 4.5, 8.5, 8.5], [1.0, 4.0, 4.0, 30.0, 8.0]])
    (out,) = shim("_pool", [features], boxes, None, None, None, (2, 2), [1.0], [8.0, 1.0], 2, "roi_align_half_pixel")
    assert (out[0] == 1).all()
    assert out[1, :, :, 1].isnan().all()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [3, 33, 128])
@pytest.mark.parametrize("ratio", [1, 2, 3, -1])
def test_pixels_without_weight_are_not_read(shim: Operators, layout: str, channels: int, ratio: int) -> None:
    """Bins of no, one and more rows and columns, inside and beyond the borders of the map; pixels hold any value."""
    case = Case(channels=channels, ratio=ratio, bins=(3, 5), planes=((12, 15),), images=1, layout=layout)
    (clean,), boxes, arguments = case.maps(), case.boxes_tensor(), case.geometry
    on_border = torch.tensor([[0.0, -2.4, -2.6, 0.4, 0.4], [0.0, 13.6, 10.7, 17.0, 14.0], [0.0, 2.5, 2.5, 2.5, 9.5]])
    for box in torch.cat([boxes[boxes.isfinite().all(1)], on_border]):
        call = (box[None], None, None, None, case.bins, *arguments)
        ones = torch.ones(1, channels, *case.bins)
        (used,) = CPU("_pool_grad_input", ones, box[None], None, None, None, case.input_size, False, *arguments)
        spoilt = torch.where(used != 0, clean, torch.tensor([float("nan"), float("inf")]).repeat(15 * 6).view(12, 15))
        (out,) = shim("_pool", [with_layout(spoilt, layout)], *call)
        assert_close(out, CPU("_pool", [clean], *call)[0])


@pytest.mark.parametrize("channels", [33, 128])
def test_levels_of_several_layouts(shim: Operators, channels: int) -> None:
    """The layout of the first level decides the layout of the result."""
    case = Case(planes=((24, 40), (12, 20)), boxes="60", channels=channels)
    maps, boxes, arguments = case.maps(), case.boxes_tensor(), case.geometry
    (expected,) = CPU("_pool", maps, boxes, None, None, None, case.bins, *arguments)
    for layouts in (("channels_last", "contiguous"), ("contiguous", "channels_last"), ("channels_last", "sliced")):
        mixed = [with_layout(feature_map, layout) for feature_map, layout in zip(maps, layouts, strict=True)]
        (out,) = shim("_pool", mixed, boxes, None, None, None, case.bins, *arguments)
        assert out.is_contiguous(memory_format=torch.channels_last) == (layouts[0] == "channels_last")
        assert_close(out, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [1, 2, 4])
def test_channels_that_begin_between_packs(shim: Operators, dtype: torch.dtype, offset: int) -> None:
    """Addresses, images, rows or pixels that are not aligned to 16 bytes."""
    channels, (height, width) = 256, (6, 7)
    case = Case(channels=channels, planes=((height, width),), dtype=dtype, boxes="12", bins=(3, 2))
    (features,), boxes, arguments = case.maps(), case.boxes_tensor(), case.geometry
    (expected,) = CPU("_pool", [features], boxes, None, None, None, case.bins, *arguments)
    by_pixel = features.permute(0, 2, 3, 1)
    storage = torch.full((case.images * height * width * (channels + 16) * 2,), float("nan"), dtype=dtype)
    pixel = channels + 16
    row, image = width * pixel, height * width * pixel
    for start, strides in (
        (offset, (image, row, pixel, 1)),
        (0, (image + offset, row, pixel, 1)),
        (0, (image + height * offset, row + offset, pixel, 1)),
        (0, (2 * image, row + width * offset, pixel + offset, 1)),
    ):
        moved = storage.as_strided(by_pixel.shape, strides, start)
        moved.copy_(by_pixel)
        (out,) = shim("_pool", [moved.permute(0, 3, 1, 2)], boxes, None, None, None, case.bins, *arguments)
        assert_close(out, expected)


def test_largest_sample_wins_and_first_of_equal_ones(shim: Operators) -> None:
    case = Case(channels=3, boxes="all", ratio=3)
    maps = [torch.zeros_like(features) for features in case.maps()]
    maps[0][:, 1, 3, 4] = float("nan")
    maps[0][:, 2, 3, 4] = float("-inf")
    for rule in ("roi_align_legacy", "roi_align_half_pixel", "roi_pool", "crop_bilinear", "crop_nearest"):
        arguments = Case(rule=rule, ratio=3).geometry
        actual = shim("_max_pool", maps, case.boxes_tensor(), (3, 2), *arguments)
        expected = CPU("_max_pool", maps, case.boxes_tensor(), (3, 2), *arguments)
        assert torch.equal(actual[1], expected[1]), rule
        assert torch.equal(actual[0].nan_to_num(7.0), expected[0].nan_to_num(7.0)), rule


@pytest.mark.parametrize("half_size", [1e4, 1e6, 1e9, 1e18, 1e30])
@pytest.mark.parametrize("rule", ["roi_align_legacy", "prroi_pool", "roi_pool", "rotated_legacy"])
def test_cost_of_huge_boxes_is_bounded(shim: Operators, half_size: float, rule: str) -> None:
    """Huge boxes end, with the CPU's results."""
    row = [0.0, 20 - half_size, 15 - half_size, 20 + half_size, 15 + half_size]
    if rule == "rotated_legacy":
        row = [0.0, 20.0, 15.0, 2 * half_size, 2 * half_size, 30.0]
    boxes, features = torch.tensor([row]), random_tensor(1, 2, 30, 40, dtype=torch.float32)
    arguments = ([1.0], [8.0, 1.0], -1, rule)
    if rule == "roi_pool":
        actual, expected = (ops("_max_pool", [features], boxes, (2, 2), *arguments) for ops in (shim, CPU))
    else:
        actual, expected = (
            ops("_pool", [features], boxes, None, None, None, (2, 2), *arguments) for ops in (shim, CPU)
        )
    assert_close(actual[0], expected[0])


@pytest.mark.parametrize("bins", [7, 14])
@pytest.mark.parametrize("rule", ["roi_align_legacy", "roi_align_half_pixel", "roi_warp", "prroi_pool", "roi_pool"])
def test_bins_of_far_boxes_keep_apart(shim: Operators, rule: str, bins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With coordinates rounded to hundreds of pixels, a bin may end after the first sample of the next one."""
    random = np.random.default_rng(bins)
    size = 10 ** random.uniform(7, 10, 40)
    start = -size * random.integers(0, bins, 40) / bins + random.uniform(-50, 50, 40)
    corners = [(-147885408.0, 11375829.0), (-1333049600.0, 222175008.0), *zip(start, start + size, strict=True)]
    boxes = torch.tensor([[0.0, low, 1.0, high, 6.0] for low, high in corners], dtype=torch.float32)
    features = random_tensor(1, 2, 7, 200, dtype=torch.float32)
    grad = random_tensor(len(boxes), 2, 2, bins, seed=1, dtype=torch.float32)
    geometry = ([1.0], [8.0, 1.0], -1, rule)

    def results(ops: Operators) -> list[tuple[Tensor, ...]]:
        found: list[tuple[Tensor, ...]] = []
        argmaxes = [] if rule == "roi_pool" else [None]
        if rule != "prroi_pool":
            found.append(ops("_max_pool", [features], boxes, (2, bins), *geometry))
            argmaxes.append(found[0][1])
        for argmax in argmaxes:
            tail = (boxes, None, None, argmax)
            found.append(ops("_pool", [features], *tail, (2, bins), *geometry))
            found.append(ops("_pool_grad_input", grad, *tail, [1, 2, 7, 200], False, *geometry))
            if rule != "roi_pool":
                found.append(ops("_pool_grad_boxes", grad, [features], boxes, None, argmax, *geometry))
        return found

    orders = []
    for seed in SEEDS:
        monkeypatch.setenv("SHIM_SEED", seed)
        orders.append(results(shim))
    for actual, other, expected in zip(orders[0], orders[-1], results(CPU), strict=True):
        assert same_bits(actual, other)
        for result, reference in zip(actual, expected, strict=True):
            compare = assert_close if result.is_floating_point() else torch.testing.assert_close
            compare(result, reference)


@pytest.mark.skipif(KIND != "plain", reason="a map of 8 million pixels")
def test_small_bins_far_from_the_origin_keep_apart(shim: Operators) -> None:
    """Bins of half a pixel with positions rounded to whole pixels: bin p ends after bin p + 2 begins."""
    features = random_tensor(1, 1, 1, 8388732, dtype=torch.float32)
    boxes = torch.tensor([[0.0, 8408335.0, 0.0, 8388654.0, 1.0]])  # reversed, so that few bins are on the map
    arguments = ([1.0], [8.0, 1.0], 2158, "roi_align_half_pixel")
    # Positions are whole numbers: the pixel after one has weight only in derivatives.
    for direction in (None, torch.ones_like(boxes)):
        call = ("_pool", [features], boxes, direction, None, None, (1, 39337), *arguments)
        actual, expected = (ops(*call) for ops in (shim, CPU))
        assert actual[0].count_nonzero() > 10
        assert_close(actual[0], expected[0])
    grad = random_tensor(1, 1, 1, 39337, dtype=torch.float32)
    actual, expected = (ops("_pool_grad_boxes", grad, [features], boxes, None, None, *arguments) for ops in (shim, CPU))
    assert_close(actual[0], expected[0])


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")] if KIND == "plain" else [float("inf")])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in WITHOUT_BOX_DERIVATIVE])
def test_directions_that_are_not_finite(shim: Operators, rule: str, layout: str, value: float) -> None:
    """Clamped samples have no derivative, and memory behind the map is not read."""
    case = Case(rule=rule, boxes="border", channels=33, images=1, layout=layout)
    maps, boxes, grad, arguments = case.maps(), case.boxes_tensor(), case.grad(), case.geometry
    argmaxes = [None, CPU("_max_pool", maps, boxes, case.bins, *arguments)[1]] if case.has_maximum else [None]
    for column in range(1, boxes.shape[1]):
        u = random_tensor(*boxes.shape, seed=column, dtype=boxes.dtype)
        u[:, column] = value
        for argmax in argmaxes:
            for v in (None, random_tensor(*boxes.shape, dtype=boxes.dtype)):
                calls = [("_pool", maps, boxes, u, v, argmax, case.bins, *arguments)]
                channels_last = layout == "channels_last"
                calls += [("_pool_grad_input", grad, boxes, u, v, argmax, case.input_size, channels_last, *arguments)]
                calls += [("_pool_grad_boxes", grad, maps, boxes, u, argmax, *arguments)]
                for call in calls:
                    for actual, expected in zip(shim(*call), CPU(*call), strict=True):
                        finite = expected.isfinite()
                        assert torch.equal(actual.isfinite(), finite), call[0]
                        assert_close(actual[finite], expected[finite])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_of_bins_without_weight_count_for_nothing(shim: Operators, layout: str) -> None:
    """Also infinite gradients. The first box's upper bins are off the map, the second's bins are all clamped in x."""
    boxes = torch.tensor([[0.0, 1.0, -20.0, 6.0, 6.0], [0.0, -0.9, 1.0, -0.4, 5.0]])
    features = with_layout(random_tensor(1, 33, 8, 9, dtype=torch.float32), layout)
    grad = random_tensor(2, 33, 2, 2, dtype=torch.float32)
    grad[0, :, 0] = float("inf")
    grad[1, 3] = float("inf")
    call = ("_pool_grad_boxes", grad, [features], boxes, None, None, [1.0], [8.0, 1.0], 2, "roi_align_half_pixel")
    (actual,), (expected,) = shim(*call), CPU(*call)
    assert expected[0].isfinite().all()
    assert (expected[1, [1, 3]] == 0).all()
    assert not expected[1, [2, 4]].isfinite().any()
    assert torch.equal(actual.isfinite(), expected.isfinite())
    assert_close(actual[expected.isfinite()], expected[expected.isfinite()])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [3, 33, 132])
def test_gradients_reach_the_pixels_with_weight(shim: Operators, channels: int, channels_last: bool) -> None:
    """Also infinite gradients. The first box's bins have pixels without weight between their samples; the last box has
    samples on pixels, so that the first pixel of a bin is one that the bin before may touch, without weight."""
    corners = [(1.0, 1.0, 30.0, 25.0), (3.5, 2.25, 9.0, 8.5), (11.0, 4.0, 19.0, 12.0), (20.5, 16.5, 24.5, 20.5)]
    boxes = torch.tensor([[0.0, *box] for box in corners])
    grad = random_tensor(len(boxes), channels, 2, 2, dtype=torch.float32)
    grad[0, 1::2, 1, 0] = float("inf")
    grad[1, ::2, 0, 1] = float("nan")
    grad[2, ::3, 1, 1] = float("-inf")
    grad[3, :, 0, 0] = float("inf")
    for given in (grad, grad.contiguous(memory_format=torch.channels_last)):
        tail = (boxes, None, None, None, [1, channels, 28, 33], channels_last, [1.0], [8.0, 1.0], 2, "roi_align_legacy")
        (actual,), (expected,) = shim("_pool_grad_input", given, *tail), CPU("_pool_grad_input", grad, *tail)
        finite = expected.isfinite()
        assert 10 < (~finite[:, : channels // 3 + 1]).sum() < finite[:, : channels // 3 + 1].numel() / 4
        assert torch.equal(actual.isfinite(), finite)
        assert_close(actual[finite], expected[finite])


@pytest.mark.parametrize("channels_last", [False, True])
def test_many_boxes_of_one_plane(shim: Operators, channels_last: bool) -> None:
    """Many times more boxes than a block compacts at once; few of them touch the last tile."""
    count = 20_000 if KIND == "plain" else 1_000
    unit = torch.rand(count, 5, generator=generator(5))
    corner = torch.cat([unit[:, :1] ** 4 * 24, unit[:, 1:2] * 6], 1)
    boxes = torch.cat([torch.zeros(count, 1), corner, corner + unit[:, 2:4] * 3], 1)
    grad = random_tensor(count, 33, 1, 1, dtype=torch.float32)
    tail = (boxes, None, None, None, [1, 33, 7, 26], channels_last, [1.0], [8.0, 1.0], 1, "roi_align_half_pixel")
    (actual,), (expected,) = shim("_pool_grad_input", grad, *tail), CPU("_pool_grad_input", grad, *tail)
    (magnitude,) = CPU("_pool_grad_input", grad.abs(), *tail)
    assert_within_rounding(actual, expected.double(), magnitude.double())


LAUNCHED = {
    "averages": {
        "_pool": ("fill_tables", "average_pool_nchw"),
        "_pool_grad_input": ("fill_tables", "average_grad_input_few_channels"),
        "_pool_grad_boxes": ("fill_tables", "average_grad_boxes_nchw"),
    },
    "averages, channels_last": {
        "_pool": ("fill_tables", "average_pool_channels_last"),
        "_pool_grad_input": ("fill_tables", "average_grad_input_channels_last"),
        "_pool_grad_boxes": ("fill_tables", "average_grad_boxes_channels_last"),
    },
    "averages, NCHW of many channels": {
        "_pool": ("fill_tables", "transpose_channels", "average_pool_channels_last"),
        "_pool_grad_input": ("fill_tables", "transpose_channels", "average_grad_input_nchw"),
    },
    "maxima": {
        "_max_pool": ("fill_samples", "max_pool"),
        "_pool": ("fill_samples", "argmax_pool"),
        "_pool_grad_input": ("fill_samples", "argmax_grad_input"),
        "_pool_grad_boxes": ("fill_samples", "argmax_grad_boxes"),
    },
    "rotated boxes": {
        "_pool": ("fill_rotated_boxes", "rotated_pool"),
        "_pool_grad_input": ("fill_rotated_boxes", "rotated_grad_input_nchw"),
        "_pool_grad_boxes": ("fill_rotated_boxes", "rotated_grad_boxes"),
    },
}


@pytest.mark.parametrize(
    ("what", "case"),
    [
        ("averages", Case(rule="prroi_pool")),
        ("averages, channels_last", Case(rule="crop_bilinear", channels=34, layout="channels_last")),
        ("averages, NCHW of many channels", Case(rule="roi_warp", channels=34)),
        ("maxima", Case(rule="roi_align_legacy")),
        ("rotated boxes", Case(rule="rotated_legacy")),
    ],
)
def test_nothing_follows_a_launch_that_fails(shim: Operators, library: Path, what: str, case: Case) -> None:
    """A later kernel would read tables that were not written. The error names the call and the kernel; CUDA's own error
    is reset."""
    counters, maps, boxes, arguments = ctypes.CDLL(str(library)), case.maps(), case.boxes_tensor(), case.geometry
    argmax = CPU("_max_pool", maps, boxes, case.bins, *arguments)[1] if what == "maxima" else None
    calls = {
        "_max_pool": (maps, boxes, case.bins),
        "_pool": (maps, boxes, None, None, argmax, case.bins),
        "_pool_grad_input": (case.grad(), boxes, None, None, argmax, case.input_size, case.layout == "channels_last"),
        "_pool_grad_boxes": (case.grad(), maps, boxes, None, argmax),
    }
    for name, launched in LAUNCHED[what].items():
        for number, kernel in enumerate(launched):
            counters.shim_fail_launch(ctypes.c_int64(number))
            text = f"{name} ('{case.rule}') on CUDA could not launch {kernel}: too many resources requested for launch"
            with pytest.raises(RuntimeError, match=re.escape(text)):
                shim(name, *calls[name], *arguments)
            assert counters.shim_launches() == number + 1
            assert counters.cudaGetLastError() == 0
        counters.shim_fail_launch(ctypes.c_int64(-1))
        shim(name, *calls[name], *arguments)
        assert counters.shim_launches() == len(launched)


def test_sizes_beyond_32_bits_are_refused(shim: Operators) -> None:
    """Kernels number boxes, planes, and the bins of a box with 32 bits."""
    many, box, features = 1 << 31, torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]]), torch.zeros(1, 1, 4, 4)
    arguments = ([1.0], [8.0, 1.0], 2, "roi_align_legacy")
    with pytest.raises(ValueError, match="boxes: on CUDA at most 2147483647, got 2147483648"):
        shim("_pool", [features], box.expand(many, 5), None, None, None, (1, 1), *arguments)
    images = features.expand(many, 1, 4, 4)
    with pytest.raises(ValueError, match="input: on CUDA at most 2147483647 images at each of 1 levels, got 21474836"):
        shim("_pool", [images], box, None, None, None, (1, 1), *arguments)
    with pytest.raises(ValueError, match="input: on CUDA at most 1073741823 images at each of 2 levels, got 10737418"):
        shim("_pool", [images[: many // 2]] * 2, box, None, None, None, (1, 1), [1.0, 0.5], *arguments[1:])
    grad = torch.zeros(1).expand(1, 1, 1 << 16, 1 << 15)
    with pytest.raises(ValueError, match="output_size: on CUDA at most 2147483647 bins, got 2147483648"):
        shim("_pool_grad_boxes", grad, [features], box, None, None, *arguments)


@pytest.mark.skipif(KIND == "tsan", reason="a million bins")
def test_as_many_bins_as_the_tables_hold(shim: Operators) -> None:
    boxes, arguments = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]]), ([1.0], [8.0, 1.0], 2, "roi_align_legacy")
    (out,) = shim("_pool", [torch.zeros(1, 1, 1, 4)], boxes, None, None, None, (1, 1 << 20), *arguments)
    assert out.shape == (1, 1, 1, 1 << 20)


def test_sizes_beyond_the_tables_are_refused(shim: Operators) -> None:
    boxes, arguments = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]]), ([1.0], [8.0, 1.0], 2, "roi_align_legacy")
    most, long = 1 << 20, (1 << 24) + 1
    features = torch.zeros(1, 1, 1, 4)
    with pytest.raises(ValueError, match="output_size: on CUDA at most 1048576 bins along an axis, got 1048577"):
        shim("_pool", [features], boxes, None, None, None, (1, most + 1), *arguments)
    with pytest.raises(ValueError, match="input: on CUDA at most 16777216 rows and columns, got 16777217"):
        shim("_pool", [torch.zeros(1).expand(1, 1, 1, long)], boxes, None, None, None, (1, 1), *arguments)
    with pytest.raises(ValueError, match="sampling_ratio: expected at most 2147483647 samples along an axis of a box"):
        shim("_max_pool", [features], boxes, (1, 40000), *arguments[:2], 60000, arguments[3])


def test_as_many_samples_as_an_argmax_can_name(shim: Operators) -> None:
    features, boxes = torch.arange(4.0).reshape(1, 1, 1, 4), torch.tensor([[0.0, 0.0, -1e6, 3.0, 1e6]])
    arguments = ([1.0], [8.0, 1.0])
    actual = shim("_max_pool", [features], boxes, (1, 1), *arguments, 65535, "roi_align_legacy")
    assert all(
        map(torch.equal, actual, CPU("_max_pool", [features], boxes, (1, 1), *arguments, 65535, "roi_align_legacy"))
    )
    assert actual[1].item() == 65534
    with pytest.raises(ValueError, match="mode 'max': at most 65535 samples"):
        shim("_max_pool", [features], boxes, (1, 1), *arguments, 65536, "roi_align_legacy")


@pytest.mark.parametrize("channels", [3, 33, 128])
def test_images_of_many_elements(shim: Operators, channels: int, tmp_path: Path) -> None:
    """Offsets of more than 31 bits: maps and gradients in a sparse file."""
    boxes, arguments = torch.tensor([[0.0, 0.5, 0.5, 3.0, 4.0]]), ([1.0], [8.0, 1.0], 2, "roi_align_legacy")
    sizes, far = (1, channels, 5, 4), 1 << 30
    # Channels far apart; or side by side, and rows far apart.
    strides = (0, far, 4, 1) if channels == 3 else (0, 1, far, channels)
    maps = random_tensor(*sizes, dtype=torch.float32)
    length = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    spread_out = torch.from_file(str(tmp_path / "holes"), shared=True, size=length, dtype=torch.float32)
    spread_out = spread_out.as_strided(sizes, strides)
    spread_out.copy_(maps)
    (out,) = shim("_pool", [spread_out], boxes, None, None, None, (2, 3), *arguments)
    (expected,) = CPU("_pool", [maps], boxes, None, None, None, (2, 3), *arguments)
    assert_close(out, expected)
    # The same numbers as the gradient of bins.
    for channels_last in (False, True):
        tail = (boxes, None, None, None, [1, channels, 6, 7], channels_last, *arguments)
        (grad_input,) = shim("_pool_grad_input", spread_out, *tail)
        (expected,) = CPU("_pool_grad_input", maps, *tail)
        assert_close(grad_input, expected)


@pytest.mark.parametrize("strides", [(0, 1 << 27, 4, 1), (0, 1 << 27, 1 << 10, 3)], ids=["vectors", "elements"])
def test_gradients_of_many_elements_are_copied(shim: Operators, strides: tuple[int, ...], tmp_path: Path) -> None:
    """Channels far apart, in a sparse file."""
    sizes, boxes = (1, 33, 5, 4), torch.tensor([[0.0, 0.5, 0.5, 3.0, 4.0]])
    grad = random_tensor(*sizes, dtype=torch.float32)
    length = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    spread_out = torch.from_file(str(tmp_path / "holes"), shared=True, size=length, dtype=torch.float32)
    spread_out = spread_out.as_strided(sizes, strides)
    spread_out.copy_(grad)
    for channels_last in (False, True):
        tail = (boxes, None, None, None, [1, 33, 6, 7], channels_last, [1.0], [8.0, 1.0], 2, "roi_align_legacy")
        (grad_input,) = shim("_pool_grad_input", spread_out, *tail)
        (expected,) = CPU("_pool_grad_input", grad, *tail)
        assert_close(grad_input, expected)


@pytest.mark.parametrize(
    ("sizes", "strides", "offset"),
    [
        ((2, 36, 5, 4), (720, 20, 4, 1), 0),
        ((2, 36, 5, 4), (720, 20, 4, 1), 1),
        ((2, 36, 5, 4), (721, 20, 4, 1), 0),
        ((2, 36, 5, 4), (864, 24, 4, 1), 0),
        ((2, 36, 5, 4), (756, 21, 4, 1), 0),
        ((2, 36, 5, 4), (900, 25, 5, 1), 0),
        ((2, 36, 5, 4), (1440, 40, 8, 2), 0),
        ((2, 33, 7, 5), (1156, 35, 5, 1), 0),
    ],
)
def test_gradients_at_any_address_are_copied(
    shim: Operators, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    """Vector loads are aligned; the sanitizers report others."""
    boxes = torch.tensor([[0.0, 0.5, 0.5, 3.0, 4.0], [0.0, 1.0, 2.0, 5.0, 5.5]])
    grad = random_tensor(3000, dtype=torch.float32).as_strided(sizes, strides, offset)
    for channels_last in (False, True):
        tail = (boxes, None, None, None, [1, sizes[1], 6, 7], channels_last, [1.0], [8.0, 1.0], 2, "roi_align_legacy")
        (grad_input,), (expected,) = shim("_pool_grad_input", grad, *tail), CPU("_pool_grad_input", grad, *tail)
        assert_close(grad_input, expected)


def test_checks_on_request(shim: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
    """ROIALIGN_EXT_CHECK=1 raises what the CPU raises."""
    features, arguments = torch.zeros(2, 1, 4, 4), ([1.0], [8.0, 1.0], 2, "roi_align_legacy")
    boxes = torch.tensor([[0.0, 1.0, 1.0, 2.0, 2.0], [2.0, 1.0, 1.0, 2.0, 2.0]])
    turned = torch.tensor([[0.0, 1.0, 1.0, -2.0, 2.0, 0.0]])

    def sentences(ops: Operators) -> list[str]:
        result = []
        for invalid, rule in ((boxes, "roi_align_legacy"), (turned, "rotated_legacy")):
            with pytest.raises((IndexError, ValueError)) as info:
                ops("_pool", [features], invalid, None, None, None, (1, 1), *arguments[:3], rule)
            result.append(f"{info.type.__name__}: {str(info.value).splitlines()[0]}")
        return result

    monkeypatch.setenv("ROIALIGN_EXT_CHECK", "1")
    assert sentences(shim) == sentences(CPU)
    monkeypatch.setenv("ROIALIGN_EXT_CHECK", "0")
    (out,) = shim("_pool", [features], boxes, None, None, None, (1, 1), *arguments)
    assert out.isnan().flatten().tolist() == [False, True]


def test_arguments_are_checked(shim: Operators) -> None:
    with pytest.raises(ValueError, match="output_size: expected two positive integers"):
        shim("_pool", [torch.zeros(1, 1, 4, 4)], torch.zeros(1, 5), None, None, None, (0, 1), [1.0], [8.0, 1.0], 2,
             "roi_align_legacy")  # fmt: skip


@pytest.mark.sanitizers
@pytest.mark.skipif(KIND != "plain", reason="this process has the sanitizers already")
@pytest.mark.parametrize("kind", ["asan", "tsan"])
def test_sanitizers_find_nothing(kind: str) -> None:
    """The tests of this file under the sanitizers, with fewer cases."""
    result = cuda_shim.sanitized_python(
        kind, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "auto",
        str(Path(__file__)), ROIALIGN_EXT_SHIM=kind, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    assert re.search(r"\d+ passed", result.stdout)
