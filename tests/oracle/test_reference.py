"""Do the oracles have the derivatives of their own values, and is that of ``roi_align`` right by other definitions?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from oracle import reference
from oracle.reference import Params
from support import differentiable
from support.inputs import BOX_SETS, MODES, all_boxes, as_array, random_tensor, smooth_boxes, smooth_boxes_of
from support.operator_calls import CropCall, OperatorCall, RoIAlignCall, RoIWarpCall
from support.operators import OPERATORS, each_operator

FEATURES = random_tensor(2, 3, 7, 9, seed=1)
RATIOS = (-1, 0, 1, 2, 3, 4, 6)
NAMES = [name for name in BOX_SETS if name != "not_finite"]


# --- every oracle


@each_operator
def test_grad_inputs_are_those_of_the_forward(call: OperatorCall) -> None:
    """The slope in a random direction. ``FEATURES`` has no two values as close as the step, which maxima need."""
    boxes = call.boxes()
    boxes, features = boxes[boxes[:, 1:].abs().amax(1) < 100], call.input_of(FEATURES)
    grad = random_tensor(*call.output_shape(features, boxes), seed=2)
    toward = tree_map(lambda feature_map: random_tensor(*feature_map.shape, seed=3), features)

    def loss(step: float) -> float:
        moved = tree_map(lambda feature_map, direction: feature_map + step * direction, features, toward)
        return float((grad * call.forward(moved, boxes)).sum())

    pairs = zip(call.grad_inputs(grad, features, boxes), tree_leaves(toward), strict=True)
    slope = sum(float((by_map * direction).sum()) for by_map, direction in pairs)
    assert (loss(1e-6) - loss(-1e-6)) / 2e-6 == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(
    "name", [name for name, call in OPERATORS.items() if call.box_order > 0 and not isinstance(call, RoIWarpCall)]
)
def test_grad_boxes_equal_finite_differences(name: str) -> None:
    """Except ``roi_warp``'s, whose derivative is by definition not that of its steps."""
    call = OPERATORS[name]
    boxes, features = smooth_boxes_of(call, 12), call.input_of(FEATURES)
    grad = random_tensor(*call.output_shape(features, boxes), seed=4)
    grad_boxes = call.grad_boxes(grad, features, boxes)
    assert not bool(grad_boxes[:, 0].any())
    assert bool(grad_boxes[:, 1:].any()) == ("nearest" not in name)
    step = 1e-6
    for column in range(1, boxes.shape[1]):
        toward = torch.zeros_like(boxes)
        toward[:, column] = step  # the boxes do not depend on one another: all at once
        difference = call.forward(features, boxes + toward) - call.forward(features, boxes - toward)
        slopes = (grad * difference).sum((1, 2, 3)) / (2 * step)
        torch.testing.assert_close(slopes, grad_boxes[:, column], atol=1e-7, rtol=1e-7)


@each_operator
def test_coordinates_that_are_not_finite_give_what_is_outside(call: OperatorCall) -> None:
    boxes, features = call.boxes("not_finite"), call.input_of(FEATURES)
    value = call.outside
    out = call.forward(tree_map(lambda feature_map: torch.full_like(feature_map, value), features), boxes)
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
    grad_input, grad_boxes = call.grad_input(grad, FEATURES, boxes), call.grad_boxes(grad, FEATURES, boxes)

    def loss(features: torch.Tensor, rows: torch.Tensor) -> float:
        return float((as_array(grad) * reference.forward(as_array(features), as_array(rows), params, mode)).sum())

    step = 1e-5
    for seed in range(4):
        toward = random_tensor(*FEATURES.shape, seed=10 + seed)
        slope = (loss(FEATURES + step * toward, boxes) - loss(FEATURES - step * toward, boxes)) / (2 * step)
        assert slope == pytest.approx(float((grad_input * toward).sum()), rel=1e-6)
    for k in range(len(boxes)):
        for column in range(1, 5):
            toward = torch.zeros_like(boxes)
            toward[k, column] = step
            slope = (loss(FEATURES, boxes + toward) - loss(FEATURES, boxes - toward)) / (2 * step)
            assert slope == pytest.approx(float(grad_boxes[k, column]), rel=1e-5, abs=1e-7)


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
    grad_input, grad_boxes = torch.autograd.grad(out, (features, rows), grad)
    torch.testing.assert_close(grad_input, call.grad_input(grad, FEATURES, boxes), atol=1e-12, rtol=0)
    torch.testing.assert_close(grad_boxes, call.grad_boxes(grad, FEATURES, boxes), atol=1e-12, rtol=0)


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
