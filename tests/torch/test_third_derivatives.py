"""Third derivatives w.r.t. the boxes under torch.func, in all orders of forward and backward mode, against autograd."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, jacrev

from roialign_ext import (
    crop_and_resize,
    multiscale_roi_align,
    prroi_pool,
    ps_roi_align,
    roi_align,
    roi_align_rotated,
    roi_warp,
)
from support.inputs import random_tensor

pytestmark = pytest.mark.usefixtures("one_thread")

FEATURES = random_tensor(1, 2, 5, 6, seed=1)
BOXES = torch.tensor([[0, 0.3, 0.4, 3.2, 2.9], [0, 1.1, 0.2, 4.7, 3.3]], dtype=torch.float64)
CROPS = torch.tensor([[0.1, 0.2, 0.7, 0.9]], dtype=torch.float64)
ROTATED = torch.tensor([[0, 2.3, 2.1, 2.2, 1.9, 20.0]], dtype=torch.float64)
PYRAMID = [FEATURES, FEATURES[:, :, ::2, ::2]]

Operator = tuple[Callable[[Tensor], Tensor], Tensor]
PIECEWISE_LINEAR: dict[str, Operator] = {
    "roi_align": (lambda boxes: roi_align(FEATURES, boxes, 1, 1.0, 2), BOXES),
    "roi_align max": (lambda boxes: roi_align(FEATURES, boxes, 1, 1.0, 2, mode="max"), BOXES),
    "roi_warp": (lambda boxes: roi_warp(FEATURES, boxes, 1, 1.0, 2), BOXES),
    "ps_roi_align": (lambda boxes: ps_roi_align(FEATURES, boxes, (1, 2), 1.0, 2), BOXES),
    "crop": (lambda boxes: crop_and_resize(FEATURES, boxes, torch.zeros(1, dtype=torch.int64), 2), CROPS),
    "pyramid": (lambda boxes: multiscale_roi_align(PYRAMID, boxes, 1, [1.0, 0.5], 2), BOXES),
}
CURVED: dict[str, Operator] = {
    "prroi_pool": (lambda boxes: prroi_pool(FEATURES, boxes, 1), BOXES),
    "roi_align_rotated": (lambda boxes: roi_align_rotated(FEATURES, boxes, 1, 1.0, 2), ROTATED),
}
COMPOSITIONS = list(itertools.product((jacfwd, jacrev), repeat=3))
each_composition = pytest.mark.parametrize(
    "composition", COMPOSITIONS, ids=["-".join(of.__name__ for of in composition) for composition in COMPOSITIONS]
)
each_power = pytest.mark.parametrize("power", [1, 2])


def third(name: str, operators: dict[str, Operator], power: int, composition: tuple[Any, ...]) -> Tensor:
    operator, boxes = operators[name]

    def derivative(varied: Tensor) -> Tensor:
        return (operator(varied) ** power).sum()

    for transform in composition:
        derivative = transform(derivative)
    return derivative(boxes)


def autograd(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    return lambda at: torch.autograd.functional.jacobian(function, at, create_graph=True)


@each_composition
@each_power
@pytest.mark.parametrize("name", list(PIECEWISE_LINEAR))
def test_piecewise_linear_in_the_boxes(name: str, power: int, composition: tuple[Any, ...]) -> None:
    """That of the operator is zero; that of a square is made of the first two."""
    result = third(name, PIECEWISE_LINEAR, power, composition)
    expected = third(name, PIECEWISE_LINEAR, power, (autograd,) * 3)
    assert bool(expected.any()) == (power == 2)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@each_composition
@each_power
@pytest.mark.parametrize("name", list(CURVED))
def test_not_implemented(name: str, power: int, composition: tuple[Any, ...]) -> None:
    with pytest.raises(NotImplementedError, match="third derivatives"):
        third(name, CURVED, power, composition)
