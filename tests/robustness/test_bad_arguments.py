"""Does an error about the input, a size or an option name the argument, what was expected, and what came?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from roialign_ext import multiscale_roi_align, roi_align_rotated
from support.arguments import BOXES, FEATURES, good_boxes, map_of, modes_of, pool, with_map
from support.inputs import INF, NAN
from support.operator_calls import CropCall, OperatorCall, RotatedCall
from support.operators import each_function, having

ROTATED = RotatedCall().boxes("inside", dtype=torch.float32)
PYRAMID = [FEATURES, FEATURES[:, :, ::2, ::2], FEATURES[:, :, ::4, ::4]]
SCALES = [0.25, 0.125, 0.0625]
CROP = CropCall((2, 2))


def pyramid(features: Any = PYRAMID, boxes: Any = BOXES, size: Any = 2, scales: Any = SCALES, **options: Any) -> Tensor:
    return multiscale_roi_align(features, boxes, size, scales, **options)


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


# --- what single operators take


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
