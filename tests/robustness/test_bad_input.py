"""Bad arguments of every operator raise an exception that names the argument, what was wanted, what came."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import roialign_ext as package
from roialign_ext import (
    BoxShapeError,
    RoIAlign,
    multiscale_roi_align,
    roi_align,
    roi_align_rotated,
    roi_pool,
)
from support.inputs import DTYPES, INF, MODES, NAN, finest, random_tensor
from support.operator_calls import CropCall, OperatorCall, RoIAlignCall, RotatedCall
from support.operators import FIRST, each_function, having
from support.tolerance import assert_matches_oracle

FEATURES = random_tensor(2, 3, 7, 9, seed=1, dtype=torch.float32)
BOXES = RoIAlignCall().boxes("inside", dtype=torch.float32)
ROTATED = RotatedCall().boxes("inside", dtype=torch.float32)
CROPS = CropCall().boxes("inside", dtype=torch.float32)[:, 1:]
INDICES = torch.tensor([1, 0, 1])
PYRAMID = [FEATURES, FEATURES[:, :, ::2, ::2], FEATURES[:, :, ::4, ::4]]
SCALES = [0.25, 0.125, 0.0625]

CROP = CropCall((2, 2))
LISTS = {name: call for name, call in FIRST.items() if call.takes_lists}
each_with_lists = pytest.mark.parametrize("call", LISTS.values(), ids=list(LISTS))


def pyramid(features: Any = PYRAMID, boxes: Any = BOXES, size: Any = 2, scales: Any = SCALES, **options: Any) -> Tensor:
    return multiscale_roi_align(features, boxes, size, scales, **options)


def good_boxes(call: OperatorCall) -> Tensor:
    """The argument ``boxes`` of the function."""
    boxes: Tensor = call.box_arguments(call.boxes("inside", dtype=torch.float32))["boxes"]
    return boxes


def pool(call: OperatorCall, **changes: Any) -> Tensor:
    """The function with good arguments but for these."""
    good = call.arguments(call.input_of(FEATURES), call.boxes("inside", dtype=torch.float32))
    result: Tensor = call.function(**{**good, **changes})
    return result


def with_map(call: OperatorCall, one: Any) -> dict[str, Any]:
    """This map, the first one of a pyramid, as an argument for ``pool``."""
    maps = call.input_of(FEATURES)
    return {call.input_name: [one, *maps[1:]] if isinstance(maps, list) else one}


def map_of(call: OperatorCall) -> str:
    """How errors name that map: a pattern."""
    return r"features\[0\]" if call.input_name == "features" else "input"


def modes_of(call: OperatorCall) -> list[dict[str, Any]]:
    return [{"mode": mode} for mode in MODES] if "mode" in call.options else [{}]


def still_works(call: OperatorCall) -> None:
    assert pool(call).shape == (3, 3, *call.output_size)
    assert_matches_oracle(RoIAlignCall((2, 2), 1.0, 2, True), FEATURES, BOXES)


# --- shapes of boxes


@each_function
@pytest.mark.parametrize("shape", [(3, 3), (3, 7), (5,), (1, 3, 5), ()])
def test_box_shape(call: OperatorCall, shape: tuple[int, ...]) -> None:
    """Code written for torchvision catches AssertionError, other code ValueError: the error is both."""
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
    for bad in (torch.zeros(2, columns + 1), torch.zeros(columns), torch.zeros(1, 2, columns)):
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
def test_input(call: OperatorCall) -> None:
    for shape in ((3, 7, 9), (7, 9), (1, 2, 3, 7, 9), ()):
        with pytest.raises(ValueError, match=rf"(?s){map_of(call)}.*\[N, C, H, W\]"):
            pool(call, **with_map(call, torch.zeros(shape)))
    for dtype in (torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=rf"(?s){map_of(call)}.*float"):
            pool(call, **with_map(call, torch.zeros(2, 3 * call.groups, 7, 9, dtype=dtype)))
    for other in (None, np.zeros((1, 2, 4, 4)), "features", [None], *([] if call.levels > 1 else [[FEATURES[0]]])):
        with pytest.raises(TypeError, match=call.input_name):
            pool(call, **{call.input_name: other})


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
def test_output_size(call: OperatorCall) -> None:
    for size in (0, -1, (0, 2), (2, 0), (2, -3), (1, 2, 3), ()):
        for rows in (call.boxes("inside"), call.boxes("inside")[:0]):
            with pytest.raises(ValueError, match=call.size_name):
                pool(call, **{**call.box_arguments(rows), call.size_name: size})
    for other in (2.5, "2", None, (2.0, 3.5), ("2", "2")):
        with pytest.raises(TypeError, match=call.size_name):
            pool(call, **{call.size_name: other})


@having("spatial_scale")
def test_spatial_scale(call: OperatorCall) -> None:
    for mode in modes_of(call):
        for scale in (0.0, -0.5, NAN, INF, -INF):
            for boxes in (good_boxes(call), good_boxes(call)[:0]):
                with pytest.raises(ValueError, match=r"(?s)spatial_scale.*above 0"):
                    pool(call, boxes=boxes, spatial_scale=scale, **mode)
        with pytest.raises(TypeError, match="spatial_scale"):
            pool(call, spatial_scale="1", **mode)


@having("mode")
def test_mode(call: OperatorCall) -> None:
    for mode in ("", "mean", "AVG", "median"):
        for rows in (call.boxes("inside"), call.boxes("inside")[:0]):
            with pytest.raises(ValueError, match=r"(?s)mode.*avg.*max"):
                pool(call, **call.box_arguments(rows), mode=mode)
    for other in (1, None):
        with pytest.raises(TypeError, match="mode"):
            pool(call, mode=other)
    with pytest.raises(ValueError, match=call.size_name):
        pool(call, **{call.size_name: 0}, mode="max")


@having("sampling_ratio")
def test_sampling_ratio(call: OperatorCall) -> None:
    for ratio in (1.5, "2", None):
        with pytest.raises(TypeError, match="sampling_ratio"):
            pool(call, sampling_ratio=ratio)


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


def test_gradcheck_of_boxes_in_a_list() -> None:
    features = random_tensor(2, 2, 6, 7)
    boxes = [
        torch.tensor([box], dtype=torch.float64, requires_grad=True)
        for box in ([1.2, 0.7, 4.1, 3.9], [0.3, 1.4, 5.2, 4.6])
    ]
    assert torch.autograd.gradcheck(lambda *lists: roi_align(features, list(lists), 2, 1.0, 2), boxes)


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
    """They are part of exported graphs and may meet other boxes there."""
    boxes = BOXES.clone()
    boxes[2, 0] = 2.0
    grad = torch.ones(3, 3, 2, 2)
    rule = ([1.0], [224.0, 4.0], 2, "roi_align_legacy")
    ops = torch.ops.roialign_ext
    calls: tuple[Callable[[], object], ...] = (
        lambda: ops._pool([FEATURES], boxes, None, None, None, [2, 2], *rule),
        lambda: ops._pool([FEATURES], boxes, boxes, None, None, [2, 2], *rule),
        lambda: ops._pool_max([FEATURES], boxes, [2, 2], *rule),
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


def test_crop_arguments() -> None:
    for method in ("", "cubic", "Bilinear"):
        with pytest.raises(ValueError, match=r"(?s)method.*bilinear.*nearest"):
            pool(CROP, method=method)
    for samples in (0, -1):
        with pytest.raises(ValueError, match=r"(?s)samples_per_bin.*positive"):
            pool(CROP, samples_per_bin=samples)
    wrong: tuple[tuple[str, Any], ...] = (
        ("method", 1), ("samples_per_bin", 1.5), ("samples_per_bin", "2"), ("extrapolation_value", "0"),
        ("extrapolation_value", None),
    )  # fmt: skip
    for name, value in wrong:
        with pytest.raises(TypeError, match=name):
            pool(CROP, **{name: value})


@pytest.mark.parametrize("aligned", [False, True])
def test_negative_rotated_size(aligned: bool) -> None:
    for column in (3, 4):
        boxes = ROTATED.clone()
        boxes[1, column] = -0.25
        with pytest.raises(ValueError, match=r"(?s)boxes.*\b1\b.*negative.*-0.25"):
            roi_align_rotated(FEATURES, boxes, 2, aligned=aligned)
        boxes[1, column] = -0.0
        assert roi_align_rotated(FEATURES, boxes, 2, aligned=aligned).shape == (3, 3, 2, 2)


def test_rotated_arguments() -> None:
    for unit in ("", "degrees", "rad"):
        with pytest.raises(ValueError, match=r"(?s)angle_unit.*degree.*radian"):
            roi_align_rotated(FEATURES, ROTATED, 2, angle_unit=unit)
    with pytest.raises(TypeError, match="angle_unit"):
        roi_align_rotated(FEATURES, ROTATED, 2, angle_unit=1)  # type: ignore[arg-type]


def test_levels() -> None:
    for features, scales in (([], []), ([FEATURES] * 9, [0.5] * 9)):
        with pytest.raises(ValueError, match=r"(?s)features.*1 to 8"):
            pyramid(features, scales=scales)
    bad = {
        "images": torch.zeros(3, 3, 4, 5),
        "channels": torch.zeros(2, 4, 4, 5),
        "images and channels": torch.zeros(1, 1, 4, 5),
    }
    for level in bad.values():
        with pytest.raises(ValueError, match=r"features\[1\]"):
            pyramid([FEATURES, level, FEATURES])
    with pytest.raises(ValueError, match=r"features\[2\]"):
        pyramid([FEATURES, FEATURES, FEATURES[0]])
    with pytest.raises(ValueError, match=r"(?s)features\[1\].*(cpu.*meta|meta.*cpu)"):
        pyramid([FEATURES, FEATURES.to("meta"), FEATURES])
    for dtype in (torch.float64, torch.float16):
        with pytest.raises(TypeError, match=r"features\[1\]"):
            pyramid([FEATURES, FEATURES.to(dtype), FEATURES])
    for other in (None, FEATURES.numpy(), [FEATURES, None, FEATURES]):
        with pytest.raises(TypeError, match="features"):
            pyramid(other)
    with pytest.raises(TypeError, match="features"):
        multiscale_roi_align(FEATURES, BOXES, 2, [1.0])  # type: ignore[arg-type]


def test_scales_of_levels() -> None:
    for scales in (SCALES[:2], [*SCALES, 0.1], []):
        with pytest.raises(ValueError, match=r"(?s)scales.*3"):
            pyramid(scales=scales)
    for rising in ([0.25, 0.5, 0.125], [0.25, 0.125, 0.2]):
        with pytest.raises(ValueError, match=r"(?s)scales.*finest.*coarsest"):
            pyramid(scales=rising)
    assert torch.equal(pyramid(scales=[0.25] * 3), pyramid([FEATURES], scales=[0.25]))
    for value in (0.0, -0.5, NAN, INF):
        with pytest.raises(ValueError, match=r"(?s)scales\[1\].*above 0"):
            pyramid(scales=[0.25, value, 0.1])
        with pytest.raises(ValueError, match="canonical_scale"):
            pyramid(canonical_scale=value)
    for value in (NAN, INF):
        with pytest.raises(ValueError, match="canonical_level"):
            pyramid(canonical_level=value)
    for other in (None, "scales", 0.5, ["1"]):
        with pytest.raises(TypeError, match="scales"):
            pyramid(scales=other)
    for name in ("canonical_scale", "canonical_level"):
        with pytest.raises(TypeError, match=name):
            pyramid(**{name: "4"})


def test_a_pyramid_of_one_level_names_its_arguments() -> None:
    with pytest.raises(ValueError, match=r"^scales\[0\]: expected .* got -1"):
        multiscale_roi_align([FEATURES], BOXES, 2, [-1.0])
    with pytest.raises(TypeError, match=r"(?i)^features\[0\]: expected .* got (torch\.)?int"):
        multiscale_roi_align([FEATURES.int()], BOXES, 2, [1.0])


# --- layouts, lists, messages


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, that nested and quantized tensors may change
@each_function
def test_layouts_that_kernels_do_not_know(call: OperatorCall) -> None:
    argument = map_of(call)
    nested = torch.nested.nested_tensor([FEATURES[0], FEATURES[1]])
    for features in (FEATURES.to_sparse(), FEATURES.to_mkldnn(), nested):
        with pytest.raises(ValueError, match=rf"^{argument}: expected a dense tensor"):
            pool(call, **with_map(call, features))
    with pytest.raises(TypeError, match=rf"(?i)^{argument}: expected .*float32.* got (torch\.)?quint8"):
        pool(call, **with_map(call, torch.quantize_per_tensor(FEATURES, 0.1, 0, torch.quint8)))
    with pytest.raises(ValueError, match=r"^boxes: expected a dense tensor"):
        pool(call, boxes=good_boxes(call).to_sparse())


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


@each_with_lists
def test_an_empty_list_of_boxes_lies_where_the_input_does(call: OperatorCall) -> None:
    out = pool(call, **{call.input_name: call.input_of(FEATURES[:0].to("meta"))}, boxes=[])
    assert out.shape == (0, 3, *call.output_size)
    assert out.is_meta


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
    for one, other in zip(tree_leaves(before), tree_leaves(arguments), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other
