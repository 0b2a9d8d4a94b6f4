"""Are the registered operators right by themselves: opcheck, shapes without data, first derivatives of every rule?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.utils._pytree import tree_leaves, tree_map_only

import roialign_ext
from support.inputs import FORMATS, MODES, SWAPPED, random_tensor
from support.operator_calls import OperatorCall
from support.operators import FIRST, OPERATORS
from support.small_cases import SIZE, SmallCase, each_case

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # opcheck looks at it
]

ops = torch.ops.roialign_ext
HALF_PIXEL, LEGACY = "roi_align_half_pixel", "roi_align_legacy"
PLANES = ((4, 5), (3, 3), (2, 3))
CANONICAL = [4.2, 1.0]  # the second box belongs to the second level, the first does not
VARIANTS = [
    ("_pool", 0),
    ("_pool", 1),
    ("_pool", 2),
    ("_pool_grad_input", 0),
    ("_pool_grad_input", 1),
    ("_pool_grad_input", 2),
    ("_pool_grad_boxes", 0),
    ("_pool_grad_boxes", 1),
]
each_variant = pytest.mark.parametrize(("name", "directions"), VARIANTS)


@dataclass(frozen=True)
class RuleCall:
    """A rule on so many levels, with the argmax of the maximum fixed or not."""

    rule: str
    has_argmax: bool = False
    levels: int = 1
    layout: torch.memory_format = torch.contiguous_format
    ratio: int = 2

    def __str__(self) -> str:
        parts = [self.rule, "argmax" if self.has_argmax else "mean", f"levels={self.levels}", f"ratio={self.ratio}"]
        return "-".join(parts) + ("-channels_last" if self.layout == torch.channels_last else "")

    @property
    def call(self) -> OperatorCall:
        """The first row of the table with this rule."""
        return next(call for call in OPERATORS.values() if self.rule in call.rules)

    @property
    def box_order(self) -> int:
        return self.call.box_order


class Arguments:
    """The tensors that the operators take, at a point where all of them are smooth."""

    def __init__(self, case: RuleCall, dtype: torch.dtype = torch.float64) -> None:
        levels, self.channels_last = case.levels, case.layout == torch.channels_last
        scales = [1.0 / 2**level for level in range(levels)]
        if levels == 1 and "spatial_scale" in case.call.options:
            scales = [0.8]
        is_part = case.rule.startswith("ps_")  # the two boxes are bins of one
        self.geometry = (scales, [1.0, 2.0] if is_part else CANONICAL, case.ratio, case.rule)
        self.bins = (1, 1) if is_part else SIZE
        planes = PLANES[:levels]
        self.input = [
            random_tensor(2, 2, *plane, seed=level, dtype=dtype).to(memory_format=case.layout)
            for level, plane in enumerate(planes)
        ]
        self.size = [2, 2, *itertools.chain.from_iterable(planes)]
        self.grad = random_tensor(2, 2, *self.bins, seed=5, dtype=dtype).to(memory_format=case.layout)
        coordinates = torch.tensor(case.call.smooth, dtype=torch.float64)
        images = torch.tensor([[0.0], [0.0 if is_part else 1.0]], dtype=torch.float64)
        self.boxes = torch.cat([images, coordinates], 1)
        if case.rule.startswith("crop"):
            self.boxes = self.boxes[:, SWAPPED]  # the private operators read x before y
        if case.rule.endswith("radian"):
            self.boxes[:, 5] = self.boxes[:, 5].deg2rad()
        self.u = random_tensor(*self.boxes.shape, seed=6)
        self.v = random_tensor(*self.boxes.shape, seed=7)
        self.argmax = ops._max_pool(self.input, self.boxes, self.bins, *self.geometry)[1] if case.has_argmax else None

    def of(self, name: str, directions: int) -> tuple[Any, ...]:
        """The arguments of operator ``name`` with that many directions."""
        u = self.u if directions > 0 else None
        v = self.v if directions > 1 else None
        return {
            "_pool": (self.input, self.boxes, u, v, self.argmax, self.bins, *self.geometry),
            "_max_pool": (self.input, self.boxes, self.bins, *self.geometry),
            "_pool_grad_input": (
                self.grad, self.boxes, u, v, self.argmax, self.size, self.channels_last, *self.geometry
            ),
            "_pool_grad_boxes": (self.grad, self.input, self.boxes, u, self.argmax, *self.geometry),
        }[name]  # fmt: skip


def with_grad(arguments: Sequence[Any], which: str) -> tuple[Any, ...]:
    """Fresh arguments of which the floating-point tensors, also in lists, require grad: none, all, or every second."""
    places = itertools.count()

    def fresh(argument: Any) -> Any:
        if isinstance(argument, list):
            return [fresh(element) for element in argument]
        if not isinstance(argument, Tensor) or not argument.is_floating_point():
            return argument
        place = next(places)
        requires_grad = {"none": False, "all": True, "even": place % 2 == 0, "odd": place % 2 == 1}[which]
        return argument.detach().clone().requires_grad_(requires_grad)

    return tuple(fresh(argument) for argument in arguments)


ROI_ALIGN = [
    (RuleCall(HALF_PIXEL, True, layout=FORMATS[1]), "none"),
    (RuleCall(HALF_PIXEL, layout=FORMATS[1]), "all"),
    (RuleCall(LEGACY, True), "all"),
    (RuleCall(LEGACY), "even"),
    (RuleCall(HALF_PIXEL, True), "odd"),
]
"""Every factor takes each of its values with each variant; the full product would only repeat the same code."""
LEVELS = {HALF_PIXEL: 2, LEGACY: 3}
ROWS = [(call, rule) for call in FIRST.values() if call.levels == 1 for rule in call.rules]
MEANS = [RuleCall(rule, levels=LEVELS.get(rule, 1)) for call, rule in ROWS if call.has_mean]
MAXIMA = [RuleCall(rule, True, LEVELS.get(rule, 1)) for call, rule in ROWS if call.has_argmax]


# --- opcheck


@each_variant
@pytest.mark.parametrize(("case", "which"), ROI_ALIGN, ids=str)
def test_opcheck(name: str, directions: int, case: RuleCall, which: str) -> None:
    opcheck(getattr(ops, name).default, with_grad(Arguments(case).of(name, directions), which))


NAMES = ("_pool", "_pool_grad_input", "_pool_grad_boxes")
OF_EVERY_RULE = [
    (case, name)
    for number, case in enumerate(MEANS + MAXIMA)
    for place, name in enumerate(NAMES)
    if number % 3 == place or case.rule in ("prroi_pool", "roi_pool", "rotated_half_pixel")
]
"""All operators for one rule of each order of derivatives, and each of the others for some operator."""


@pytest.mark.parametrize(("case", "name"), OF_EVERY_RULE, ids=str)
def test_opcheck_of_every_rule(case: RuleCall, name: str) -> None:
    arguments = Arguments(case)
    if case.box_order > 0:
        given = with_grad(arguments.of(name, 0 if name == "_pool_grad_boxes" else 1), "all")
        opcheck(getattr(ops, name).default, given)
    elif name == "_pool_grad_boxes":
        with pytest.raises(NotImplementedError, match=case.rule):
            ops._pool_grad_boxes(*arguments.of(name, 0))
    else:
        opcheck(getattr(ops, name).default, with_grad(arguments.of(name, 0), "even"))  # input or grad, not boxes


@pytest.mark.parametrize(
    ("case", "which"),
    [
        (RuleCall(HALF_PIXEL, layout=FORMATS[1]), "none"),
        (RuleCall(HALF_PIXEL), "even"),
        (RuleCall(LEGACY, layout=FORMATS[1]), "odd"),
        *((case, "all" if case.box_order > 0 else "even") for case in MAXIMA),
    ],
    ids=str,
)
def test_opcheck_of_maximum(case: RuleCall, which: str) -> None:
    opcheck(ops._max_pool.default, with_grad(Arguments(case).of("_max_pool", 0), which))


@each_case
@pytest.mark.parametrize(("requires_grad", "layout"), [(True, FORMATS[0]), (False, FORMATS[1])])
def test_opcheck_of_public_operators(case: SmallCase, requires_grad: bool, layout: torch.memory_format) -> None:
    *maps, boxes = case.leaves() if requires_grad else case.point()
    maps = [
        feature_map.detach().to(memory_format=layout).requires_grad_(feature_map.requires_grad) for feature_map in maps
    ]
    arguments = (case.features(*maps), *case.box_arguments(boxes), SIZE)
    opcheck(getattr(ops, case.function.__name__).default, arguments, case.options)


def test_every_operator_is_covered() -> None:
    assert roialign_ext.__name__ in dir(torch.ops)
    names = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("roialign_ext::")}
    public = {name for name in roialign_ext.__all__ if name.islower() and hasattr(ops, name)}
    assert public == set(FIRST)
    assert names == {f"roialign_ext::{name}" for name in (*public, "_max_pool", *dict(VARIANTS))}


# --- results without data


def signature(result: Tensor) -> tuple[Any, ...]:
    return tuple(result.shape), result.stride(), result.dtype


@pytest.mark.parametrize("shape", [(2, 2, 3, 4), (1, 1, 4, 5), (2, 3, 1, 1), (2, 1, 1, 4), (1, 3, 4, 1), (3, 0, 4, 4)])
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("layout", FORMATS)
def test_results_without_data(shape: tuple[int, ...], count: int, layout: torch.memory_format) -> None:
    """Meta and fake tensors come back with the shapes, strides and dtypes that the kernels give."""
    for bins, dtype, box_dtype in (((1, 1), torch.float16, torch.float32), ((3, 2), torch.float32, torch.float64)):
        input = random_tensor(*shape, dtype=dtype).to(memory_format=layout)
        grad = random_tensor(count, shape[1], *bins, dtype=dtype).to(memory_format=layout)
        boxes = torch.tensor([0.0, 0.5, 0.5, 2.5, 3.0], dtype=box_dtype).expand(count, 5)
        last, rule = layout == torch.channels_last, ([1.0], CANONICAL, 2, HALF_PIXEL)
        calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
            (ops.roi_align, (input, boxes, bins)),
            (ops.roi_align, (input, boxes, bins, 1.0, 2, True, "max")),
            (ops._pool, ([input], boxes, boxes, None, None, bins, *rule)),
            (ops._max_pool, ([input], boxes, bins, *rule)),
            (ops._pool_grad_input, (grad, boxes, None, None, None, shape, last, *rule)),
            (ops._pool_grad_boxes, (grad, [input], boxes, boxes, None, *rule)),
        ]
        for operator, arguments in calls:
            expected = operator(*arguments)
            with FakeTensorMode() as mode:
                fake = operator(*tree_map_only(Tensor, mode.from_tensor, arguments))
            meta = operator(*tree_map_only(Tensor, lambda tensor: tensor.to("meta"), arguments))
            for real, faked, shaped in zip(*map(tree_leaves, (expected, fake, meta)), strict=True):
                assert signature(faked) == signature(real)
                assert signature(shaped) == signature(real)
                assert faked.device.type == "cpu"
                assert shaped.device.type == "meta"


def refused_calls() -> list[tuple[str, int, dict[int, Any]]]:
    """Operators, their number of directions, and what replaces the arguments at these places."""
    shape = (2, 2, *PLANES[0])
    row, cube = torch.zeros(2, 4), torch.zeros(2, 3, 4)
    wide, other = torch.zeros(2, 2, *SIZE), torch.zeros(3, 5)
    shared: list[dict[int, Any]] = [
        {-4: [0.0]}, {-4: [float("nan")]}, {-4: [1e-60]}, {-4: [1.0, 0.5]}, {-4: []}, {-3: [224.0]},
        {-3: [0.0, 4.0]}, {-3: [224.0, float("inf")]}, {-2: 2**31}, {-1: "crop_bilinear", -2: 0}, {-1: "nobody"},
    ]  # fmt: skip
    calls = [(name, 0, places) for name in ("_pool", "_max_pool", "_pool_grad_input", "_pool_grad_boxes")
             for places in shared]  # fmt: skip
    for maps in ([cube], [], [torch.zeros(shape)] * 9, [torch.zeros(shape), cube],
                 [torch.zeros(shape), torch.zeros(1, 2, 3, 4)]):  # fmt: skip
        calls += [("_pool", 0, {0: maps}), ("_max_pool", 0, {0: maps}), ("_pool_grad_boxes", 0, {1: maps})]
    calls += [("_pool", 0, {0: [torch.zeros(shape)] * 2, -4: [0.5, 1.0]}), ("_pool", 0, {1: row}),
              ("_max_pool", 0, {1: row}), ("_pool_grad_input", 0, {1: row}),
              ("_pool_grad_boxes", 0, {2: row})]  # fmt: skip
    for size in ((2,), (2, 0), (2**31, 1), (2, 2, 2)):
        calls += [("_pool", 0, {5: size}), ("_max_pool", 0, {2: size})]
    calls += [("_pool", 0, {3: torch.zeros(2, 5)}), ("_pool", 1, {2: other}), ("_pool", 2, {3: other}),
              ("_pool", 0, {4: wide[:, :, :, :2].int()}), ("_pool", 0, {-1: "roi_pool"}),
              ("_max_pool", 0, {-1: "prroi_pool"}),
              ("_pool_grad_input", 0, {0: torch.zeros(3, 2, 2, 2)}), ("_pool_grad_input", 0, {0: cube}),
              ("_pool_grad_input", 0, {5: (2, 2, 3)}), ("_pool_grad_input", 0, {5: (2, 2, -3, 4)}),
              ("_pool_grad_input", 0, {5: (2, 7, 3, 4)}), ("_pool_grad_input", 1, {2: other}),
              ("_pool_grad_boxes", 0, {0: wide[:, :, :0]}), ("_pool_grad_boxes", 1, {3: other})]  # fmt: skip
    return calls


def test_kernels_and_shape_functions_refuse_in_the_same_words() -> None:
    """Without the Autograd key the kernel raises the error; for meta tensors the shape function raises it."""
    for name, directions, places in refused_calls():
        arguments = list(Arguments(RuleCall(HALF_PIXEL)).of(name, directions))
        for place, value in places.items():
            arguments[place] = value
        arguments = tree_map_only(
            Tensor, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, arguments
        )
        words = []
        for device in ("cpu", "meta"):
            with torch.inference_mode():
                there = tree_map_only(Tensor, lambda tensor: tensor.to(device, copy=True), arguments)  # noqa: B023
                with pytest.raises((ValueError, NotImplementedError)) as refused:
                    getattr(ops, name)(*there)
            words.append(str(refused.value))
        assert words[0] == words[1]


@pytest.mark.parametrize("mode", MODES)
def test_fake_tensors_are_differentiable(mode: str) -> None:
    with FakeTensorMode():
        input, boxes = torch.empty(2, 3, 4, 5, requires_grad=True), torch.empty(4, 5, requires_grad=True)
        result = ops.roi_align(input, boxes, SIZE, mode=mode)
        gradients = torch.autograd.grad(result.sum(), (input, boxes))
    assert [gradient.shape for gradient in gradients] == [input.shape, boxes.shape]


# --- derivatives

Function = Callable[..., Any]


def differentiable_form(name: str, directions: int, case: RuleCall) -> tuple[Function, tuple[Tensor, ...]]:
    """An operator as a function of its differentiable arguments; the batch indices are held fixed.

    So are the boxes where their derivative would be a third one that the rule does not have. Steps of the index column
    of a direction change nothing.
    """
    arguments = Arguments(case)
    image = arguments.boxes[:, :1]
    order = directions + (2 if name == "_pool_grad_boxes" else 1)
    fixed = order > case.box_order
    maps = () if name == "_pool_grad_input" else tuple(arguments.input)
    bins = () if name == "_pool" else (arguments.grad,)
    corners = () if fixed else (arguments.boxes[:, 1:],)

    def call(*tensors: Tensor) -> Any:
        rest = list(tensors)
        features = [rest.pop(0) for _ in maps]
        grad = rest.pop(0) if bins else None
        boxes = arguments.boxes if fixed else torch.cat([image, rest.pop(0)], 1)
        along = [*rest, *[None] * (2 - directions)]
        argmax, geometry = arguments.argmax, arguments.geometry
        if name == "_pool":
            return ops._pool(features, boxes, *along, argmax, arguments.bins, *geometry)
        if name == "_pool_grad_input":
            size, last = arguments.size, arguments.channels_last
            return tuple(ops._pool_grad_input(grad, boxes, *along, argmax, size, last, *geometry))
        return ops._pool_grad_boxes(grad, features, boxes, along[0], argmax, *geometry)

    tensors = (*maps, *bins, *corners, *(arguments.u, arguments.v)[:directions])
    return call, tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


CHECKS: dict[str, Any] = {"check_batched_grad": True, "check_undefined_grad": True}


@each_variant
@pytest.mark.parametrize(
    "case",
    [
        RuleCall(HALF_PIXEL, ratio=-1),
        RuleCall(LEGACY, layout=FORMATS[1], ratio=-1),
        RuleCall(LEGACY, True, ratio=-1),
        RuleCall(HALF_PIXEL, True, layout=FORMATS[1], ratio=-1),
    ],
    ids=str,
)
def test_first_order(name: str, directions: int, case: RuleCall) -> None:
    function, tensors = differentiable_form(name, directions, case)
    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_forward_grad=True, **CHECKS)


# roi_warp is left out: its box derivatives go straight through the rounding, which differences do not see.
@each_variant
@pytest.mark.parametrize(
    "case",
    [
        RuleCall("prroi_pool"),
        RuleCall("crop_bilinear"),
        RuleCall("crop_bilinear", True),
        RuleCall("rotated_half_pixel"),
        RuleCall("rotated_legacy_radian"),
        RuleCall(HALF_PIXEL, levels=2),
        RuleCall(LEGACY, True, levels=3),
    ],
    ids=str,
)
def test_first_order_of_other_rules(name: str, directions: int, case: RuleCall) -> None:
    function, tensors = differentiable_form(name, directions, case)
    assert gradcheck(
        function, tensors, check_forward_ad=True, check_batched_forward_grad=True, fast_mode=True, **CHECKS
    )


@pytest.mark.parametrize("case", [RuleCall("prroi_pool"), RuleCall("rotated_half_pixel")], ids=str)
@pytest.mark.parametrize(("name", "directions"), [("_pool", 2), ("_pool_grad_input", 2), ("_pool_grad_boxes", 1)])
def test_third_derivatives_that_do_not_exist(name: str, directions: int, case: RuleCall) -> None:
    """Only those with respect to the boxes are refused, and only when they are asked for."""
    function, tensors = differentiable_form(name, directions, case)
    gradients = torch.autograd.grad(function(*tensors).sum() if name != "_pool_grad_input" else
                                    function(*tensors)[0].sum(), tensors)  # fmt: skip
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    arguments = with_grad(Arguments(case).of(name, directions), "all")
    result = getattr(ops, name)(*arguments)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        (result[0] if name == "_pool_grad_input" else result).sum().backward()


@pytest.mark.parametrize("case", [RuleCall(HALF_PIXEL, layout=FORMATS[1]), RuleCall(LEGACY)], ids=str)
def test_maximum(case: RuleCall) -> None:
    arguments = Arguments(case)
    image = arguments.boxes[:, :1]

    def values(input: Tensor, corners: Tensor) -> Tensor:
        result: Tensor = ops._max_pool([input], torch.cat([image, corners], 1), SIZE, *arguments.geometry)[0]
        return result

    tensors = tuple(tensor.clone().requires_grad_() for tensor in (*arguments.input, arguments.boxes[:, 1:]))
    assert gradcheck(values, tensors, check_forward_ad=True, check_batched_forward_grad=True, **CHECKS)
    assert gradgradcheck(values, tensors, check_fwd_over_rev=True, fast_mode=True, **CHECKS)

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((values(*tensors) ** 2).sum(), tensors, create_graph=True)

    assert gradgradcheck(gradients, tensors, fast_mode=True)


each_maximum = pytest.mark.parametrize("case", [*MAXIMA, RuleCall(LEGACY, True, layout=FORMATS[1])], ids=str)


@each_maximum
def test_the_argmax_selects_the_maximum(case: RuleCall) -> None:
    arguments = Arguments(case)
    values, argmax = ops._max_pool(*arguments.of("_max_pool", 0))
    assert argmax.dtype == torch.int32
    assert not argmax.requires_grad
    which = "all" if case.box_order > 0 else "even"
    assert not ops._max_pool(*with_grad(arguments.of("_max_pool", 0), which))[1].requires_grad
    torch.testing.assert_close(ops._pool(*arguments.of("_pool", 0)), values, rtol=1e-14, atol=1e-14)


@each_variant
@pytest.mark.parametrize("case", [case for case in MEANS + MAXIMA if case.box_order > 0], ids=str)
def test_index_column_of_directions_is_ignored(name: str, directions: int, case: RuleCall) -> None:
    arguments = Arguments(case)
    expected = getattr(ops, name)(*arguments.of(name, directions))
    arguments.u[:, 0] = arguments.v[:, 0] = float("nan")
    actual = getattr(ops, name)(*arguments.of(name, directions))
    for ours, same in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        assert torch.equal(ours, same)
    if name == "_pool_grad_boxes":
        assert not bool(expected[:, 0].any())


@pytest.mark.parametrize(
    "case", [RuleCall(rule, argmax) for rule in (HALF_PIXEL, LEGACY) for argmax in (False, True)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gradient_dtypes(case: RuleCall, dtype: torch.dtype) -> None:
    """Each gradient has the dtype of its argument, with boxes and directions of three dtypes."""
    arguments = Arguments(case, dtype=torch.bfloat16)
    arguments.boxes, arguments.u, arguments.v = arguments.boxes.float(), arguments.u.to(dtype), arguments.v.double()
    for name, directions in VARIANTS:
        tensors = with_grad(arguments.of(name, directions), "all")
        leaves = [leaf for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor) and leaf.requires_grad]
        (result,) = tree_leaves(getattr(ops, name)(*tensors))
        gradients = torch.autograd.grad(result.sum(), leaves, materialize_grads=True)
        assert [gradient.dtype for gradient in gradients] == [leaf.dtype for leaf in leaves]
