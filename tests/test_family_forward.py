"""The operators beside ``roi_align``, forward: the package's numbers are the definitions'."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import roialign_ext
from conftest import (
    BOX_SETS,
    DTYPES,
    INF,
    NAN,
    assert_matches_oracle,
    assert_within_rounding,
    random_tensor,
    rows,
    spread,
)
from family import (
    AVERAGES,
    CROP_BOX_SETS,
    FAMILY,
    MAXIMA,
    CropCall,
    Family,
    PrRoIPoolCall,
    RoIPoolCall,
    RoIWarpCall,
    RotatedCall,
    boxes_for,
    rotated_rows,
)
from roialign_ext import crop_and_resize, prroi_pool, roi_align, roi_align_rotated, roi_pool, roi_warp

FORMATS = (torch.contiguous_format, torch.channels_last)
FEATURES = random_tensor(2, 3, 7, 9, seed=1)


@cache
def case(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, boxes of every kind, the oracle's result and the size of its terms."""
    call, features = FAMILY[name], FEATURES.to(dtype)
    boxes = boxes_for(call, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    return features, boxes, call.forward(features, boxes), call.forward_terms(features, boxes)


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
def test_matches_oracle(name: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Every set of boxes: inside, crossing, outside, empty, reversed, on borders, tiny, large, not finite."""
    features, boxes, expected, terms = case(name, dtype)
    out = FAMILY[name](features.contiguous(memory_format=layout), boxes)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=layout)
    assert_within_rounding(out, expected, terms)
    assert bool(out.isfinite().all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("scale", [1.0, 0.37, 2.5])
def test_roi_pool_is_exact(dtype: torch.dtype, layout: torch.memory_format, scale: float) -> None:
    """It takes values from the map and rounds nothing."""
    call, features = RoIPoolCall((3, 2), scale), FEATURES.to(dtype)
    boxes = boxes_for(call, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    out = call(features.contiguous(memory_format=layout), boxes)
    assert torch.equal(out.double(), call.forward(features, boxes))


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("channels", [1, 8, 17, 33, 130])
@pytest.mark.parametrize("layout", FORMATS)
def test_every_channel_count(name: str, channels: int, layout: torch.memory_format) -> None:
    """Vector blocks of any width and their remainders."""
    features = random_tensor(2, channels, 6, 5, seed=channels, dtype=torch.float32).contiguous(memory_format=layout)
    assert_matches_oracle(FAMILY[name], features, boxes_for(FAMILY[name], "inside", "crossing", dtype=torch.float32))


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("output_size", [(1, 1), (1, 5), (7, 7), (14, 3)])
def test_output_sizes(name: str, output_size: tuple[int, int]) -> None:
    call = replace(FAMILY[name], output_size=output_size)
    assert_matches_oracle(call, FEATURES, boxes_for(call, "inside", "crossing"))


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (6, 1), (2, 2), (3, 40)])
def test_map_sizes(name: str, height: int, width: int) -> None:
    features = random_tensor(2, 2, height, width, seed=5)
    assert_matches_oracle(FAMILY[name], features, boxes_for(FAMILY[name], "inside", "crossing", "tiny"))


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("box_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pair_of_dtypes(name: str, dtype: torch.dtype, box_dtype: torch.dtype) -> None:
    """Boxes are read as they are, in float32 or, where either is float64, in float64."""
    call, features = FAMILY[name], FEATURES[:, :2].to(dtype)
    assert_matches_oracle(call, features, boxes_for(call, "inside", "crossing", "tiny", dtype=box_dtype))


LARGE = {
    "upright": rows((3.0, 5.0, 40.3, 37.0), (250.3, 220.1, 299.9, 299.0), (0.0, 170.5, 12.0, 180.0),
                    (-40.0, -30.0, 20.0, 13.0), (100.2, 100.4, 100.9, 131.7), (20.0, 290.0, 50.0, 320.0)),
    "rotated": rotated_rows((22.0, 25.0, 40.3, 37.0, 20.0), (280.3, 270.1, 50.0, 60.0, 110.0),
                            (1.0, 170.5, 12.0, 33.0, -60.0), (150.0, 150.0, 120.3, 4.2, 45.0)),
}  # fmt: skip


@cache
def large_map(dtype: torch.dtype, channels: int, layout: torch.memory_format, images: int = 2) -> Tensor:
    """Images of 300 rows and 301 columns."""
    return random_tensor(images, channels, 300, 301, seed=8, dtype=dtype).contiguous(memory_format=layout)


def large_boxes(call: Family, images: int = 2) -> Tensor:
    """Boxes on and over the border of ``large_map``."""
    boxes = spread(LARGE["rotated" if isinstance(call, RotatedCall) else "upright"], images)
    if isinstance(call, CropCall):
        boxes = boxes[:, [0, 2, 1, 4, 3]] / torch.tensor([1.0, 299.0, 300.0, 299.0, 300.0])
    return boxes


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize(("dtype", "channels", "layout"), [(torch.float32, 70, 0), (torch.bfloat16, 64, 1)])
def test_large_map(name: str, dtype: torch.dtype, channels: int, layout: int) -> None:
    """Maps beyond any cache block of a kernel: a method for large maps gives the same numbers."""
    features, call = large_map(dtype, channels, FORMATS[layout]), FAMILY[name]
    boxes = large_boxes(call).float()
    out = call(features, boxes)
    some = [0, 1, channels // 2, channels - 1]  # every channel is pooled, these are looked at
    assert_within_rounding(
        out[:, some], call.forward(features[:, some], boxes), call.forward_terms(features[:, some], boxes)
    )
    parts = torch.cat([call(features, boxes[k : k + 1]) for k in range(len(boxes))])
    assert torch.equal(out, parts)


# --- identities of the definitions


@pytest.mark.parametrize("name", list(FAMILY))
def test_constant_is_kept_inside(name: str) -> None:
    """Of any size: sums do not overflow the storage type, and small numbers are not flushed."""
    call = FAMILY[name]
    for dtype in DTYPES:
        largest = {torch.float16: 60000.0, torch.bfloat16: 3e38}.get(dtype, 1e30)
        for value in (2.5, largest, 2.0**-20):
            constant = torch.full((2, 3, 7, 9), value, dtype=dtype)
            out = call(constant, boxes_for(call, "inside", dtype=torch.float32))
            expected = constant[:1, :1, :1, :1].expand_as(out)
            torch.testing.assert_close(out, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


RAMP = 3.0 * torch.arange(12.0).double()[:, None] - 2.0 * torch.arange(15.0).double()[None, :]


@pytest.mark.parametrize(
    ("call", "box", "first", "step"),
    [
        (PrRoIPoolCall((4, 3), 0.5), rows((2.4, 1.6, 25.2, 19.0)), (0.8, 1.2), (8.7 / 4, 11.4 / 3)),
        (RoIWarpCall((4, 3), 0.5, sampling_ratio=3), rows((2.4, 1.6, 25.2, 19.0)), (1.0, 1.0), (9 / 4, 12 / 3)),
        (RotatedCall((4, 3), 0.5, 2), rotated_rows((13.8, 10.3, 22.8, 17.4, 0.0)), (0.3, 0.7), (8.7 / 4, 11.4 / 3)),
        (RotatedCall((4, 3), 0.5, aligned=False), rotated_rows((13.8, 10.3, 22.8, 17.4, 0.0)), (0.8, 1.2),
         (8.7 / 4, 11.4 / 3)),
        (CropCall((4, 3)), rows((0.1, 0.2, 0.7, 0.9)), (1.1 - 1.1, 2.8 - 2.45), (2.2, 4.9)),
    ],
)  # fmt: skip
def test_linear_ramp_is_reproduced_at_bin_centres(
    call: Family, box: Tensor, first: tuple[float, float], step: tuple[float, float]
) -> None:
    """``first``: where the box begins on the map, y and x; ``step``: the size of a bin."""
    out = call(RAMP[None, None], box)[0, 0]
    y, x = ((torch.arange(bins).double() + 0.5) * s + f for bins, f, s in zip((4, 3), first, step, strict=True))
    torch.testing.assert_close(out, 3.0 * y[:, None] - 2.0 * x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_crop_of_the_whole_map_is_the_map(dtype: torch.dtype, method: str) -> None:
    features = random_tensor(2, 3, 7, 9, dtype=dtype)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(2, 1)
    assert torch.equal(crop_and_resize(features, whole, torch.tensor([1, 0]), (7, 9), method), features.flip(0))


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
    """Whatever it is: inside, the numbers are those of any other value."""
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_roi_pool_equals_torchvision(dtype: torch.dtype, scale: float) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    features = random_tensor(2, 20, 7, 9, seed=2, dtype=dtype)
    boxes = spread(torch.cat([BOX_SETS[name] for name in BOX_SETS if name != "not_finite"]), 2).to(dtype)
    assert torch.equal(roi_pool(features, boxes, (3, 2), scale), ops.roi_pool(features, boxes, (3, 2), scale))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_of_bins_equal_torchvision(dtype: torch.dtype) -> None:
    """Maps whose pixels ascend and descend show the last and the first cell of every bin."""
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    ascending = torch.arange(70, dtype=dtype).reshape(1, 1, 1, 70)
    features = torch.cat([ascending, -ascending], 1)
    boxes = torch.tensor([[0.0, 3.0, 0.0, 2.0 + cells, 0.0] for cells in range(1, 60)], dtype=dtype)
    for bins in range(1, 15):
        assert torch.equal(roi_pool(features, boxes, (1, bins)), ops.roi_pool(features, boxes, (1, bins)))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("name", [*AVERAGES, *MAXIMA])
def test_nan_and_infinite_pixels_reach_only_outputs_that_use_them(name: str, layout: torch.memory_format) -> None:
    call = FAMILY[name]
    boxes = boxes_for(
        call, *(("inside", "crossing", "upright") if isinstance(call, RotatedCall) else ("inside", "border"))
    )
    boxes = boxes.float()
    for value in (NAN, INF, -INF):
        for place in ((0, 0), (3, 4), (6, 8)):
            features = FEATURES.float().repeat(1, 6, 1, 1).contiguous(memory_format=layout)
            features[:, :, place[0], place[1]] = value
            out = call(features, boxes)
            expected = call.forward(features, boxes)
            assert torch.equal(out.isnan(), expected.isnan())
            finite = expected.isfinite()
            assert torch.equal(out[~finite].nan_to_num(), expected[~finite].float().nan_to_num())
            torch.testing.assert_close(out[finite].double(), expected[finite], atol=1e-5, rtol=0)


# --- ways to call them


def test_defaults_and_argument_order() -> None:
    boxes, rotated = boxes_for(PrRoIPoolCall()), boxes_for(RotatedCall())
    crops, index = boxes_for(CropCall())[:, 1:], boxes_for(CropCall())[:, 0].long()
    size: dict[str, Any] = {"output_size": (3, 3), "spatial_scale": 1.0}
    same: list[tuple[Tensor, Tensor]] = [
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


@pytest.mark.parametrize("name", [name for name, call in FAMILY.items() if not isinstance(call, CropCall)])
def test_list_of_boxes_equals_rows(name: str) -> None:
    call: Any = FAMILY[name]
    boxes = boxes_for(call)
    boxes = boxes[boxes[:, 0].argsort(stable=True)]
    expected = call(FEATURES, boxes)
    listed = [boxes[boxes[:, 0] == image, 1:] for image in range(2)]
    assert torch.equal(call(FEATURES, listed), expected)
    assert torch.equal(call(FEATURES, tuple(listed)), expected)


@pytest.mark.parametrize("box_dtype", DTYPES)
def test_index_of_an_image_is_exact(box_dtype: torch.dtype) -> None:
    """It is a count, not a number in the dtype of the boxes: bfloat16 has no 257, float16 no 2049."""
    images = 2060
    features = (torch.arange(images) % 251).to(torch.bfloat16)[:, None, None, None].expand(-1, 2, 3, 3)
    expected = (torch.arange(images) % 251).to(torch.bfloat16)
    corners, whole = torch.tensor([[0.0, 0.0, 2.0, 2.0]], dtype=box_dtype), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    turned = torch.tensor([[1.0, 1.0, 1.0, 1.0, 30.0]], dtype=box_dtype)
    results = [
        prroi_pool(features, [corners] * images, 1),
        roi_warp(features, [corners] * images, 1),
        roi_pool(features, [corners] * images, 1),
        roi_align_rotated(features, [turned] * images, 1),
        crop_and_resize(features, whole.to(box_dtype).expand(images, 4), torch.arange(images), 1),
    ]
    for out in results:
        assert torch.equal(out[:, 0, 0, 0], expected)


def test_modules_call_the_functions() -> None:
    boxes, rotated = boxes_for(PrRoIPoolCall()), boxes_for(RotatedCall())
    crops, index = boxes_for(CropCall())[:, 1:], boxes_for(CropCall())[:, 0].long()
    e = roialign_ext
    crop: dict[str, Any] = {"method": "nearest", "extrapolation_value": 0.5, "samples_per_bin": 2, "mode": "max"}
    pairs = [
        (e.PrRoIPool((3, 2), 0.5)(FEATURES, boxes), prroi_pool(FEATURES, boxes, (3, 2), 0.5)),
        (e.RoIWarp((3, 2), 0.5, 2, "max")(FEATURES, boxes), roi_warp(FEATURES, boxes, (3, 2), 0.5, 2, "max")),
        (e.RoIPool((3, 2), 0.5)(FEATURES, boxes), roi_pool(FEATURES, boxes, (3, 2), 0.5)),
        (
            e.CropAndResize((3, 2), **crop)(FEATURES, crops, index),
            crop_and_resize(FEATURES, crops, index, (3, 2), **crop),
        ),
        (
            e.RoIAlignRotated((3, 2), 0.5, 2, aligned=False, clockwise=True, angle_unit="radian")(FEATURES, rotated),
            roi_align_rotated(FEATURES, rotated, (3, 2), 0.5, 2, False, True, "radian"),
        ),
    ]
    for module, function in pairs:
        assert torch.equal(module, function)
