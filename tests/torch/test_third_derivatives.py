"""Are third derivatives w.r.t. the boxes right, or refused, in all orders of forward and backward?"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, jacrev

from support.inputs import random_tensor
from support.operators import FIRST
from support.small_cases import DIFFERENTIABLE_IN_BOXES, SmallCase, close

pytestmark = pytest.mark.usefixtures("one_thread")

PIECEWISE_LINEAR = [case for case in DIFFERENTIABLE_IN_BOXES if case.box_order == 3]
CURVED = [case for case in DIFFERENTIABLE_IN_BOXES if case.box_order == 2]
"""Their tables are not piecewise linear in the box."""
COMPOSITIONS = list(itertools.product((jacfwd, jacrev), repeat=3))
OF_VARIANTS = ((jacfwd, jacrev, jacfwd), (jacrev, jacrev, jacfwd))


def each_composition(cases: list[SmallCase]) -> pytest.MarkDecorator:
    """All of them for the first row of a function and for a maximum, some for the others."""
    return pytest.mark.parametrize(
        ("case", "composition"),
        [
            pytest.param(case, composition, id="-".join([case.name, *(of.__name__ for of in composition)]))
            for case in cases
            for composition in COMPOSITIONS
            if case.name in FIRST or case.name == "roi_align-max" or composition in OF_VARIANTS
        ],
    )


def third(case: SmallCase, call: Callable[..., Tensor], power: int, composition: tuple[Any, ...]) -> Tensor:
    """The derivative of a sum of the results to that power, by one box: derivatives by two boxes are zero."""
    maps, boxes = case.maps(), case.boxes()

    def derivative(box: Tensor) -> Tensor:
        return (call(*maps, torch.cat([box, boxes[1:]])) ** power).sum()

    for transform in composition:
        derivative = transform(derivative)
    return derivative(boxes[:1])


def autograd(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    return lambda at: torch.autograd.functional.jacobian(function, at, create_graph=True)


@cache
def expected(case: SmallCase, power: int) -> Tensor:
    return third(case, case.defined, power, (autograd,) * 3)


@each_composition(PIECEWISE_LINEAR)
def test_piecewise_linear_in_the_boxes(case: SmallCase, composition: tuple[Any, ...]) -> None:
    """That of the operator is zero; that of a square is made of the first two, of which "nearest" has none."""
    for power in (1, 2):
        assert bool(expected(case, power).any()) == (power == 2 and case.options.get("method") != "nearest")
        close(third(case, case, power, composition), expected(case, power))


@each_composition(CURVED)
def test_not_implemented(case: SmallCase, composition: tuple[Any, ...]) -> None:
    for power in (1, 2):
        with pytest.raises(NotImplementedError, match="third derivatives with respect to the boxes"):
            third(case, case, power, composition)


@pytest.mark.parametrize("case", DIFFERENTIABLE_IN_BOXES, ids=lambda case: case.name)
def test_along_directions_in_eager_mode(case: SmallCase) -> None:
    """Zero, and not missing, where the tables are piecewise linear in the box; else refused."""
    *maps, boxes = case.leaves()
    derivative = case(*maps, boxes).sum()
    for seed in range(2):
        (gradient,) = torch.autograd.grad(derivative, boxes, create_graph=True)
        derivative = (gradient * random_tensor(*boxes.shape, seed=seed)).sum()
    if case.box_order == 2:
        with pytest.raises(NotImplementedError, match="third derivatives with respect to the boxes"):
            torch.autograd.grad(derivative, boxes)
    else:
        (gradient,) = torch.autograd.grad(derivative, boxes)
        assert not bool(gradient.any())
