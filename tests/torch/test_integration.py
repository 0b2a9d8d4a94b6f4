"""The whole family in PyTorch: compilation, export, TorchScript, torch.fx, and the arguments that functions take."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim, export
from torch.func import grad, jvp, vmap

import roialign_ext
from roialign_ext import BoxShapeError, MultiScaleRoIAlign
from support.inputs import random_tensor
from support.integration_cases import BY_FUNCTION, NAMED, SHAPE, SIZE, Case, close, each_case, each_function, varied

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # dynamo looks at it
]
# --- compilation and export


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def boxes_like(case: Case, count: int) -> Tensor:
    """So many boxes near those of the case."""
    boxes = case.boxes().repeat(count // 2 + 1, 1)[:count]
    return boxes + 0.01 * random_tensor(*boxes.shape, seed=count)


def value_and_gradients(function: Callable[..., Tensor], case: Case, count: int) -> tuple[Tensor, ...]:
    maps = [one.requires_grad_() for one in case.maps()]
    boxes = boxes_like(case, count).requires_grad_(case.box_order > 0)
    value = function(*case.forward_arguments(*maps, boxes))
    leaves = [*maps, boxes] if boxes.requires_grad else maps
    return value, *torch.autograd.grad(value.square().sum(), leaves)


@each_case
@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_with_a_dynamic_number_of_boxes(case: Case) -> None:
    layer = case.module()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    compilations = []
    for count in (12, 16, 22, 14):  # half of them on either image; none of the numbers is another size
        close(value_and_gradients(compiled, case, count), value_and_gradients(layer, case, count))
        compilations.append(counter.frame_count)
    assert compilations[1:] == compilations[:1] * 3


@each_function
@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_torch_func(case: Case) -> None:
    call, point = varied(case, case)
    scalar, _ = varied(case, case.scalar)
    batch = tuple(torch.stack([tensor, tensor + 1e-4]) for tensor in point)
    for function, arguments in (
        (grad(scalar), point),
        (lambda *at: jvp(call, at, at)[1], point),
        (vmap(grad(scalar)), batch),
    ):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        close(compiled(*arguments), function(*arguments))


@each_function
def test_export(case: Case) -> None:
    """One node of the public operator, any number of boxes, and training through the exported module."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = case.module()

        def forward(self, *arguments: Any) -> Tensor:
            return 2.0 * self.pool(*arguments)  # type: ignore[no-any-return]

    arguments = case.forward_arguments(*case.maps(), boxes_like(case, 6))
    count = Dim("count", min=2, max=500)
    if case.levels == 1:
        shapes: tuple[Any, ...] = (None, *({0: count} for _ in arguments[1:]))
    else:
        first = Dim("first", max=500)
        shapes = ({"0": None, "1": None}, [{0: first}, {0: Dim("second", max=500)}], [(None, None)] * 2)
    program = export(Head(), arguments, dynamic_shapes={"arguments": shapes})
    targets = [str(node.target) for node in program.graph.nodes if "roialign_ext" in str(node.target)]
    assert targets == [f"roialign_ext.{case.name}.default"]
    for number in (4, 10):
        close(value_and_gradients(program.module(), case, number), value_and_gradients(Head(), case, number))


# --- TorchScript and torch.fx


@each_case
def test_script(case: Case) -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(case.module()), buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    close(value_and_gradients(loaded, case, 4), value_and_gradients(case.module(), case, 4))


@each_function
def test_scripted_function(case: Case) -> None:
    *maps, boxes = case.point()
    arguments = (case.features(*maps), *case.rows(boxes), SIZE)
    close(torch.jit.script(case.function)(*arguments, **case.options), case(*case.point()))


@each_function
def test_fx_keeps_the_call_as_one_node(case: Case) -> None:
    """With whatever is traced: maps or boxes, alone or in a list."""
    *maps, boxes = case.point()

    def by_maps(first: Tensor) -> Tensor:
        return case.function(case.features(first, *maps[1:]), *case.rows(boxes), SIZE, **case.options)

    def by_boxes(boxes: Tensor) -> Tensor:
        arguments = case.rows(case.boxes())[1:] if case.is_crop else ()
        rows = boxes if case.is_crop else [boxes[:1], boxes[1:]]
        return case.function(case.features(*maps), rows, *arguments, SIZE, **case.options)

    for function, argument in ((by_maps, maps[0]), (by_boxes, boxes)):
        traced = fx.symbolic_trace(function)
        again = fx.symbolic_trace(traced)
        for graph in (traced, again):
            assert sum(node.target is case.function for node in graph.graph.nodes) == 1
            close(graph(argument), function(argument))


@each_function
def test_tensor_subclasses_see_the_call(case: Case) -> None:
    seen = []

    class Recorder(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    *maps, boxes = case.point()
    out = case(*(one.as_subclass(Recorder) for one in maps), boxes)
    assert case.function in seen
    close(out.as_subclass(Tensor), case(*case.point()))


# --- arguments


@each_function
def test_other_forms_of_the_arguments(case: Case) -> None:
    """Boxes in lists and tuples, a number for both sizes, images of the list in their order."""
    *maps, boxes = case.point()
    features, rows = case.features(*maps), case.rows(boxes)
    square = case.function(features, *rows, (2, 2), **case.options)
    close(case.function(features, *rows, 2, **case.options), square)
    close(case.function(features, *rows, [2, 2], **case.options), square)
    if case.is_crop:
        for dtype in (torch.int32, torch.uint8):
            close(case.function(features, boxes, rows[1].to(dtype), 2, **case.options), square)
        return
    for listed in ([boxes[:1], boxes[1:]], (boxes[:1], boxes[1:])):
        close(case.function(features, listed, 2, **case.options), square)
    empty = case.function(features, [boxes[:0], boxes[:0]], 2, **case.options)
    assert empty.shape == (0, SHAPE[1], 2, 2)


@each_function
@pytest.mark.parametrize("columns", [3, 4, 5, 6, 7])
def test_box_shapes(case: Case, columns: int) -> None:
    """A wrong shape is a BoxShapeError, of rows and in a list."""
    maps = case.maps()
    features, indices = case.features(*maps), case.rows(case.boxes())[1:]
    wanted = case.boxes().shape[1] + (0 if case.is_crop else 1)
    if columns != wanted:
        with pytest.raises(BoxShapeError, match=rf"boxes: .*\[K, {wanted}\].* \[2, {columns}\]"):
            case.function(features, torch.zeros(2, columns), *indices, SIZE, **case.options)
    if not case.is_crop and columns != wanted - 1:
        with pytest.raises(BoxShapeError, match=rf"boxes: .*\[L, {wanted - 1}\].* \[2, {columns}\]"):
            case.function(features, [torch.zeros(2, columns)] * 2, SIZE, **case.options)


WRONG_TYPES: list[tuple[str, dict[str, Any], str]] = [
    ("crop_and_resize", {"box_indices": torch.zeros(2)}, "box_indices: expected a tensor of integers"),
    ("crop_and_resize", {"box_indices": [0, 1]}, "box_indices: expected a Tensor"),
    ("crop_and_resize", {"boxes": [torch.zeros(2, 4)]}, r"boxes: expected a Tensor\[K, 4\]"),
    ("crop_and_resize", {"crop_size": 2.0}, "crop_size: expected an int or a pair"),
    ("crop_and_resize", {"method": 1}, "method: expected 'bilinear' or 'nearest'"),
    ("crop_and_resize", {"extrapolation_value": "0"}, "extrapolation_value: expected a number"),
    ("crop_and_resize", {"samples_per_bin": 1.5}, "samples_per_bin: expected an int"),
    ("roi_align_rotated", {"angle_unit": 360}, "angle_unit: expected 'degree' or 'radian'"),
    ("roi_align_rotated", {"boxes": "boxes"}, r"boxes: expected a Tensor\[K, 6\] or a list of Tensor\[L, 5\]"),
    ("prroi_pool", {"spatial_scale": "1"}, "spatial_scale: expected a number"),
    ("roi_pool", {"output_size": None}, "output_size: expected an int or a pair"),
    ("roi_warp", {"mode": None}, "mode: expected 'avg' or 'max'"),
    ("multiscale_roi_align", {"features": torch.zeros(SHAPE)}, "features: expected a list of tensors"),
    ("multiscale_roi_align", {"features": [None]}, r"features\[0\]: expected a tensor"),
    ("multiscale_roi_align", {"scales": 1.0}, "scales: expected a list of numbers"),
    ("multiscale_roi_align", {"canonical_scale": "224"}, "canonical_scale: expected a number"),
]


@pytest.mark.parametrize(("name", "wrong", "message"), WRONG_TYPES)
def test_wrong_types(name: str, wrong: dict[str, Any], message: str) -> None:
    case = NAMED[name]
    *maps, boxes = case.point()
    features, rows = case.features(*maps), case.rows(boxes)
    if case.is_crop:
        arguments = {"input": features, "boxes": boxes, "box_indices": rows[1], "crop_size": 2}
    else:
        first = "features" if isinstance(features, list) else "input"
        arguments = {first: features, "boxes": rows[0], "output_size": 2}
    with pytest.raises(TypeError, match=message):
        case.function(**{**arguments, **case.options, **wrong})


# --- the layer of a detector


def pyramid_of(*heights: int) -> dict[str, Tensor]:
    return {str(level): random_tensor(2, 3, height, height + 2, seed=level) for level, height in enumerate(heights)}


BOXES = [torch.tensor([[3.0, 4.0, 40.0, 61.0], [0.0, 0.0, 250.0, 200.0]], dtype=torch.float64),
         torch.tensor([[10.0, 20.0, 130.0, 90.0]], dtype=torch.float64)]  # fmt: skip


@pytest.mark.filterwarnings("ignore:MultiScaleRoIAlign. the scale of level 0:UserWarning")  # of 300, and of 9 columns
@pytest.mark.parametrize(("heights", "scales"), [((64, 32, 16), [0.25, 0.125, 0.0625]), ((63, 24), [0.25, 0.125]),
                                                 ((300,), [1.0]), ((8,), [2.0**-5])])  # fmt: skip
def test_scales_follow_from_sizes(heights: tuple[int, ...], scales: list[float]) -> None:
    """The nearest power of two to the ratio of map and largest image, in every call anew."""
    layer = MultiScaleRoIAlign([str(level) for level in range(4)], 3, 2)
    maps = pyramid_of(*heights)
    given = MultiScaleRoIAlign(layer.featmap_names, 3, 2, scales=scales)
    shapes = [(250, 256), (252, 240)]
    close(layer(maps, BOXES, shapes), given(maps, BOXES, shapes))
    close(layer(maps, BOXES, shapes), roialign_ext.multiscale_roi_align(list(maps.values()), BOXES, 3, scales, 2))
    halved = [2.0 * scale for scale in scales]
    close(layer(maps, BOXES, [(125, 9)]), MultiScaleRoIAlign(layer.featmap_names, 3, 2, scales=halved)(maps, BOXES, []))


def test_maps_are_taken_in_the_order_of_the_dictionary() -> None:
    maps = pyramid_of(64, 32, 16)
    named = {"p2": maps["0"], "unused": maps["2"], "p3": maps["1"]}
    expected = MultiScaleRoIAlign(["0", "1"], 3, 2)({"0": maps["0"], "1": maps["1"]}, BOXES, [(256, 256)])
    close(MultiScaleRoIAlign(["p3", "p2"], 3, 2)(named, BOXES, [(256, 256)]), expected)
    with pytest.raises(ValueError, match=r"x: .*\['p9'\].*'p2'"):
        MultiScaleRoIAlign(["p9"], 3, 2)(named, BOXES, [(256, 256)])
    with pytest.raises(ValueError, match="image_shapes: "):
        MultiScaleRoIAlign(["p2"], 3, 2)(named, BOXES, [])


def test_scales_need_heights() -> None:
    layer, maps = MultiScaleRoIAlign(["0"], 3, 2), pyramid_of(64)
    with pytest.raises(ValueError, match=r"image_shapes: .*above 0.*\(0, 16\)"):
        layer(maps, BOXES, [(0, 16)])
    with pytest.raises(ValueError, match=r"x: .*above 0.*0, \d+\] at level 0"):
        layer({"0": maps["0"][:, :, :0]}, BOXES, [(16, 16)])
    given = MultiScaleRoIAlign(["0"], 3, 2, scales=[0.25])
    assert not bool(given({"0": maps["0"][:, :, :0]}, BOXES, [(0, 16)]).any())


def test_the_layer_in_fx_and_script() -> None:
    layer, maps, shapes = MultiScaleRoIAlign(["0", "1"], (3, 2), 2), pyramid_of(64, 32), [(256, 250), (200, 260)]
    expected = layer(maps, BOXES, shapes)
    traced = fx.symbolic_trace(layer)
    assert sum(node.target is roialign_ext.multiscale_roi_align for node in traced.graph.nodes) == 1
    close(traced(maps, BOXES, shapes), expected)
    close(torch.jit.script(layer)(maps, BOXES, shapes), expected)


@pytest.mark.usefixtures("fresh_dynamo")
def test_one_compilation_for_images_of_any_size() -> None:
    """The scales are found while compiling; the condition left is that they stay the nearest powers of two."""
    layer = MultiScaleRoIAlign(["0", "1"], 3, 2)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    for height in (64, 72, 96, 130):
        arguments = (pyramid_of(height, height // 2), BOXES, [(4 * height, 4 * height), (4 * height - 7, 280)])
        close(compiled(*arguments), layer(*arguments))
    assert counter.frame_count == 1
    arguments = (pyramid_of(64, 32), BOXES, [(512, 520), (500, 280)])  # half the scales
    close(compiled(*arguments), layer(*arguments))


@pytest.mark.parametrize("case", [case for case in BY_FUNCTION if case.levels == 1], ids=lambda case: case.name)
def test_trace(case: Case) -> None:
    """Any number of boxes, and nothing of the example's in the graph."""
    layer = case.module()
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(layer, case.forward_arguments(*case.maps(), boxes_like(case, 4)))
    arguments = case.forward_arguments(*case.maps(1), boxes_like(case, 7))
    close(traced(*arguments), layer(*arguments))


@each_case
def test_layers_say_what_they_are(case: Case) -> None:
    text = repr(case.module())
    assert text.startswith(type(case.module()).__name__ + "(")
    assert "_size=(2, 3)" in text
