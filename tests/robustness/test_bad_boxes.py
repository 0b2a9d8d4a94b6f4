"""Does an error about boxes name the argument, what was expected, and what came?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import roialign_ext as package
from roialign_ext import BoxShapeError, RoIAlign, roi_align, roi_align_rotated, roi_pool
from support.arguments import BOXES, FEATURES, each_with_lists, good_boxes, modes_of, pool
from support.inputs import DTYPES, INF, NAN
from support.operator_calls import CropCall, OperatorCall, RoIAlignCall, RotatedCall
from support.operators import FIRST, each_function
from support.tolerance import assert_matches_oracle

ROTATED = RotatedCall().boxes("inside", dtype=torch.float32)
CROPS = CropCall().boxes("inside", dtype=torch.float32)[:, 1:]
INDICES = torch.tensor([1, 0, 1])
CROP = CropCall((2, 2))


def still_works(call: OperatorCall) -> None:
    assert pool(call).shape == (3, 3, *call.output_size)
    assert_matches_oracle(RoIAlignCall((2, 2), 1.0, 2, True), FEATURES, BOXES)


# --- shapes of boxes


SHAPES: list[tuple[int, ...]] = [(3, 3), (3, 4), (3, 5), (3, 6), (3, 7), (5,), (1, 3, 5), ()]
WRONG_SHAPES = [
    (name, shape) for name, call in FIRST.items() for shape in SHAPES if shape != (3, good_boxes(call).shape[1])
]


@pytest.mark.parametrize(("name", "shape"), WRONG_SHAPES, ids=str)
def test_box_shape(name: str, shape: tuple[int, ...]) -> None:
    """Code for torchvision catches AssertionError, other code ValueError: the error is both."""
    call = FIRST[name]
    columns = rf"\[K, {good_boxes(call).shape[1]}\]"
    came = r",\s*".join(str(length) for length in shape)
    for kind in (BoxShapeError, ValueError, AssertionError):
        with pytest.raises(kind, match=rf"(?s)boxes.*{columns}.*{came}"):
            pool(call, boxes=torch.zeros(shape))
    still_works(call)


@pytest.mark.parametrize("shape", [(3, 4), (3, 6), (0, 4)])
def test_box_shape_of_roi_align(shape: tuple[int, int]) -> None:
    """Rows of other operators, given to the function and to the layer, and none of them."""
    for call in (lambda boxes: roi_align(FEATURES, boxes, 2), lambda boxes: RoIAlign(2, 1.0, 2)(FEATURES, boxes)):
        with pytest.raises(BoxShapeError, match=rf"(?s)boxes.*\[K, 5\].*{shape[0]},\s*{shape[1]}"):
            call(torch.zeros(shape))
    assert issubclass(BoxShapeError, ValueError)
    assert issubclass(BoxShapeError, AssertionError)


@each_with_lists
def test_list_of_boxes(call: OperatorCall) -> None:
    columns = call.columns - 1
    good = torch.zeros(1, columns)
    shapes = [(2, other) for other in range(3, 8) if other != columns]
    for bad in map(torch.zeros, (*shapes, (columns,), (1, 2, columns))):
        came = r",\s*".join(str(length) for length in bad.shape)
        for boxes in ([good, bad], (good, bad), [bad, torch.zeros(0, columns)]):
            with pytest.raises(BoxShapeError, match=rf"(?s)boxes.*\[L, {columns}\].*{came}"):
                pool(call, boxes=boxes)
    for length in (0, 1, 3):
        with pytest.raises(ValueError, match=rf"(?s)boxes.*2.*{length}"):
            pool(call, boxes=[good] * length)
    for dtype in (torch.int32, torch.int64, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match="boxes"):
            pool(call, boxes=[torch.zeros(2, columns, dtype=dtype)] * 2)
    with pytest.raises(TypeError, match="boxes"):
        pool(call, boxes=[np.zeros((2, columns))] * 2)


def test_crop_takes_no_list() -> None:
    with pytest.raises(TypeError, match=r"(?s)boxes.*\[K, 4\].*list"):
        pool(CROP, boxes=[CROPS])


# --- values and types that several operators take


@each_function
def test_boxes(call: OperatorCall) -> None:
    boxes = good_boxes(call)
    for dtype in (torch.int32, torch.int64, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=r"(?s)boxes.*float"):
            pool(call, boxes=torch.zeros_like(boxes, dtype=dtype))
    for other in (None, "boxes", 3, boxes.numpy(), boxes.tolist(), [[0, 1, 2, 3, 4]]):
        with pytest.raises(TypeError, match="boxes"):
            pool(call, boxes=other)


@each_function
def test_devices_differ(call: OperatorCall) -> None:
    features = call.input_of(FEATURES.to("meta"))
    for changes in ({"boxes": good_boxes(call).to("meta")}, {call.input_name: features}):
        with pytest.raises(ValueError, match=r"(?s)boxes.*(cpu.*meta|meta.*cpu)"):
            pool(call, **changes)


# --- the batch index


@pytest.mark.parametrize("index", [-1.0, 2.0, 1e9, 1e30, 0.5, NAN, INF, -INF, -0.25])
@each_with_lists
@pytest.mark.parametrize("box_dtype", [torch.float32, torch.float64])
def test_batch_index(index: float, call: OperatorCall, box_dtype: torch.dtype) -> None:
    """The error names any row, with gradients or without, in either mode, and of maps without channels."""
    for row in (0, 2, 5):
        boxes = good_boxes(call).repeat(2, 1).to(box_dtype)
        boxes[row, 0] = index
        features, leaf = call.leaves(call.input_of(FEATURES), boxes)
        for mode in modes_of(call):
            for changes in ({"boxes": boxes}, {call.input_name: features, "boxes": leaf}):
                with pytest.raises(IndexError, match=rf"(?s)boxes.*\b{row}\b"):
                    pool(call, **changes, **mode)
        with pytest.raises(IndexError, match="boxes"):
            pool(call, **{call.input_name: call.input_of(FEATURES[:, :0])}, boxes=boxes)
    still_works(call)


@pytest.mark.parametrize(("index", "moved"), [(-1e-6, True), (0.9999, True), (1.04, True), (1.96, False), (0.5, False),
                                              (2.0, False), (-0.96, False), (NAN, False)])  # fmt: skip
def test_an_index_that_a_step_has_moved(index: float, moved: bool) -> None:
    """gradcheck and weight decay move every number of a row: the error says how to give boxes that are trained."""
    boxes = BOXES.double()
    boxes[1, 0] = index
    for call in (
        lambda: roi_align(FEATURES, boxes, 2),
        lambda: torch.func.vmap(lambda rows: roi_align(FEATURES, rows, 2))(boxes[None]),
    ):
        with pytest.raises(IndexError, match=r"^boxes: the batch index.* must be a whole number in \[0, 2\)") as error:
            call()
        assert ("list with one tensor per image" in str(error.value)) is moved


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_index_in_every_dtype(dtype: torch.dtype) -> None:
    boxes = BOXES.clone().to(dtype)
    boxes[1, 0] = 2.0
    with pytest.raises(IndexError, match=r"(?s)boxes.*\b1\b"):
        roi_align(FEATURES, boxes, 2)


def test_batch_index_without_images() -> None:
    with pytest.raises(IndexError, match="boxes"):
        roi_align(torch.zeros(0, 3, 7, 9), BOXES[:1], 2)


def test_batch_index_of_the_private_operators() -> None:
    """Private operators are part of exported graphs and may meet other boxes there."""
    boxes = BOXES.clone()
    boxes[2, 0] = 2.0
    grad = torch.ones(3, 3, 2, 2)
    rule = ([1.0], [224.0, 4.0], 2, "roi_align_legacy")
    ops = torch.ops.roialign_ext
    calls: tuple[Callable[[], object], ...] = (
        lambda: ops._pool([FEATURES], boxes, None, None, None, [2, 2], *rule),
        lambda: ops._pool([FEATURES], boxes, boxes, None, None, [2, 2], *rule),
        lambda: ops._max_pool([FEATURES], boxes, [2, 2], *rule),
        lambda: ops._pool_grad_input(grad, boxes, None, None, None, [2, 3, 7, 9], False, *rule),
        lambda: ops._pool_grad_input(grad, boxes, None, None, None, [2, 3, 7, 9], True, *rule),
        lambda: ops._pool_grad_boxes(grad, [FEATURES], boxes, None, None, *rule),
    )
    for call in calls:
        with pytest.raises(IndexError, match=r"(?s)boxes.*\b2\b"):
            call()


# --- what single operators take


@pytest.mark.parametrize("index", [-1, 2, 10**9, 2**24 + 1, 2**40])
def test_box_indices_out_of_range(index: int) -> None:
    indices = INDICES.clone()
    indices[1] = index
    with pytest.raises(IndexError, match=r"box_indices: the index in row 1\b.*\[0, 2\)"):
        pool(CROP, box_indices=indices)
    with pytest.raises(IndexError, match=r"box_indices: the index must be .*\[0, 2\)"):
        torch.func.vmap(lambda x: pool(CROP, input=x, boxes=CROPS + x.sum() * 0, box_indices=indices))(FEATURES[None])


def test_box_indices() -> None:
    for dtype in (torch.float32, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=r"(?s)box_indices.*integer"):
            pool(CROP, box_indices=torch.zeros(3, dtype=dtype))
    for shape in ((2,), (4,), (3, 1), (), (1, 3)):
        with pytest.raises(ValueError, match=r"(?s)box_indices.*(3|K)"):
            pool(CROP, box_indices=torch.zeros(shape, dtype=torch.int64))
    for other in (None, [0, 1, 0], np.zeros(3, np.int64), 1):
        with pytest.raises(TypeError, match="box_indices"):
            pool(CROP, box_indices=other)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        assert torch.equal(pool(CROP, box_indices=INDICES.to(dtype)), pool(CROP))


@pytest.mark.parametrize("aligned", [False, True])
def test_negative_rotated_size(aligned: bool) -> None:
    for column in (3, 4):
        boxes = ROTATED.clone()
        boxes[1, column] = -0.25
        with pytest.raises(ValueError, match=r"(?s)boxes.*\b1\b.*negative.*-0.25"):
            roi_align_rotated(FEATURES, boxes, 2, aligned=aligned)
        boxes[1, column] = -0.0
        assert roi_align_rotated(FEATURES, boxes, 2, aligned=aligned).shape == (3, 3, 2, 2)


# --- layouts, lists, messages


@each_function
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bool])
def test_dtypes_of_boxes(call: OperatorCall, dtype: torch.dtype) -> None:
    message = r"^boxes: expected .*float16, bfloat16, float32 or float64 tensor"
    boxes = good_boxes(call).to(dtype)
    for options in ({}, {"clockwise": True}) if "clockwise" in call.options else ({},):
        with pytest.raises(TypeError, match=message):
            pool(call, boxes=boxes, **options)
    if call.takes_lists:
        with pytest.raises(TypeError, match=message + r"s, got .* at index 0"):
            pool(call, boxes=[boxes[:, 1:], boxes[:, 1:]])


def test_boxes_of_a_list_on_another_device() -> None:
    with pytest.raises(ValueError, match="boxes: expected tensors on cpu like input, got one on meta at index 1"):
        roi_pool(FEATURES, [BOXES[:, 1:], BOXES[:, 1:].to("meta")], 2)


def test_messages_say_what_to_pass() -> None:
    integer = r"^boxes: expected .*float32 or float64 tensors?, got torch\.int64( at index 0)?: use boxes\.float\(\)$"
    for boxes in (BOXES.long(), [BOXES[:, 1:].long()] * 2):
        with pytest.raises(TypeError, match=integer):
            roi_align(FEATURES, boxes, 2)
    for boxes in (torch.tensor([]), [torch.tensor([])] * 2):
        with pytest.raises(BoxShapeError, match=r"^boxes: .* got .*shape \[0\].*torch\.zeros\(0, 4\)"):
            roi_align(FEATURES, boxes, 2)
    with pytest.raises(TypeError, match=r"^boxes: .* got a list of list$"):
        roi_align(FEATURES, [[[0.0, 1, 2, 3]], [[0.0, 1, 2, 3]]], 2)  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"^boxes: .* got a list of ndarray$"):
        roi_align(FEATURES, [np.zeros((1, 4))] * 2, 2)  # type: ignore[list-item]
    for make in (lambda scale: roi_align(FEATURES, BOXES, 2, scale), lambda scale: RoIAlign(2, scale, 2)):
        with pytest.raises(TypeError, match=r"^spatial_scale: .* got \(0\.5, 0\.25\): .* scale the boxes first"):
            make((0.5, 0.25))
    for make in (
        lambda scales: package.multiscale_roi_align([FEATURES, FEATURES], BOXES, 2, scales),
        lambda scales: package.MultiScaleRoIAlign(["0", "1"], 2, 2, scales=scales),
    ):
        with pytest.raises(ValueError, match=r"^scales: expected 1 / stride of each level.* got \[4, 8\]"):
            make([4, 8])
    with pytest.raises(TypeError, match=r"^x: expected a dict .* got a list of Tensor$"):
        package.MultiScaleRoIAlign(["0"], 2, 2)([FEATURES], [BOXES[:, 1:]], [(7, 9)])
