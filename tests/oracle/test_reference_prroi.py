"""Is the oracle of ``prroi_pool`` right: by hand, and by brute-force integration?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from oracle import reference_prroi
from support.differentiable import surface
from support.inputs import BOX_SETS, random_tensor, spread, xyxy
from support.operator_calls import PrRoIPoolCall

FEATURES = random_tensor(2, 3, 7, 9, seed=1)


def test_prroi_of_one_pixel_by_hand() -> None:
    """The hat function: its integral over [0, 1] is 1/2, over [-1/2, 1/2] 3/4, over [-1, 1] 1."""
    boxes = xyxy((0.0, 0.0, 1.0, 1.0), (-0.5, -0.5, 0.5, 0.5), (-1.0, -1.0, 1.0, 1.0), (-3.0, 0.0, 1.0, 1.0))
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
    boxes, wide = torch.tensor([[0.0, low, 2.0, high, 4.0]]), xyxy((4.25 - 1e-7, 2.0, 4.25 + 1e-6, 4.0))
    points = reference_prroi.bins_of(low, high, 3, reference_prroi.Params((1, 3), coordinate=np.float32))
    assert [point.is_point for point in points] == [True, False, True]
    call = PrRoIPoolCall((1, 3))
    expected = call.forward(features.double(), wide)[..., 1:2].expand(1, 3, 1, 3)
    torch.testing.assert_close(call.forward(features, boxes), expected, atol=2e-6, rtol=0)
    grad = random_tensor(1, 3, 1, 3, seed=15)
    grad_boxes = call.grad_boxes(grad, features.double(), wide)
    assert float(grad_boxes[:, [1, 3]].abs().min()) > 0.1
    torch.testing.assert_close(call.grad_boxes(grad, features, boxes), grad_boxes, atol=2e-6, rtol=0)
