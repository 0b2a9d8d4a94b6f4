"""The private operators under every rule and on several levels: opcheck, and derivatives of first order.

tests/test_operators.py does the same, in depth, for the two rules of roi_align on one level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.library import opcheck

from conftest import random_tensor
from test_operators import VARIANTS, with_grad

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # opcheck looks at it
]

ops = torch.ops.roialign_ext
BINS = (2, 2)
PLANES = ((4, 5), (3, 3), (2, 3))
XYXY = [[0.0, 0.63, 0.41, 4.37, 3.91], [1.0, -0.7, 1.2, 3.3, 5.9]]
COORDINATES = {
    "roi_align": XYXY,
    "prroi_pool": XYXY,
    "roi_warp": XYXY,
    "roi_pool": XYXY,
    "crop": [[0.0, 0.07, 0.13, 0.93, 0.81], [1.0, 0.33, -0.21, 0.64, 1.17]],
    "rotated": [[0.0, 2.4, 2.1, 3.3, 2.2, 25.0], [1.0, 1.9, 2.6, 2.7, 3.9, -70.0]],
}
TWICE_DIFFERENTIABLE = ("prroi_pool", "rotated")  # by the boxes, and no more


@dataclass(frozen=True)
class Case:
    """A rule on so many levels, with the maximum's winners fixed or not."""

    rule: str
    winners: bool = False
    levels: int = 1

    def __str__(self) -> str:
        return f"{self.rule}-{'winners' if self.winners else 'mean'}-{self.levels}"

    @property
    def family(self) -> str:
        return next(name for name in COORDINATES if self.rule.startswith(name))

    @property
    def box_gradients(self) -> bool:
        return self.rule != "roi_pool"

    def arguments(self) -> Arguments:
        return Arguments(self)


class Arguments:
    """The tensors that the operators take, at a point where all of them are smooth."""

    def __init__(self, case: Case) -> None:
        levels = case.levels
        scales = [1.0 / 2**level for level in range(levels)]
        # the second box belongs to the second level, the first does not
        self.rule = (scales, [4.2, 1.0], 2, case.rule)
        self.input = [random_tensor(2, 2, *plane, seed=level) for level, plane in enumerate(PLANES[:levels])]
        self.size = [2, 2, *(length for plane in PLANES[:levels] for length in plane)]
        self.grad = random_tensor(2, 2, *BINS, seed=5)
        self.boxes = torch.tensor(COORDINATES[case.family], dtype=torch.float64)
        if case.rule.endswith("radian"):
            self.boxes[:, 5] = self.boxes[:, 5].deg2rad()
        self.u = random_tensor(*self.boxes.shape, seed=6)
        self.v = random_tensor(*self.boxes.shape, seed=7)
        self.winners = ops._pool_max(self.input, self.boxes, BINS, *self.rule)[1] if case.winners else None

    def of(self, name: str, directions: int) -> tuple[Any, ...]:
        u = self.u if directions > 0 else None
        v = self.v if directions > 1 else None
        return {
            "_pool": (self.input, self.boxes, u, v, self.winners, BINS, *self.rule),
            "_pool_max": (self.input, self.boxes, BINS, *self.rule),
            "_pool_grad_input": (self.grad, self.boxes, u, v, self.winners, self.size, False, *self.rule),
            "_pool_grad_boxes": (self.grad, self.input, self.boxes, u, self.winners, *self.rule),
        }[name]


MEANS = [
    Case("prroi_pool"),
    Case("roi_warp"),
    Case("crop_bilinear"),
    Case("crop_nearest"),
    Case("rotated_half_pixel"),
    Case("rotated_legacy"),
    Case("rotated_half_pixel_radian"),
    Case("rotated_legacy_radian"),
    Case("roi_align_half_pixel", levels=2),
    Case("roi_align_legacy", levels=3),
]
MAXIMA = [
    Case("roi_warp", winners=True),
    Case("roi_pool", winners=True),
    Case("crop_bilinear", winners=True),
    Case("crop_nearest", winners=True),
    Case("roi_align_legacy", winners=True, levels=2),
]


@pytest.mark.parametrize("name", ["_pool", "_pool_grad_input", "_pool_grad_boxes"])
@pytest.mark.parametrize("case", MEANS + MAXIMA, ids=str)
def test_opcheck(name: str, case: Case) -> None:
    if case.box_gradients:
        arguments = with_grad(case.arguments().of(name, 0 if name == "_pool_grad_boxes" else 1), "all")
    elif name != "_pool_grad_boxes":
        arguments = with_grad(case.arguments().of(name, 0), "even")  # input or grad, not boxes
    else:
        with pytest.raises(NotImplementedError, match=case.rule):
            ops._pool_grad_boxes(*case.arguments().of(name, 0))
        return
    opcheck(getattr(ops, name).default, arguments)


@pytest.mark.parametrize("case", MAXIMA, ids=str)
def test_opcheck_of_maximum(case: Case) -> None:
    arguments = with_grad(case.arguments().of("_pool_max", 0), "all" if case.box_gradients else "even")
    opcheck(ops._pool_max.default, arguments)


Function = Callable[..., Any]


def differentiable_form(name: str, directions: int, case: Case) -> tuple[Function, tuple[Tensor, ...]]:
    """An operator as a function of its differentiable arguments; the batch indices are held fixed.

    So are the boxes where their derivative would be a third one that the rule does not have.
    """
    arguments = case.arguments()
    image, levels = arguments.boxes[:, :1], case.levels
    order = directions + (2 if name == "_pool_grad_boxes" else 1)
    fixed = order > 2 and case.family in TWICE_DIFFERENTIABLE
    maps = () if name == "_pool_grad_input" else tuple(arguments.input)
    bins = () if name == "_pool" else (arguments.grad,)
    corners = () if fixed else (arguments.boxes[:, 1:],)

    def call(*tensors: Tensor) -> Any:
        rest = list(tensors)
        features = [rest.pop(0) for _ in maps]
        grad = rest.pop(0) if bins else None
        boxes = arguments.boxes if fixed else torch.cat([image, rest.pop(0)], 1)
        along = [*rest, *[None] * (2 - directions)]
        chosen, rule = arguments.winners, arguments.rule
        if name == "_pool":
            return ops._pool(features, boxes, *along, chosen, BINS, *rule)
        if name == "_pool_grad_input":
            return tuple(ops._pool_grad_input(grad, boxes, *along, chosen, arguments.size, False, *rule))
        return ops._pool_grad_boxes(grad, features, boxes, along[0], chosen, *rule)

    assert len(maps) in (0, levels)
    tensors = (*maps, *bins, *corners, *(arguments.u, arguments.v)[:directions])
    return call, tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


# roi_warp is left out: its derivatives by the boxes are straight through the rounding, which differences do not see.
@pytest.mark.parametrize(("name", "directions"), VARIANTS)
@pytest.mark.parametrize(
    "case",
    [
        Case("prroi_pool"),
        Case("crop_bilinear"),
        Case("crop_bilinear", winners=True),
        Case("rotated_half_pixel"),
        Case("rotated_legacy_radian"),
        Case("roi_align_half_pixel", levels=2),
        Case("roi_align_legacy", winners=True, levels=3),
    ],
    ids=str,
)
def test_first_order(name: str, directions: int, case: Case) -> None:
    function, tensors = differentiable_form(name, directions, case)
    assert gradcheck(
        function, tensors, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True,
        check_undefined_grad=True, fast_mode=True,
    )  # fmt: skip


@pytest.mark.parametrize("case", [Case("prroi_pool"), Case("rotated_half_pixel")], ids=str)
@pytest.mark.parametrize(("name", "directions"), [("_pool", 2), ("_pool_grad_input", 2), ("_pool_grad_boxes", 1)])
def test_third_derivatives_that_do_not_exist(name: str, directions: int, case: Case) -> None:
    """Only those by the boxes are refused, and only when they are asked for."""
    function, tensors = differentiable_form(name, directions, case)
    gradients = torch.autograd.grad(function(*tensors).sum() if name != "_pool_grad_input" else
                                    function(*tensors)[0].sum(), tensors)  # fmt: skip
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    arguments = with_grad(case.arguments().of(name, directions), "all")
    result = getattr(ops, name)(*arguments)
    with pytest.raises(NotImplementedError, match="third derivatives by the boxes"):
        (result[0] if name == "_pool_grad_input" else result).sum().backward()
