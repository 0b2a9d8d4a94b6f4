"""The public operators as modules: a module holds the arguments that stay the same from call to call.

Constructors raise the same errors as the functions, for arguments that can be checked without tensors. TorchScript
reads the annotations, hence typing.Union and Optional.
"""

import sys
from typing import Any, Optional, Union

import torch.fx
from torch import Tensor, nn

from ._checks import (
    as_finite_number,
    as_integer,
    as_layer_scale,
    as_layer_scales,
    as_layer_size,
    as_layer_spatial_scale,
    as_names,
    as_number,
    as_pair,
    check_flag,
    check_word,
)
from ._scales import infer_scales, maps_named
from ._typing import BroadcastingList2
from .functional import (
    crop_and_resize,
    multiscale_roi_align,
    multiscale_roi_align_rotated,
    prroi_pool,
    ps_roi_align,
    ps_roi_pool,
    roi_align,
    roi_align_rotated,
    roi_pool,
    roi_warp,
)

# A trace by FX records calls of these functions, instead of the operations in them. wrap() has to be called here,
# because it replaces the names in the module that calls it.
torch.fx.wrap("infer_scales")
torch.fx.wrap("maps_named")


def _beyond(**arguments: tuple[Any, Any]) -> str:
    """The part of a repr for arguments that torchvision's layer does not have and that differ from their default."""
    return "".join(f", {name}={value!r}" for name, (value, default) in arguments.items() if value != default)


class RoIAlign(nn.Module):
    """RoIAlign as a layer: the mean or the maximum of bilinear samples in each bin of each box.

    A box is divided into ``output_size`` bins and each bin into a grid of samples. A sample interpolates the four
    pixels around it. The function is :func:`roialign_ext.roi_align`.

    Args:
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each axis; if not positive, the length of the bin in map pixels,
            rounded up. A positive ratio times the bins of an axis is at most 2**31 - 1.
        aligned: ``True`` shifts boxes by minus half a map pixel, so that pixel centres lie at half-integers.
            ``False``, the older convention, shifts nothing and makes boxes at least one map pixel long.
        mode: ``"avg"`` for the mean of a bin's samples, ``"max"`` for the largest. With ``"max"`` at most 65535
            samples of a bin may lie on the map along one axis.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a value not allowed above.

    Source: He et al., "Mask R-CNN", 2017; equations in docs/math.md.
    """

    def __init__(
        self,
        output_size: BroadcastingList2[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        self.output_size = as_layer_size("output_size", output_size)
        self.spatial_scale = as_layer_spatial_scale(spatial_scale)
        self.sampling_ratio = as_integer("sampling_ratio", sampling_ratio)
        check_flag("aligned", aligned)
        self.aligned = aligned
        check_word("mode", mode, ("avg", "max"))
        self.mode = mode

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """Pools the boxes ``rois`` from ``input``.

        Args:
            input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
            rois: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of
                rows ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels, in any of these dtypes. Train
                boxes as a list, in which no optimizer step can move a batch index.

        Returns:
            ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable any number of times with
            respect to ``input`` and ``rois``.

        Raises:
            BoxShapeError: ``rois`` has the wrong shape (errors say ``boxes``).
            ValueError: a shape, a device or a value does not fit.
            TypeError: a type or dtype is not one of those above.
            IndexError: a batch index is not a whole number in ``[0, N)``. On CUDA its row is NaN instead, unless
                ``ROIALIGN_EXT_CHECK=1`` is set.
        """
        return roi_align(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned, self.mode
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}{_beyond(mode=(self.mode, 'avg'))}"
        )


class PrRoIPool(nn.Module):
    """Precise RoI Pooling as a layer: the exact mean of the interpolated map over each bin of each box.

    The value of a bin is the integral of the interpolated map over the bin, divided by the bin's area; an empty or
    reversed box gives 0. The function is :func:`roialign_ext.prroi_pool`.

    Args:
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        spatial_scale: map pixels per image pixel.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a value not allowed above.

    Source: Jiang et al., "Acquisition of Localization Confidence for Accurate Object Detection", 2018, and its
    reference implementation; equations in docs/math.md.
    """

    def __init__(self, output_size: BroadcastingList2[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = as_layer_size("output_size", output_size)
        self.spatial_scale = as_layer_spatial_scale(spatial_scale)

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """Pools the boxes ``rois`` from ``input``.

        Args:
            input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
            rois: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of
                rows ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels, in any of these dtypes. Train
                boxes as a list, in which no optimizer step can move a batch index.

        Returns:
            ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable any number of times with
            respect to ``input``, twice with respect to ``rois``.

        Raises:
            BoxShapeError: ``rois`` has the wrong shape (errors say ``boxes``).
            ValueError: a shape, a device or a value does not fit.
            TypeError: a type or dtype is not one of those above.
            IndexError: a batch index is not a whole number in ``[0, N)``. On CUDA its row is NaN instead, unless
                ``ROIALIGN_EXT_CHECK=1`` is set.
            NotImplementedError: in a third derivative with respect to the boxes.
        """
        return prroi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


class RoIWarp(nn.Module):
    """RoIWarp as a layer: RoIAlign of boxes whose corners are rounded to whole map pixels.

    Corners are rounded once, half away from zero. Bins, samples and interpolation then follow :class:`RoIAlign` with
    ``aligned=False``. The function is :func:`roialign_ext.roi_warp`.

    Args:
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each axis; if not positive, the length of the bin in map pixels,
            rounded up. A positive ratio times the bins of an axis is at most 2**31 - 1.
        mode: ``"avg"`` for the mean of a bin's samples, ``"max"`` for the largest. With ``"max"`` at most 65535
            samples of a bin may lie on the map along one axis.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a value not allowed above.

    Source: Dai et al., "Instance-aware Semantic Segmentation via Multi-task Network Cascades", 2016, as described in
    the literature on RoI pooling; equations in docs/math.md.
    """

    def __init__(
        self, output_size: BroadcastingList2[int], spatial_scale: float, sampling_ratio: int, mode: str = "avg"
    ) -> None:
        super().__init__()
        self.output_size = as_layer_size("output_size", output_size)
        self.spatial_scale = as_layer_spatial_scale(spatial_scale)
        self.sampling_ratio = as_integer("sampling_ratio", sampling_ratio)
        check_word("mode", mode, ("avg", "max"))
        self.mode = mode

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """Pools the boxes ``rois`` from ``input``.

        Args:
            input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
            rois: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of
                rows ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels, in any of these dtypes. Train
                boxes as a list, in which no optimizer step can move a batch index.

        Returns:
            ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable any number of times with
            respect to ``input`` and ``rois``. Derivatives with respect to the boxes treat the rounding as the identity.

        Raises:
            BoxShapeError: ``rois`` has the wrong shape (errors say ``boxes``).
            ValueError: a shape, a device or a value does not fit.
            TypeError: a type or dtype is not one of those above.
            IndexError: a batch index is not a whole number in ``[0, N)``. On CUDA its row is NaN instead, unless
                ``ROIALIGN_EXT_CHECK=1`` is set.
        """
        return roi_warp(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.mode)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}{_beyond(mode=(self.mode, 'avg'))}"
        )


class RoIPool(nn.Module):
    """RoI max pooling as a layer: the maximum of the whole map pixels in each bin of each box.

    The corners of a box are rounded to map pixels, its bins outwards to whole pixels. A bin without pixels gives 0; a
    NaN among its pixels is its maximum. The function is :func:`roialign_ext.roi_pool`.

    Args:
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        spatial_scale: map pixels per image pixel.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a value not allowed above.

    Source: Girshick, "Fast R-CNN", 2015; equations in docs/math.md.
    """

    def __init__(self, output_size: BroadcastingList2[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = as_layer_size("output_size", output_size)
        self.spatial_scale = as_layer_spatial_scale(spatial_scale)

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """Pools the boxes ``rois`` from ``input``.

        Args:
            input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
            rois: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of
                rows ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels, in any of these dtypes. Train
                boxes as a list, in which no optimizer step can move a batch index.

        Returns:
            ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable any number of times, with
            respect to ``input`` only.

        Raises:
            BoxShapeError: ``rois`` has the wrong shape (errors say ``boxes``).
            ValueError: a shape, a device or a value does not fit.
            TypeError: a type or dtype is not one of those above.
            IndexError: a batch index is not a whole number in ``[0, N)``. On CUDA its row is NaN instead, unless
                ``ROIALIGN_EXT_CHECK=1`` is set.
            NotImplementedError: in a derivative with respect to the boxes; the rounding leaves none.
        """
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


class PSRoIAlign(nn.Module):
    """Position-sensitive RoIAlign as a layer: the mean of bilinear samples, each bin from its own group of channels.

    Bins and samples are those of :class:`RoIAlign` with ``aligned=True``. Arguments and numbers are those of
    ``torchvision.ops.PSRoIAlign``. The function is :func:`roialign_ext.ps_roi_align`.

    Args:
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each axis; if not positive, the length of the bin in map pixels,
            rounded up. A positive ratio times the bins of an axis is at most 2**31 - 1.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a value not allowed above.

    Source: Li et al., "Light-Head R-CNN", 2017, and torchvision; equations in docs/math.md.
    """

    def __init__(self, output_size: BroadcastingList2[int], spatial_scale: float, sampling_ratio: int) -> None:
        super().__init__()
        self.output_size = as_layer_size("output_size", output_size)
        self.spatial_scale = as_layer_spatial_scale(spatial_scale)
        self.sampling_ratio = as_integer("sampling_ratio", sampling_ratio)

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """Pools the boxes ``rois`` from ``input``.

        Args:
            input: features ``[N, C * PH * PW, H, W]`` in any strides; float16, bfloat16, float32 or float64. Bin
                ``(ph, pw)`` of output channel ``c`` reads channel ``(c * PH + ph) * PW + pw``.
            rois: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of
                rows ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels, in any of these dtypes. Train
                boxes as a list, in which no optimizer step can move a batch index.

        Returns:
            ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable any number of times with
            respect to ``input`` and ``rois``.

        Raises:
            BoxShapeError: ``rois`` has the wrong shape (errors say ``boxes``).
            ValueError: a shape, a device or a value does not fit, such as a number of channels that ``PH * PW`` does
                not divide.
            TypeError: a type or dtype is not one of those above.
            IndexError: a batch index is not a whole number in ``[0, N)``. On CUDA its row is NaN instead, unless
                ``ROIALIGN_EXT_CHECK=1`` is set.
        """
        return ps_roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, sampling_ratio={self.sampling_ratio}"
        )


class PSRoIPool(nn.Module):
    """Position-sensitive RoI pooling as a layer: the mean of whole map pixels, each bin from its own group of channels.

    Bins are rounded outwards to whole pixels and clipped to the map without its last row and column. Arguments and
    numbers are those of ``torchvision.ops.PSRoIPool``. The function is :func:`roialign_ext.ps_roi_pool`.

    Args:
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        spatial_scale: map pixels per image pixel.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a value not allowed above.

    Source: Dai et al., "R-FCN: Object Detection via Region-based Fully Convolutional Networks", 2016, and torchvision;
    equations in docs/math.md.
    """

    def __init__(self, output_size: BroadcastingList2[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = as_layer_size("output_size", output_size)
        self.spatial_scale = as_layer_spatial_scale(spatial_scale)

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """Pools the boxes ``rois`` from ``input``.

        Args:
            input: features ``[N, C * PH * PW, H, W]`` in any strides; float16, bfloat16, float32 or float64. Bin
                ``(ph, pw)`` of output channel ``c`` reads channel ``(c * PH + ph) * PW + pw``.
            rois: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of
                rows ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels, in any of these dtypes. Train
                boxes as a list, in which no optimizer step can move a batch index.

        Returns:
            ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable any number of times, with
            respect to ``input`` only; 0 for a bin without pixels.

        Raises:
            BoxShapeError: ``rois`` has the wrong shape (errors say ``boxes``).
            ValueError: a shape, a device or a value does not fit, such as a number of channels that ``PH * PW`` does
                not divide.
            TypeError: a type or dtype is not one of those above.
            IndexError: a batch index is not a whole number in ``[0, N)``. On CUDA its row is NaN instead, unless
                ``ROIALIGN_EXT_CHECK=1`` is set.
            NotImplementedError: in a derivative with respect to the boxes; the rounding leaves none.
        """
        return ps_roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


class CropAndResize(nn.Module):
    """TensorFlow's crop_and_resize as a layer: resamples each box to one size, corner to corner.

    The outer samples of a crop lie on the corners of its box, the others at even steps between them. An axis with one
    sample takes the middle of the box. The function is :func:`roialign_ext.crop_and_resize`.

    Args:
        crop_size: size ``(PH, PW)`` of a crop, or one int for both.
        method: ``"bilinear"`` interpolates the four pixels around a sample, ``"nearest"`` takes the nearest pixel.
        extrapolation_value: value of samples outside ``[0, H - 1]`` or ``[0, W - 1]``, map pixels.
        samples_per_bin: samples along each axis that are pooled to one output. Along an axis of the crop there are at
            most 2**31 - 1 samples.
        mode: pools these samples: ``"avg"`` for their mean, ``"max"`` for the largest.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a value not allowed above.

    Source: ``tf.image.crop_and_resize``; for two samples per bin, Chen and Gupta, "An Implementation of Faster RCNN
    with Study for Region Sampling", 2017. Equations in docs/math.md.
    """

    def __init__(
        self,
        crop_size: BroadcastingList2[int],
        method: str = "bilinear",
        extrapolation_value: float = 0.0,
        samples_per_bin: int = 1,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        self.crop_size = as_layer_size("crop_size", crop_size)
        check_word("method", method, ("bilinear", "nearest"))
        self.method = method
        self.extrapolation_value = as_number("extrapolation_value", extrapolation_value)
        self.samples_per_bin = as_integer("samples_per_bin", samples_per_bin)
        if self.samples_per_bin < 1:
            raise ValueError(f"samples_per_bin: expected a positive number, got {samples_per_bin}")
        check_word("mode", mode, ("avg", "max"))
        self.mode = mode

    def forward(self, input: Tensor, boxes: Tensor, box_indices: Tensor) -> Tensor:
        """Crops ``boxes`` out of ``input``.

        Args:
            input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
            boxes: ``Tensor[K, 4]`` of normalised rows ``(y1, x1, y2, x2)`` in any of these dtypes: 0 is the centre of
                the first pixel and 1 the centre of the last. ``y1 > y2`` flips the crop.
            box_indices: ``Tensor[K]`` of integers, the image of each box.

        Returns:
            ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable any number of times with
            respect to ``input`` and ``boxes``. With ``"nearest"`` derivatives with respect to the boxes are 0.

        Raises:
            BoxShapeError: ``boxes`` has the wrong shape.
            ValueError: a shape, a device or a value does not fit.
            TypeError: a type or dtype is not one of those above.
            IndexError: an index lies outside ``[0, N)``. On CUDA its row is NaN instead, unless
                ``ROIALIGN_EXT_CHECK=1`` is set.
        """
        return crop_and_resize(
            input,
            boxes,
            box_indices,
            self.crop_size,
            self.method,
            self.extrapolation_value,
            self.samples_per_bin,
            self.mode,
        )

    def extra_repr(self) -> str:
        return (
            f"crop_size={self.crop_size}, method={self.method!r}, extrapolation_value={self.extrapolation_value}, "
            f"samples_per_bin={self.samples_per_bin}, mode={self.mode!r}"
        )


class RoIAlignRotated(nn.Module):
    """Rotated RoIAlign as a layer: the mean of bilinear samples in each bin of each rotated box.

    The sample grid of :class:`RoIAlign` is centred on the box and rotated with it. The function is
    :func:`roialign_ext.roi_align_rotated`.

    Args:
        output_size: bins ``(PH, PW)`` per box, or one int for both: PH along its height, PW along its width.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each side; if not positive, the length of the bin in map pixels,
            rounded up. A positive ratio times the bins of a side is at most 2**31 - 1.
        aligned: ``True`` shifts box centres by minus half a map pixel, so that pixel centres lie at half-integers.
            ``False``, the older convention, shifts nothing and makes boxes at least one map pixel long.
        clockwise: ``True`` if positive angles turn the box clockwise on the displayed image (y downwards), ``False`` if
            counter-clockwise.
        angle_unit: ``"degree"`` or ``"radian"``.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a value not allowed above.

    Source: detectron2's ``ROIAlignRotated`` and mmcv's ``RoIAlignRotated``; equations in docs/math.md.
    """

    def __init__(
        self,
        output_size: BroadcastingList2[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
        clockwise: bool = False,
        angle_unit: str = "degree",
    ) -> None:
        super().__init__()
        self.output_size = as_layer_size("output_size", output_size)
        self.spatial_scale = as_layer_spatial_scale(spatial_scale, columns=6)
        self.sampling_ratio = as_integer("sampling_ratio", sampling_ratio)
        check_flag("aligned", aligned)
        self.aligned = aligned
        check_flag("clockwise", clockwise)
        self.clockwise = clockwise
        check_word("angle_unit", angle_unit, ("degree", "radian"))
        self.angle_unit = angle_unit

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """Pools the rotated boxes ``rois`` from ``input``.

        Args:
            input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
            rois: ``Tensor[K, 6]`` of rows ``(batch index, cx, cy, w, h, angle)``, or a list with one ``Tensor[L, 5]``
                of rows ``(cx, cy, w, h, angle)`` per image. Centre and size are in image pixels, in any of these
                dtypes. Train boxes as a list, in which no optimizer step can move a batch index.

        Returns:
            ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable any number of times with
            respect to ``input``, twice with respect to ``rois``.

        Raises:
            BoxShapeError: ``rois`` has the wrong shape (errors say ``boxes``).
            ValueError: a shape, a device or a value does not fit, or a width or height is negative (on CUDA: a row of
                NaN).
            TypeError: a type or dtype is not one of those above.
            IndexError: a batch index is not a whole number in ``[0, N)``. On CUDA its row is NaN instead, unless
                ``ROIALIGN_EXT_CHECK=1`` is set.
            NotImplementedError: in a third derivative with respect to the boxes.
        """
        return roi_align_rotated(
            input,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
            self.clockwise,
            self.angle_unit,
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, clockwise={self.clockwise}, "
            f"angle_unit={self.angle_unit!r}"
        )


class MultiScaleRoIAlignRotated(nn.Module):
    """Rotated RoIAlign on all levels of a feature pyramid as a layer: the size of a box selects its level.

    The function is :func:`roialign_ext.multiscale_roi_align_rotated`. Arguments are those of detectron2's
    ``ROIPooler``, which also takes the maps as a list.

    Args:
        output_size: bins ``(PH, PW)`` per box, or one int for both: PH along its height, PW along its width.
        scales: map pixels per image pixel of each level, 1 / stride, finest level first.
        sampling_ratio: samples per bin along each side; if not positive, the length of the bin in map pixels, rounded
            up. A positive ratio times the bins of a side is at most 2**31 - 1.
        aligned: ``True`` shifts box centres by minus half a map pixel, so that pixel centres lie at half-integers.
            ``False``, the older convention, shifts nothing and makes boxes at least one map pixel long.
        clockwise: ``True`` if positive angles turn the box clockwise on the displayed image (y downwards), ``False`` if
            counter-clockwise.
        angle_unit: ``"degree"`` or ``"radian"``.
        canonical_scale: side in image pixels of a square box that goes to level ``canonical_level``.
        canonical_level: that level; level ``k`` has scale ``2 ** -k``.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a value not allowed above.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", 2017, equation 1, and detectron2's
    ``ROIPooler``; equations in docs/math.md.
    """

    def __init__(
        self,
        output_size: BroadcastingList2[int],
        scales: list[float],
        sampling_ratio: int,
        aligned: bool = True,
        clockwise: bool = False,
        angle_unit: str = "degree",
        canonical_scale: float = 224.0,
        canonical_level: float = 4.0,
    ) -> None:
        super().__init__()
        self.output_size = as_layer_size("output_size", output_size)
        self.scales = as_layer_scales("scales", scales)
        self.sampling_ratio = as_integer("sampling_ratio", sampling_ratio)
        check_flag("aligned", aligned)
        self.aligned = aligned
        check_flag("clockwise", clockwise)
        self.clockwise = clockwise
        check_word("angle_unit", angle_unit, ("degree", "radian"))
        self.angle_unit = angle_unit
        self.canonical_scale = as_layer_scale("canonical_scale", canonical_scale)
        self.canonical_level = as_finite_number("canonical_level", canonical_level)

    def forward(self, features: list[Tensor], rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """Pools the rotated boxes ``rois`` of all images.

        Args:
            features: feature maps ``[N, C, H_l, W_l]``, finest level first, all in one dtype: float16, bfloat16,
                float32 or float64. Autocast does not cast them: cast levels of different dtypes yourself.
            rois: ``Tensor[K, 6]`` of rows ``(batch index, cx, cy, w, h, angle)``, or a list with one ``Tensor[L, 5]``
                of rows ``(cx, cy, w, h, angle)`` per image. Centre and size are in image pixels, in any of these
                dtypes. Train boxes as a list, in which no optimizer step can move a batch index.

        Returns:
            ``[K, C, PH, PW]`` in the dtype of the maps and the memory format of the finest. Differentiable any number
            of times with respect to maps, twice with respect to ``rois``.

        Raises:
            BoxShapeError: ``rois`` has the wrong shape (errors say ``boxes``).
            ValueError: a shape, a device or a value does not fit, or a width or height is negative (on CUDA: a row of
                NaN).
            TypeError: a type or dtype is not one of those above.
            IndexError: a batch index is not a whole number in ``[0, N)``. On CUDA its row is NaN instead, unless
                ``ROIALIGN_EXT_CHECK=1`` is set.
            NotImplementedError: in a third derivative with respect to the boxes.
        """
        return multiscale_roi_align_rotated(
            features,
            rois,
            self.output_size,
            self.scales,
            self.sampling_ratio,
            self.aligned,
            self.clockwise,
            self.angle_unit,
            self.canonical_scale,
            self.canonical_level,
        )

    def extra_repr(self) -> str:
        beyond = _beyond(canonical_scale=(self.canonical_scale, 224), canonical_level=(self.canonical_level, 4))
        return (
            f"output_size={self.output_size}, scales={self.scales}, sampling_ratio={self.sampling_ratio}, "
            f"aligned={self.aligned}, clockwise={self.clockwise}, angle_unit={self.angle_unit!r}{beyond}"
        )


class _AwaitsTorchvision(nn.Module):
    """Base of :class:`MultiScaleRoIAlign` until torchvision's own layer can be its base.

    torchvision's detectors reject a pooler that is not an instance of torchvision's class. This package must not import
    torchvision, and a program may import it after the layer was made, or never. ``isinstance(layer, cls)`` reads
    ``layer.__class__`` if the type of the layer does not derive from ``cls``. The first read after an import of
    torchvision replaces this base of :class:`MultiScaleRoIAlign` by torchvision's class. The layer is an ordinary
    subclass from then on.
    """

    @property
    def __class__(self) -> Any:
        theirs = getattr(sys.modules.get("torchvision.ops.poolers"), "MultiScaleRoIAlign", None)
        if theirs is None:
            return type(self)
        MultiScaleRoIAlign.__bases__ = (theirs,)
        # The isinstance that is running looks at the bases again only if it gets another type than type(self).
        return type(type(self).__name__, (type(self),), {"__module__": type(self).__module__})

    @__class__.setter
    def __class__(self, value: type) -> None:  # torch.nn.utils.parametrize and FSDP assign one
        object.__dict__["__class__"].__set__(self, value)


class MultiScaleRoIAlign(_AwaitsTorchvision):
    """:func:`roialign_ext.multiscale_roi_align` as the pooling layer of a detector with a feature pyramid.

    Arguments and results are those of ``torchvision.ops.MultiScaleRoIAlign``; ``scales``, ``aligned`` and ``mode`` are
    additions. torchvision's detectors accept the layer: it is an instance of torchvision's class if torchvision is
    imported.

    Args:
        featmap_names: names of the maps to pool from. Their order is that of the dictionary passed to :meth:`forward`,
            finest level first. Maps with other names are ignored. A name without a map is ignored too, if at least one
            name has a map.
        output_size: bins ``(PH, PW)`` per box, or one int for both.
        sampling_ratio: samples per bin along each axis; if not positive, the length of the bin in map pixels,
            rounded up. A positive ratio times the bins of an axis is at most 2**31 - 1.
        canonical_scale: side in image pixels of a square box that goes to level ``canonical_level``.
        canonical_level: that level; level ``k`` has scale ``2 ** -k``.
        scales: map pixels per image pixel of each level, 1 / stride. By default every call infers them: the power of
            two nearest to map size / largest image size, on the axis with the smaller ratio, because padding makes
            ratios larger. Outside compiled graphs a layer warns once if the axes suggest different powers, or if the
            ratio is far from a power of two, as for stride 14. ``torch.export`` with dynamic H or W needs ``scales``,
            because inferred scales fix the sizes of the graph ("Constraints violated").
        aligned: ``True`` shifts boxes by minus half a map pixel, so that pixel centres lie at half-integers.
            ``False``, the older convention, shifts nothing and makes boxes at least one map pixel long.
        mode: ``"avg"`` for the mean of a bin's samples, ``"max"`` for the largest. With ``"max"`` at most 65535
            samples of a bin may lie on the map along one axis.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a value not allowed above.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", 2017, equation 1; equations in docs/math.md.
    """

    scales: Optional[list[float]]  # noqa: UP045
    _warned: list[bool]

    def __init__(
        self,
        featmap_names: list[str],
        output_size: BroadcastingList2[int],
        sampling_ratio: int,
        *,
        canonical_scale: float = 224,
        canonical_level: float = 4,
        scales: Optional[list[float]] = None,  # noqa: UP045
        aligned: bool = False,
        mode: str = "avg",
    ) -> None:
        nn.Module.__init__(self)  # skips torchvision's constructor, if torchvision's layer is the base
        self.featmap_names = as_names("featmap_names", featmap_names)
        self.output_size = tuple(as_pair("output_size", as_layer_size("output_size", output_size)))
        self.sampling_ratio = as_integer("sampling_ratio", sampling_ratio)
        self.canonical_scale = as_layer_scale("canonical_scale", canonical_scale)
        self.canonical_level = as_finite_number("canonical_level", canonical_level)
        self.scales = None if scales is None else as_layer_scales("scales", scales)
        self._warned = []
        check_flag("aligned", aligned)
        self.aligned = aligned
        check_word("mode", mode, ("avg", "max"))
        self.mode = mode

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pools the boxes of all images.

        Args:
            x: feature maps ``[N, C, H_l, W_l]`` by name, finest level first, all in one dtype: float16, bfloat16,
                float32 or float64. Autocast does not cast them: cast levels of different dtypes yourself.
            boxes: one ``Tensor[L, 4]`` of rows ``(x1, y1, x2, y2)`` per image, in image pixels.
            image_shapes: ``(height, width)`` of every image before padding to the batch, in image pixels.

        Returns:
            ``[K, C, PH, PW]`` in the dtype of the maps and the memory format of the finest; K counts the boxes of all
            images in their order. Differentiable any number of times with respect to maps and boxes.

        Raises:
            TypeError: a type or dtype is not one of those above.
            ValueError: a shape, a device or a value does not fit, no name has a map, or a size is 0 and no scale can be
                inferred from it.
            BoxShapeError: one of ``boxes`` has the wrong shape.
        """
        features = maps_named(x, self.featmap_names)
        scales = self.scales
        if scales is None:
            scales = infer_scales(features, image_shapes, self._warned)
        return multiscale_roi_align(
            features,
            boxes,
            self.output_size,
            scales,
            self.sampling_ratio,
            self.aligned,
            self.mode,
            self.canonical_scale,
            self.canonical_level,
        )

    def __repr__(self) -> str:
        # Not extra_repr, because torchvision's class defines __repr__ and may become the base.
        beyond = _beyond(
            canonical_scale=(self.canonical_scale, 224),
            canonical_level=(self.canonical_level, 4),
            scales=(self.scales, None),
            aligned=(self.aligned, False),
            mode=(self.mode, "avg"),
        )
        return (
            f"{type(self).__name__}(featmap_names={self.featmap_names}, output_size={self.output_size}, "
            f"sampling_ratio={self.sampling_ratio}{beyond})"
        )
