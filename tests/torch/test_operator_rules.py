"""The private operators under every rule and on several levels: opcheck, and derivatives of first order.

tests/torch/test_operators.py does the same, in depth, for the two rules of roi_align on one level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from test_operators import VARIANTS, with_grad
from torch import Tensor
from torch.autograd import gradcheck
from torch.library import opcheck

from support.inputs import SWAPPED, random_tensor
from support.operators import FIRST, OPERATORS, OperatorCall

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # opcheck looks at it
]

ops = torch.ops.roialign_ext
BINS = (2, 2)
PLANES = ((4, 5), (3, 3), (2, 3))


@dataclass(frozen=True)
class Case:
    """A rule on so many levels, with the argmax of the maximum fixed or not."""

    rule: str
    argmax: bool = False
    levels: int = 1

    def __str__(self) -> str:
        return f"{self.rule}-{'argmax' if self.argmax else 'mean'}-{self.levels}"

    @property
    def call(self) -> OperatorCall:
        """The first row of the table with this rule."""
        return next(call for call in OPERATORS.values() if self.rule in call.rules)

    @property
    def has_grad_boxes(self) -> bool:
        return self.call.box_order > 0

    def arguments(self) -> Arguments:
        return Arguments(self)


class Arguments:
    """The tensors that the operators take, at a point where all of them are smooth."""

    def __init__(self, case: Case) -> None:
        levels = case.levels
        scales = [1.0 / 2**level for level in range(levels)]
        # the second box belongs to the second level, the first does not; or the two are the bins of one box
        is_part = case.rule.startswith("ps_")
        self.rule = (scales, [1.0, 2.0] if is_part else [4.2, 1.0], 2, case.rule)
        self.bins = (1, 1) if is_part else BINS
        self.input = [random_tensor(2, 2, *plane, seed=level) for level, plane in enumerate(PLANES[:levels])]
        self.size = [2, 2, *(length for plane in PLANES[:levels] for length in plane)]
        self.grad = random_tensor(2, 2, *self.bins, seed=5)
        coordinates = torch.tensor(case.call.smooth, dtype=torch.float64)
        images = torch.tensor([[0.0], [0.0 if is_part else 1.0]], dtype=torch.float64)
        self.boxes = torch.cat([images, coordinates], 1)
        if case.rule.startswith("crop"):
            self.boxes = self.boxes[:, SWAPPED]  # the private operators read x before y
        if case.rule.endswith("radian"):
            self.boxes[:, 5] = self.boxes[:, 5].deg2rad()
        self.u = random_tensor(*self.boxes.shape, seed=6)
        self.v = random_tensor(*self.boxes.shape, seed=7)
        self.argmax = ops._pool_max(self.input, self.boxes, self.bins, *self.rule)[1] if case.argmax else None

    def of(self, name: str, directions: int) -> tuple[Any, ...]:
        u = self.u if directions > 0 else None
        v = self.v if directions > 1 else None
        return {
            "_pool": (self.input, self.boxes, u, v, self.argmax, self.bins, *self.rule),
            "_pool_max": (self.input, self.boxes, self.bins, *self.rule),
            "_pool_grad_input": (self.grad, self.boxes, u, v, self.argmax, self.size, False, *self.rule),
            "_pool_grad_boxes": (self.grad, self.input, self.boxes, u, self.argmax, *self.rule),
        }[name]


LEVELS = {"roi_align_half_pixel": 2, "roi_align_legacy": 3}
"""On one level tests/torch/test_operators.py has them."""
ROWS = [(call, rule) for call in FIRST.values() if call.levels == 1 for rule in call.rules]
MEANS = [Case(rule, levels=LEVELS.get(rule, 1)) for call, rule in ROWS if call.has_mean]
MAXIMA = [Case(rule, argmax=True, levels=LEVELS.get(rule, 1)) for call, rule in ROWS if call.has_argmax]


@pytest.mark.parametrize("name", ["_pool", "_pool_grad_input", "_pool_grad_boxes"])
@pytest.mark.parametrize("case", MEANS + MAXIMA, ids=str)
def test_opcheck(name: str, case: Case) -> None:
    if case.has_grad_boxes:
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
    arguments = with_grad(case.arguments().of("_pool_max", 0), "all" if case.has_grad_boxes else "even")
    opcheck(ops._pool_max.default, arguments)


Function = Callable[..., Any]


def differentiable_form(name: str, directions: int, case: Case) -> tuple[Function, tuple[Tensor, ...]]:
    """An operator as a function of its differentiable arguments; the batch indices are held fixed.

    So are the boxes where their derivative would be a third one that the rule does not have.
    """
    arguments = case.arguments()
    image, levels = arguments.boxes[:, :1], case.levels
    order = directions + (2 if name == "_pool_grad_boxes" else 1)
    fixed = order > case.call.box_order
    maps = () if name == "_pool_grad_input" else tuple(arguments.input)
    bins = () if name == "_pool" else (arguments.grad,)
    corners = () if fixed else (arguments.boxes[:, 1:],)

    def call(*tensors: Tensor) -> Any:
        rest = list(tensors)
        features = [rest.pop(0) for _ in maps]
        grad = rest.pop(0) if bins else None
        boxes = arguments.boxes if fixed else torch.cat([image, rest.pop(0)], 1)
        along = [*rest, *[None] * (2 - directions)]
        chosen, rule = arguments.argmax, arguments.rule
        if name == "_pool":
            return ops._pool(features, boxes, *along, chosen, arguments.bins, *rule)
        if name == "_pool_grad_input":
            return tuple(ops._pool_grad_input(grad, boxes, *along, chosen, arguments.size, False, *rule))
        return ops._pool_grad_boxes(grad, features, boxes, along[0], chosen, *rule)

    assert len(maps) in (0, levels)
    tensors = (*maps, *bins, *corners, *(arguments.u, arguments.v)[:directions])
    return call, tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


# roi_warp is left out: its box derivatives go straight through the rounding, which differences do not see.
@pytest.mark.parametrize(("name", "directions"), VARIANTS)
@pytest.mark.parametrize(
    "case",
    [
        Case("prroi_pool"),
        Case("ps_roi_align"),
        Case("crop_bilinear"),
        Case("crop_bilinear", argmax=True),
        Case("rotated_half_pixel"),
        Case("rotated_legacy_radian"),
        Case("roi_align_half_pixel", levels=2),
        Case("roi_align_legacy", argmax=True, levels=3),
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
    """Only those with respect to the boxes are refused, and only when they are asked for."""
    function, tensors = differentiable_form(name, directions, case)
    gradients = torch.autograd.grad(function(*tensors).sum() if name != "_pool_grad_input" else
                                    function(*tensors)[0].sum(), tensors)  # fmt: skip
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    arguments = with_grad(case.arguments().of(name, directions), "all")
    result = getattr(ops, name)(*arguments)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        (result[0] if name == "_pool_grad_input" else result).sum().backward()
