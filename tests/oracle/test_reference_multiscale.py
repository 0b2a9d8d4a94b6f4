"""Is the oracle of ``multiscale_roi_align`` right: levels by hand, torchvision's layer, a single level?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from oracle import reference, reference_multiscale
from oracle.reference import Params
from support.inputs import NAN, all_boxes, as_array, listed, pyramid_boxes, random_tensor, xyxy

PYRAMID = [random_tensor(2, 3, 32 // 2**level, 40 // 2**level, seed=20 + level) for level in range(4)]
SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def pyramid_params(dtype: type[np.floating[Any]] = np.float64, **changes: Any) -> reference_multiscale.Params:
    return replace(reference_multiscale.Params(Params((2, 2), 1.0, 2, coordinate=dtype), SCALES), **changes)


@pytest.mark.parametrize(
    ("size", "level"),
    [(1e-3, 0), (55.9, 0), (56.0, 0), (111.9, 0), (112.0, 1), (223.9, 1), (224.0, 2), (447.9, 2), (448.0, 3), (1e6, 3)],
)
def test_level_by_hand(size: float, level: int) -> None:
    boxes = xyxy((5.0, 7.0, 5.0 + size, 7.0 + size), (5.0, 7.0, 5.0 + 2 * size, 7.0 + size / 2))
    for dtype in (np.float32, np.float64):
        assert reference_multiscale.levels(as_array(boxes), pyramid_params(dtype)) == [level, level]


def test_levels_of_odd_boxes() -> None:
    """No area: the finest. Both corners exchanged: the same area. One exchanged, or NaN: no area, the finest."""
    boxes = xyxy((5.0, 5.0, 5.0, 5.0), (300.0, 300.0, 10.0, 10.0), (300.0, 10.0, 10.0, 300.0), (NAN, 1.0, 2.0, 3.0))
    assert reference_multiscale.levels(as_array(boxes), pyramid_params()) == [0, 2, 0, 0]
    params = pyramid_params(canonical_scale=448.0, canonical_level=5.0)
    assert reference_multiscale.levels(as_array(boxes[1:2]), params) == [2]
    assert reference_multiscale.levels(as_array(boxes[1:2]), pyramid_params(canonical_level=2.0)) == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pyramid_equals_torchvision(dtype: torch.dtype) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    layer = ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 2, 2, canonical_scale=40)
    boxes = pyramid_boxes(40).to(dtype)
    boxes = boxes[boxes[:, 0].argsort(stable=True)]
    features = [level.to(dtype).requires_grad_() for level in PYRAMID]
    out = layer({str(i): level for i, level in enumerate(features)}, listed(boxes), [(128, 160)] * 2)
    coordinate: type[np.floating[Any]] = np.float32 if dtype == torch.float32 else np.float64
    params = pyramid_params(coordinate, canonical_scale=40.0)
    arrays = [as_array(level) for level in features], as_array(boxes)
    assert set(reference_multiscale.levels(arrays[1], params)) == {0, 1, 2, 3}
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(as_array(out), reference_multiscale.forward(*arrays, params), atol=tolerance)
    grad = random_tensor(*out.shape, seed=14, dtype=dtype)
    expected = reference_multiscale.grad_inputs(as_array(grad), *arrays, params)
    for actual, exact in zip(torch.autograd.grad(out, features, grad), expected, strict=True):
        np.testing.assert_allclose(as_array(actual), exact, atol=10 * tolerance)


def test_pyramid_of_one_level_is_roi_align() -> None:
    boxes, plain = all_boxes(2), Params((2, 2), 0.25, 2, True)
    params = reference_multiscale.Params(plain, (0.25,))
    arrays = [as_array(PYRAMID[0])], as_array(boxes)
    assert np.array_equal(
        reference_multiscale.forward(*arrays, params), reference.average(arrays[0][0], arrays[1], plain)
    )
