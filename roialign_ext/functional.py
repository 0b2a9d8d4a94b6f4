"""The public operators as functions. Docstrings define them in words, docs/math.md in equations.

The compiled function of the same name is in csrc/public_ops.cpp, and derivatives start at ``_autograd.Differentiable``.

Int arguments also take a numpy integer or a tensor of one integer, float arguments any number. Neither takes a bool.
"""

from typing import Union

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from . import _box_warnings, _calls
from ._checks import (
    as_integer,
    as_number,
    as_pair,
    check_call,
    check_crop,
    check_flag,
    check_levels,
    check_text,
    tensors_of,
)
from ._overrides import call_override, check_corners, check_plain, check_rotated
from ._typing import BroadcastingList2
from .boxes import check_normalised_boxes, join_boxes


def own_list(maps: list[Tensor]) -> list[Tensor]:
    """A copy, because torch's stable ABI moves the tensors out of the list that TorchScript passes to a kernel.

    TorchScript would share one ``list(maps)`` among several calls.
    """
    return [feature_map for feature_map in maps]  # noqa: C416


# TorchScript reads these annotations: typing.Union, not the bar.
def roi_align(
    input: Tensor,
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    mode: str = "avg",
) -> Tensor:
    """RoIAlign: the mean or the maximum of bilinear samples in each bin of each box.

    A box is divided into ``output_size`` bins and each bin into a grid of samples. A sample interpolates the four
    pixels around it. Arguments, defaults and numbers of mode ``"avg"`` are those of ``torchvision.ops.roi_align``.

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels. Train boxes as a list, in which no
            optimizer step can move a batch index. Any dtype that ``input`` may have, the same or another: computed
            in float32, or in float64 if ``boxes`` or ``input`` is float64.
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each axis; if not positive, the length of the bin in map pixels,
            rounded up. A positive ratio times the bins of an axis is at most 2**31 - 1.
        aligned: ``True`` shifts boxes by minus half a map pixel, so that pixel centres lie at half-integers.
            ``False``, the older convention, shifts nothing and makes boxes at least one map pixel long.
        mode: ``"avg"`` for the mean of a bin's samples, ``"max"`` for the largest. With ``"max"`` at most 65535
            samples of a bin may lie on the map along one axis.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Samples more than one pixel off the map count
        as 0. Differentiable any number of times with respect to ``input`` and ``boxes``.

    Raises:
        BoxShapeError: ``boxes`` has the wrong shape. The class derives from ValueError and AssertionError.
        ValueError: another argument has a shape or a value not allowed above.
        TypeError: an argument has a type or dtype not allowed above.
        IndexError: a batch index is not a whole number in ``[0, N)``; the message names the row. A CUDA call does not
            wait for the boxes and returns NaN in that row instead; ``ROIALIGN_EXT_CHECK=1`` makes it raise.

    Source: He et al., "Mask R-CNN", 2017; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = boxes if isinstance(boxes, (list, tuple)) else (boxes,)
        if has_torch_function_variadic(input, *tensors):
            check_corners(tensors)
            return call_override(
                roi_align, (input, *tensors), input, boxes, output_size, spatial_scale, sampling_ratio, aligned, mode
            )
        boxes, output_size, spatial_scale, sampling_ratio = check_call(
            input, boxes, output_size, spatial_scale, sampling_ratio, aligned, mode
        )
        if _box_warnings.enabled:
            _box_warnings.warn_about_boxes(boxes, [input], [spatial_scale])
        return _calls.roi_align(
            input, join_boxes(boxes, input), output_size, spatial_scale, sampling_ratio, aligned, mode
        )
    joined = join_boxes(boxes, input)
    return torch.ops.roialign_ext.roi_align(input, joined, output_size, spatial_scale, sampling_ratio, aligned, mode)  # type: ignore[no-any-return]


def prroi_pool(
    input: Tensor,
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Precise RoI Pooling: the exact mean of the interpolated map over each bin of each box.

    A box is divided into ``output_size`` bins. The value of a bin is the integral of the interpolated map over the bin,
    divided by the bin's area. Nothing is sampled, so the result is continuously differentiable with respect to the box.
    Pixel ``(r, q)`` lies at map position ``(r, q)``, without a shift by half a pixel. Outside the map the surface
    falls to 0 over one pixel.

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels. Train boxes as a list, in which no
            optimizer step can move a batch index. Any dtype that ``input`` may have, the same or another: computed
            in float32, or in float64 if ``boxes`` or ``input`` is float64.
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        spatial_scale: map pixels per image pixel.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``; 0 for an empty or reversed box. Differentiable
        any number of times with respect to ``input``, twice with respect to ``boxes``.

    Raises:
        BoxShapeError: ``boxes`` has the wrong shape. The class derives from ValueError and AssertionError.
        ValueError: another argument has a shape or a value not allowed above.
        TypeError: an argument has a type or dtype not allowed above.
        IndexError: a batch index is not a whole number in ``[0, N)``; the message names the row. A CUDA call does not
            wait for the boxes and returns NaN in that row instead; ``ROIALIGN_EXT_CHECK=1`` makes it raise.
        NotImplementedError: in a third derivative with respect to the boxes.

    Source: Jiang et al., "Acquisition of Localization Confidence for Accurate Object Detection", 2018, and its
    reference implementation; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = boxes if isinstance(boxes, (list, tuple)) else (boxes,)
        if has_torch_function_variadic(input, *tensors):
            check_corners(tensors)
            return call_override(prroi_pool, (input, *tensors), input, boxes, output_size, spatial_scale)
        boxes, output_size, spatial_scale, _ = check_call(input, boxes, output_size, spatial_scale)
        if _box_warnings.enabled:
            _box_warnings.warn_about_boxes(boxes, [input], [spatial_scale])
        return _calls.prroi_pool(input, join_boxes(boxes, input), output_size, spatial_scale)
    joined = join_boxes(boxes, input)
    return torch.ops.roialign_ext.prroi_pool(input, joined, output_size, spatial_scale)  # type: ignore[no-any-return]


def roi_warp(
    input: Tensor,
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    mode: str = "avg",
) -> Tensor:
    """RoIWarp: RoIAlign of boxes whose corners are rounded to whole map pixels.

    The corners of a box are scaled to the map and rounded once, half away from zero. Bins, samples and interpolation
    then follow :func:`roi_align` with ``aligned=False``, without further rounding.

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels. Train boxes as a list, in which no
            optimizer step can move a batch index. Any dtype that ``input`` may have, the same or another: computed
            in float32, or in float64 if ``boxes`` or ``input`` is float64.
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each axis; if not positive, the length of the bin in map pixels,
            rounded up. A positive ratio times the bins of an axis is at most 2**31 - 1.
        mode: ``"avg"`` for the mean of a bin's samples, ``"max"`` for the largest. With ``"max"`` at most 65535
            samples of a bin may lie on the map along one axis.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable any number of times with respect
        to ``input`` and ``boxes``. Derivatives with respect to the boxes treat the rounding as the identity.

    Raises:
        BoxShapeError: ``boxes`` has the wrong shape. The class derives from ValueError and AssertionError.
        ValueError: another argument has a shape or a value not allowed above.
        TypeError: an argument has a type or dtype not allowed above.
        IndexError: a batch index is not a whole number in ``[0, N)``; the message names the row. A CUDA call does not
            wait for the boxes and returns NaN in that row instead; ``ROIALIGN_EXT_CHECK=1`` makes it raise.

    Source: Dai et al., "Instance-aware Semantic Segmentation via Multi-task Network Cascades", 2016, as described in
    the literature on RoI pooling; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = boxes if isinstance(boxes, (list, tuple)) else (boxes,)
        if has_torch_function_variadic(input, *tensors):
            check_corners(tensors)
            return call_override(
                roi_warp, (input, *tensors), input, boxes, output_size, spatial_scale, sampling_ratio, mode
            )
        boxes, output_size, spatial_scale, sampling_ratio = check_call(
            input, boxes, output_size, spatial_scale, sampling_ratio, mode=mode
        )
        if _box_warnings.enabled:
            _box_warnings.warn_about_boxes(boxes, [input], [spatial_scale])
        return _calls.roi_warp(input, join_boxes(boxes, input), output_size, spatial_scale, sampling_ratio, mode)
    joined = join_boxes(boxes, input)
    return torch.ops.roialign_ext.roi_warp(input, joined, output_size, spatial_scale, sampling_ratio, mode)  # type: ignore[no-any-return]


def roi_pool(
    input: Tensor,
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """RoI max pooling: the maximum of the whole map pixels in each bin of each box.

    The corners of a box are scaled to the map and rounded, half away from zero. The box contains both corner pixels
    and is at least one pixel long. Bins are rounded outwards to whole pixels, so neighbours may overlap, and clipped
    to the map. Arguments, defaults and numbers are those of ``torchvision.ops.roi_pool``.

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels. Train boxes as a list, in which no
            optimizer step can move a batch index. Any dtype that ``input`` may have, the same or another: computed
            in float32, or in float64 if ``boxes`` or ``input`` is float64.
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        spatial_scale: map pixels per image pixel.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. A bin without pixels gives 0; a NaN among its
        pixels is its maximum. Differentiable any number of times, with respect to ``input`` only.

    Raises:
        BoxShapeError: ``boxes`` has the wrong shape. The class derives from ValueError and AssertionError.
        ValueError: another argument has a shape or a value not allowed above, or a bin has more than 65535 rows or
            columns of the map.
        TypeError: an argument has a type or dtype not allowed above.
        IndexError: a batch index is not a whole number in ``[0, N)``; the message names the row. A CUDA call does not
            wait for the boxes and returns NaN in that row instead; ``ROIALIGN_EXT_CHECK=1`` makes it raise.
        NotImplementedError: in a derivative with respect to the boxes; the rounding leaves none.

    Source: Girshick, "Fast R-CNN", 2015; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = boxes if isinstance(boxes, (list, tuple)) else (boxes,)
        if has_torch_function_variadic(input, *tensors):
            check_corners(tensors)
            return call_override(roi_pool, (input, *tensors), input, boxes, output_size, spatial_scale)
        boxes, output_size, spatial_scale, _ = check_call(input, boxes, output_size, spatial_scale)
        if _box_warnings.enabled:
            _box_warnings.warn_about_boxes(boxes, [input], [spatial_scale])
        return _calls.roi_pool(input, join_boxes(boxes, input), output_size, spatial_scale)
    joined = join_boxes(boxes, input)
    return torch.ops.roialign_ext.roi_pool(input, joined, output_size, spatial_scale)  # type: ignore[no-any-return]


def ps_roi_align(
    input: Tensor,
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
) -> Tensor:
    """Position-sensitive RoIAlign: the mean of bilinear samples, each bin of a box from its own group of channels.

    Bins and samples are those of :func:`roi_align` with ``aligned=True``. Arguments, defaults and numbers are those of
    ``torchvision.ops.ps_roi_align``.

    Args:
        input: features ``[N, C * PH * PW, H, W]`` in any strides; float16, bfloat16, float32 or float64. Bin
            ``(ph, pw)`` of output channel ``c`` reads channel ``(c * PH + ph) * PW + pw``.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels. Train boxes as a list, in which no
            optimizer step can move a batch index. Any dtype that ``input`` may have, the same or another: computed
            in float32, or in float64 if ``boxes`` or ``input`` is float64.
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each axis; if not positive, the length of the bin in map pixels,
            rounded up. A positive ratio times the bins of an axis is at most 2**31 - 1.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Samples more than one pixel off the map count
        as 0. Differentiable any number of times with respect to ``input`` and ``boxes``.

    Raises:
        BoxShapeError: ``boxes`` has the wrong shape. The class derives from ValueError and AssertionError.
        ValueError: another argument has a shape or a value not allowed above, such as a number of channels that
            ``PH * PW`` does not divide.
        TypeError: an argument has a type or dtype not allowed above.
        IndexError: a batch index is not a whole number in ``[0, N)``; the message names the row. A CUDA call does not
            wait for the boxes and returns NaN in that row instead; ``ROIALIGN_EXT_CHECK=1`` makes it raise.

    Source: Li et al., "Light-Head R-CNN", 2017, and torchvision; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = boxes if isinstance(boxes, (list, tuple)) else (boxes,)
        if has_torch_function_variadic(input, *tensors):
            check_corners(tensors)
            return call_override(
                ps_roi_align, (input, *tensors), input, boxes, output_size, spatial_scale, sampling_ratio
            )
        boxes, output_size, spatial_scale, sampling_ratio = check_call(
            input, boxes, output_size, spatial_scale, sampling_ratio
        )
        if _box_warnings.enabled:
            _box_warnings.warn_about_boxes(boxes, [input], [spatial_scale])
        return _calls.ps_roi_align(input, join_boxes(boxes, input), output_size, spatial_scale, sampling_ratio)
    joined = join_boxes(boxes, input)
    return torch.ops.roialign_ext.ps_roi_align(input, joined, output_size, spatial_scale, sampling_ratio)  # type: ignore[no-any-return]


def ps_roi_pool(
    input: Tensor,
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Position-sensitive RoI pooling: the mean of whole map pixels, each bin of a box from its own group of channels.

    The corners of a box are scaled to the map and rounded, half away from zero. The box ends before its second corner
    and is at least one pixel long. Bins are rounded outwards to whole pixels, so neighbours may overlap, and clipped to
    the map without its last row and column. Arguments, defaults and numbers are those of
    ``torchvision.ops.ps_roi_pool``. The gradient is that of these numbers, while torchvision's also reaches the last
    row and column, which its forward does not read.

    Args:
        input: features ``[N, C * PH * PW, H, W]`` in any strides; float16, bfloat16, float32 or float64. Bin
            ``(ph, pw)`` of output channel ``c`` reads channel ``(c * PH + ph) * PW + pw``.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels. Train boxes as a list, in which no
            optimizer step can move a batch index. Any dtype that ``input`` may have, the same or another: computed
            in float32, or in float64 if ``boxes`` or ``input`` is float64.
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        spatial_scale: map pixels per image pixel.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``; 0 for a bin without pixels. Differentiable any
        number of times, with respect to ``input`` only.

    Raises:
        BoxShapeError: ``boxes`` has the wrong shape. The class derives from ValueError and AssertionError.
        ValueError: another argument has a shape or a value not allowed above, such as a number of channels that
            ``PH * PW`` does not divide.
        TypeError: an argument has a type or dtype not allowed above.
        IndexError: a batch index is not a whole number in ``[0, N)``; the message names the row. A CUDA call does not
            wait for the boxes and returns NaN in that row instead; ``ROIALIGN_EXT_CHECK=1`` makes it raise.
        NotImplementedError: in a derivative with respect to the boxes; the rounding leaves none.

    Source: Dai et al., "R-FCN: Object Detection via Region-based Fully Convolutional Networks", 2016, and torchvision;
    equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = boxes if isinstance(boxes, (list, tuple)) else (boxes,)
        if has_torch_function_variadic(input, *tensors):
            check_corners(tensors)
            return call_override(ps_roi_pool, (input, *tensors), input, boxes, output_size, spatial_scale)
        boxes, output_size, spatial_scale, _ = check_call(input, boxes, output_size, spatial_scale)
        if _box_warnings.enabled:
            _box_warnings.warn_about_boxes(boxes, [input], [spatial_scale])
        return _calls.ps_roi_pool(input, join_boxes(boxes, input), output_size, spatial_scale)
    joined = join_boxes(boxes, input)
    return torch.ops.roialign_ext.ps_roi_pool(input, joined, output_size, spatial_scale)  # type: ignore[no-any-return]


def crop_and_resize(
    input: Tensor,
    boxes: Tensor,
    box_indices: Tensor,
    crop_size: BroadcastingList2[int],
    method: str = "bilinear",
    extrapolation_value: float = 0.0,
    samples_per_bin: int = 1,
    mode: str = "avg",
) -> Tensor:
    """TensorFlow's crop_and_resize: resamples each box to one size, corner to corner.

    The outer samples of a crop lie on the corners of its box, the others at even steps between them. An axis with one
    sample takes the middle of the box. With ``samples_per_bin=n`` a crop ``n`` times finer along each axis is sampled
    and then pooled n x n, as in "sample 14 x 14, then pool to 7 x 7".

    Numbers are those of ``tf.image.crop_and_resize``, on ``[N, C, H, W]`` tensors. They differ only in last rows and
    columns that TensorFlow's rounding moves off the map.

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 4]`` of normalised rows ``(y1, x1, y2, x2)``: 0 is the centre of the first pixel and 1 the
            centre of the last, so ``y`` is map position ``y * (H - 1)``. ``y1 > y2`` flips the crop. Any dtype that
            ``input`` may have, the same or another: computed in float32, or in float64 if ``boxes`` or ``input`` is
            float64.
        box_indices: ``Tensor[K]`` of integers, the image of each box.
        crop_size: size ``(PH, PW)`` of a crop, or one int for both.
        method: ``"bilinear"`` interpolates the four pixels around a sample, ``"nearest"`` takes the nearest pixel.
        extrapolation_value: value of samples outside ``[0, H - 1]`` or ``[0, W - 1]``, map pixels.
        samples_per_bin: samples along each axis that are pooled to one output. Along an axis of the crop there are at
            most 2**31 - 1 samples.
        mode: pools these samples: ``"avg"`` for their mean, ``"max"`` for the largest.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable any number of times with respect
        to ``input`` and ``boxes``. With ``"nearest"`` derivatives with respect to the boxes are 0.

    Raises:
        BoxShapeError: ``boxes`` has the wrong shape. The class derives from ValueError and AssertionError.
        ValueError: another argument has a shape or a value not allowed above.
        TypeError: an argument has a type or dtype not allowed above.
        IndexError: an index lies outside ``[0, N)``; the message names the row. A CUDA call does not wait for the
            indices and returns NaN in that row instead; ``ROIALIGN_EXT_CHECK=1`` makes it raise.

    Source: ``tf.image.crop_and_resize``; for two samples per bin, Chen and Gupta, "An Implementation of Faster RCNN
    with Study for Region Sampling", 2017. Equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        if has_torch_function_variadic(input, boxes, box_indices):
            check_plain(boxes)
            return call_override(
                crop_and_resize, (input, boxes, box_indices), input, boxes, box_indices, crop_size, method,
                extrapolation_value, samples_per_bin, mode,
            )  # fmt: skip
        check_crop(boxes, box_indices, method)
        crop_size = as_pair("crop_size", crop_size)
        extrapolation_value = as_number("extrapolation_value", extrapolation_value)
        samples_per_bin = as_integer("samples_per_bin", samples_per_bin)
        check_call(input, boxes, 1, mode=mode)
        if _box_warnings.enabled:
            _box_warnings.warn_about_boxes(boxes, [input], [1.0], _box_warnings.NORMALISED)
    check_normalised_boxes(boxes, box_indices)
    return torch.ops.roialign_ext.crop_and_resize(  # type: ignore[no-any-return]
        input, boxes, box_indices, crop_size, method, extrapolation_value, samples_per_bin, mode
    )


def roi_align_rotated(
    input: Tensor,
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = True,
    clockwise: bool = False,
    angle_unit: str = "degree",
) -> Tensor:
    """Rotated RoIAlign: the mean of bilinear samples in each bin of each rotated box.

    The sample grid of :func:`roi_align` is centred on the box and rotated with it. Defaults and numbers are those of
    detectron2's ``ROIAlignRotated``; ``clockwise=True`` and ``angle_unit="radian"`` give those of mmcv.

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 6]`` of rows ``(batch index, cx, cy, w, h, angle)``, or a list with one ``Tensor[L, 5]`` of
            rows ``(cx, cy, w, h, angle)`` per image. Centre and size are in image pixels. Train boxes as a list, in
            which no optimizer step can move a batch index. Any dtype that ``input`` may have, the same or another:
            computed in float32, or in float64 if ``boxes`` or ``input`` is float64.
        output_size: bins ``(PH, PW)`` per box, or one int for both: PH along its height, PW along its width.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each side; if not positive, the length of the bin in map pixels, rounded
            up. A positive ratio times the bins of a side is at most 2**31 - 1.
        aligned: ``True`` shifts box centres by minus half a map pixel, so that pixel centres lie at half-integers.
            ``False``, the older convention, shifts nothing and makes boxes at least one map pixel long.
        clockwise: ``True`` if positive angles turn the box clockwise on the displayed image (y downwards), ``False`` if
            counter-clockwise.
        angle_unit: ``"degree"`` or ``"radian"``.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Samples more than one pixel off the map count
        as 0. Differentiable any number of times with respect to ``input``, twice with respect to the five numbers of a
        box.

    Raises:
        BoxShapeError: ``boxes`` has the wrong shape. The class derives from ValueError and AssertionError.
        ValueError: another argument has a shape or a value not allowed above, or a box has a negative width or height;
            the message names its row. On CUDA the row is NaN instead, as for a bad batch index.
        TypeError: an argument has a type or dtype not allowed above.
        IndexError: a batch index is not a whole number in ``[0, N)``; the message names the row. A CUDA call does not
            wait for the boxes and returns NaN in that row instead; ``ROIALIGN_EXT_CHECK=1`` makes it raise.
        NotImplementedError: in a third derivative with respect to the boxes.

    Source: detectron2's ``ROIAlignRotated`` and mmcv's ``RoIAlignRotated``; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = boxes if isinstance(boxes, (list, tuple)) else (boxes,)
        if has_torch_function_variadic(input, *tensors):
            check_rotated(tensors, clockwise, angle_unit)
            return call_override(
                roi_align_rotated, (input, *tensors), input, boxes, output_size, spatial_scale, sampling_ratio, aligned,
                clockwise, angle_unit,
            )  # fmt: skip
        boxes, output_size, spatial_scale, sampling_ratio = check_call(
            input, boxes, output_size, spatial_scale, sampling_ratio, aligned, columns=6
        )
        check_flag("clockwise", clockwise)
        check_text("angle_unit", angle_unit, "'degree' or 'radian'")
        if _box_warnings.enabled:
            _box_warnings.warn_about_boxes(boxes, [input], [spatial_scale], _box_warnings.ROTATED)
        return _calls.roi_align_rotated(
            input,
            join_boxes(boxes, input, 5, "cx, cy, w, h, angle"),
            output_size,
            spatial_scale,
            sampling_ratio,
            aligned,
            clockwise,
            angle_unit,
        )
    joined = join_boxes(boxes, input, 5, "cx, cy, w, h, angle")
    return torch.ops.roialign_ext.roi_align_rotated(  # type: ignore[no-any-return]
        input, joined, output_size, spatial_scale, sampling_ratio, aligned, clockwise, angle_unit
    )


def multiscale_roi_align(
    features: list[Tensor],
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    scales: list[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
    mode: str = "avg",
    canonical_scale: float = 224.0,
    canonical_level: float = 4.0,
) -> Tensor:
    """RoIAlign on all levels of a feature pyramid in one call: the size of a box selects its level.

    A box of ``A`` square image pixels goes to level ``floor(canonical_level + log2(sqrt(A) / canonical_scale))``,
    clamped to the finest level ``-log2(scales[0])`` and the coarsest ``-log2(scales[-1])``; level ``k`` has scale
    ``2 ** -k``. The box is pooled from the map of its level as by :func:`roi_align`. Level assignment and numbers are
    those of ``torchvision.ops.MultiScaleRoIAlign``.

    Args:
        features: a list of 1 to 8 maps ``[N, C, H_l, W_l]``, finest level first, in any strides. N, C and the dtype
            (float16, bfloat16, float32 or float64) are the same on all levels. Autocast does not cast them: cast levels
            of different dtypes yourself.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels. Train boxes as a list, in which no
            optimizer step can move a batch index. Any dtype that ``features`` may have, the same or another: computed
            in float32, or in float64 if ``boxes`` or ``features`` are float64.
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        scales: map pixels per image pixel, one number per level.
        sampling_ratio: samples per bin along each axis; if not positive, the length of the bin in map pixels,
            rounded up. A positive ratio times the bins of an axis is at most 2**31 - 1.
        aligned: ``True`` shifts boxes by minus half a map pixel, so that pixel centres lie at half-integers.
            ``False``, the older convention, shifts nothing and makes boxes at least one map pixel long.
        mode: ``"avg"`` for the mean of a bin's samples, ``"max"`` for the largest. With ``"max"`` at most 65535
            samples of a bin may lie on the map along one axis.
        canonical_scale: side in image pixels of a square box that goes to level ``canonical_level``.
        canonical_level: that level.

    Returns:
        ``[K, C, PH, PW]`` in the dtype of ``features`` and the memory format of the finest map. Differentiable any
        number of times with respect to every map and ``boxes``; the level of a box is a constant.

    Raises:
        BoxShapeError: ``boxes`` has the wrong shape. The class derives from ValueError and AssertionError.
        ValueError: another argument has a shape or a value not allowed above.
        TypeError: an argument has a type or dtype not allowed above.
        IndexError: a batch index is not a whole number in ``[0, N)``; the message names the row. A CUDA call does not
            wait for the boxes and returns NaN in that row instead; ``ROIALIGN_EXT_CHECK=1`` makes it raise.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", 2017, equation 1; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = (*tensors_of(features), *tensors_of(boxes))
        if has_torch_function_variadic(*tensors):
            check_corners(tensors_of(boxes))
            return call_override(
                multiscale_roi_align, tensors, features, boxes, output_size, scales, sampling_ratio, aligned, mode,
                canonical_scale, canonical_level,
            )  # fmt: skip
        scales = check_levels(features, scales)
        boxes, output_size, _, sampling_ratio = check_call(
            features[0], boxes, output_size, 1.0, sampling_ratio, aligned, mode
        )
        canonical_scale = as_number("canonical_scale", canonical_scale)
        canonical_level = as_number("canonical_level", canonical_level)
        if _box_warnings.enabled:
            _box_warnings.warn_about_boxes(boxes, features, scales)
    joined = join_boxes(boxes, features[0])
    return torch.ops.roialign_ext.multiscale_roi_align(  # type: ignore[no-any-return]
        own_list(features), joined, output_size, scales, sampling_ratio, aligned, mode, canonical_scale, canonical_level
    )


def multiscale_roi_align_rotated(
    features: list[Tensor],
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    scales: list[float],
    sampling_ratio: int = -1,
    aligned: bool = True,
    clockwise: bool = False,
    angle_unit: str = "degree",
    canonical_scale: float = 224.0,
    canonical_level: float = 4.0,
) -> Tensor:
    """Rotated RoIAlign on all levels of a feature pyramid in one call: the size of a box selects its level.

    A box of width ``w`` and height ``h`` goes to the level of an upright box of as many square image pixels in
    :func:`multiscale_roi_align`, ``A = w * h``. It is pooled from the map of its level as by
    :func:`roi_align_rotated`. The numbers are those of detectron2's ``ROIPooler`` of rotated boxes, except within a
    millionth of the border between two levels.

    Args:
        features: a list of 1 to 8 maps ``[N, C, H_l, W_l]``, finest level first, in any strides. N, C and the dtype
            (float16, bfloat16, float32 or float64) are the same on all levels. Autocast does not cast them: cast levels
            of different dtypes yourself.
        boxes: ``Tensor[K, 6]`` of rows ``(batch index, cx, cy, w, h, angle)``, or a list with one ``Tensor[L, 5]`` of
            rows ``(cx, cy, w, h, angle)`` per image. Centre and size are in image pixels. Train boxes as a list, in
            which no optimizer step can move a batch index. Any dtype that ``features`` may have, the same or another:
            computed in float32, or in float64 if ``boxes`` or ``features`` are float64.
        output_size: bins ``(PH, PW)`` per box, or one int for both: PH along its height, PW along its width.
        scales: map pixels per image pixel, one number per level.
        sampling_ratio: samples per bin along each side; if not positive, the length of the bin in map pixels, rounded
            up. A positive ratio times the bins of a side is at most 2**31 - 1.
        aligned: ``True`` shifts box centres by minus half a map pixel, so that pixel centres lie at half-integers.
            ``False``, the older convention, shifts nothing and makes boxes at least one map pixel long.
        clockwise: ``True`` if positive angles turn the box clockwise on the displayed image (y downwards), ``False`` if
            counter-clockwise.
        angle_unit: ``"degree"`` or ``"radian"``.
        canonical_scale: side in image pixels of a square box that goes to level ``canonical_level``.
        canonical_level: that level.

    Returns:
        ``[K, C, PH, PW]`` in the dtype of ``features`` and the memory format of the finest map. Differentiable any
        number of times with respect to every map, twice with respect to the five numbers of a box; the level of a box
        is a constant.

    Raises:
        BoxShapeError: ``boxes`` has the wrong shape. The class derives from ValueError and AssertionError.
        ValueError: another argument has a shape or a value not allowed above, or a box has a negative width or height;
            the message names its row. On CUDA the row is NaN instead, as for a bad batch index.
        TypeError: an argument has a type or dtype not allowed above.
        IndexError: a batch index is not a whole number in ``[0, N)``; the message names the row. A CUDA call does not
            wait for the boxes and returns NaN in that row instead; ``ROIALIGN_EXT_CHECK=1`` makes it raise.
        NotImplementedError: in a third derivative with respect to the boxes.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", 2017, equation 1, and detectron2's
    ``ROIPooler``; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = (*tensors_of(features), *tensors_of(boxes))
        if has_torch_function_variadic(*tensors):
            check_rotated(tensors_of(boxes), clockwise, angle_unit)
            return call_override(
                multiscale_roi_align_rotated, tensors, features, boxes, output_size, scales, sampling_ratio, aligned,
                clockwise, angle_unit, canonical_scale, canonical_level,
            )  # fmt: skip
        scales = check_levels(features, scales)
        boxes, output_size, _, sampling_ratio = check_call(
            features[0], boxes, output_size, 1.0, sampling_ratio, aligned, columns=6
        )
        check_flag("clockwise", clockwise)
        check_text("angle_unit", angle_unit, "'degree' or 'radian'")
        canonical_scale = as_number("canonical_scale", canonical_scale)
        canonical_level = as_number("canonical_level", canonical_level)
        if _box_warnings.enabled:
            _box_warnings.warn_about_boxes(boxes, features, scales, _box_warnings.ROTATED)
    joined = join_boxes(boxes, features[0], 5, "cx, cy, w, h, angle")
    return torch.ops.roialign_ext.multiscale_roi_align_rotated(  # type: ignore[no-any-return]
        own_list(features), joined, output_size, scales, sampling_ratio, aligned, clockwise, angle_unit,
        canonical_scale, canonical_level,
    )  # fmt: skip
