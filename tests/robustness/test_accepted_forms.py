"""Do arguments work in every accepted form: numbers of other libraries and from shapes, no boxes, boxes in lists?"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from roialign_ext import MultiScaleRoIAlign, RoIAlign, RoIWarp, crop_and_resize, roi_align
from support.arguments import FEATURES, each_with_lists, each_with_scale, modes_of, pool
from support.inputs import DTYPES, finest, random_tensor
from support.operator_calls import OperatorCall
from support.operators import each_function, having
from support.small_cases import SmallCase, each_case

MAP = random_tensor(1, 2, 16, 16, seed=1, dtype=torch.float32)
BOXES = torch.tensor([[0.0, 1, 1, 9, 9]])
CROPS, INDICES = torch.tensor([[0.1, 0.1, 0.8, 0.9]]), torch.zeros(1, dtype=torch.int64)
Make = Callable[..., Any]
each_ratio = having("sampling_ratio")


# --- numbers of other libraries


@pytest.mark.parametrize("size", [np.int64(3), np.uint8(3), torch.tensor(3), (np.int32(3), 3), (torch.tensor(3), 3)])
def test_sizes(size: Any) -> None:
    assert torch.equal(roi_align(MAP, BOXES, size), roi_align(MAP, BOXES, 3))
    crop = crop_and_resize(MAP, CROPS, INDICES, 3)
    assert torch.equal(crop_and_resize(MAP, CROPS, INDICES, size), crop)
    assert torch.equal(RoIAlign(size, 1.0, -1)(MAP, BOXES), roi_align(MAP, BOXES, 3))
    layer = MultiScaleRoIAlign(["0"], size, np.int64(2))
    expected = roi_align(MAP, BOXES, 3, sampling_ratio=2)
    assert torch.equal(layer({"0": MAP}, [BOXES[:, 1:]], [(16, 16)]), expected)


@each_with_scale
@pytest.mark.parametrize("scale", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5)])
def test_scales(call: OperatorCall, scale: Any) -> None:
    assert torch.equal(pool(call.scaled(scale)), pool(call.scaled(0.5)))


def test_a_whole_number_is_a_scale() -> None:
    assert torch.equal(roi_align(MAP, BOXES, 3, np.int64(1)), roi_align(MAP, BOXES, 3))  # type: ignore[arg-type]


@each_ratio
@pytest.mark.parametrize("ratio", [np.int64(2), torch.tensor(2)])
def test_ratios(call: OperatorCall, ratio: Any) -> None:
    assert torch.equal(pool(replace(call, sampling_ratio=ratio)), pool(replace(call, sampling_ratio=2)))


@pytest.mark.parametrize("ratio", [np.int64(2), torch.tensor(2)])
def test_samples_per_bin(ratio: Any) -> None:
    crops = [crop_and_resize(MAP, CROPS, INDICES, 3, samples_per_bin=samples) for samples in (ratio, 2)]
    assert torch.equal(*crops)


@pytest.mark.parametrize("layer", [RoIAlign, RoIWarp])
def test_layers_with_numpy_numbers_can_be_scripted(layer: Make) -> None:
    numbers = layer((np.int64(3), 2), np.float32(0.5), np.int64(2))
    assert torch.equal(torch.jit.script(numbers)(MAP, BOXES), layer((3, 2), 0.5, 2)(MAP, BOXES))


@pytest.mark.parametrize(
    "call",
    [
        lambda x, boxes: roi_align(x, boxes, (x.shape[2] // 4, x.shape[3] // 4)),
        lambda x, boxes: roi_align(x, boxes, 2, x.shape[-1] / x.shape[-2]),
    ],
)
def test_trace_with_numbers_from_shapes(call: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The numbers become constants of the trace, as in torchvision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(call, (MAP, BOXES))
    assert torch.equal(traced(MAP, BOXES), call(MAP, BOXES))
    assert torch.equal(torch.compile(call, fullgraph=True, backend="eager", dynamic=True)(MAP, BOXES), call(MAP, BOXES))


# --- numbers that the types cannot hold


@each_ratio
@pytest.mark.parametrize("ratio", [0, -1, -(2**62)])
def test_ratios_that_are_not_positive_are_adaptive(call: OperatorCall, ratio: int) -> None:
    assert torch.equal(pool(replace(call, sampling_ratio=ratio)), pool(replace(call, sampling_ratio=-1)))


# --- layers check when they are made


def test_layers_keep_their_arguments() -> None:
    assert RoIAlign(7, 1, 2).output_size == 7
    assert RoIAlign([7, 6], 1, 2).output_size == (7, 6)
    assert isinstance(RoIAlign(7, 1, 2).spatial_scale, float)
    assert MultiScaleRoIAlign(("0", "1"), 7, 2).featmap_names == ["0", "1"]  # type: ignore[arg-type]


@each_case
def test_layers_say_what_they_are(case: SmallCase) -> None:
    text = repr(case.module())
    assert text.startswith(type(case.module()).__name__ + "(")
    assert "_size=(2, 3)" in text


# --- boxes, and what a call leaves alone


def test_gradcheck_of_boxes_in_a_list() -> None:
    features = random_tensor(2, 2, 6, 7)
    boxes = [
        torch.tensor([box], dtype=torch.float64, requires_grad=True)
        for box in ([1.2, 0.7, 4.1, 3.9], [0.3, 1.4, 5.2, 4.6])
    ]
    assert torch.autograd.gradcheck(lambda *lists: roi_align(features, list(lists), 2, 1.0, 2), boxes)


@each_with_lists
def test_an_empty_list_of_boxes_lies_where_the_input_does(call: OperatorCall) -> None:
    out = pool(call, **{call.input_name: call.input_of(FEATURES[:0].to("meta"))}, boxes=[])
    assert out.shape == (0, 3, *call.output_size)
    assert out.is_meta


@each_with_lists
def test_no_boxes(call: OperatorCall) -> None:
    """The result of no rows, and of a list without rows, is empty."""
    for dtype in DTYPES:
        out = pool(call, **{call.input_name: call.input_of(FEATURES.to(dtype))}, boxes=torch.zeros(0, call.columns))
        assert out.shape == (0, 3, *call.output_size)
        assert out.dtype == dtype
    assert pool(call, boxes=[torch.zeros(0, call.columns - 1)] * 2).shape == (0, 3, *call.output_size)


@each_function
def test_arguments_are_left_alone(call: OperatorCall) -> None:
    arguments = call.arguments(call.input_of(FEATURES), call.boxes("inside"))
    before = copy.deepcopy(arguments)
    for mode in modes_of(call):
        assert call.function(**{**arguments, **mode}).data_ptr() != finest(arguments[call.input_name]).data_ptr()
    for original, other in zip(tree_leaves(before), tree_leaves(arguments), strict=True):
        assert torch.equal(original, other) if isinstance(original, Tensor) else original == other
