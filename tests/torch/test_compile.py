"""Does torch.compile make one full graph, with backward, for any number of boxes?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch import config as functorch_config
from torch._inductor import config as inductor_config
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

from roialign_ext import MultiScaleRoIAlign, RoIAlignFunction, roi_align
from support.inputs import random_tensor
from support.small_cases import (
    BY_FUNCTION,
    CASES,
    NAMED,
    SHAPE,
    SIZE,
    SmallCase,
    close,
    each_mode,
    name_of,
    value_and_gradients,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread", "fresh_dynamo"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # dynamo looks at it
]


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


# A legacy or adaptive grid is another number in the same graph.
@pytest.mark.parametrize("case", [case for case in CASES if "legacy" not in case.name], ids=name_of)
def test_dynamic_number_of_boxes(case: SmallCase) -> None:
    layer = case.module()
    counter = CompileCounterWithBackend("aot_eager")
    dynamic = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    compilations = []
    for count in (18, 16, 22, 14):  # half of them on either image; none of the numbers is another size
        close(value_and_gradients(dynamic, case, count), value_and_gradients(layer, case, count))
        compilations.append(counter.frame_count)
    assert compilations[1:] == compilations[:1] * 3


@each_mode
@pytest.mark.parametrize("requires_grad", [(False, False), (True, False), (False, True)])
def test_what_requires_grad(case: SmallCase, requires_grad: tuple[bool, bool]) -> None:
    results = []
    for function in (compiled(case.module()), case.module()):
        leaves = [tensor.requires_grad_(by) for tensor, by in zip(case.point(), requires_grad, strict=True)]
        value = function(*case.forward_arguments(*leaves))
        leaves = [leaf for leaf in leaves if leaf.requires_grad]
        assert value.requires_grad == bool(leaves)
        results.append([value, *(torch.autograd.grad(value.square().sum(), leaves) if leaves else ())])
    close(results[0], results[1])


@each_mode
def test_number_of_boxes_becomes_dynamic(case: SmallCase) -> None:
    """By default the second number compiles a graph for all that follow, no boxes included."""
    layer = case.module()
    counter = CompileCounterWithBackend("aot_eager")
    by_default = torch.compile(layer, fullgraph=True, backend=counter)
    for count in (6, 7, 13, 3, 20):
        arguments = case.forward_arguments(*case.maps(), case.boxes(count))
        close(by_default(*arguments), layer(*arguments))
    assert counter.frame_count == 2
    assert by_default(*case.forward_arguments(*case.maps(), case.boxes()[:0])).shape == (0, SHAPE[1], *SIZE)


@each_mode
def test_bad_batch_index(case: SmallCase) -> None:
    layer = compiled(case.module())
    features, rows = case.forward_arguments(*case.maps(), case.boxes(6))
    for index in (2.0, -1.0, 0.5, float("nan")):
        rows[4, 0] = index
        with pytest.raises(IndexError, match="row 4"):
            layer(features, rows)


@each_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layouts_and_half_precision(case: SmallCase, dtype: torch.dtype) -> None:
    results = []
    for function in (compiled(case.module()), case.module()):
        features = case.maps()[0].to(dtype).to(memory_format=torch.channels_last).requires_grad_()
        rows = case.box_arguments(case.boxes(5))[0].float().requires_grad_()
        value = function(features, rows)
        results.append((value, *torch.autograd.grad(value.square().sum(), (features, rows))))
        assert value.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*results)


def test_list_of_boxes() -> None:
    def call(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return roi_align(x, [first, second], 2, sampling_ratio=2)

    case = NAMED["roi_align"]
    arguments = (*case.maps(), case.boxes(3)[:2], case.boxes(3)[2:])
    close(compiled(call)(*arguments), call(*arguments))


# A cached graph may be that of another build, with other private operators.
@inductor_config.patch(fx_graph_cache=False)
@functorch_config.patch(enable_autograd_cache=False)
def test_inductor() -> None:
    case = NAMED["roi_align"]

    def call(x: Tensor, boxes: Tensor) -> Tensor:
        return case.call(x.relu(), boxes) * 2

    function = torch.compile(call, fullgraph=True)
    close(value_and_gradients(function, case, 5), value_and_gradients(call, case, 5))


# Dynamo of torch 2.13 makes an instance of the class to trace its context.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("rest", "trains"),
    [((), True), ((0.9,), False), ((0.9, 2), True), ((0.9, 2, True), False), ((0.9, 2, True, "max"), True)],
)
def test_the_function(rest: tuple[Any, ...], trains: bool) -> None:
    """Dynamo traces forward() and backward() of the class where eager calls the operator."""

    def call(x: Tensor, boxes: Tensor) -> Tensor:
        return RoIAlignFunction.apply(x, boxes, 3, *rest)

    case = NAMED["roi_align"]
    if trains:
        close(value_and_gradients(compiled(call), case, 5), value_and_gradients(call, case, 5))
    else:
        arguments = case.forward_arguments(*case.maps(), case.boxes(5))
        close(compiled(call)(*arguments), call(*arguments))


@pytest.mark.parametrize("case", [*BY_FUNCTION, NAMED["roi_align-max"]], ids=name_of)
def test_around_torch_func(case: SmallCase) -> None:
    call, scalar, point = case.varied(case), case.varied(case.scalar), case.varied_point()
    batch = tuple(torch.stack([tensor, tensor + 1e-4]) for tensor in point)
    for function, arguments in (
        (grad(scalar, tuple(range(len(point)))), point),
        (lambda *at: jvp(call, at, at)[1], point),
        (vmap(grad(scalar)), batch),
    ):
        close(compiled(function)(*arguments), function(*arguments))


@each_mode
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_dual_numbers(case: SmallCase, backend: str) -> None:
    """Graphs open the level of forward mode on their own, past torch.autograd.forward_ad."""

    def tangent(x: Tensor, along: Tensor, boxes: Tensor) -> Tensor:
        with forward_ad.dual_level():
            out = case.call(forward_ad.make_dual(x, along), boxes)
            result = forward_ad.unpack_dual(out * 2).tangent
            assert result is not None
            return result

    arguments = (*case.maps(), *case.maps(1), *case.box_arguments(case.boxes()))
    close(torch.compile(tangent, fullgraph=True, backend=backend)(*arguments), tangent(*arguments))


@each_mode
def test_compiled_autograd(case: SmallCase) -> None:
    leaves = case.leaves()
    value = case(*leaves).square().sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        value.backward()
    close(tuple(leaf.grad for leaf in leaves), value_and_gradients(case.module(), case)[1:])


def test_one_compilation_for_images_of_any_size() -> None:
    """The scales are found while compiling; the condition left is that they stay the nearest powers of two."""
    layer = MultiScaleRoIAlign(["0", "1"], 3, 2)
    boxes = [
        torch.tensor([[3.0, 4.0, 40.0, 61.0], [0.0, 0.0, 250.0, 200.0]]),
        torch.tensor([[10.0, 20.0, 130.0, 90.0]]),
    ]

    def arguments(height: int, *shapes: tuple[int, int]) -> tuple[Any, ...]:
        maps = [random_tensor(2, 3, rows, rows + 2, seed=rows, dtype=torch.float32) for rows in (height, height // 2)]
        return dict(zip("01", maps, strict=True)), boxes, list(shapes)

    counter = CompileCounterWithBackend("eager")
    of_any_size = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    for height in (64, 72, 96, 130):
        given = arguments(height, (4 * height, 4 * height), (4 * height - 7, 280))
        close(of_any_size(*given), layer(*given))
    assert counter.frame_count == 1
    given = arguments(64, (512, 520), (500, 280))  # half the scales
    close(of_any_size(*given), layer(*given))
