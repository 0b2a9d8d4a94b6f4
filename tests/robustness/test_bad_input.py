"""Bad arguments of every operator raise an exception that names the argument, what was wanted, what came."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import roialign_ext as package
from roialign_ext import (
    BoxShapeError,
    RoIAlign,
    crop_and_resize,
    multiscale_roi_align,
    multiscale_roi_align_rotated,
    roi_align,
    roi_align_rotated,
    roi_pool,
)
from support.inputs import DTYPES, INF, MODES, NAN, random_tensor
from support.operators import FIRST, CropCall, RoIAlignCall, RotatedCall
from support.tolerance import assert_matches_oracle

FEATURES = random_tensor(2, 3, 7, 9, seed=1, dtype=torch.float32)
BOXES = RoIAlignCall().boxes("inside", dtype=torch.float32)
ROTATED = RotatedCall().boxes("inside", dtype=torch.float32)
CROPS = CropCall().boxes("inside", dtype=torch.float32)[:, 1:]
INDICES = torch.tensor([1, 0, 1])
PYRAMID = [FEATURES, FEATURES[:, :, ::2, ::2], FEATURES[:, :, ::4, ::4]]
SCALES = [0.25, 0.125, 0.0625]

Call = Callable[..., Tensor]


def crop(features: Any = FEATURES, boxes: Any = CROPS, size: Any = 2, **arguments: Any) -> Tensor:
    indices = arguments.pop("box_indices", INDICES)
    return crop_and_resize(features, boxes, indices, size, **arguments)


def pyramid(features: Any = FEATURES, boxes: Any = BOXES, size: Any = 2, **arguments: Any) -> Tensor:
    features = [features, *PYRAMID[1:]] if isinstance(features, Tensor) else features
    scales, function = arguments.pop("scales", SCALES), arguments.pop("function", multiscale_roi_align)
    result: Tensor = function(features, boxes, size, scales, **arguments)
    return result


def position_sensitive(function: Call) -> Call:
    """With a channel for each of 2 x 2 bins."""

    def call(features: Any = FEATURES, *arguments: Any, **options: Any) -> Tensor:
        has_channels = isinstance(features, Tensor) and features.layout == torch.strided and not features.is_nested
        has_channels = has_channels and not features.is_quantized and features.dim() == 4
        return function(features.repeat(1, 4, 1, 1) if has_channels else features, *arguments, **options)

    return call


EVERY: dict[str, Call] = {
    **{name: call.function for name, call in FIRST.items()},
    **{name: position_sensitive(call.function) for name, call in FIRST.items() if call.groups > 1},
    "crop_and_resize": crop,
    "multiscale_roi_align": pyramid,
    "multiscale_roi_align_rotated": partial(pyramid, function=multiscale_roi_align_rotated),
}
"""Functions of features, boxes, a size and keyword arguments."""


def having(option: str) -> list[str]:
    return [name for name, call in FIRST.items() if option in call.options]


LISTS = [name for name in EVERY if name != "crop_and_resize"]
"""The operators that take lists of boxes."""


def good_boxes(name: str) -> Tensor:
    boxes = FIRST[name].boxes("inside", dtype=torch.float32)
    return boxes[:, 1:] if name == "crop_and_resize" else boxes


def input_of(name: str) -> str:
    return "features" if name.startswith("multiscale") else "input"


def map_of(name: str) -> str:
    """A pattern."""
    return r"features\[0\]" if name.startswith("multiscale") else "input"


def size_of(name: str) -> str:
    return "crop_size" if name == "crop_and_resize" else "output_size"


def still_works(name: str = "roi_align") -> None:
    assert EVERY[name](FEATURES, good_boxes(name), 2).shape == (3, 3, 2, 2)
    assert_matches_oracle(RoIAlignCall((2, 2), 1.0, 2, True), FEATURES, BOXES)


# --- shapes of boxes


@pytest.mark.parametrize("name", list(EVERY))
@pytest.mark.parametrize("shape", [(3, 3), (3, 7), (5,), (1, 3, 5), ()])
def test_box_shape(name: str, shape: tuple[int, ...]) -> None:
    """Code written for torchvision catches AssertionError, other code ValueError: it is both."""
    columns = rf"\[K, {good_boxes(name).shape[1]}\]"
    came = r",\s*".join(str(length) for length in shape)
    for kind in (BoxShapeError, ValueError, AssertionError):
        with pytest.raises(kind, match=rf"(?s)boxes.*{columns}.*{came}"):
            EVERY[name](FEATURES, torch.zeros(shape), 2)
    still_works(name)


@pytest.mark.parametrize("shape", [(3, 4), (3, 6), (0, 4)])
def test_box_shape_of_roi_align(shape: tuple[int, int]) -> None:
    """Columns of other operators; of a layer too, and without boxes."""
    for call in (lambda boxes: roi_align(FEATURES, boxes, 2), lambda boxes: RoIAlign(2, 1.0, 2)(FEATURES, boxes)):
        with pytest.raises(BoxShapeError, match=rf"(?s)boxes.*\[K, 5\].*{shape[0]},\s*{shape[1]}"):
            call(torch.zeros(shape))
    assert issubclass(BoxShapeError, ValueError)
    assert issubclass(BoxShapeError, AssertionError)


@pytest.mark.parametrize("name", LISTS)
def test_list_of_boxes(name: str) -> None:
    columns = good_boxes(name).shape[1] - 1
    good = torch.zeros(1, columns)
    for bad in (torch.zeros(2, columns + 1), torch.zeros(columns), torch.zeros(1, 2, columns)):
        came = r",\s*".join(str(length) for length in bad.shape)
        for boxes in ([good, bad], (good, bad), [bad, torch.zeros(0, columns)]):
            with pytest.raises(BoxShapeError, match=rf"(?s)boxes.*\[L, {columns}\].*{came}"):
                EVERY[name](FEATURES, boxes, 2)
    for length in (0, 1, 3):
        with pytest.raises(ValueError, match=rf"(?s)boxes.*2.*{length}"):
            EVERY[name](FEATURES, [good] * length, 2)
    for dtype in (torch.int32, torch.int64, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match="boxes"):
            EVERY[name](FEATURES, [torch.zeros(2, columns, dtype=dtype)] * 2, 2)
    with pytest.raises(TypeError, match="boxes"):
        EVERY[name](FEATURES, [np.zeros((2, columns))] * 2, 2)


def test_crop_takes_no_list() -> None:
    with pytest.raises(TypeError, match=r"(?s)boxes.*\[K, 4\].*list"):
        crop(boxes=[CROPS])


# --- values and types that several operators take


@pytest.mark.parametrize("name", list(EVERY))
def test_input(name: str) -> None:
    call, boxes = EVERY[name], good_boxes(name)
    argument = map_of(name)
    other_list = [None] if name.startswith("multiscale") else [FEATURES[0]]
    for shape in ((3, 7, 9), (7, 9), (1, 2, 3, 7, 9), ()):
        with pytest.raises(ValueError, match=rf"(?s){argument}.*\[N, C, H, W\]"):
            call(torch.zeros(shape), boxes, 2)
    for dtype in (torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=rf"(?s){argument}.*float"):
            call(torch.zeros(2, 3, 7, 9, dtype=dtype), boxes, 2)
    for other in (None, np.zeros((1, 2, 4, 4)), "features", other_list):
        with pytest.raises(TypeError, match=input_of(name)):
            call(other, boxes, 2)


@pytest.mark.parametrize("name", list(EVERY))
def test_boxes(name: str) -> None:
    call, boxes = EVERY[name], good_boxes(name)
    for dtype in (torch.int32, torch.int64, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=r"(?s)boxes.*float"):
            call(FEATURES, torch.zeros_like(boxes, dtype=dtype), 2)
    for other in (None, "boxes", 3, boxes.numpy(), boxes.tolist(), [[0, 1, 2, 3, 4]]):
        with pytest.raises(TypeError, match="boxes"):
            call(FEATURES, other, 2)


@pytest.mark.parametrize("name", list(EVERY))
def test_output_size(name: str) -> None:
    call, boxes, argument = EVERY[name], good_boxes(name), size_of(name)
    for size in (0, -1, (0, 2), (2, 0), (2, -3), (1, 2, 3), ()):
        for some in (boxes, boxes[:0]):
            with pytest.raises(ValueError, match=argument):
                call(FEATURES, some, size, **({"box_indices": INDICES[: len(some)]} if call is crop else {}))
    for other in (2.5, "2", None, (2.0, 3.5), ("2", "2")):
        with pytest.raises(TypeError, match=argument):
            call(FEATURES, boxes, other)


@pytest.mark.parametrize("name", having("spatial_scale"))
def test_spatial_scale(name: str) -> None:
    for mode in ({"mode": mode} for mode in MODES) if "mode" in FIRST[name].options else ({},):
        for scale in (0.0, -0.5, NAN, INF, -INF):
            with pytest.raises(ValueError, match=r"(?s)spatial_scale.*above 0"):
                EVERY[name](FEATURES, good_boxes(name), 2, scale, **mode)
            with pytest.raises(ValueError, match="spatial_scale"):
                EVERY[name](FEATURES, good_boxes(name)[:0], 2, scale, **mode)
        with pytest.raises(TypeError, match="spatial_scale"):
            EVERY[name](FEATURES, good_boxes(name), 2, "1", **mode)


@pytest.mark.parametrize("name", having("mode"))
def test_mode(name: str) -> None:
    for mode in ("", "mean", "AVG", "median"):
        with pytest.raises(ValueError, match=r"(?s)mode.*avg.*max"):
            EVERY[name](FEATURES, good_boxes(name), 2, mode=mode)
        if name != "crop_and_resize":
            with pytest.raises(ValueError, match="mode"):
                EVERY[name](FEATURES, good_boxes(name)[:0], 2, mode=mode)
    for other in (1, None):
        with pytest.raises(TypeError, match="mode"):
            EVERY[name](FEATURES, good_boxes(name), 2, mode=other)
    with pytest.raises(ValueError, match=size_of(name)):
        EVERY[name](FEATURES, good_boxes(name), 0, mode="max")


@pytest.mark.parametrize("name", having("sampling_ratio"))
def test_sampling_ratio(name: str) -> None:
    for ratio in (1.5, "2", None):
        with pytest.raises(TypeError, match="sampling_ratio"):
            EVERY[name](FEATURES, good_boxes(name), 2, sampling_ratio=ratio)


@pytest.mark.parametrize("name", list(EVERY))
def test_devices_differ(name: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)boxes.*(cpu.*meta|meta.*cpu)"):
        EVERY[name](FEATURES, good_boxes(name).to("meta"), 2)
    features = [level.to("meta") for level in PYRAMID] if name.startswith("multiscale") else FEATURES.to("meta")
    with pytest.raises(ValueError, match=r"(?s)boxes.*(cpu.*meta|meta.*cpu)"):
        EVERY[name](features, good_boxes(name), 2)


# --- the batch index


@pytest.mark.parametrize("index", [-1.0, 2.0, 1e9, 1e30, 0.5, NAN, INF, -INF, -0.25])
@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("box_dtype", [torch.float32, torch.float64])
def test_batch_index(index: float, name: str, box_dtype: torch.dtype) -> None:
    """In any row, with gradients or without, in either mode, and of maps without channels."""
    options = [{"mode": mode} for mode in MODES] if "mode" in FIRST[name].options else [{}]
    for row in (0, 2, 5):
        boxes = good_boxes(name).repeat(2, 1).to(box_dtype)
        boxes[row, 0] = index
        for option in options:
            for wanted in (False, True):
                leaves = FEATURES.clone().requires_grad_(wanted), boxes.clone().requires_grad_(wanted)
                with pytest.raises(IndexError, match=rf"(?s)boxes.*\b{row}\b"):
                    EVERY[name](*leaves, 2, **option)
        empty = [level[:, :0] for level in PYRAMID] if name.startswith("multiscale") else FEATURES[:, :0]
        with pytest.raises(IndexError, match="boxes"):
            EVERY[name](empty, boxes, 2)
    still_works(name)


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
        crop(box_indices=indices)
    with pytest.raises(IndexError, match=r"box_indices: the index must be .*\[0, 2\)"):
        torch.func.vmap(lambda features: crop(features, CROPS + features.sum() * 0, box_indices=indices))(
            FEATURES[None]
        )


def test_box_indices() -> None:
    for dtype in (torch.float32, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=r"(?s)box_indices.*integer"):
            crop(box_indices=torch.zeros(3, dtype=dtype))
    for shape in ((2,), (4,), (3, 1), (), (1, 3)):
        with pytest.raises(ValueError, match=r"(?s)box_indices.*(3|K)"):
            crop(box_indices=torch.zeros(shape, dtype=torch.int64))
    for other in (None, [0, 1, 0], np.zeros(3, np.int64), 1):
        with pytest.raises(TypeError, match="box_indices"):
            crop(box_indices=other)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        assert torch.equal(crop(box_indices=INDICES.to(dtype)), crop())


def test_crop_arguments() -> None:
    for method in ("", "cubic", "Bilinear"):
        with pytest.raises(ValueError, match=r"(?s)method.*bilinear.*nearest"):
            crop(method=method)
    for samples in (0, -1):
        with pytest.raises(ValueError, match=r"(?s)samples_per_bin.*positive"):
            crop(samples_per_bin=samples)
    wrong: tuple[tuple[str, Any], ...] = (
        ("method", 1), ("samples_per_bin", 1.5), ("samples_per_bin", "2"), ("extrapolation_value", "0"),
        ("extrapolation_value", None),
    )  # fmt: skip
    for name, value in wrong:
        with pytest.raises(TypeError, match=name):
            crop(**{name: value})


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
@pytest.mark.parametrize("name", list(EVERY))
def test_layouts_that_kernels_do_not_know(name: str) -> None:
    call, boxes = EVERY[name], good_boxes(name)
    argument = map_of(name)
    nested = torch.nested.nested_tensor([FEATURES[0], FEATURES[1]])
    for features in (FEATURES.to_sparse(), FEATURES.to_mkldnn(), nested):
        with pytest.raises(ValueError, match=rf"^{argument}: expected a dense tensor"):
            call(features, boxes, 2)
    with pytest.raises(TypeError, match=rf"(?i)^{argument}: expected .*float32.* got (torch\.)?quint8"):
        call(torch.quantize_per_tensor(FEATURES, 0.1, 0, torch.quint8), boxes, 2)
    with pytest.raises(ValueError, match=r"^boxes: expected a dense tensor"):
        call(FEATURES, boxes.to_sparse(), 2)


@pytest.mark.parametrize("name", list(EVERY))
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bool])
def test_dtypes_of_boxes(name: str, dtype: torch.dtype) -> None:
    message = r"^boxes: expected .*float16, bfloat16, float32 or float64 tensor"
    boxes = good_boxes(name).to(dtype)
    with pytest.raises(TypeError, match=message):
        EVERY[name](FEATURES, boxes, 2)
    if name == "roi_align_rotated":
        with pytest.raises(TypeError, match=message):
            roi_align_rotated(FEATURES, boxes, 2, clockwise=True)
    if name != "crop_and_resize":
        with pytest.raises(TypeError, match=message + r"s, got .* at index 0"):
            EVERY[name](FEATURES, [boxes[:, 1:], boxes[:, 1:]], 2)


def test_boxes_of_a_list_on_another_device() -> None:
    with pytest.raises(ValueError, match="boxes: expected tensors on cpu like input, got one on meta at index 1"):
        roi_pool(FEATURES, [BOXES[:, 1:], BOXES[:, 1:].to("meta")], 2)


@pytest.mark.parametrize("name", [name for name in LISTS if not name.startswith("multiscale")])
def test_an_empty_list_of_boxes_lies_where_the_input_does(name: str) -> None:
    out = EVERY[name](FEATURES[:0].to("meta"), [], 2)
    assert out.shape == (0, 3, 2, 2)
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


@pytest.mark.parametrize("name", LISTS)
def test_no_boxes(name: str) -> None:
    """Rows or lists of them; the index is still checked where there are no channels."""
    columns = good_boxes(name).shape[1]
    for dtype in DTYPES:
        features = [level.to(dtype) for level in PYRAMID]
        given = features if name.startswith("multiscale") else features[0]
        out = EVERY[name](given, torch.zeros(0, columns), 2)
        assert out.shape == (0, 3, 2, 2)
        assert out.dtype == dtype
    assert EVERY[name](FEATURES, [torch.zeros(0, columns - 1)] * 2, 2).shape == (0, 3, 2, 2)


def test_arguments_are_left_alone() -> None:
    inputs = FEATURES, BOXES, ROTATED, CROPS, INDICES
    before = [tensor.clone() for tensor in inputs]
    for name, call in EVERY.items():
        given = ROTATED if name.endswith("rotated") else CROPS if name == "crop_and_resize" else BOXES
        for mode in ({"mode": mode} for mode in MODES) if name in having("mode") else ({},):
            assert call(FEATURES, given, 2, **mode).data_ptr() != FEATURES.data_ptr()
    for one, other in zip(before, inputs, strict=True):
        assert torch.equal(one, other)
