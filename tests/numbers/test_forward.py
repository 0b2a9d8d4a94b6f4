"""Are the package's numbers those of the definitions, for every operator, size and kind of box?"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from roialign_ext import crop_and_resize, roi_align, roi_pool
from support.inputs import (
    DTYPES,
    FORMATS,
    INF,
    NAN,
    all_boxes,
    finest,
    formatted,
    large_boxes,
    large_map,
    random_tensor,
)
from support.operator_calls import OperatorCall, RoIAlignCall, RoIPoolCall
from support.operators import ON_ONE_MAP, OPERATORS, each_operator
from support.tolerance import assert_matches_oracle, assert_within_rounding

FEATURES = random_tensor(2, 3, 7, 9, seed=1)
RATIOS = (-1, 0, 1, 2, 3, 4, 6)
each_rule_and_mode = pytest.mark.parametrize(
    ("aligned", "mode"), list(itertools.product([False, True], ["avg", "max"]))
)


@cache
def forward_case(call: OperatorCall, dtype: torch.dtype) -> tuple[Any, Tensor, Tensor, Tensor]:
    """Features, boxes of every kind, the oracle's result and the size of its terms."""
    boxes = call.boxes(dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    features = call.input_of(FEATURES.to(dtype))
    return features, boxes, call.forward(features, boxes), call.forward_terms(features, boxes)


@each_operator
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
def test_matches_oracle(call: OperatorCall, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Every set of boxes: inside, crossing, outside, empty, reversed, on borders, tiny, large, not finite."""
    features, boxes, expected, terms = forward_case(call, dtype)
    out = call(formatted(features, layout), boxes)
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
    features = call.input_of(random_tensor(2, channels, 6, 5, seed=channels, dtype=torch.float32))
    boxes = call.boxes("inside", "crossing", dtype=torch.float32)
    expected, terms = call.forward(features, boxes), call.forward_terms(features, boxes)
    for layout in FORMATS:
        assert_within_rounding(call(formatted(features, layout), boxes), expected, terms)


@pytest.mark.parametrize("channels", [4, 15, 16, 64, 300])
def test_more_channel_counts_of_the_average(channels: int) -> None:
    for name in ("roi_align", "roi_align-adaptive"):
        test_every_channel_count(OPERATORS[name], channels)


@each_operator
@pytest.mark.parametrize("output_size", [(1, 1), (1, 5), (5, 1), (7, 7), (14, 3), (2, 20)])
def test_output_sizes(call: OperatorCall, output_size: tuple[int, int]) -> None:
    call = replace(call, output_size=output_size)
    assert_matches_oracle(call, call.input_of(FEATURES[:, :2]), call.boxes("inside", "crossing"))


@each_operator
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (6, 1), (2, 2), (13, 4), (3, 40)])
def test_map_sizes(call: OperatorCall, height: int, width: int) -> None:
    features = random_tensor(2, 2, height, width, seed=5)
    assert_matches_oracle(call, call.input_of(features), call.boxes("inside", "crossing", "tiny"))


@pytest.mark.parametrize("name", [name for name, call in OPERATORS.items() if "spatial_scale" in call.options])
@pytest.mark.parametrize("scale", [1 / 4, 1 / 16, 0.37, 2.0, 1e-3])
def test_spatial_scales(name: str, scale: float) -> None:
    call: Any = OPERATORS[name]
    boxes = call.boxes("inside", "crossing", "empty")
    boxes[:, 1:5] /= scale
    for dtype in (torch.float64, torch.float32):
        assert_matches_oracle(replace(call, spatial_scale=scale), call.input_of(FEATURES.to(dtype)), boxes.to(dtype))


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
"""Calls of every operator, and of the average with more types and widths of blocks."""
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_of_bins_equal_torchvision(dtype: torch.dtype) -> None:
    """Maps whose pixels ascend and descend show the last and the first cell of every bin."""
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    ascending = torch.arange(70, dtype=dtype).reshape(1, 1, 1, 70)
    features = torch.cat([ascending, -ascending], 1)
    boxes = torch.tensor([[0.0, 3.0, 0.0, 2.0 + cells, 0.0] for cells in range(1, 60)], dtype=dtype)
    for bins in range(1, 15):
        assert torch.equal(roi_pool(features, boxes, (1, bins)), ops.roi_pool(features, boxes, (1, bins)))


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


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e30])
def test_extrapolation_value_stays_outside(value: float) -> None:
    """Inside the map, the numbers are the same for any value."""
    boxes, index = torch.tensor([[0.25, 0.25, 0.75, 0.75], [-0.5, 0.25, 0.5, 0.75]]), torch.tensor([0, 1])
    out = crop_and_resize(FEATURES.float(), boxes, index, 3, extrapolation_value=value)
    plain = crop_and_resize(FEATURES.float(), boxes, index, 3)
    assert torch.equal(out[0], plain[0])
    assert torch.equal(out[1, :, 1:], plain[1, :, 1:])
    assert torch.equal(out[1, :, 0].nan_to_num(nan=5.0), torch.full((3, 3), value).nan_to_num(nan=5.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("scale", [1.0, 0.37, 2.5])
def test_roi_pool_is_exact(dtype: torch.dtype, layout: torch.memory_format, scale: float) -> None:
    """The operator takes values from the map and rounds nothing."""
    call, features = RoIPoolCall((3, 2), scale), FEATURES.to(dtype)
    boxes = call.boxes(dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    out = call(features.contiguous(memory_format=layout), boxes)
    assert torch.equal(out.double(), call.forward(features, boxes))


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
    names = ("inside", "border", "tiny") if "border" in call.box_sets else ("inside", "crossing", "upright")
    boxes = call.boxes(*names, dtype=torch.float32)
    variants = [call]
    if isinstance(call, RoIAlignCall) and call.sampling_ratio > 0:
        variants = [replace(call, sampling_ratio=ratio) for ratio in (1, 2, 3)]
    for variant, value, place in itertools.product(variants, (NAN, INF, -INF), ((0, 0), (3, 4), (6, 8))):
        features = formatted(variant.input_of(FEATURES.float().repeat(1, 6, 1, 1)), layout)
        finest(features)[:, :, place[0], place[1]] = value
        out = variant(features, boxes)
        expected = variant.forward(features, boxes)
        assert torch.equal(out.isnan(), expected.isnan())
        finite = expected.isfinite()
        assert bool(finite.any())
        assert torch.equal(out[~finite].nan_to_num(), expected[~finite].float().nan_to_num())
        torch.testing.assert_close(out[finite].double(), expected[finite], atol=1e-5, rtol=0)
