"""Do the package and its oracles equal torchvision, other operators, and results by hand, where they have to?"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from support.implementations import PACKAGE, Implementation, each_implementation
from support.inputs import (
    BOX_SETS,
    FORMATS,
    INF,
    MODES,
    NAN,
    all_boxes,
    finest,
    random_tensor,
    rotated_boxes,
    spread,
    xyxy,
)
from support.operator_calls import (
    CropCall,
    OperatorCall,
    PrRoIPoolCall,
    PSRoIAlignCall,
    PSRoIPoolCall,
    RoIAlignCall,
    RoIPoolCall,
    RoIWarpCall,
    RotatedCall,
)
from support.operators import each_operator

FEATURES = random_tensor(2, 3, 7, 9, seed=1)
RATIOS = (-1, 0, 1, 2, 3, 4, 6)
FINITE = {name: boxes for name, boxes in BOX_SETS.items() if name != "not_finite"}
SIZED = {name: boxes for name, boxes in FINITE.items() if name not in ("empty", "reversed")}
"""Without empty grids, of which torchvision's position-sensitive operators make NaN."""
each_ratio = pytest.mark.parametrize("ratio", RATIOS)
each_aligned = pytest.mark.parametrize("aligned", [False, True])
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


@each_implementation
@each_operator
def test_constant_is_kept_inside(implementation: Implementation, call: OperatorCall) -> None:
    """A mean of any size and ratio: sums do not overflow the storage type, and small numbers are not flushed."""
    variants = [replace(call, sampling_ratio=ratio) for ratio in RATIOS] if isinstance(call, RoIAlignCall) else [call]
    for variant, dtype in itertools.product(variants, implementation.dtypes):
        largest = {torch.float16: 60000.0, torch.bfloat16: 3e38}.get(dtype, 1e30)
        for value in (2.5, largest, 2.0**-20):
            constant = variant.input_of(torch.full((2, 17, 7, 9), value, dtype=dtype))
            out = implementation.value(variant, constant, variant.boxes("inside", dtype=torch.float32)).to(dtype)
            expected = finest(constant)[:1, :1, :1, :1].expand_as(out)
            # The oracle adds up to 100 samples in float64, which is the result's type.
            assert_close(out, expected, rtol=(2 if implementation is PACKAGE else 16) * torch.finfo(dtype).eps, atol=0)


# --- torchvision


@pytest.fixture
def ops(torchvision: ModuleType) -> ModuleType:
    found: ModuleType = torchvision.ops
    return found


def assert_equals_torchvision(
    implementation: Implementation,
    call: OperatorCall,
    theirs: Callable[..., Tensor],
    features: Tensor,
    boxes: Tensor,
    exact: bool = False,
) -> None:
    """The value, and the gradient with respect to the input."""
    leaf = features.clone().requires_grad_()
    options = [value for name, value in call.options.items() if name != "mode"]
    expected = theirs(leaf, boxes, call.output_size, *options)
    tolerance = 1e-12 if features.dtype == torch.float64 else 1e-5
    out = implementation.value(call, features, boxes).to(features.dtype)
    assert_close(out, expected.detach(), atol=0.0 if exact else tolerance, rtol=0)
    grad = random_tensor(*expected.shape, seed=4, dtype=features.dtype)
    (grad_input,) = torch.autograd.grad(expected, leaf, grad)
    actual = implementation.gradients(call, grad, features, boxes)[0].to(features.dtype)
    assert_close(actual, grad_input, atol=30 * tolerance, rtol=0)


@each_implementation
@each_aligned
@each_ratio
@each_dtype
def test_roi_align_equals_torchvision(
    ops: ModuleType, implementation: Implementation, aligned: bool, ratio: int, dtype: torch.dtype
) -> None:
    """torchvision takes the same decisions in the same type of coordinates; it refuses negative adaptive grids."""
    sets = FINITE if ratio > 0 or not aligned else {name: FINITE[name] for name in FINITE if name != "reversed"}
    boxes = spread(torch.cat(list(sets.values())), 2).to(dtype)
    assert_equals_torchvision(
        implementation, RoIAlignCall((3, 2), 0.8, ratio, aligned), ops.roi_align, FEATURES.to(dtype), boxes
    )


@each_implementation
@each_dtype
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_roi_pool_equals_torchvision(
    ops: ModuleType, implementation: Implementation, dtype: torch.dtype, scale: float
) -> None:
    features, boxes = random_tensor(2, 20, 7, 9, seed=2, dtype=dtype), spread(torch.cat(list(FINITE.values())), 2)
    assert_equals_torchvision(
        implementation, RoIPoolCall((3, 2), scale), ops.roi_pool, features, boxes.to(dtype), exact=True
    )


@each_implementation
@each_dtype
@pytest.mark.parametrize("ratio", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_ps_roi_align_equals_torchvision(
    ops: ModuleType, implementation: Implementation, dtype: torch.dtype, ratio: int, scale: float
) -> None:
    sets, call = FINITE if ratio > 0 else SIZED, PSRoIAlignCall((3, 2), scale, ratio)
    boxes = spread(torch.cat(list(sets.values())), 2).to(dtype)
    assert_equals_torchvision(implementation, call, ops.ps_roi_align, call.input_of(FEATURES.to(dtype)), boxes)


@each_implementation
@each_dtype
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_ps_roi_pool_equals_torchvision(
    ops: ModuleType, implementation: Implementation, dtype: torch.dtype, scale: float
) -> None:
    """The value for every box, the gradient for those that do not reach the last row and column.

    torchvision's gradient goes on to pixels there that its value does not read.
    """
    call, boxes = PSRoIPoolCall((3, 2), scale), spread(torch.cat(list(FINITE.values())), 2).to(dtype)
    features, tolerance = call.input_of(FEATURES.to(dtype)), 1e-12 if dtype == torch.float64 else 1e-5
    expected = ops.ps_roi_pool(features, boxes, (3, 2), scale)
    assert_close(implementation.value(call, features, boxes).to(dtype), expected, atol=tolerance, rtol=0)
    inner = boxes[(boxes[:, 3] * scale < 6.5) & (boxes[:, 4] * scale < 4.5) & (boxes[:, 1:3].amax(1) * scale < 5)]
    assert len(inner) > 5
    assert_equals_torchvision(implementation, call, ops.ps_roi_pool, features, inner)


# --- other operators


@each_implementation
@pytest.mark.parametrize("mode", MODES)
@each_aligned
@pytest.mark.parametrize("grid", [1, 2, 3, 5])
def test_a_bin_is_a_pool_of_bins_of_one_sample(
    implementation: Implementation, mode: str, aligned: bool, grid: int
) -> None:
    boxes = all_boxes(2)
    fine = implementation.value(RoIAlignCall((3 * grid, 2 * grid), 0.9, 1, aligned), FEATURES, boxes)
    pooled = (functional.max_pool2d if mode == "max" else functional.avg_pool2d)(fine, grid)
    out = implementation.value(RoIAlignCall((3, 2), 0.9, grid, aligned, mode), FEATURES, boxes)
    assert_close(out, pooled, atol=1e-12, rtol=0)


@each_implementation
@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("grid", [2, 3])
def test_crop_and_pool_recipe(implementation: Implementation, method: str, mode: str, grid: int) -> None:
    """``samples_per_bin`` is a finer crop, pooled; samples outside take part with their value."""
    fine = CropCall((7 * grid, 4 * grid), method=method, extrapolation_value=-0.3)
    boxes = fine.boxes()
    pooled = (functional.max_pool2d if mode == "max" else functional.avg_pool2d)(
        implementation.value(fine, FEATURES, boxes), grid
    )
    out = implementation.value(replace(fine, output_size=(7, 4), samples_per_bin=grid, mode=mode), FEATURES, boxes)
    assert_close(out, pooled, atol=0.0 if mode == "max" else 1e-13, rtol=0)


@each_implementation
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("channels", [4, 20])
def test_roi_pool_of_whole_bins_is_max_pool2d(
    implementation: Implementation, layout: torch.memory_format, channels: int
) -> None:
    """Values and gradients are equal, also of NaN and infinite pixels: the gradient goes to a NaN."""
    call, box = RoIPoolCall((2, 3)), xyxy((0.0, 0.0, 8.0, 5.0)).float()
    for dtype in implementation.dtypes:
        features = random_tensor(1, channels, 6, 9, seed=8, dtype=dtype)
        features[0, 0, 1, 2] = features[0, 1, 5, 8] = features[0, 2, 0, 0] = NAN
        features[0, 3], features[0, 2, 3, 3] = -INF, INF
        leaf = features.clone().requires_grad_()
        expected = functional.max_pool2d(leaf, 3)
        given = features.contiguous(memory_format=layout)
        out = implementation.value(call, given, box)
        assert int(out.isnan().sum()) == 3
        assert_close(out, expected.detach(), atol=0, rtol=0, equal_nan=True)
        grad = random_tensor(*out.shape, seed=9, dtype=dtype)
        (grad_input,) = torch.autograd.grad(expected, leaf, grad)
        assert torch.equal(implementation.gradients(call, grad, given, box)[0], grad_input)


@each_implementation
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ratio", [-1, 2])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.37])
@each_dtype
def test_roi_warp_is_legacy_roi_align_of_rounded_boxes(
    implementation: Implementation, mode: str, ratio: int, scale: float, dtype: torch.dtype
) -> None:
    """The value, and gradients with respect to the input and the boxes."""
    warp, align = RoIWarpCall((3, 2), scale, ratio, mode), RoIAlignCall((3, 2), 1.0, ratio, False, mode)
    features, boxes = FEATURES.to(dtype), spread(torch.cat(list(FINITE.values())), 2).to(dtype)
    rounded = boxes.clone()
    rounded[:, 1:] = torch.sign(boxes[:, 1:]) * torch.floor((boxes[:, 1:] * scale).abs() + 0.5)
    out, expected = implementation.value(warp, features, boxes), implementation.value(align, features, rounded)
    assert_close(out, expected, atol=0.0 if implementation is PACKAGE else 1e-13, rtol=0)
    grad = random_tensor(*out.shape, seed=6, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    grad_input, grad_boxes = implementation.gradients(warp, grad, features, boxes)
    exact_by_input, exact_by_boxes = implementation.gradients(align, grad, features, rounded)
    assert_close(grad_input, exact_by_input, atol=tolerance, rtol=0)
    assert_close(grad_boxes, exact_by_boxes * scale, atol=tolerance, rtol=0)


@each_implementation
@each_aligned
def test_roi_align_converges_to_prroi_pool(implementation: Implementation, aligned: bool) -> None:
    """The more samples, the nearer; with ``aligned=True`` for a box shifted by half a pixel."""
    boxes = spread(BOX_SETS["inside"][[0, 2]], 2)
    exact = implementation.value(PrRoIPoolCall((2, 2)), FEATURES, boxes)
    shifted = boxes + (torch.tensor([0.0, 0.5, 0.5, 0.5, 0.5]) if aligned else 0.0)
    for ratio in (4, 16, 64, 256) if implementation is PACKAGE else (4, 16, 64):
        sampled = implementation.value(RoIAlignCall((2, 2), 1.0, ratio, aligned), FEATURES, shifted)
        assert 0.0 < float((sampled - exact).abs().max()) < 4.0 / ratio**2


@each_implementation
@each_aligned
@pytest.mark.parametrize("ratio", [-1, 2])
@each_dtype
def test_roi_align_rotated_without_angle_is_roi_align(
    implementation: Implementation, aligned: bool, ratio: int, dtype: torch.dtype
) -> None:
    """Legacy boxes of at least one pixel: a smaller one grows about its centre, not from its corner."""
    boxes = RotatedCall().boxes("inside", "crossing", "outside", "tiny", "empty", dtype=dtype)
    boxes[:, 5] = 0.0
    if not aligned:
        boxes = boxes[boxes[:, 3:5].amin(1) * 0.9 >= 1.0]
    assert len(boxes) > 5
    corners = torch.cat([boxes[:, :1], boxes[:, 1:3] - boxes[:, 3:5] / 2, boxes[:, 1:3] + boxes[:, 3:5] / 2], 1)
    out = implementation.value(RotatedCall((3, 2), 0.9, ratio, aligned), FEATURES.to(dtype), boxes)
    expected = implementation.value(RoIAlignCall((3, 2), 0.9, ratio, aligned), FEATURES.to(dtype), corners)
    assert_close(out, expected, atol=1e-12 if dtype == torch.float64 else 1e-4, rtol=0)


# --- by hand

RAMP = 3.0 * torch.arange(12.0).double()[:, None] - 2.0 * torch.arange(15.0).double()[None, :]


@each_implementation
@pytest.mark.parametrize(
    ("call", "box", "first", "step"),
    [
        *((RoIAlignCall((4, 3), 0.5, ratio), xyxy((2.4, 1.6, 25.2, 19.0)), (0.8, 1.2), (8.7 / 4, 11.4 / 3))
          for ratio in RATIOS),
        *((RoIAlignCall((4, 3), 0.5, ratio, True), xyxy((2.4, 1.6, 25.2, 19.0)), (0.3, 0.7), (8.7 / 4, 11.4 / 3))
          for ratio in RATIOS),
        (PrRoIPoolCall((4, 3), 0.5), xyxy((2.4, 1.6, 25.2, 19.0)), (0.8, 1.2), (8.7 / 4, 11.4 / 3)),
        (RoIWarpCall((4, 3), 0.5, 3), xyxy((2.4, 1.6, 25.2, 19.0)), (1.0, 1.0), (9 / 4, 12 / 3)),
        (RotatedCall((4, 3), 0.5, 2), rotated_boxes((13.8, 10.3, 22.8, 17.4, 0.0)), (0.3, 0.7), (8.7 / 4, 11.4 / 3)),
        (RotatedCall((4, 3), 0.5, aligned=False), rotated_boxes((13.8, 10.3, 22.8, 17.4, 0.0)), (0.8, 1.2),
         (8.7 / 4, 11.4 / 3)),
        (CropCall((4, 3)), xyxy((0.1, 0.2, 0.7, 0.9)), (1.1 - 1.1, 2.8 - 2.45), (2.2, 4.9)),
    ],
)  # fmt: skip
def test_linear_ramp_is_reproduced_at_bin_centres(
    implementation: Implementation,
    call: OperatorCall,
    box: Tensor,
    first: tuple[float, float],
    step: tuple[float, float],
) -> None:
    """``first``: the beginning of the box on the map, y and x; ``step``: the size of a bin."""
    out = implementation.value(call, RAMP[None, None], box)[0, 0]
    y, x = ((torch.arange(bins).double() + 0.5) * s + f for bins, f, s in zip((4, 3), first, step, strict=True))
    assert_close(out, 3.0 * y[:, None] - 2.0 * x, atol=1e-12, rtol=0)


@each_implementation
def test_whole_map_is_returned(implementation: Implementation) -> None:
    for dtype in implementation.dtypes:
        features = random_tensor(2, 3, 7, 9, dtype=dtype)
        pixels, shares = (
            xyxy((0.0, 0.0, 9.0, 7.0)).repeat(2, 1),
            xyxy((0.0, 0.0, 1.0, 1.0)).repeat(2, 1),
        )
        calls: list[tuple[OperatorCall, Tensor]] = [
            (RoIAlignCall((7, 9), 1.0, 1, True), pixels),
            (CropCall((7, 9)), shares),
            (CropCall((7, 9), method="nearest"), shares),
        ]
        for call, boxes in calls:
            out = implementation.value(call, features, spread(boxes, 2).float())
            assert_close(out, features.flip(0), atol=0.0 if implementation is PACKAGE else 1e-14, rtol=0)


@each_implementation
@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
@pytest.mark.parametrize("clockwise", [False, True])
@pytest.mark.parametrize("unit", ["degree", "radian"])
def test_quarter_turns(implementation: Implementation, quarter: int, clockwise: bool, unit: str) -> None:
    """A box on the ramp 5 y + x, whose rows and columns change places with every quarter turn counter-clockwise."""
    upright = torch.tensor([[4.5, 5.0, 5.5, 6.0], [7.0, 7.5, 8.0, 8.5], [9.5, 10.0, 10.5, 11.0], [12, 12.5, 13, 13.5]])
    angle = 90.0 * quarter * (-1.0 if clockwise else 1.0) * (torch.pi / 180.0 if unit == "radian" else 1.0)
    call = RotatedCall((4, 4), clockwise=clockwise, angle_unit=unit)
    out = implementation.value(
        call, torch.arange(25.0).reshape(1, 1, 5, 5).double(), rotated_boxes((2.0, 2.0, 2.0, 2.0, angle))
    )
    assert_close(out[0, 0], torch.rot90(upright, -quarter).double(), atol=1e-12, rtol=0)


@each_implementation
def test_quarter_turn_of_the_map(implementation: Implementation) -> None:
    """The map turned by 90 degrees and the box turned with it: the same numbers."""
    call = RotatedCall((3, 2), 1.0, 2)
    boxes = call.boxes("inside", "crossing", "tiny")
    turned = boxes.clone()
    turned[:, 1], turned[:, 2] = boxes[:, 2], FEATURES.shape[3] - boxes[:, 1]
    turned[:, 5] += 90.0
    out = implementation.value(call, torch.rot90(FEATURES, 1, (2, 3)), turned)
    assert_close(out, implementation.value(call, FEATURES, boxes), atol=1e-11, rtol=0)


@each_implementation
@pytest.mark.parametrize("clockwise", [False, True])
@pytest.mark.parametrize("unit", ["degree", "radian"])
def test_four_ways_to_say_an_angle(implementation: Implementation, clockwise: bool, unit: str) -> None:
    call = RotatedCall((3, 2), 0.9, 2)
    boxes = call.boxes("inside", "crossing")
    other = replace(call, clockwise=clockwise, angle_unit=unit)
    factor = (-1.0 if clockwise else 1.0) * (torch.pi / 180.0 if unit == "radian" else 1.0)
    converted = boxes.clone()
    converted[:, 5] *= factor
    assert_close(
        implementation.value(other, FEATURES, converted),
        implementation.value(call, FEATURES, boxes),
        atol=1e-12,
        rtol=0,
    )
    grad = random_tensor(len(boxes), 3, 3, 2, seed=11)
    *_, expected = implementation.gradients(call, grad, FEATURES, boxes)
    expected[:, 5] /= factor
    *_, grad_boxes = implementation.gradients(other, grad, FEATURES, converted)
    assert_close(grad_boxes, expected, atol=1e-11, rtol=0)
