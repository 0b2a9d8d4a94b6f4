"""The public operators as functions. The docstrings are the definition in words, docs/math.md has the equations.

An int may be numpy's or a tensor of one integer, a float any number, and neither may be a bool.
"""

from typing import Union

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from ._checks import (
    as_integer,
    as_number,
    as_pair,
    as_tensor_or_list,
    check_call,
    check_crop,
    check_flag,
    check_levels,
    check_text,
    listed,
)
from ._overrides import call_override, check_corners, check_plain, check_rotated
from ._typing import BroadcastingList2
from .boxes import boxes_to_rows, check_normalised_boxes


# The annotations are in the form that TorchScript reads.
def roi_align(
    input: Tensor,
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    mode: str = "avg",
) -> Tensor:
    """Pools a feature map over boxes by the mean or the maximum of bilinear samples: RoIAlign.

    Each box is cut into ``output_size`` bins, each bin into a grid of samples, each sample interpolates the four
    pixels around it. Arguments, defaults and numbers of mode ``"avg"`` are those of ``torchvision.ops.roi_align``.

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image, the form for boxes that are trained: no step moves an index. Coordinates
            are in image pixels and are read as float32 (as float64 where they or ``input`` are float64), whatever the
            dtype of ``input`` is.
        output_size: bins ``(PH, PW)`` of a box, or one number for both.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each axis, at most 2**31 - 1 in all bins together; if not positive, as
            many as the bin is map pixels long, rounded up.
        aligned: ``True`` puts pixel centres at half-integers, as a shift of boxes by half a map pixel. ``False`` is
            the older convention, without shift and with boxes at least one map pixel long.
        mode: ``"avg"``, the mean of the samples, or ``"max"``, the largest of them, of which at most 65535 of a bin may
            lie on the map along one axis.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable in ``input`` and ``boxes``, any
        number of times. Samples outside the map by more than one pixel count as 0.

    Raises:
        BoxShapeError: boxes of the wrong shape (a ValueError and an AssertionError).
        ValueError: any other shape or value that the arguments above do not allow.
        TypeError: a dtype that they do not allow.
        IndexError: a batch index that is not a whole number in ``[0, N)``; the message names the row. On CUDA,
            which does not wait for the boxes, the row of the result is NaN, unless ``ROIALIGN_EXT_CHECK=1`` is set.

    Source: He et al., "Mask R-CNN", 2017; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = boxes if isinstance(boxes, (list, tuple)) else (boxes,)
        if has_torch_function_variadic(input, *tensors):
            check_corners(tensors)
            return call_override(
                roi_align, (input, *tensors), input, boxes, output_size, spatial_scale, sampling_ratio, aligned, mode
            )
        output_size, spatial_scale, sampling_ratio = check_call(
            input, boxes, output_size, spatial_scale, sampling_ratio, aligned, mode
        )
        boxes = as_tensor_or_list(boxes)
    rows = boxes_to_rows(boxes, input)
    return torch.ops.roialign_ext.roi_align(input, rows, output_size, spatial_scale, sampling_ratio, aligned, mode)  # type: ignore[no-any-return]


def prroi_pool(
    input: Tensor,
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Pools a feature map over boxes by the exact mean of its bilinear surface: Precise RoI Pooling.

    Each box is cut into ``output_size`` bins. A bin's value is the integral of the interpolated map over the bin,
    divided by the bin's area: nothing is sampled, so the result is continuously differentiable in the box. The surface
    has the value of pixel ``(r, q)`` at map position ``(r, q)``, without a shift by half a pixel, and fades to 0 over
    one pixel outside the map.

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image, the form for boxes that are trained: no step moves an index. Coordinates
            are in image pixels and are read as float32 (as float64 where they or ``input`` are float64), whatever the
            dtype of ``input`` is.
        output_size: bins ``(PH, PW)`` of a box, or one number for both.
        spatial_scale: map pixels per image pixel.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable in ``input`` and ``boxes``,
        twice in the boxes. A box without area, or reversed, gives 0.

    Raises:
        BoxShapeError: boxes of the wrong shape (a ValueError and an AssertionError).
        ValueError: any other shape or value that the arguments above do not allow.
        TypeError: a dtype that they do not allow.
        IndexError: a batch index that is not a whole number in ``[0, N)``; the message names the row. On CUDA,
            which does not wait for the boxes, the row of the result is NaN, unless ``ROIALIGN_EXT_CHECK=1`` is set.
        NotImplementedError: on differentiating by the boxes a third time.

    Source: Jiang et al., "Acquisition of Localization Confidence for Accurate Object Detection", 2018, and its
    reference implementation; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = boxes if isinstance(boxes, (list, tuple)) else (boxes,)
        if has_torch_function_variadic(input, *tensors):
            check_corners(tensors)
            return call_override(prroi_pool, (input, *tensors), input, boxes, output_size, spatial_scale)
        output_size, spatial_scale, _ = check_call(input, boxes, output_size, spatial_scale)
        boxes = as_tensor_or_list(boxes)
    rows = boxes_to_rows(boxes, input)
    return torch.ops.roialign_ext.prroi_pool(input, rows, output_size, spatial_scale)  # type: ignore[no-any-return]


def roi_warp(
    input: Tensor,
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    mode: str = "avg",
) -> Tensor:
    """Pools a feature map over boxes that are rounded to whole map pixels, then interpolated: RoIWarp.

    The corners of a box are scaled to the map and rounded once, half away from zero. From there on it is
    :func:`roi_align` with ``aligned=False``: bins, samples and interpolation without further rounding.

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image, the form for boxes that are trained: no step moves an index. Coordinates
            are in image pixels and are read as float32 (as float64 where they or ``input`` are float64), whatever the
            dtype of ``input`` is.
        output_size: bins ``(PH, PW)`` of a box, or one number for both.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each axis, at most 2**31 - 1 in all bins together; if not positive, as
            many as the bin is map pixels long, rounded up.
        mode: ``"avg"``, the mean of the samples, or ``"max"``, the largest of them, of which at most 65535 of a bin may
            lie on the map along one axis.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable in ``input`` and ``boxes``, any
        number of times; derivatives by the boxes pass straight through the rounding, as if it were not there.

    Raises:
        BoxShapeError: boxes of the wrong shape (a ValueError and an AssertionError).
        ValueError: any other shape or value that the arguments above do not allow.
        TypeError: a dtype that they do not allow.
        IndexError: a batch index that is not a whole number in ``[0, N)``; the message names the row. On CUDA,
            which does not wait for the boxes, the row of the result is NaN, unless ``ROIALIGN_EXT_CHECK=1`` is set.

    Source: Dai et al., "Instance-aware Semantic Segmentation via Multi-task Network Cascades", 2016, as the literature
    on RoI pooling describes it; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = boxes if isinstance(boxes, (list, tuple)) else (boxes,)
        if has_torch_function_variadic(input, *tensors):
            check_corners(tensors)
            return call_override(
                roi_warp, (input, *tensors), input, boxes, output_size, spatial_scale, sampling_ratio, mode
            )
        output_size, spatial_scale, sampling_ratio = check_call(
            input, boxes, output_size, spatial_scale, sampling_ratio, mode=mode
        )
        boxes = as_tensor_or_list(boxes)
    rows = boxes_to_rows(boxes, input)
    return torch.ops.roialign_ext.roi_warp(input, rows, output_size, spatial_scale, sampling_ratio, mode)  # type: ignore[no-any-return]


def roi_pool(
    input: Tensor,
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Pools a feature map over boxes by the maximum of whole pixels: RoI max pooling.

    The corners of a box are scaled to the map and rounded, half away from zero; the box is at least one pixel long and
    contains both corners. Its bins are rounded outwards to whole pixels, so that neighbours may overlap, and clipped to
    the map. Arguments, defaults and numbers are those of ``torchvision.ops.roi_pool``.

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image, the form for boxes that are trained: no step moves an index. Coordinates
            are in image pixels and are read as float32 (as float64 where they or ``input`` are float64), whatever the
            dtype of ``input`` is.
        output_size: bins ``(PH, PW)`` of a box, or one number for both.
        spatial_scale: map pixels per image pixel.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable in ``input`` alone. A bin without
        pixels gives 0, a NaN among its pixels is its maximum.

    Raises:
        BoxShapeError: boxes of the wrong shape (a ValueError and an AssertionError).
        ValueError: any other shape or value that the arguments above do not allow; a bin of more than 65535 rows or
            columns of the map.
        TypeError: a dtype that they do not allow.
        IndexError: a batch index that is not a whole number in ``[0, N)``; the message names the row. On CUDA,
            which does not wait for the boxes, the row of the result is NaN, unless ``ROIALIGN_EXT_CHECK=1`` is set.
        NotImplementedError: on differentiating by the boxes, which the rounding leaves without a gradient.

    Source: Girshick, "Fast R-CNN", 2015; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = boxes if isinstance(boxes, (list, tuple)) else (boxes,)
        if has_torch_function_variadic(input, *tensors):
            check_corners(tensors)
            return call_override(roi_pool, (input, *tensors), input, boxes, output_size, spatial_scale)
        output_size, spatial_scale, _ = check_call(input, boxes, output_size, spatial_scale)
        boxes = as_tensor_or_list(boxes)
    rows = boxes_to_rows(boxes, input)
    return torch.ops.roialign_ext.roi_pool(input, rows, output_size, spatial_scale)  # type: ignore[no-any-return]


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
    """Resamples boxes of a feature map to one size, corner to corner: TensorFlow's crop_and_resize.

    The outer samples of a crop lie on the corners of its box, the others at even steps between them; an axis with one
    sample takes the middle of the box. Numbers are those of ``tf.image.crop_and_resize``, on ``[N, C, H, W]`` tensors,
    but for last rows and columns that TensorFlow's rounding takes off the map.
    With ``samples_per_bin=n`` a crop ``n`` times finer along each axis is sampled and then pooled n x n, as in "sample
    14 x 14, then pool to 7 x 7".

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 4]`` of rows ``(y1, x1, y2, x2)``, normalised: 0 is the centre of the first pixel and 1 that
            of the last, so that map position ``y * (H - 1)`` belongs to ``y``. ``y1 > y2`` flips the crop. Read as
            float32 (as float64 where they or ``input`` are float64).
        box_indices: ``Tensor[K]`` of integers, the image of each box.
        crop_size: size ``(PH, PW)`` of a crop, or one number for both.
        method: ``"bilinear"`` interpolates the four pixels around a sample, ``"nearest"`` takes the nearest one.
        extrapolation_value: value of samples outside ``[0, H - 1]`` or ``[0, W - 1]``.
        samples_per_bin: samples along each axis that are pooled to one output, at most 2**31 - 1 in the whole crop.
        mode: how they are pooled: ``"avg"``, the mean, or ``"max"``, the largest.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable in ``input`` and ``boxes``, any
        number of times; with ``"nearest"`` derivatives by the boxes are 0.

    Raises:
        BoxShapeError: boxes of the wrong shape (a ValueError and an AssertionError).
        ValueError: any other shape or value that the arguments above do not allow.
        TypeError: a dtype that they do not allow.
        IndexError: an index outside ``[0, N)``; the message names the row. On CUDA, which does not wait for the
            indices, the row of the result is NaN, unless ``ROIALIGN_EXT_CHECK=1`` is set.

    Source: ``tf.image.crop_and_resize``; with two samples per bin Chen and Gupta, "An Implementation of Faster RCNN
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
    """Pools a feature map over rotated boxes by the mean of bilinear samples: RoIAlign along the sides of the box.

    The grid of samples of :func:`roi_align` is laid around the centre of the box and turned with it. Defaults and
    numbers are those of detectron2's ``ROIAlignRotated``; ``clockwise=True`` and ``angle_unit="radian"`` give those of
    mmcv.

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 6]`` of rows ``(batch index, cx, cy, w, h, angle)``, or a list with one ``Tensor[L, 5]`` of
            rows ``(cx, cy, w, h, angle)`` per image, the form for boxes that are trained: no step moves an index.
            Centre and size are in image pixels. Read as float32 (as float64 where they or ``input`` are float64),
            whatever the dtype of ``input`` is.
        output_size: bins ``(PH, PW)`` of a box, or one number for both: PH along its height, PW along its width.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each side, at most 2**31 - 1 in all bins together; if not positive, as
            many as the bin is map pixels long, rounded up.
        aligned: ``True`` puts pixel centres at half-integers, as a shift of centres by half a map pixel. ``False`` is
            the older convention, without shift and with boxes at least one map pixel long.
        clockwise: which way a positive angle turns the box as the image is seen, with y downwards.
        angle_unit: ``"degree"`` or ``"radian"``.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable in ``input`` and in all five
        numbers of a box, twice in these. Samples outside the map by more than one pixel count as 0.

    Raises:
        BoxShapeError: boxes of the wrong shape (a ValueError and an AssertionError).
        ValueError: any other shape or value that the arguments above do not allow, a negative width or height
            among them; the message names the row. On CUDA the row is NaN, as for a bad batch index.
        TypeError: a dtype that they do not allow.
        IndexError: a batch index that is not a whole number in ``[0, N)``; the message names the row. On CUDA,
            which does not wait for the boxes, the row of the result is NaN, unless ``ROIALIGN_EXT_CHECK=1`` is set.
        NotImplementedError: on differentiating by the boxes a third time.

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
        output_size, spatial_scale, sampling_ratio = check_call(
            input, boxes, output_size, spatial_scale, sampling_ratio, aligned, columns=6
        )
        check_flag("clockwise", clockwise)
        check_text("angle_unit", angle_unit, "'degree' or 'radian'")
        boxes = as_tensor_or_list(boxes)
    rows = boxes_to_rows(boxes, input, 5, "cx, cy, w, h, angle")
    return torch.ops.roialign_ext.roi_align_rotated(  # type: ignore[no-any-return]
        input, rows, output_size, spatial_scale, sampling_ratio, aligned, clockwise, angle_unit
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
    """Pools each box from the level of a feature pyramid that suits its size: RoIAlign on every FPN level in one call.

    A box of area ``A`` (image pixels) belongs to level ``floor(canonical_level + log2(sqrt(A) / canonical_scale))``,
    clamped to the levels there are, where level ``k`` has the scale ``2 ** -k``: ``-log2(scales[0])`` is the finest,
    ``-log2(scales[-1])`` the coarsest. Pooling is that of :func:`roi_align` on the map of that level. Level assignment
    and numbers are those of ``torchvision.ops.MultiScaleRoIAlign``.

    Args:
        features: a list of 1 to 8 maps ``[N, C, H_l, W_l]``, finest level first, with the same N, C and dtype; any
            strides; float16, bfloat16, float32 or float64. Autocast does not change them: levels of several dtypes
            have to be cast to one.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image, the form for boxes that are trained: no step moves an index. Coordinates
            are in image pixels and are read as float32 (as float64 where they or ``features`` are float64), whatever
            the dtype of ``features`` is.
        output_size: bins ``(PH, PW)`` of a box, or one number for both.
        scales: map pixels per image pixel of each level.
        sampling_ratio: samples per bin along each axis, at most 2**31 - 1 in all bins together; if not positive, as
            many as the bin is map pixels long, rounded up.
        aligned: ``True`` puts pixel centres at half-integers, as a shift of boxes by half a map pixel. ``False`` is
            the older convention, without shift and with boxes at least one map pixel long.
        mode: ``"avg"``, the mean of the samples, or ``"max"``, the largest of them, of which at most 65535 of a bin may
            lie on the map along one axis.
        canonical_scale: side, in image pixels, of a square box that belongs to level ``canonical_level``.
        canonical_level: that level.

    Returns:
        ``[K, C, PH, PW]`` in the dtype of ``features`` and the memory format of the finest. Differentiable in every map
        and in ``boxes``, any number of times; the level of a box counts as a constant.

    Raises:
        BoxShapeError: boxes of the wrong shape (a ValueError and an AssertionError).
        ValueError: any other shape or value that the arguments above do not allow.
        TypeError: a dtype that they do not allow.
        IndexError: a batch index that is not a whole number in ``[0, N)``; the message names the row. On CUDA,
            which does not wait for the boxes, the row of the result is NaN, unless ``ROIALIGN_EXT_CHECK=1`` is set.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", 2017, equation 1; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        tensors = (*listed(features), *listed(boxes))
        if has_torch_function_variadic(*tensors):
            check_corners(listed(boxes))
            return call_override(
                multiscale_roi_align, tensors, features, boxes, output_size, scales, sampling_ratio, aligned, mode,
                canonical_scale, canonical_level,
            )  # fmt: skip
        scales = check_levels(features, scales)
        output_size, _, sampling_ratio = check_call(features[0], boxes, output_size, 1.0, sampling_ratio, aligned, mode)
        canonical_scale = as_number("canonical_scale", canonical_scale)
        canonical_level = as_number("canonical_level", canonical_level)
        boxes = as_tensor_or_list(boxes)
    rows = boxes_to_rows(boxes, features[0])
    return torch.ops.roialign_ext.multiscale_roi_align(  # type: ignore[no-any-return]
        features, rows, output_size, scales, sampling_ratio, aligned, mode, canonical_scale, canonical_level
    )
