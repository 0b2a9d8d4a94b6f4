"""Forward: the package's numbers are the definitions', for every operator."""

from __future__ import annotations

import doctest
import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import roialign_ext as package
from roialign_ext import crop_and_resize, prroi_pool, roi_align, roi_align_rotated, roi_pool, roi_warp
from support.inputs import (
    BOX_SETS,
    CROP_BOX_SETS,
    DTYPES,
    FORMATS,
    INF,
    NAN,
    all_boxes,
    large_map,
    random_tensor,
    rotated_rows,
    rows,
    spread,
)
from support.operators import (
    ON_ONE_MAP,
    OPERATORS,
    CropCall,
    OperatorCall,
    PrRoIPoolCall,
    RoIAlignCall,
    RoIPoolCall,
    RoIWarpCall,
    RotatedCall,
    each_operator,
    large_boxes,
)
from support.tolerance import assert_matches_oracle, assert_within_rounding

FEATURES = random_tensor(2, 3, 7, 9, seed=1)
RATIOS = (-1, 0, 1, 2, 3, 4, 6)
each_rule_and_mode = pytest.mark.parametrize(
    ("aligned", "mode"), list(itertools.product([False, True], ["avg", "max"]))
)


@cache
def case(call: OperatorCall, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, boxes of every kind, the oracle's result and the size of its terms."""
    boxes = call.boxes(dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    features = call.widened(FEATURES.to(dtype))
    return features, boxes, call.forward(features, boxes), call.forward_terms(features, boxes)


@each_operator
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
def test_matches_oracle(call: OperatorCall, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Every set of boxes: inside, crossing, outside, empty, reversed, on borders, tiny, large, not finite."""
    features, boxes, expected, terms = case(call, dtype)
    out = call(features.contiguous(memory_format=layout), boxes)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=layout)
    assert_within_rounding(out, expected, terms)
    assert bool(out.isfinite().all())


@each_rule_and_mode
@pytest.mark.parametrize("ratio", RATIOS)
def test_every_ratio(aligned: bool, mode: str, ratio: int) -> None:
    for dtype, layout in zip((torch.float64, torch.float32), FORMATS, strict=True):
        features = FEATURES.to(dtype).contiguous(memory_format=layout)
        assert_matches_oracle(RoIAlignCall((3, 2), 1.0, ratio, aligned, mode), features, all_boxes(2).to(dtype))


@each_operator
@pytest.mark.parametrize("channels", [1, 8, 17, 33, 130])
def test_every_channel_count(call: OperatorCall, channels: int) -> None:
    """Vector blocks of any width and their remainders."""
    features = call.widened(random_tensor(2, channels, 6, 5, seed=channels, dtype=torch.float32))
    boxes = call.boxes("inside", "crossing", dtype=torch.float32)
    expected, terms = call.forward(features, boxes), call.forward_terms(features, boxes)
    for layout in FORMATS:
        assert_within_rounding(call(features.contiguous(memory_format=layout), boxes), expected, terms)


@pytest.mark.parametrize("channels", [4, 15, 16, 64, 300])
def test_more_channel_counts_of_the_average(channels: int) -> None:
    for name in ("roi_align", "roi_align-adaptive"):
        test_every_channel_count(OPERATORS[name], channels)


@each_operator
@pytest.mark.parametrize("output_size", [(1, 1), (1, 5), (5, 1), (7, 7), (14, 3), (2, 20)])
def test_output_sizes(call: OperatorCall, output_size: tuple[int, int]) -> None:
    call = replace(call, output_size=output_size)
    assert_matches_oracle(call, call.widened(FEATURES[:, :2]), call.boxes("inside", "crossing"))


@each_operator
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (6, 1), (2, 2), (13, 4), (3, 40)])
def test_map_sizes(call: OperatorCall, height: int, width: int) -> None:
    features = random_tensor(2, 2, height, width, seed=5)
    assert_matches_oracle(call, call.widened(features), call.boxes("inside", "crossing", "tiny"))


@pytest.mark.parametrize("name", [name for name, call in OPERATORS.items() if "spatial_scale" in call.options])
@pytest.mark.parametrize("scale", [1 / 4, 1 / 16, 0.37, 2.0, 1e-3])
def test_spatial_scales(name: str, scale: float) -> None:
    call: Any = OPERATORS[name]
    boxes = call.boxes("inside", "crossing", "empty")
    boxes[:, 1:5] /= scale
    for dtype in (torch.float64, torch.float32):
        assert_matches_oracle(replace(call, spatial_scale=scale), call.widened(FEATURES.to(dtype)), boxes.to(dtype))


@pytest.mark.parametrize("count", [1, 19, 200])
@pytest.mark.parametrize("channels", [2, 48])
@pytest.mark.parametrize("layout", FORMATS)
def test_box_counts(count: int, channels: int, layout: torch.memory_format) -> None:
    """Few boxes, many boxes, boxes in no order: an implementation may choose its method by such sizes."""
    features = random_tensor(3, channels, 8, 11, seed=6, dtype=torch.float32).contiguous(memory_format=layout)
    corners = random_tensor(count, 4, seed=7).mul(4.0).add(4.0)
    edges = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:].abs()], 1)
    boxes = torch.cat([torch.arange(count, dtype=torch.float64)[:, None] * 7 % 3, edges], 1).float()
    assert_matches_oracle(RoIAlignCall((2, 2), 1.0, 2, True), features, boxes)


LARGE_MAPS = [(torch.float32, 70, FORMATS[0]), (torch.bfloat16, 64, FORMATS[1])]
LARGE = [(name, *large) for name in ON_ONE_MAP for large in LARGE_MAPS]
"""Of every operator, and of the average with more types and widths of blocks."""
LARGE += [
    ("roi_align", dtype, channels, layout)
    for (dtype, channels), layout in itertools.product(
        [(torch.float32, 5), (torch.float32, 64), (torch.float64, 32), (torch.bfloat16, 70)], FORMATS
    )
]


@pytest.mark.parametrize(("name", "dtype", "channels", "layout"), LARGE)
def test_large_map(name: str, dtype: torch.dtype, channels: int, layout: torch.memory_format) -> None:
    """Maps beyond any cache block of a kernel: a method for large maps gives the same numbers."""
    call = OPERATORS[name]
    features = large_map(dtype, channels - channels % call.groups, layout)
    boxes = large_boxes(call).to(torch.float64 if dtype == torch.float64 else torch.float32)
    out = call(features, boxes)
    some = [0, 1, out.shape[1] // 2, out.shape[1] - 1]  # every channel is pooled, these are looked at
    part = features[:, call.channels_of(some)]
    assert_within_rounding(out[:, some], call.forward(part, boxes), call.forward_terms(part, boxes))
    assert torch.equal(out, torch.cat([call(features, boxes[k : k + 1]) for k in range(len(boxes))]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_large_results_equal_small_ones(dtype: torch.dtype, layout: torch.memory_format, mode: str) -> None:
    """A result of 15 to 60 MB, which a kernel may store in another way, against the same boxes a few at a time."""
    features = random_tensor(1, 128, 20, 21, seed=11, dtype=dtype).contiguous(memory_format=layout)
    corners = random_tensor(1200, 4, seed=12).abs() * 6.0
    edges = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    boxes = torch.cat([torch.zeros(1200, 1, dtype=torch.float64), edges], 1).float()
    call = RoIAlignCall((7, 7), 1.0, 2, True, mode)
    expected = torch.cat([call(features, part) for part in boxes.split(60)])
    assert torch.equal(call(features, boxes), expected)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_roi_align_equals_torchvision(aligned: bool, dtype: torch.dtype) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for ratio in RATIOS:
        names = [name for name in BOX_SETS if name != "not_finite" and (name != "reversed" or ratio > 0 or not aligned)]
        boxes = spread(torch.cat([BOX_SETS[name] for name in names]), 2).to(dtype)
        arguments = FEATURES.to(dtype), boxes, (3, 2), 0.8, ratio, aligned
        torch.testing.assert_close(roi_align(*arguments), ops.roi_align(*arguments), atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_roi_pool_equals_torchvision(dtype: torch.dtype, scale: float) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    features = random_tensor(2, 20, 7, 9, seed=2, dtype=dtype)
    boxes = spread(torch.cat([BOX_SETS[name] for name in BOX_SETS if name != "not_finite"]), 2).to(dtype)
    assert torch.equal(roi_pool(features, boxes, (3, 2), scale), ops.roi_pool(features, boxes, (3, 2), scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_of_bins_equal_torchvision(dtype: torch.dtype) -> None:
    """Maps whose pixels ascend and descend show the last and the first cell of every bin."""
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    ascending = torch.arange(70, dtype=dtype).reshape(1, 1, 1, 70)
    features = torch.cat([ascending, -ascending], 1)
    boxes = torch.tensor([[0.0, 3.0, 0.0, 2.0 + cells, 0.0] for cells in range(1, 60)], dtype=dtype)
    for bins in range(1, 15):
        assert torch.equal(roi_pool(features, boxes, (1, bins)), ops.roi_pool(features, boxes, (1, bins)))


# --- identities of the definitions


@each_operator
def test_constant_is_kept_inside(call: OperatorCall) -> None:
    """Of any size and ratio: sums do not overflow the storage type, and small numbers are not flushed."""
    variants = [replace(call, sampling_ratio=ratio) for ratio in RATIOS] if isinstance(call, RoIAlignCall) else [call]
    for variant, dtype in itertools.product(variants, DTYPES):
        largest = {torch.float16: 60000.0, torch.bfloat16: 3e38}.get(dtype, 1e30)
        for value in (2.5, largest, 2.0**-20):
            constant = variant.widened(torch.full((2, 3, 7, 9), value, dtype=dtype))
            out = variant(constant, variant.boxes("inside", dtype=torch.float32))
            expected = constant[:1, :1, :1, :1].expand_as(out)
            torch.testing.assert_close(out, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


RAMP = 3.0 * torch.arange(12.0).double()[:, None] - 2.0 * torch.arange(15.0).double()[None, :]


@pytest.mark.parametrize(
    ("call", "box", "first", "step"),
    [
        *((RoIAlignCall((4, 3), 0.5, ratio), rows((2.4, 1.6, 25.2, 19.0)), (0.8, 1.2), (8.7 / 4, 11.4 / 3))
          for ratio in RATIOS),
        *((RoIAlignCall((4, 3), 0.5, ratio, True), rows((2.4, 1.6, 25.2, 19.0)), (0.3, 0.7), (8.7 / 4, 11.4 / 3))
          for ratio in RATIOS),
        (PrRoIPoolCall((4, 3), 0.5), rows((2.4, 1.6, 25.2, 19.0)), (0.8, 1.2), (8.7 / 4, 11.4 / 3)),
        (RoIWarpCall((4, 3), 0.5, 3), rows((2.4, 1.6, 25.2, 19.0)), (1.0, 1.0), (9 / 4, 12 / 3)),
        (RotatedCall((4, 3), 0.5, 2), rotated_rows((13.8, 10.3, 22.8, 17.4, 0.0)), (0.3, 0.7), (8.7 / 4, 11.4 / 3)),
        (RotatedCall((4, 3), 0.5, aligned=False), rotated_rows((13.8, 10.3, 22.8, 17.4, 0.0)), (0.8, 1.2),
         (8.7 / 4, 11.4 / 3)),
        (CropCall((4, 3)), rows((0.1, 0.2, 0.7, 0.9)), (1.1 - 1.1, 2.8 - 2.45), (2.2, 4.9)),
    ],
)  # fmt: skip
def test_linear_ramp_is_reproduced_at_bin_centres(
    call: OperatorCall, box: Tensor, first: tuple[float, float], step: tuple[float, float]
) -> None:
    """``first``: where the box begins on the map, y and x; ``step``: the size of a bin."""
    out = call(RAMP[None, None], box)[0, 0]
    y, x = ((torch.arange(bins).double() + 0.5) * s + f for bins, f, s in zip((4, 3), first, step, strict=True))
    torch.testing.assert_close(out, 3.0 * y[:, None] - 2.0 * x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_map_is_returned(dtype: torch.dtype) -> None:
    features = random_tensor(2, 3, 7, 9, dtype=dtype)
    corners = torch.tensor([[1.0, 0.0, 0.0, 9.0, 7.0], [0.0, 0.0, 0.0, 9.0, 7.0]])
    assert torch.equal(roi_align(features, corners, (7, 9), sampling_ratio=1, aligned=True), features.flip(0))
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(2, 1)
    for method in ("bilinear", "nearest"):
        assert torch.equal(crop_and_resize(features, whole, torch.tensor([1, 0]), (7, 9), method), features.flip(0))


@pytest.mark.parametrize("grid", [1, 2, 3, 5])
@pytest.mark.parametrize("aligned", [False, True])
def test_average_pool_identity(grid: int, aligned: bool) -> None:
    boxes = all_boxes(2)
    fine = roi_align(FEATURES, boxes, (3 * grid, 2 * grid), 0.9, 1, aligned)
    expected = torch.nn.functional.avg_pool2d(fine, grid)
    torch.testing.assert_close(roi_align(FEATURES, boxes, (3, 2), 0.9, grid, aligned), expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize(("aligned", "expected"), [(False, [15.5, 16.5, 21.5, 22.5]), (True, [12.0, 13.0, 18.0, 19.0])])
def test_ramp_of_36(aligned: bool, expected: list[float]) -> None:
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0, 4.0]])
    out = roi_align(torch.arange(36.0).reshape(1, 1, 6, 6), box, 2, aligned=aligned)
    assert out.flatten().tolist() == expected


def test_five_by_five_by_two() -> None:
    """A notebook port that divides inside the sample loop prints 57.96875 for this case."""
    features = torch.arange(50.0, 100.0).reshape(1, 5, 5, 2).permute(0, 3, 1, 2)
    out = roi_align(features, torch.tensor([[0.0, 1.0, 4.0, 4.0, 4.0]]), 4, sampling_ratio=2)
    assert out[0, :, 0, 0].tolist() == [92.75, 93.75]


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_crop_and_pool_recipe(mode: str, method: str) -> None:
    """14 x 14 samples, then a 2 x 2 pool: one call with ``samples_per_bin=2``."""
    features, boxes = FEATURES.float(), torch.cat([CROP_BOX_SETS["inside"], CROP_BOX_SETS["crossing"]]).float()
    index = torch.arange(len(boxes)) % 2
    fine = crop_and_resize(features, boxes[:, 1:], index, 14, method, -0.3)
    pooled = (functional.max_pool2d if mode == "max" else functional.avg_pool2d)(fine, 2)
    out = crop_and_resize(features, boxes[:, 1:], index, 7, method, -0.3, 2, mode)
    torch.testing.assert_close(out, pooled, atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e30])
def test_extrapolation_value_stays_outside(value: float) -> None:
    """Any value: inside, the numbers are those of any other value."""
    boxes, index = torch.tensor([[0.25, 0.25, 0.75, 0.75], [-0.5, 0.25, 0.5, 0.75]]), torch.tensor([0, 1])
    out = crop_and_resize(FEATURES.float(), boxes, index, 3, extrapolation_value=value)
    plain = crop_and_resize(FEATURES.float(), boxes, index, 3)
    assert torch.equal(out[0], plain[0])
    assert torch.equal(out[1, :, 1:], plain[1, :, 1:])
    assert torch.equal(out[1, :, 0].nan_to_num(nan=5.0), torch.full((3, 3), value).nan_to_num(nan=5.0))


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [-1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_warp_is_legacy_roi_align_of_rounded_boxes(mode: str, ratio: int, dtype: torch.dtype) -> None:
    boxes = spread(torch.cat([BOX_SETS[name] for name in BOX_SETS if name != "not_finite"]), 2).to(dtype)
    rounded = boxes.clone()
    rounded[:, 1:] = torch.sign(boxes[:, 1:]) * torch.floor((boxes[:, 1:] * 0.5).abs() + 0.5)
    features = FEATURES.to(dtype)
    expected = roi_align(features, rounded, (3, 2), 1.0, ratio, False, mode)
    assert torch.equal(roi_warp(features, boxes, (3, 2), 0.5, ratio, mode), expected)


@pytest.mark.parametrize("ratio", [-1, 2])
def test_rotated_without_angle_is_roi_align(ratio: int) -> None:
    boxes = torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"]])
    centres = torch.cat(
        [boxes[:, :1], (boxes[:, 1:3] + boxes[:, 3:]) / 2, boxes[:, 3:] - boxes[:, 1:3], torch.zeros(len(boxes), 1)], 1
    )
    expected = roi_align(FEATURES, boxes, (3, 2), 0.9, ratio, True)
    out = roi_align_rotated(FEATURES, centres, (3, 2), 0.9, ratio)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_quarter_turns_by_hand(quarter: int) -> None:
    """A box on the ramp 5 y + x, whose rows and columns change places with every quarter turn counter-clockwise."""
    upright = torch.tensor([[4.5, 5.0, 5.5, 6.0], [7.0, 7.5, 8.0, 8.5], [9.5, 10.0, 10.5, 11.0], [12, 12.5, 13, 13.5]])
    ramp, angle = torch.arange(25.0).reshape(1, 1, 5, 5), 90.0 * quarter
    for clockwise, unit, said in (
        (False, "degree", angle),
        (True, "degree", -angle),
        (False, "radian", angle * torch.pi / 180),
        (True, "radian", -angle * torch.pi / 180),
    ):
        box = torch.tensor([[0.0, 2.0, 2.0, 2.0, 2.0, said]])
        out = roi_align_rotated(ramp, box, 4, clockwise=clockwise, angle_unit=unit)
        torch.testing.assert_close(out[0, 0], torch.rot90(upright, -quarter), atol=1e-5, rtol=0)


def test_roi_align_converges_to_prroi_pool() -> None:
    features, boxes = FEATURES, spread(BOX_SETS["inside"][[0, 2]], 2)
    exact = prroi_pool(features, boxes, 2)
    for aligned in (False, True):
        shifted = boxes + (torch.tensor([0.0, 0.5, 0.5, 0.5, 0.5]) if aligned else 0.0)
        for ratio in (4, 16, 64, 256):
            distance = (roi_align(features, shifted, 2, 1.0, ratio, aligned) - exact).abs().max()
            assert 0.0 < float(distance) < 4.0 / ratio**2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("scale", [1.0, 0.37, 2.5])
def test_roi_pool_is_exact(dtype: torch.dtype, layout: torch.memory_format, scale: float) -> None:
    """It takes values from the map and rounds nothing."""
    call, features = RoIPoolCall((3, 2), scale), FEATURES.to(dtype)
    boxes = call.boxes(dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    out = call(features.contiguous(memory_format=layout), boxes)
    assert torch.equal(out.double(), call.forward(features, boxes))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("channels", [4, 20])
def test_roi_pool_of_whole_bins_is_max_pool2d(layout: torch.memory_format, channels: int) -> None:
    """NaN and infinite pixels included."""
    for dtype in DTYPES:
        features = random_tensor(1, channels, 6, 9, seed=8, dtype=dtype)
        features[0, 0, 1, 2] = features[0, 1, 5, 8] = features[0, 2, 0, 0] = features[0, 2, 5, 0] = NAN
        features[0, 3], features[0, 2, 3, 3] = -INF, INF
        expected = functional.max_pool2d(features, 3)
        out = roi_pool(features.contiguous(memory_format=layout), rows((0.0, 0.0, 8.0, 5.0)).float(), (2, 3))
        assert int(out.isnan().sum()) == 4
        assert torch.equal(out.nan_to_num(nan=99.0), expected.nan_to_num(nan=99.0))


@pytest.mark.parametrize(
    ("dtype", "cells", "beyond"),
    [(torch.float32, 57, 1.0), (torch.float32, 58, 0.0), (torch.float64, 57, 0.0), (torch.float64, 58, 1.0)],
)
def test_roi_pool_rounds_the_ends_of_bins(dtype: torch.dtype, cells: int, beyond: float) -> None:
    """(33): seven times a seventh of so many cells may come out larger, and the last bin has one cell more."""
    features = torch.zeros(1, 1, 1, 60, dtype=dtype)
    features[..., cells] = 1.0  # the first one that is not the box's
    out = roi_pool(features, torch.tensor([[0.0, 0.0, 0.0, cells - 1.0, 0.0]], dtype=dtype), (1, 7))
    assert out.flatten().tolist() == [0.0] * 6 + [beyond]


@each_operator
@pytest.mark.parametrize("layout", FORMATS)
def test_nan_and_infinite_pixels_reach_only_outputs_that_use_them(
    call: OperatorCall, layout: torch.memory_format
) -> None:
    names = ("inside", "crossing", "upright") if isinstance(call, RotatedCall) else ("inside", "border", "tiny")
    boxes = call.boxes(*names, dtype=torch.float32)
    variants = [call]
    if isinstance(call, RoIAlignCall) and call.sampling_ratio > 0:
        variants = [replace(call, sampling_ratio=ratio) for ratio in (1, 2, 3)]
    for variant, value, place in itertools.product(variants, (NAN, INF, -INF), ((0, 0), (3, 4), (6, 8))):
        features = variant.widened(FEATURES.float().repeat(1, 6, 1, 1)).contiguous(memory_format=layout)
        features[:, :, place[0], place[1]] = value
        out = variant(features, boxes)
        expected = variant.forward(features, boxes)
        assert torch.equal(out.isnan(), expected.isnan())
        finite = expected.isfinite()
        assert bool(finite.any())
        assert torch.equal(out[~finite].nan_to_num(), expected[~finite].float().nan_to_num())
        torch.testing.assert_close(out[finite].double(), expected[finite], atol=1e-5, rtol=0)


def test_worked_examples_of_the_documentation() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "math.md"
    if not page.is_file():
        pytest.skip(f"{page} is not part of this copy")
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted > 15
    assert result.failed == 0


# --- ways to call them


def test_defaults_and_argument_order() -> None:
    boxes, rotated = all_boxes(2), RotatedCall().boxes()
    crops, index = CropCall().box_arguments(CropCall().boxes())
    size: dict[str, Any] = {"output_size": (3, 3), "spatial_scale": 1.0}
    plain = roi_align(input=FEATURES, boxes=boxes, **size, sampling_ratio=-1, aligned=False, mode="avg")
    same: list[tuple[Tensor, Tensor]] = [
        (roi_align(FEATURES, boxes, 3), plain),
        (roi_align(FEATURES, boxes, [3, 3]), plain),
        (roi_align(FEATURES, boxes, torch.Size([3, 3]), 1.0, -1, False, "avg"), plain),
        (roi_align(FEATURES, boxes, (3, 3), 1, 0), plain),
        (roi_align(FEATURES, boxes, (3, 3), sampling_ratio=-7), plain),
        (prroi_pool(FEATURES, boxes, 3), prroi_pool(input=FEATURES, boxes=boxes, **size)),
        (prroi_pool(FEATURES, boxes, [3, 3], 1), prroi_pool(FEATURES, boxes, torch.Size([3, 3]), 1.0)),
        (roi_warp(FEATURES, boxes, 3), roi_warp(input=FEATURES, boxes=boxes, **size, sampling_ratio=-1, mode="avg")),
        (roi_warp(FEATURES, boxes, 3, 1.0, 0), roi_warp(FEATURES, boxes, (3, 3), 1.0, -7)),
        (roi_pool(FEATURES, boxes, 3), roi_pool(input=FEATURES, boxes=boxes, **size)),
        (
            crop_and_resize(FEATURES, crops, index, 3),
            crop_and_resize(
                input=FEATURES, boxes=crops, box_indices=index, crop_size=(3, 3), method="bilinear",
                extrapolation_value=0.0, samples_per_bin=1, mode="avg",
            ),
        ),
        (crop_and_resize(FEATURES, crops, index, 3), crop_and_resize(FEATURES, crops, index.int(), [3, 3])),
        (
            roi_align_rotated(FEATURES, rotated, 3),
            roi_align_rotated(
                input=FEATURES, boxes=rotated, **size, sampling_ratio=-1, aligned=True, clockwise=False,
                angle_unit="degree",
            ),
        ),
    ]  # fmt: skip
    for short, long in same:
        assert torch.equal(short, long)


@pytest.mark.parametrize("name", [name for name in OPERATORS if not name.startswith(("crop", "multiscale"))])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_list_of_boxes_equals_rows(name: str, dtype: torch.dtype) -> None:
    call = OPERATORS[name]
    features, boxes = call.widened(FEATURES.to(dtype)), call.boxes(dtype=dtype)
    boxes = boxes[boxes[:, 0].argsort(stable=True)]
    expected = call(features, boxes)
    listed = [boxes[boxes[:, 0] == image, 1:] for image in range(2)]
    assert torch.equal(call(features, listed), expected)
    assert torch.equal(call(features, tuple(listed)), expected)


def test_list_with_images_without_boxes() -> None:
    features = random_tensor(3, 2, 7, 9)
    boxes = BOX_SETS["inside"]
    expected = roi_align(features, boxes + torch.tensor([2.0, 0, 0, 0, 0]), 2)
    empty = torch.zeros(0, 4, dtype=torch.float64)
    assert torch.equal(roi_align(features, [empty, empty, boxes[:, 1:]], 2), expected)
    assert roi_align(features, [empty, empty, empty], 2).shape == (0, 2, 2, 2)


def test_same_box_in_every_image() -> None:
    features = random_tensor(300, 1, 2, 2, dtype=torch.float32)
    boxes = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]).repeat(300, 1)
    boxes[:, 0] = torch.arange(300).flip(0)
    assert torch.equal(roi_align(features, boxes, 2, sampling_ratio=1, aligned=True), features.flip(0))


@pytest.mark.parametrize("box_dtype", DTYPES)
def test_index_of_an_image_is_exact(box_dtype: torch.dtype) -> None:
    """It is a count, not a number in the dtype of the boxes: bfloat16 has no 257, float16 no 2049."""
    images = 2060
    features = (torch.arange(images) % 251).to(torch.bfloat16)[:, None, None, None].expand(-1, 2, 3, 3)
    expected = (torch.arange(images) % 251).to(torch.bfloat16)
    corners, whole = torch.tensor([[0.0, 0.0, 2.0, 2.0]], dtype=box_dtype), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    turned = torch.tensor([[1.0, 1.0, 1.0, 1.0, 30.0]], dtype=box_dtype)
    results = [
        roi_align(features, [corners] * images, 1),
        prroi_pool(features, [corners] * images, 1),
        roi_warp(features, [corners] * images, 1),
        roi_pool(features, [corners] * images, 1),
        roi_align_rotated(features, [turned] * images, 1),
        crop_and_resize(features, whole.to(box_dtype).expand(images, 4), torch.arange(images), 1),
    ]
    for out in results:
        assert torch.equal(out[:, 0, 0, 0], expected)


def test_modules_call_the_functions() -> None:
    boxes, rotated = all_boxes(2), RotatedCall().boxes()
    crops, index = CropCall().box_arguments(CropCall().boxes())
    crop: dict[str, Any] = {"method": "nearest", "extrapolation_value": 0.5, "samples_per_bin": 2, "mode": "max"}
    pairs = [
        (
            package.RoIAlign((3, 2), 0.5, 2, True, "max")(FEATURES, boxes),
            roi_align(FEATURES, boxes, (3, 2), 0.5, 2, True, "max"),
        ),
        (package.PrRoIPool((3, 2), 0.5)(FEATURES, boxes), prroi_pool(FEATURES, boxes, (3, 2), 0.5)),
        (package.RoIWarp((3, 2), 0.5, 2, "max")(FEATURES, boxes), roi_warp(FEATURES, boxes, (3, 2), 0.5, 2, "max")),
        (package.RoIPool((3, 2), 0.5)(FEATURES, boxes), roi_pool(FEATURES, boxes, (3, 2), 0.5)),
        (
            package.CropAndResize((3, 2), **crop)(FEATURES, crops, index),
            crop_and_resize(FEATURES, crops, index, (3, 2), **crop),
        ),
        (
            package.RoIAlignRotated((3, 2), 0.5, 2, False, True, "radian")(FEATURES, rotated),
            roi_align_rotated(FEATURES, rotated, (3, 2), 0.5, 2, False, True, "radian"),
        ),
    ]
    for module, function in pairs:
        assert torch.equal(module, function)
