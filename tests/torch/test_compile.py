"""torch.compile in full graphs, with backward, and with a number of boxes that changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch import config as functorch_config
from torch._inductor import config as inductor_config
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap
from torch.testing import assert_close

from roialign_ext import RoIAlign, RoIAlignFunction, roi_align
from support.small_case import RATIO, SCALE, SIZE, corners, features, loss, operator, rows

modes = pytest.mark.parametrize("mode", ["avg", "max"])


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def boxes_for(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    xyxy = torch.rand(count, 4, generator=generator, dtype=dtype) * 4
    xyxy[:, 2:] += xyxy[:, :2] + 0.5
    return torch.cat([(torch.arange(count) % 2).to(dtype)[:, None], xyxy], dim=1)


def value_and_gradients(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
    x, boxes = x.detach().requires_grad_(), boxes.detach().requires_grad_()
    value = function(x, boxes)
    return value, *torch.autograd.grad(value.square().sum(), (x, boxes))


@modes
def test_dynamic_number_of_boxes(mode: str) -> None:
    def call(x: Tensor, boxes: Tensor) -> Tensor:
        return roi_align(x, boxes, SIZE, SCALE, RATIO, True, mode)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter, dynamic=True)
    compilations = []
    for count in (6, 8, 13, 4):  # not 5: that would be taken for the number of columns
        arguments = (features(), boxes_for(count))
        assert_close(value_and_gradients(compiled, *arguments), value_and_gradients(call, *arguments))
        compilations.append(counter.frame_count)
    assert compilations[1:] == compilations[:1] * 3


@modes
@pytest.mark.parametrize("wanted", [(False, False), (True, False), (False, True)])
def test_what_requires_grad(mode: str, wanted: tuple[bool, bool]) -> None:
    layer = RoIAlign(SIZE, SCALE, RATIO, mode=mode)
    results = []
    for function in (torch.compile(layer, fullgraph=True, backend="aot_eager"), layer):
        x, boxes = features().requires_grad_(wanted[0]), boxes_for(6).requires_grad_(wanted[1])
        value = function(x, boxes)
        leaves = [leaf for leaf in (x, boxes) if leaf.requires_grad]
        assert value.requires_grad == bool(leaves)
        results.append([value, *(torch.autograd.grad(value.square().sum(), leaves) if leaves else ())])
    assert_close(results[0], results[1])


@modes
def test_number_of_boxes_becomes_dynamic(mode: str) -> None:
    """By default the second number compiles a graph for all that follow, no boxes included."""
    layer = RoIAlign(SIZE, SCALE, RATIO, mode=mode)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for count in (6, 7, 13, 3, 20):
        assert_close(compiled(features(), boxes_for(count)), layer(features(), boxes_for(count)))
    assert counter.frame_count == 2
    assert compiled(features(), boxes_for(0)).shape == (0, 3, *SIZE)


@modes
@pytest.mark.parametrize("index", [2.0, -1.0, 0.5, float("nan")])
def test_bad_batch_index(mode: str, index: float) -> None:
    compiled = torch.compile(RoIAlign(SIZE, SCALE, RATIO, mode=mode), fullgraph=True, backend="aot_eager")
    boxes = boxes_for(6)
    boxes[4, 0] = index
    with pytest.raises(IndexError, match="row 4"):
        compiled(features(), boxes)


@modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layouts_and_half_precision(mode: str, dtype: torch.dtype) -> None:
    layer = RoIAlign(SIZE, SCALE, RATIO, mode=mode)
    x = features().to(dtype).to(memory_format=torch.channels_last)
    arguments = (x, boxes_for(5, torch.float32))
    compiled = value_and_gradients(torch.compile(layer, fullgraph=True, backend="aot_eager"), *arguments)
    assert_close(compiled, value_and_gradients(layer, *arguments))
    assert compiled[0].is_contiguous(memory_format=torch.channels_last)


def test_list_of_boxes() -> None:
    def call(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return roi_align(x, [first, second], 2, sampling_ratio=RATIO)

    arguments = (features(), corners()[:2], corners()[2:])
    assert_close(torch.compile(call, fullgraph=True, backend="aot_eager")(*arguments), call(*arguments))


# A cached graph may be that of another build, with other private operators.
@inductor_config.patch(fx_graph_cache=False)
@functorch_config.patch(enable_autograd_cache=False)
def test_inductor() -> None:
    arguments = (features(), boxes_for(5))

    def call(x: Tensor, boxes: Tensor) -> Tensor:
        return roi_align(x.relu(), boxes, SIZE, SCALE, RATIO) * 2

    compiled = torch.compile(call, fullgraph=True)
    assert_close(value_and_gradients(compiled, *arguments), value_and_gradients(call, *arguments))


# Dynamo of torch 2.13 makes an instance of the class to trace its context.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("rest", [(), (SCALE,), (SCALE, RATIO), (SCALE, RATIO, True), (SCALE, RATIO, True, "max")])
@pytest.mark.parametrize("trains", [False, True])
def test_the_function(rest: tuple[Any, ...], trains: bool) -> None:
    """Dynamo traces forward() and backward() of the class where eager calls the operator."""

    def call(x: Tensor, boxes: Tensor) -> Tensor:
        return RoIAlignFunction.apply(x, boxes, 3, *rest)

    arguments = (features(), boxes_for(5))
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    if trains:
        assert_close(value_and_gradients(compiled, *arguments), value_and_gradients(call, *arguments))
    else:
        assert_close(compiled(*arguments), call(*arguments))


@modes
def test_around_torch_func(mode: str) -> None:
    arguments = (features(), corners())
    tangents = (features(1), torch.ones_like(corners()))
    functions = (
        grad(loss(mode), (0, 1)),
        lambda x, xyxy: jvp(operator(mode), (x, xyxy), tangents)[1],
    )
    for function in functions:
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert_close(compiled(*arguments), function(*arguments))


@modes
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_dual_numbers(mode: str, backend: str) -> None:
    """Graphs open the level of forward mode on their own, past torch.autograd.forward_ad."""

    def tangent(x: Tensor, along: Tensor, boxes: Tensor) -> Tensor:
        with forward_ad.dual_level():
            out = roi_align(forward_ad.make_dual(x, along), boxes, SIZE, SCALE, RATIO, True, mode)
            result = forward_ad.unpack_dual(out * 2).tangent
            assert result is not None
            return result

    arguments = (features(), features(1), rows(corners()))
    assert_close(torch.compile(tangent, fullgraph=True, backend=backend)(*arguments), tangent(*arguments))


def test_per_sample_gradients() -> None:
    batch = torch.stack([features(seed) for seed in range(3)])
    function = vmap(grad(loss()), (0, None))
    assert_close(
        torch.compile(function, fullgraph=True, backend="aot_eager")(batch, corners()), function(batch, corners())
    )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # compiled autograd looks at it
@modes
def test_compiled_autograd(mode: str) -> None:
    x, boxes = features().requires_grad_(), rows(corners()).requires_grad_()
    wanted = value_and_gradients(lambda x, boxes: roi_align(x, boxes, SIZE, SCALE, RATIO, True, mode), x, boxes)[1:]
    value = roi_align(x, boxes, SIZE, SCALE, RATIO, True, mode).square().sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        value.backward()
    assert_close((x.grad, boxes.grad), wanted)
