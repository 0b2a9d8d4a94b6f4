"""Is the oracle of ``roi_align_rotated`` right by affine maps and torch's interpolation?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from oracle import reference_rotated
from support.differentiable import surface
from support.inputs import as_array, random_tensor, rotated_boxes, smooth_boxes_of
from support.operator_calls import RotatedCall

FEATURES = random_tensor(2, 3, 7, 9, seed=1)


# --- every oracle


# --- roi_align_rotated


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 3])
def test_rotated_equals_grid_sample(aligned: bool, ratio: int) -> None:
    """A second definition, by affine maps and torch's interpolation, with its value and all gradients by autograd."""
    call = RotatedCall((3, 2), 0.8, ratio, aligned)
    boxes = torch.cat([call.boxes("inside", "crossing", "outside", "turned"), smooth_boxes_of(call, 6)])
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
    grad_input, grad_boxes = torch.autograd.grad(out, (features, leaf), grad)
    torch.testing.assert_close(call.grad_input(grad, FEATURES, boxes), grad_input, atol=1e-11, rtol=0)
    torch.testing.assert_close(call.grad_boxes(grad, FEATURES, boxes), grad_boxes, atol=1e-10, rtol=0)


def test_samples_far_from_the_map_may_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = rotated_boxes((4.4, 3.3, 212.2, 134.1, 20.0), (3.3, 2.2, 150.0, 1e3, 88.8), (60.3, 4.1, 200.3, 300.2, 0.0))

    def everything(_: Any, yy: Any, xx: Any, *__: int) -> list[tuple[int, Any]]:
        return [(i, np.arange(len(xx))) for i in range(len(yy))]

    for dtype in (np.float32, np.float64):
        params = reference_rotated.Params((2, 1), coordinate=dtype)
        out = reference_rotated.forward(as_array(FEATURES), as_array(boxes), params)
        assert np.abs(out).max() > 0.0
        with monkeypatch.context() as patch:
            patch.setattr(reference_rotated, "_candidates", everything)
            assert np.array_equal(out, reference_rotated.forward(as_array(FEATURES), as_array(boxes), params))
