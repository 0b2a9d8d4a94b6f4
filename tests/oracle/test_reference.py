"""The oracles themselves: hand-computed cases, second definitions, finite differences, autograd, torchvision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from oracle import reference, reference_prroi, reference_rotated
from oracle.reference import Params
from oracle.reference_sampled import round_half_away
from support import differentiable
from support.inputs import (
    BOX_SETS,
    INF,
    MODES,
    NAN,
    all_boxes,
    as_array,
    random_tensor,
    rotated_rows,
    rows,
    smooth_boxes,
    spread,
)
from support.operator_calls import (
    CropCall,
    OperatorCall,
    PrRoIPoolCall,
    RoIAlignCall,
    RoIPoolCall,
    RoIWarpCall,
    RotatedCall,
)
from support.operators import OPERATORS, each_operator

FEATURES = random_tensor(2, 3, 7, 9, seed=1)
RATIOS = (-1, 0, 1, 2, 3, 4, 6)
NAMES = [name for name in BOX_SETS if name != "not_finite"]


def surface(features: Tensor, y: Tensor, x: Tensor, padding: str) -> Tensor:
    """torch's own bilinear interpolation at map pixels ``y``, ``x``, shaped alike: ``[C, *y.shape]``."""
    height, width = features.shape[1:]
    grid = torch.stack([2.0 * x / (width - 1) - 1.0, 2.0 * y / (height - 1) - 1.0], -1).reshape(1, 1, -1, 2)
    values = functional.grid_sample(features[None], grid, "bilinear", padding, align_corners=True)
    return values.reshape(features.shape[0], *y.shape)


# --- every oracle


@each_operator
def test_grad_inputs_are_those_of_the_forward(call: OperatorCall) -> None:
    """The slope in a random direction. ``FEATURES`` has no two values as close as the step, which maxima need."""
    boxes = call.boxes()
    boxes, features = boxes[boxes[:, 1:].abs().amax(1) < 100], call.input_of(FEATURES)
    grad = random_tensor(*call.output_shape(features, boxes), seed=2)
    toward = tree_map(lambda one: random_tensor(*one.shape, seed=3), features)

    def loss(step: float) -> float:
        moved = tree_map(lambda one, direction: one + step * direction, features, toward)
        return float((grad * call.forward(moved, boxes)).sum())

    pairs = zip(call.grad_inputs(grad, features, boxes), tree_leaves(toward), strict=True)
    slope = sum(float((by_map * direction).sum()) for by_map, direction in pairs)
    assert (loss(1e-6) - loss(-1e-6)) / 2e-6 == pytest.approx(slope, rel=1e-6)


def smooth_rows(call: OperatorCall, count: int) -> Tensor:
    """Random boxes over and around the map; none of their samples happens to lie on the border of a cell."""
    random = np.random.default_rng(5)
    low, size = random.uniform(-1.0, 5.0, (count, 2)), random.uniform(1.5, 6.0, (count, 2))
    corners = torch.from_numpy(np.concatenate([np.arange(count)[:, None] % 2, low, low + size], 1))
    return call.from_corners(corners, 9, 9)


@pytest.mark.parametrize(
    "name", [name for name, call in OPERATORS.items() if call.box_order > 0 and not isinstance(call, RoIWarpCall)]
)
def test_grad_boxes_equal_finite_differences(name: str) -> None:
    """Except ``roi_warp``'s, whose derivative is by definition not that of its steps."""
    call = OPERATORS[name]
    boxes, features = smooth_rows(call, 12), call.input_of(FEATURES)
    grad = random_tensor(*call.output_shape(features, boxes), seed=4)
    by_boxes = call.grad_boxes(grad, features, boxes)
    assert not bool(by_boxes[:, 0].any())
    assert bool(by_boxes[:, 1:].any()) == ("nearest" not in name)
    step = 1e-6
    for column in range(1, boxes.shape[1]):
        toward = torch.zeros_like(boxes)
        toward[:, column] = step  # the boxes do not depend on one another: all at once
        difference = call.forward(features, boxes + toward) - call.forward(features, boxes - toward)
        slopes = (grad * difference).sum((1, 2, 3)) / (2 * step)
        torch.testing.assert_close(slopes, by_boxes[:, column], atol=1e-7, rtol=1e-7)


@each_operator
def test_coordinates_that_are_not_finite_give_what_is_outside(call: OperatorCall) -> None:
    boxes, features = call.boxes("not_finite"), call.input_of(FEATURES)
    value = call.outside
    out = call.forward(tree_map(lambda one: torch.full_like(one, value), features), boxes)
    assert torch.equal(out, torch.full_like(out, value))
    if call.box_order > 0 and not isinstance(call, CropCall):
        assert not bool(call.forward(features, boxes).any())
        assert not bool(call.grad_boxes(torch.ones_like(out), features, boxes).any())


# --- roi_align


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
def test_loops_equal_the_dense_product(aligned: bool, ratio: int) -> None:
    params = Params((3, 2), 0.8, ratio, aligned)
    arrays = as_array(FEATURES), as_array(all_boxes(2))
    np.testing.assert_allclose(reference.average(*arrays, params), reference.dense_average(*arrays, params), atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_gradients_equal_finite_differences(mode: str, aligned: bool, ratio: int) -> None:
    call = RoIAlignCall((2, 3), 0.6, ratio, aligned, mode)
    boxes = smooth_boxes(8, tuple(FEATURES.shape), call)
    params = call.params(FEATURES, boxes)
    grad = random_tensor(len(boxes), 3, 2, 3, seed=2)
    by_input, by_boxes = call.grad_input(grad, FEATURES, boxes), call.grad_boxes(grad, FEATURES, boxes)

    def loss(features: torch.Tensor, rows: torch.Tensor) -> float:
        return float((as_array(grad) * reference.forward(as_array(features), as_array(rows), params, mode)).sum())

    step = 1e-5
    for seed in range(4):
        toward = random_tensor(*FEATURES.shape, seed=10 + seed)
        slope = (loss(FEATURES + step * toward, boxes) - loss(FEATURES - step * toward, boxes)) / (2 * step)
        assert slope == pytest.approx(float((by_input * toward).sum()), rel=1e-6)
    for k in range(len(boxes)):
        for column in range(1, 5):
            toward = torch.zeros_like(boxes)
            toward[k, column] = step
            slope = (loss(FEATURES, boxes + toward) - loss(FEATURES, boxes - toward)) / (2 * step)
            assert slope == pytest.approx(float(by_boxes[k, column]), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 1, 2])
def test_loops_equal_the_differentiable_definition(mode: str, aligned: bool, ratio: int) -> None:
    """Value and both gradients, also on borders, clamped, rejected and under the legacy minimum."""
    boxes = torch.cat([BOX_SETS[name] for name in NAMES if name not in ("large", "tiny")])
    call = RoIAlignCall((2, 2), 1.0, ratio, aligned, mode)
    features, rows = FEATURES.clone().requires_grad_(), boxes.clone().requires_grad_()
    out = differentiable.roi_align(features, rows, call.params(features, rows), mode)
    torch.testing.assert_close(out, call.forward(FEATURES, boxes), atol=1e-13, rtol=0)
    grad = random_tensor(*out.shape, seed=3)
    by_input, by_boxes = torch.autograd.grad(out, (features, rows), grad)
    torch.testing.assert_close(by_input, call.grad_input(grad, FEATURES, boxes), atol=1e-12, rtol=0)
    torch.testing.assert_close(by_boxes, call.grad_boxes(grad, FEATURES, boxes), atol=1e-12, rtol=0)


def test_coordinates_are_rounded_step_by_step() -> None:
    """Float32 coordinates are not float64 ones: the oracle follows float32 exactly."""
    first, second, bins, scale = np.float32(7.3), np.float32(91.7), 7, np.float32(0.0625)
    axis = reference.sample_axis(float(first), float(second), bins, 100, Params((bins, 1), 0.0625, 2, True, np.float32))
    start = first * scale - np.float32(0.5)
    step = ((second * scale - np.float32(0.5)) - start) / np.float32(bins)
    for p, samples in enumerate(axis.bins):
        for sample in samples:
            part = (np.float32(sample.index) + np.float32(0.5)) * step / np.float32(2)
            assert sample.position == float(start + np.float32(p) * step + part)
            assert float(np.float32(sample.position)) == sample.position


# --- prroi_pool


def test_prroi_of_one_pixel_by_hand() -> None:
    """The hat function: its integral over [0, 1] is 1/2, over [-1/2, 1/2] 3/4, over [-1, 1] 1."""
    boxes = rows((0.0, 0.0, 1.0, 1.0), (-0.5, -0.5, 0.5, 0.5), (-1.0, -1.0, 1.0, 1.0), (-3.0, 0.0, 1.0, 1.0))
    out = PrRoIPoolCall((1, 1)).forward(torch.ones(1, 1, 1, 1), boxes).flatten()
    assert out.tolist() == [1 / 4, 9 / 16, 1 / 4, 1 / 8]


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_prroi_equals_brute_force_integration(scale: float) -> None:
    """A midpoint rule of 240 x 240 points over each bin of torch's bilinear interpolation with zeros outside."""
    boxes = spread(torch.cat([BOX_SETS[name] for name in ("inside", "crossing", "border", "outside")]), 2)
    boxes[:, 1:] /= scale
    call = PrRoIPoolCall((2, 3), scale)
    out = call.forward(FEATURES, boxes)
    for k, (image, x1, y1, x2, y2) in enumerate(boxes.tolist()):
        y = scale * (y1 + (y2 - y1) * (torch.arange(480, dtype=torch.float64) + 0.5) / 480)
        x = scale * (x1 + (x2 - x1) * (torch.arange(720, dtype=torch.float64) + 0.5) / 720)
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        points = surface(FEATURES[int(image)], grid_y, grid_x, "zeros")
        torch.testing.assert_close(functional.avg_pool2d(points, 240), out[k], atol=2e-4, rtol=0)


def test_prroi_without_area_is_zero() -> None:
    boxes = torch.cat([BOX_SETS["empty"], BOX_SETS["reversed"][:2]])
    assert not bool(PrRoIPoolCall((2, 2)).forward(FEATURES, boxes).any())


def test_prroi_of_a_bin_smaller_than_one_rounding_is_the_surface() -> None:
    """In float32 both ends of the outer bins are one number: value and slopes are those of that point."""
    features, low, high = FEATURES[:1].float(), 4.25, float(np.nextafter(np.float32(4.25), np.float32(5.0)))
    boxes, wide = torch.tensor([[0.0, low, 2.0, high, 4.0]]), rows((4.25 - 1e-7, 2.0, 4.25 + 1e-6, 4.0))
    points = reference_prroi.bins_of(low, high, 3, reference_prroi.Params((1, 3), coordinate=np.float32))
    assert [point.is_point for point in points] == [True, False, True]
    call = PrRoIPoolCall((1, 3))
    expected = call.forward(features.double(), wide)[..., 1:2].expand(1, 3, 1, 3)
    torch.testing.assert_close(call.forward(features, boxes), expected, atol=2e-6, rtol=0)
    grad = random_tensor(1, 3, 1, 3, seed=15)
    by_boxes = call.grad_boxes(grad, features.double(), wide)
    assert float(by_boxes[:, [1, 3]].abs().min()) > 0.1
    torch.testing.assert_close(call.grad_boxes(grad, features, boxes), by_boxes, atol=2e-6, rtol=0)


# --- roi_warp


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 1.0), (1.5, 2.0), (2.5, 3.0), (-0.5, -1.0), (-2.5, -3.0), (0.49999997, 0.0), (-1.4, -1.0), (INF, INF)],
)
def test_rounding_half_away_from_zero(value: float, expected: float) -> None:
    for kind in (np.float32, np.float64):
        assert round_half_away(kind(value)) == expected
    assert np.isnan(round_half_away(np.float64(NAN)))


# --- roi_pool


def test_roi_pool_by_hand() -> None:
    """Corners (1, 2) and (4, 5) name pixels: 4 x 4 of them; 3 bins of 4/3 pixels overlap by one pixel."""
    ramp = torch.arange(63.0).reshape(1, 1, 7, 9)
    out = RoIPoolCall((3, 2)).forward(ramp, rows((1.4, 1.6, 3.5, 5.4)))
    assert out.flatten().tolist() == [3 * 9 + 2.0, 3 * 9 + 4.0, 4 * 9 + 2.0, 4 * 9 + 4.0, 5 * 9 + 2.0, 5 * 9 + 4.0]


# --- crop_and_resize


def crop(
    image: list[float], side: int, box: tuple[float, float, float, float], size: int, **arguments: Any
) -> list[float]:
    features = torch.tensor(image).reshape(1, 1, side, side)
    result: list[float] = CropCall((size, size), **arguments).forward(features, rows(box)).flatten().tolist()
    return result


def test_crops_by_hand() -> None:
    """The numbers of TensorFlow's operator."""
    two, three, four = ([float(i + 1) for i in range(side * side)] for side in (2, 3, 4))
    unit = (0.0, 0.0, 1.0, 1.0)
    assert crop(two, 2, unit, 1) == [2.5]
    assert crop(two, 2, unit, 3) == [1, 1.5, 2, 2, 2.5, 3, 3, 3.5, 4]
    assert crop(two, 2, (1.0, 1.0, 0.0, 0.0), 3) == [4, 3.5, 3, 3, 2.5, 2, 2, 1.5, 1]
    assert crop(two, 2, (-1.0, -1.0, 1.0, 1.0), 3, extrapolation_value=-1.0) == [-1, -1, -1, -1, 1, 2, -1, 3, 4]
    assert crop(three, 3, unit, 2) == [1, 3, 7, 9]
    assert crop(three, 3, (0.0, 0.0, 0.5, 0.5), 2) == [1, 2, 4, 5]
    assert crop(four, 4, unit, 3) == [1, 2.5, 4, 7, 8.5, 10, 13, 14.5, 16]
    assert crop(four, 4, unit, 3, method="nearest") == [1, 3, 4, 9, 11, 12, 13, 15, 16]


@pytest.mark.parametrize("size", [(4, 3), (1, 5), (1, 1)])
def test_crop_equals_grid_sample(size: tuple[int, int]) -> None:
    """Values and grad_boxes inside, the extrapolation value outside."""
    call = CropCall(size, extrapolation_value=7.0)
    boxes = smooth_rows(call, 10)
    grad = random_tensor(*call.output_shape(FEATURES, boxes), seed=10)
    leaf = boxes.clone().requires_grad_()
    outputs = []
    for row in leaf:
        axes = []
        for low, high, bins, last in ((row[1], row[3], size[0], 6), (row[2], row[4], size[1], 8)):
            t = torch.linspace(0.0, 1.0, bins, dtype=torch.float64) if bins > 1 else torch.full((1,), 0.5).double()
            axes.append((low * (1.0 - t) + high * t) * last)
        y, x = torch.meshgrid(*axes, indexing="ij")
        inside = (y >= 0) & (y <= 6) & (x >= 0) & (x <= 8)
        values = surface(FEATURES[int(row[0])], y, x, "border")
        outputs.append(torch.where(inside, values, torch.full_like(values, 7.0)))
    out = torch.stack(outputs)
    torch.testing.assert_close(call.forward(FEATURES, boxes), out, atol=1e-12, rtol=0)
    (by_boxes,) = torch.autograd.grad(out, leaf, grad)
    torch.testing.assert_close(call.grad_boxes(grad, FEATURES, boxes), by_boxes, atol=1e-11, rtol=0)


# --- roi_align_rotated


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 3])
def test_rotated_equals_grid_sample(aligned: bool, ratio: int) -> None:
    """A second definition, by affine maps and torch's interpolation, with its value and all gradients by autograd."""
    call = RotatedCall((3, 2), 0.8, ratio, aligned)
    boxes = torch.cat([call.boxes("inside", "crossing", "outside", "turned"), smooth_rows(call, 6)])
    features, leaf = FEATURES.clone().requires_grad_(), boxes.clone().requires_grad_()
    outputs = []
    for row in leaf:
        cx, cy = (row[1:3] * 0.8 - (0.5 if aligned else 0.0)).unbind()
        w, h = (row[3:5] * 0.8 if aligned else (row[3:5] * 0.8).clamp(min=1.0)).unbind()
        grid_y, grid_x = (ratio if ratio > 0 else int(torch.ceil(s.detach())) for s in (h / 3, w / 2))
        v = h * ((torch.arange(3 * grid_y) + 0.5).double() / (3 * grid_y) - 0.5)
        u = w * ((torch.arange(2 * grid_x) + 0.5).double() / (2 * grid_x) - 0.5)
        turn = torch.deg2rad(row[5])
        y = v[:, None] * torch.cos(turn) - u * torch.sin(turn) + cy
        x = v[:, None] * torch.sin(turn) + u * torch.cos(turn) + cx
        inside = (y >= -1) & (y <= 7) & (x >= -1) & (x <= 9)
        values = surface(features[int(row[0])], y, x, "border")
        outputs.append(functional.avg_pool2d(torch.where(inside, values, torch.zeros(())), (grid_y, grid_x)))
    out = torch.stack(outputs)
    torch.testing.assert_close(call.forward(FEATURES, boxes), out, atol=1e-12, rtol=0)
    grad = random_tensor(*out.shape, seed=12)
    by_input, by_boxes = torch.autograd.grad(out, (features, leaf), grad)
    torch.testing.assert_close(call.grad_input(grad, FEATURES, boxes), by_input, atol=1e-11, rtol=0)
    torch.testing.assert_close(call.grad_boxes(grad, FEATURES, boxes), by_boxes, atol=1e-10, rtol=0)


def test_samples_far_from_the_map_may_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = rotated_rows((4.4, 3.3, 212.2, 134.1, 20.0), (3.3, 2.2, 150.0, 1e3, 88.8), (60.3, 4.1, 200.3, 300.2, 0.0))

    def everything(_: Any, yy: Any, xx: Any, *__: int) -> list[tuple[int, Any]]:
        return [(i, np.arange(len(xx))) for i in range(len(yy))]

    for kind in (np.float32, np.float64):
        params = reference_rotated.Params((2, 1), coordinate=kind)
        out = reference_rotated.forward(as_array(FEATURES), as_array(boxes), params)
        assert np.abs(out).max() > 0.0
        with monkeypatch.context() as patch:
            patch.setattr(reference_rotated, "_candidates", everything)
            assert np.array_equal(out, reference_rotated.forward(as_array(FEATURES), as_array(boxes), params))
