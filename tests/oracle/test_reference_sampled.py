"""Are the oracles of ``roi_warp``, ``roi_pool``, ``crop_and_resize`` right: by hand, by torch's interpolation?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from oracle.reference_sampled import round_half_away
from support.differentiable import surface
from support.inputs import INF, NAN, random_tensor, smooth_boxes_of, xyxy
from support.operator_calls import CropCall, RoIPoolCall

FEATURES = random_tensor(2, 3, 7, 9, seed=1)


# --- roi_warp


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 1.0), (1.5, 2.0), (2.5, 3.0), (-0.5, -1.0), (-2.5, -3.0), (0.49999997, 0.0), (-1.4, -1.0), (INF, INF)],
)
def test_rounding_half_away_from_zero(value: float, expected: float) -> None:
    for dtype in (np.float32, np.float64):
        assert round_half_away(dtype(value)) == expected
    assert np.isnan(round_half_away(np.float64(NAN)))


# --- roi_pool


def test_roi_pool_by_hand() -> None:
    """Corners (1, 2) and (4, 5) name pixels: 4 x 4 of them; 3 bins of 4/3 pixels overlap by one pixel."""
    ramp = torch.arange(63.0).reshape(1, 1, 7, 9)
    out = RoIPoolCall((3, 2)).forward(ramp, xyxy((1.4, 1.6, 3.5, 5.4)))
    assert out.flatten().tolist() == [3 * 9 + 2.0, 3 * 9 + 4.0, 4 * 9 + 2.0, 4 * 9 + 4.0, 5 * 9 + 2.0, 5 * 9 + 4.0]


# --- crop_and_resize


def crop(
    image: list[float], side: int, box: tuple[float, float, float, float], size: int, **arguments: Any
) -> list[float]:
    features = torch.tensor(image).reshape(1, 1, side, side)
    result: list[float] = CropCall((size, size), **arguments).forward(features, xyxy(box)).flatten().tolist()
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
    boxes = smooth_boxes_of(call, 10)
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
