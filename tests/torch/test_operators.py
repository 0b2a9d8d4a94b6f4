"""The registered operators by themselves: opcheck, shapes without data, and derivatives of first to third order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.utils._pytree import tree_leaves, tree_map_only

import roialign_ext
from support.inputs import MODES, random_tensor
from support.operators import RoIAlignCall, smooth_boxes

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # opcheck looks at it
]

ops = torch.ops.roialign_ext
RULES = ("roi_align_half_pixel", "roi_align_legacy")
LAYOUTS = (torch.contiguous_format, torch.channels_last)
SHAPE = (2, 2, 3, 4)
BINS = (2, 2)
COUNT = 3
SCALE = 0.8
CANONICAL = [224.0, 4.0]  # read with more than one level only


class Arguments:
    """The tensors that the operators take, at a point where all of them are smooth."""

    def __init__(
        self,
        rule: str,
        has_argmax: bool = False,
        layout: torch.memory_format = torch.contiguous_format,
        dtype: torch.dtype = torch.float64,
        ratio: int = 2,
        count: int = COUNT,
    ) -> None:
        call = RoIAlignCall(BINS, SCALE, ratio, rule == RULES[0])
        self.rule = ([SCALE], CANONICAL, ratio, rule)
        self.input = random_tensor(*SHAPE, seed=1, dtype=dtype).to(memory_format=layout)
        self.grad = random_tensor(count, SHAPE[1], *BINS, seed=2, dtype=dtype).to(memory_format=layout)
        self.boxes = smooth_boxes(count, SHAPE, call, seed=3)
        self.u = random_tensor(count, 5, seed=4)
        self.v = random_tensor(count, 5, seed=5)
        self.argmax = ops._pool_max([self.input], self.boxes, BINS, *self.rule)[1] if has_argmax else None
        self.channels_last = layout == torch.channels_last

    def of(self, name: str, directions: int) -> tuple[Any, ...]:
        """The arguments of operator ``name`` with that many directions."""
        u = self.u if directions > 0 else None
        v = self.v if directions > 1 else None
        if name == "_pool":
            return ([self.input], self.boxes, u, v, self.argmax, BINS, *self.rule)
        if name == "_pool_max":
            return ([self.input], self.boxes, BINS, *self.rule)
        if name == "_pool_grad_input":
            return (self.grad, self.boxes, u, v, self.argmax, SHAPE, self.channels_last, *self.rule)
        assert name == "_pool_grad_boxes"
        return (self.grad, [self.input], self.boxes, u, self.argmax, *self.rule)


def with_grad(arguments: Sequence[Any], which: str) -> tuple[Any, ...]:
    """Fresh arguments of which the floating-point tensors, also in lists, require grad: none, all, or every second."""
    places = itertools.count()

    def fresh(argument: Any) -> Any:
        if isinstance(argument, list):
            return [fresh(one) for one in argument]
        if not isinstance(argument, Tensor) or not argument.is_floating_point():
            return argument
        place = next(places)
        wanted = {"none": False, "all": True, "even": place % 2 == 0, "odd": place % 2 == 1}[which]
        return argument.detach().clone().requires_grad_(wanted)

    return tuple(fresh(argument) for argument in arguments)


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


# Every factor takes each of its values with each variant; the full product would only repeat the same code.
@each_variant
@pytest.mark.parametrize(
    ("which", "rule", "has_argmax", "layout"),
    [
        ("none", RULES[0], True, LAYOUTS[1]),
        ("all", RULES[0], False, LAYOUTS[1]),
        ("all", RULES[1], True, LAYOUTS[0]),
        ("even", RULES[1], False, LAYOUTS[0]),
        ("odd", RULES[0], True, LAYOUTS[0]),
    ],
)
def test_opcheck(
    name: str, directions: int, which: str, rule: str, has_argmax: bool, layout: torch.memory_format
) -> None:
    arguments = Arguments(rule, has_argmax, layout).of(name, directions)
    opcheck(getattr(ops, name).default, with_grad(arguments, which))


@pytest.mark.parametrize(
    ("which", "rule", "layout"),
    [
        ("none", RULES[0], LAYOUTS[1]),
        ("all", RULES[1], LAYOUTS[0]),
        ("even", RULES[0], LAYOUTS[0]),
        ("odd", RULES[1], LAYOUTS[1]),
    ],
)
def test_opcheck_of_maximum(which: str, rule: str, layout: torch.memory_format) -> None:
    opcheck(ops._pool_max.default, with_grad(Arguments(rule, layout=layout).of("_pool_max", 0), which))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("which", "aligned", "layout"),
    [("none", True, LAYOUTS[1]), ("all", False, LAYOUTS[1]), ("even", True, LAYOUTS[0]), ("odd", False, LAYOUTS[0])],
)
def test_opcheck_of_public_operator(mode: str, which: str, aligned: bool, layout: torch.memory_format) -> None:
    arguments = Arguments(RULES[0 if aligned else 1], layout=layout)
    opcheck(
        ops.roi_align.default,
        (*with_grad((arguments.input, arguments.boxes), which), BINS, SCALE, 2, aligned, mode),
    )


def test_every_operator_is_covered() -> None:
    assert roialign_ext.__name__ in dir(torch.ops)
    names = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("roialign_ext::")}
    public = {name for name in roialign_ext.__all__ if name.islower() and hasattr(ops, name)}
    assert len(public) == 7
    assert names == {f"roialign_ext::{name}" for name in (*public, "_pool_max", *dict(VARIANTS))}


SHAPES = [SHAPE, (1, 1, 4, 5), (2, 3, 1, 1), (2, 1, 1, 4), (1, 3, 4, 1), (3, 0, 4, 4)]


def signature(result: Tensor) -> tuple[Any, ...]:
    return tuple(result.shape), result.stride(), result.dtype


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bins", [(1, 1), (3, 2)])
@pytest.mark.parametrize("dtypes", [(torch.float16, torch.float32), (torch.float32, torch.float64)])
def test_results_without_data(
    shape: tuple[int, ...],
    count: int,
    layout: torch.memory_format,
    bins: tuple[int, int],
    dtypes: tuple[torch.dtype, torch.dtype],
) -> None:
    """Meta and fake tensors come back with the shapes, strides and dtypes that the kernels give."""
    input = random_tensor(*shape, dtype=dtypes[0]).to(memory_format=layout)
    grad = random_tensor(count, shape[1], *bins, dtype=dtypes[0]).to(memory_format=layout)
    boxes = torch.tensor([0.0, 0.5, 0.5, 2.5, 3.0], dtype=dtypes[1]).expand(count, 5)
    last, rule = layout == torch.channels_last, ([1.0], CANONICAL, 2, RULES[0])
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (ops.roi_align, (input, boxes, bins)),
        (ops.roi_align, (input, boxes, bins, 1.0, 2, True, "max")),
        (ops._pool, ([input], boxes, boxes, None, None, bins, *rule)),
        (ops._pool_max, ([input], boxes, bins, *rule)),
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
    row, cube = torch.zeros(COUNT, 4), torch.zeros(2, 3, 4)
    wide, other = torch.zeros(COUNT, 2, 3, 2), torch.zeros(COUNT + 1, 5)
    shared: list[dict[int, Any]] = [
        {-4: [0.0]}, {-4: [float("nan")]}, {-4: [1e-60]}, {-4: [1.0, 0.5]}, {-4: []}, {-3: [224.0]},
        {-3: [0.0, 4.0]}, {-3: [224.0, float("inf")]}, {-2: 2**31}, {-1: "crop_bilinear", -2: 0}, {-1: "nobody"},
    ]  # fmt: skip
    calls = [(name, 0, places) for name in ("_pool", "_pool_max", "_pool_grad_input", "_pool_grad_boxes")
             for places in shared]  # fmt: skip
    for maps in ([cube], [], [torch.zeros(SHAPE)] * 9, [torch.zeros(SHAPE), cube],
                 [torch.zeros(SHAPE), torch.zeros(1, 2, 3, 4)]):  # fmt: skip
        calls += [("_pool", 0, {0: maps}), ("_pool_max", 0, {0: maps}), ("_pool_grad_boxes", 0, {1: maps})]
    calls += [("_pool", 0, {0: [torch.zeros(SHAPE)] * 2, -4: [0.5, 1.0]}), ("_pool", 0, {1: row}),
              ("_pool_max", 0, {1: row}), ("_pool_grad_input", 0, {1: row}),
              ("_pool_grad_boxes", 0, {2: row})]  # fmt: skip
    for size in ((2,), (2, 0), (2**31, 1), (2, 2, 2)):
        calls += [("_pool", 0, {5: size}), ("_pool_max", 0, {2: size})]
    calls += [("_pool", 0, {3: torch.zeros(COUNT, 5)}), ("_pool", 1, {2: other}), ("_pool", 2, {3: other}),
              ("_pool", 0, {4: wide.int()}), ("_pool", 0, {-1: "roi_pool"}), ("_pool_max", 0, {-1: "prroi_pool"}),
              ("_pool_grad_input", 0, {0: torch.zeros(COUNT, 3, 2, 2)}), ("_pool_grad_input", 0, {0: cube}),
              ("_pool_grad_input", 0, {5: (2, 2, 3)}), ("_pool_grad_input", 0, {5: (2, 2, -3, 4)}),
              ("_pool_grad_input", 0, {5: (2, 7, 3, 4)}), ("_pool_grad_input", 1, {2: other}),
              ("_pool_grad_boxes", 0, {0: wide[:, :, :0]}), ("_pool_grad_boxes", 1, {3: other})]  # fmt: skip
    return calls


def test_kernels_and_shape_functions_refuse_in_the_same_words() -> None:
    """Without the Autograd key the kernel has the word, of meta tensors the shape function."""
    for name, directions, places in refused_calls():
        arguments = list(Arguments(RULES[0]).of(name, directions))
        for place, value in places.items():
            arguments[place] = value
        arguments = tree_map_only(Tensor, lambda one: one.float() if one.is_floating_point() else one, arguments)
        words = []
        for device in ("cpu", "meta"):
            with torch.inference_mode():
                there = tree_map_only(Tensor, lambda one: one.to(device, copy=True), arguments)  # noqa: B023
                with pytest.raises((ValueError, NotImplementedError)) as refused:
                    getattr(ops, name)(*there)
            words.append(str(refused.value))
        assert words[0] == words[1]


@pytest.mark.parametrize("mode", MODES)
def test_fake_tensors_are_differentiable(mode: str) -> None:
    with FakeTensorMode():
        input, boxes = torch.empty(2, 3, 4, 5, requires_grad=True), torch.empty(4, 5, requires_grad=True)
        result = ops.roi_align(input, boxes, BINS, mode=mode)
        gradients = torch.autograd.grad(result.sum(), (input, boxes))
    assert [gradient.shape for gradient in gradients] == [input.shape, boxes.shape]


Function = Callable[..., Tensor]


def differentiable_form(name: str, directions: int, arguments: Arguments) -> tuple[Function, tuple[Tensor, ...]]:
    """An operator as a function of its differentiable arguments.

    The batch indices are held fixed; steps of the index column of a direction change nothing.
    """
    image = arguments.boxes[:, :1]

    def rows(corners: Tensor) -> Tensor:
        return torch.cat([image, corners], 1)

    bins, rule = arguments.argmax, arguments.rule
    along = (arguments.u, arguments.v)[:directions]
    corners = arguments.boxes[:, 1:]

    def padded(given: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        return (*given, *[None] * (2 - len(given)))

    def pool(input: Tensor, corners: Tensor, *given: Tensor) -> Tensor:
        result: Tensor = ops._pool([input], rows(corners), *padded(given), bins, BINS, *rule)
        return result

    def grad_input(grad: Tensor, corners: Tensor, *given: Tensor) -> Tensor:
        last = arguments.channels_last
        (result,) = ops._pool_grad_input(grad, rows(corners), *padded(given), bins, SHAPE, last, *rule)
        return result  # type: ignore[no-any-return]

    def grad_boxes(grad: Tensor, input: Tensor, corners: Tensor, *given: Tensor) -> Tensor:
        result: Tensor = ops._pool_grad_boxes(grad, [input], rows(corners), *padded(given)[:1], bins, *rule)
        return result

    function, tensors = {
        "_pool": (pool, (arguments.input, corners, *along)),
        "_pool_grad_input": (grad_input, (arguments.grad, corners, *along)),
        "_pool_grad_boxes": (grad_boxes, (arguments.grad, arguments.input, corners, *along)),
    }[name]
    return function, tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


CHECKS: dict[str, Any] = {"check_batched_grad": True, "check_undefined_grad": True}
each_rule = pytest.mark.parametrize("rule", RULES)
with_and_without_argmax = pytest.mark.parametrize("has_argmax", [False, True], ids=["mean", "argmax"])


@each_variant
@each_rule
@with_and_without_argmax
@pytest.mark.parametrize("layout", LAYOUTS)
def test_first_order(name: str, directions: int, rule: str, has_argmax: bool, layout: torch.memory_format) -> None:
    function, tensors = differentiable_form(name, directions, Arguments(rule, has_argmax, layout, ratio=-1, count=2))
    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_forward_grad=True, **CHECKS)


@each_rule
@pytest.mark.parametrize("layout", LAYOUTS)
def test_maximum(rule: str, layout: torch.memory_format) -> None:
    arguments = Arguments(rule, layout=layout, count=2)
    image = arguments.boxes[:, :1]

    def values(input: Tensor, corners: Tensor) -> Tensor:
        result: Tensor = ops._pool_max([input], torch.cat([image, corners], 1), BINS, *arguments.rule)[0]
        return result

    tensors = tuple(tensor.clone().requires_grad_() for tensor in (arguments.input, arguments.boxes[:, 1:]))
    assert gradcheck(values, tensors, check_forward_ad=True, check_batched_forward_grad=True, **CHECKS)
    assert gradgradcheck(values, tensors, check_fwd_over_rev=True, fast_mode=True, **CHECKS)

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((values(*tensors) ** 2).sum(), tensors, create_graph=True)

    assert gradgradcheck(gradients, tensors, fast_mode=True)


@each_rule
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_argmax_selects_the_maximum(rule: str, layout: torch.memory_format) -> None:
    arguments = Arguments(rule, has_argmax=True, layout=layout)
    values, argmax = ops._pool_max(*arguments.of("_pool_max", 0))
    assert argmax.dtype == torch.int32
    assert not argmax.requires_grad
    assert not ops._pool_max(*with_grad(arguments.of("_pool_max", 0), "all"))[1].requires_grad
    torch.testing.assert_close(ops._pool(*arguments.of("_pool", 0)), values, rtol=1e-14, atol=1e-14)


@each_variant
@each_rule
@with_and_without_argmax
def test_index_column_of_directions_is_ignored(name: str, directions: int, rule: str, has_argmax: bool) -> None:
    arguments = Arguments(rule, has_argmax)
    expected = getattr(ops, name)(*arguments.of(name, directions))
    arguments.u[:, 0] = arguments.v[:, 0] = float("nan")
    actual = getattr(ops, name)(*arguments.of(name, directions))
    for ours, same in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        assert torch.equal(ours, same)
    if name == "_pool_grad_boxes":
        assert not bool(expected[:, 0].any())


@each_rule
@with_and_without_argmax
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gradient_dtypes(rule: str, has_argmax: bool, dtype: torch.dtype) -> None:
    """Each gradient has the dtype of its argument, with boxes and directions of three dtypes."""
    arguments = Arguments(rule, has_argmax, dtype=torch.bfloat16)
    arguments.boxes, arguments.u, arguments.v = arguments.boxes.float(), arguments.u.to(dtype), arguments.v.double()
    for name, directions in VARIANTS:
        tensors = with_grad(arguments.of(name, directions), "all")
        leaves = [leaf for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor) and leaf.requires_grad]
        (result,) = tree_leaves(getattr(ops, name)(*tensors))
        gradients = torch.autograd.grad(result.sum(), leaves, materialize_grads=True)
        assert [gradient.dtype for gradient in gradients] == [leaf.dtype for leaf in leaves]
