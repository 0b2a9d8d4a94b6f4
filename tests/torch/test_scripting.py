"""Do TorchScript, torch.fx and tensor subclasses see each call as one, with its numbers?"""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from torch import Tensor, fx, nn

import roialign_ext
from roialign_ext import MultiScaleRoIAlign, RoIAlign, roi_align
from support.inputs import random_tensor
from support.small_cases import (
    CASES,
    NAMED,
    SIZE,
    SmallCase,
    close,
    each_case,
    each_function,
    each_mode,
    name_of,
    value_and_gradients,
)

pytestmark = pytest.mark.usefixtures("one_thread")

BOXES = NAMED["roi_align"].boxes(4)
LISTED = [BOXES[0::2], BOXES[1::2]]
PYRAMID = [torch.tensor([[3.0, 4.0, 40.0, 61.0], [0.0, 0.0, 250.0, 200.0]]), torch.tensor([[10.0, 20.0, 130.0, 90.0]])]


# --- TorchScript


@each_case
def test_script(case: SmallCase) -> None:
    """A scripted layer trains, before it is saved and after it is loaded."""
    scripted, buffer = torch.jit.script(case.module()), io.BytesIO()
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    expected = value_and_gradients(case.module(), case, 4)
    for module in (scripted, torch.jit.load(buffer)):
        close(value_and_gradients(module, case, 4), expected)


@each_function
def test_scripted_function(case: SmallCase) -> None:
    *maps, boxes = case.point()
    arguments = (case.features(*maps), *case.box_arguments(boxes), SIZE)
    close(torch.jit.script(case.function)(*arguments, **case.options), case(*case.point()))


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", ["multiscale_roi_align", "multiscale_roi_align_rotated"])
def test_a_list_of_maps_keeps_them(name: str, inference: bool) -> None:
    """In inference mode TorchScript calls the kernel without Python, as a C++ program does."""
    case = NAMED[name]
    scripted = torch.jit.script(case.function)
    with torch.inference_mode(inference):
        maps = [feature_map.detach().clone() for feature_map in case.maps()]

        @torch.jit.script
        def call(maps: list[Tensor], rows: Tensor) -> list[Tensor]:
            results = [scripted(maps, rows, [2, 2], [0.5, 0.25]) for _ in range(2)]
            return results + maps

        first, second, *kept = call(maps, *case.box_arguments(case.boxes()))
    close(second, first)
    close(kept, maps)


@each_mode
@pytest.mark.parametrize("output_size", [3, SIZE])
def test_scripted_layer_takes_boxes_in_a_list(case: SmallCase, output_size: int | tuple[int, int]) -> None:
    layer = RoIAlign(output_size, *case.options.values())
    scripted = torch.jit.script(layer)
    for boxes in (*case.box_arguments(BOXES), LISTED):
        close(scripted(*case.maps(), boxes), layer(*case.maps(), boxes))


def test_scripted_layer_checks_boxes() -> None:
    case = NAMED["roi_align"]
    with pytest.raises(torch.jit.Error, match=r"expected a Tensor\[K, 5\]"):
        torch.jit.script(case.module())(*case.maps(), BOXES)


@pytest.mark.parametrize("case", [case for case in CASES if case.levels == 1], ids=name_of)
def test_trace(case: SmallCase) -> None:
    """A trace takes any number of boxes and keeps nothing of the example in its graph."""
    layer = case.module()
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(layer, case.forward_arguments(*case.maps(), case.boxes(4)))
    arguments = case.forward_arguments(*case.maps(1), case.boxes(7))
    close(traced(*arguments), layer(*arguments))


# --- torch.fx


class Model(nn.Module):
    """The operator as a module, as a function, and as a function reached through the package."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = RoIAlign(SIZE, 0.8, 2)

    def forward(self, x: Tensor, boxes: Tensor | list[Tensor]) -> Tensor:
        by_function = roi_align(x, boxes, SIZE, 0.8, sampling_ratio=2)
        by_name: Tensor = roialign_ext.roi_align(x + 1, boxes, SIZE, spatial_scale=0.8, sampling_ratio=2)
        return self.pool(x, boxes) + by_function + by_name  # type: ignore[no-any-return]


def test_fx_keeps_each_call_as_one_node() -> None:
    case, traced = NAMED["roi_align"], fx.symbolic_trace(Model())
    calls = [node for node in traced.graph.nodes if node.op == "call_function" and node.target is roi_align]
    assert len(calls) == 3
    assert len(traced.graph.nodes) == 2 + 3 + 3 + 1  # inputs, calls, additions, output
    for graph in (traced, fx.symbolic_trace(traced)):
        for boxes in (*case.box_arguments(BOXES), LISTED):
            close(graph(*case.maps(), boxes), Model()(*case.maps(), boxes))


@each_function
def test_fx_keeps_the_call_as_one_node(case: SmallCase) -> None:
    """The traced arguments are maps or boxes, alone or in a list."""
    *maps, boxes = case.point()

    def by_maps(first: Tensor) -> Tensor:
        return case.function(case.features(first, *maps[1:]), *case.box_arguments(boxes), SIZE, **case.options)

    def by_boxes(boxes: Tensor) -> Tensor:
        arguments = case.box_arguments(case.boxes())[1:] if case.is_crop else ()
        rows = boxes if case.is_crop else [boxes[:1], boxes[1:]]
        return case.function(case.features(*maps), rows, *arguments, SIZE, **case.options)

    for function, argument in ((by_maps, maps[0]), (by_boxes, boxes)):
        traced = fx.symbolic_trace(function)
        again = fx.symbolic_trace(traced)
        for graph in (traced, again):
            assert sum(node.target is case.function for node in graph.graph.nodes) == 1
            close(graph(argument), function(argument))


def test_pyramids_in_fx_and_script() -> None:
    layer, shapes = MultiScaleRoIAlign(["0", "1"], (3, 2), 2), [(256, 250), (200, 260)]
    maps = {name: random_tensor(2, 3, size, size + 2, dtype=torch.float32) for name, size in (("0", 64), ("1", 32))}
    expected = layer(maps, PYRAMID, shapes)
    traced = fx.symbolic_trace(layer)
    assert sum(node.target is roialign_ext.multiscale_roi_align for node in traced.graph.nodes) == 1
    close(traced(maps, PYRAMID, shapes), expected)
    close(torch.jit.script(layer)(maps, PYRAMID, shapes), expected)


# --- subclasses


@each_function
def test_tensor_subclasses_see_the_call(case: SmallCase) -> None:
    seen = []

    class Recorder(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    *maps, boxes = case.point()
    out = case(*(feature_map.as_subclass(Recorder) for feature_map in maps), boxes)
    assert seen[0] is case.function
    close(out.as_subclass(Tensor), case(*case.point()))
