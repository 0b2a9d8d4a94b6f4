"""The oracle itself: against finite differences, a dense second oracle, autograd and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import differentiable
import reference
from conftest import BOX_SETS, MODES, Call, all_boxes, as_array, random_tensor, smooth_boxes
from reference import Params

FEATURES = random_tensor(2, 3, 7, 9, seed=1)
RATIOS = (-1, 0, 1, 2, 3, 4, 6)
FINITE = [name for name in BOX_SETS if name != "not_finite"]


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
    call = Call((2, 3), 0.6, ratio, aligned, mode)
    boxes = smooth_boxes(8, tuple(FEATURES.shape), call)
    params = call.params(FEATURES, boxes)
    grad = random_tensor(len(boxes), 3, 2, 3, seed=2)
    by_input, by_boxes = call.input_gradient(grad, FEATURES, boxes), call.box_gradient(grad, FEATURES, boxes)

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
    boxes = torch.cat([BOX_SETS[name] for name in FINITE if name not in ("large", "tiny")])
    call = Call((2, 2), 1.0, ratio, aligned, mode)
    features, rows = FEATURES.clone().requires_grad_(), boxes.clone().requires_grad_()
    out = differentiable.roi_align(features, rows, call.params(features, rows), mode)
    torch.testing.assert_close(out, call.forward(FEATURES, boxes), atol=1e-13, rtol=0)
    grad = random_tensor(*out.shape, seed=3)
    by_input, by_boxes = torch.autograd.grad(out, (features, rows), grad)
    torch.testing.assert_close(by_input, call.input_gradient(grad, FEATURES, boxes), atol=1e-12, rtol=0)
    torch.testing.assert_close(by_boxes, call.box_gradient(grad, FEATURES, boxes), atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("grid", [1, 2, 3])
def test_pooling_identity(mode: str, aligned: bool, grid: int) -> None:
    """A bin of g x g samples is a g x g pool of bins of one sample."""
    arrays = as_array(FEATURES), as_array(all_boxes(2))
    coarse = reference.forward(*arrays, Params((3, 2), 1.0, grid, aligned), mode)
    fine = torch.from_numpy(reference.average(*arrays, Params((3 * grid, 2 * grid), 1.0, 1, aligned)))
    pool = torch.nn.functional.max_pool2d if mode == "max" else torch.nn.functional.avg_pool2d
    np.testing.assert_allclose(coarse, pool(fine, grid).numpy(), atol=1e-12)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_oracle_equals_torchvision(aligned: bool, ratio: int, dtype: torch.dtype) -> None:
    """torchvision takes the same decisions in the same coordinate type; it refuses negative adaptive grids."""
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    boxes = torch.cat([BOX_SETS[name] for name in FINITE if name != "reversed" or ratio > 0 or not aligned])
    features, boxes = FEATURES.to(dtype), boxes.to(dtype)
    call = Call((3, 2), 0.8, ratio, aligned)
    rows = features.clone().requires_grad_()
    out = ops.roi_align(rows, boxes, call.output_size, call.spatial_scale, ratio, aligned)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(out.double(), call.forward(features, boxes), atol=tolerance, rtol=0)
    grad = random_tensor(*out.shape, seed=4, dtype=dtype)
    (by_input,) = torch.autograd.grad(out, rows, grad)
    torch.testing.assert_close(
        by_input.double(), call.input_gradient(grad, features, boxes), atol=tolerance * 30, rtol=0
    )


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
