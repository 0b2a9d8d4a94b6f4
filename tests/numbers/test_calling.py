"""Do all ways to call an operator give the same: defaults, names, layers, boxes in rows and in lists?"""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from roialign_ext import roi_align
from support.inputs import BOX_SETS, DTYPES, listed, random_tensor, xyxy
from support.operator_calls import OperatorCall
from support.operators import OPERATORS, each_function, each_operator

FEATURES = random_tensor(2, 3, 7, 9, seed=1)


def rows_by_image(call: OperatorCall) -> Tensor:
    """Boxes of every kind, those of the first image first, as the layers of pyramids take them."""
    boxes = call.boxes()
    return boxes[boxes[:, 0].argsort(stable=True)]


@each_function
def test_defaults_and_argument_order(call: OperatorCall) -> None:
    """The fields of a call say both: its arguments by position and by name give what the defaults give."""
    call = type(call)((3, 3))
    arguments = call.arguments(call.input_of(FEATURES), call.boxes())
    parameters = inspect.signature(call.function).parameters
    required = {name: arguments[name] for name in arguments if parameters[name].default is inspect.Parameter.empty}
    expected = call.function(**arguments)
    for size in (3, [3, 3], torch.Size([3, 3])):
        assert torch.equal(call.function(**{**required, call.size_name: size}), expected)
    assert torch.equal(call.function(*arguments.values()), expected)


@each_operator
def test_modules_call_the_functions(call: OperatorCall) -> None:
    """Arguments of the constructor and of ``forward`` are given by name and, where they may be, by position."""
    features, boxes = call.input_of(FEATURES), rows_by_image(call)
    expected, inputs, arguments = call(features, boxes), call.layer_inputs(features, boxes), call.layer_arguments()
    assert torch.equal(call.module(**arguments)(**inputs), expected)
    kinds = inspect.signature(call.module).parameters
    named = {name: arguments[name] for name in arguments if kinds[name].kind == inspect.Parameter.KEYWORD_ONLY}
    layer = call.module(*(arguments[name] for name in arguments if name not in named), **named)
    assert torch.equal(layer(*inputs.values()), expected)


@pytest.mark.parametrize("name", [name for name, call in OPERATORS.items() if call.takes_lists])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_list_of_boxes_equals_rows(name: str, dtype: torch.dtype) -> None:
    call = OPERATORS[name]
    features, boxes = call.input_of(FEATURES.to(dtype)), call.boxes(dtype=dtype)
    boxes = boxes[boxes[:, 0].argsort(stable=True)]
    expected = call(features, boxes)
    assert torch.equal(call(features, listed(boxes)), expected)
    assert torch.equal(call(features, tuple(listed(boxes))), expected)


def test_list_with_images_without_boxes() -> None:
    features = random_tensor(3, 2, 7, 9)
    boxes = BOX_SETS["inside"]
    expected = roi_align(features, boxes + torch.tensor([2.0, 0, 0, 0, 0]), 2)
    empty = torch.zeros(0, 4, dtype=torch.float64)
    assert torch.equal(roi_align(features, [empty, empty, boxes[:, 1:]], 2), expected)
    assert roi_align(features, [empty, empty, empty], 2).shape == (0, 2, 2, 2)


def test_same_box_in_every_image() -> None:
    features = random_tensor(300, 1, 2, 2, dtype=torch.float32)
    boxes = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]).repeat(300, 1)
    boxes[:, 0] = torch.arange(300).flip(0)
    assert torch.equal(roi_align(features, boxes, 2, sampling_ratio=1, aligned=True), features.flip(0))


@each_function
@pytest.mark.parametrize("box_dtype", DTYPES)
def test_index_of_an_image_is_exact(call: OperatorCall, box_dtype: torch.dtype) -> None:
    """The index is a count, not a number in the dtype of the boxes: bfloat16 has no 257, float16 no 2049."""
    images, call = 2060, replace(call, output_size=(1, 1))
    expected = (torch.arange(images) % 251).to(torch.bfloat16)
    features = call.input_of(expected[:, None, None, None].expand(-1, 2, 3, 3))
    boxes = call.from_corners(xyxy((0.0, 0.0, 2.0, 2.0)).repeat(images, 1), 3, 3)
    boxes[:, 0] = torch.arange(images)
    if call.takes_lists:
        out = call(features, list(boxes[:, 1:].to(box_dtype).split(1)))
    else:
        arguments = call.arguments(features, boxes)
        out = call.function(**{**arguments, "boxes": arguments["boxes"].to(box_dtype)})
    assert torch.equal(out[:, 0, 0, 0], expected)
