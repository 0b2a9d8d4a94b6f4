"""The public operators: each is a choice of rule and mode. Its derivatives follow from the private operators.

csrc/public_ops.cpp composes the same operators for programs without Python, which have no derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._checks import INDEX_DTYPES
from ._form import is_channels_last
from ._operator_checks import (
    check_device,
    check_output_size,
    check_pool,
    check_samples,
    check_scale,
    check_tensor,
    coordinate_type,
    holds,
)


class Operators:
    """The public operators, with the names and arguments of csrc/schemas.cpp, in terms of two private operators.

    ``only_pool`` is ``_pool`` for operators that are ``_pool`` and nothing else: their compiled kernels give the same
    result. The private operators and all methods take first what runs below the key of the call.
    """

    def __init__(self, only_pool: Callable[..., Any], pool: Callable[..., Any], max_pool: Callable[..., Any]) -> None:
        self._only_pool = only_pool
        self._pool = pool
        self._max_pool = max_pool

    def _pool_by_mode(
        self, below: Any, maps: Sequence[Tensor], boxes: Tensor, output_size: Any, mode: str, *geometry: Any
    ) -> Any:
        if mode == "avg":
            return self._only_pool(below, maps, boxes, None, None, None, output_size, *geometry)
        if mode == "max":
            return self._max_pool(below, maps, boxes, output_size, *geometry)[0]
        raise ValueError(f"mode: expected 'avg' or 'max', got '{mode}'")

    def roi_align(
        self,
        below: Any,
        input: Tensor,
        boxes: Tensor,
        output_size: Any,
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = False,
        mode: str = "avg",
    ) -> Any:
        geometry = ([spatial_scale], None, sampling_ratio, "roi_align_half_pixel" if aligned else "roi_align_legacy")
        if mode == "avg":  # saves a function call: this operator has the shortest calls
            return self._only_pool(below, [input], boxes, None, None, None, output_size, *geometry)
        return self._pool_by_mode(below, [input], boxes, output_size, mode, *geometry)

    def multiscale_roi_align(
        self,
        below: Any,
        features: list[Tensor],
        boxes: Tensor,
        output_size: Any,
        scales: list[float],
        sampling_ratio: int = -1,
        aligned: bool = False,
        mode: str = "avg",
        canonical_scale: float = 224.0,
        canonical_level: float = 4.0,
    ) -> Any:
        _check_one_level(features, boxes, scales)
        rule = "roi_align_half_pixel" if aligned else "roi_align_legacy"
        geometry = (scales, [canonical_scale, canonical_level], sampling_ratio, rule)
        return self._pool_by_mode(below, features, boxes, output_size, mode, *geometry)

    def prroi_pool(self, below: Any, input: Tensor, boxes: Tensor, output_size: Any, spatial_scale: float = 1.0) -> Any:
        geometry = ([spatial_scale], None, 0, "prroi_pool")
        return self._only_pool(below, [input], boxes, None, None, None, output_size, *geometry)

    def roi_warp(
        self,
        below: Any,
        input: Tensor,
        boxes: Tensor,
        output_size: Any,
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        mode: str = "avg",
    ) -> Any:
        geometry = ([spatial_scale], None, sampling_ratio, "roi_warp")
        return self._pool_by_mode(below, [input], boxes, output_size, mode, *geometry)

    def roi_pool(self, below: Any, input: Tensor, boxes: Tensor, output_size: Any, spatial_scale: float = 1.0) -> Any:
        return self._max_pool(below, [input], boxes, output_size, [spatial_scale], None, 0, "roi_pool")[0]

    def _position_sensitive(
        self, below: Any, input: Tensor, boxes: Tensor, output_size: Any, spatial_scale: float, sampling_ratio: int,
        rule: str,
    ) -> Any:  # fmt: skip
        scales = [spatial_scale]
        check_pool([input], boxes, None, None, None, output_size, scales, None, sampling_ratio, "roi_align_half_pixel")
        bins_y, bins_x = output_size
        boxes_of_bins = _boxes_of_bins(boxes, bins_y * bins_x)
        groups = _channel_groups(input, bins_y, bins_x)
        geometry = (scales, [float(bins_y), float(bins_x)], sampling_ratio, rule)
        pooled = self._pool(below, [groups], boxes_of_bins, None, None, None, [1, 1], *geometry)
        pooled = pooled.reshape(boxes.shape[0], bins_y, bins_x, groups.shape[1]).permute(0, 3, 1, 2)
        return pooled if is_channels_last(input) else pooled.contiguous()

    def ps_roi_align(
        self,
        below: Any,
        input: Tensor,
        boxes: Tensor,
        output_size: Any,
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
    ) -> Any:
        return self._position_sensitive(below, input, boxes, output_size, spatial_scale, sampling_ratio, "ps_roi_align")

    def ps_roi_pool(
        self, below: Any, input: Tensor, boxes: Tensor, output_size: Any, spatial_scale: float = 1.0
    ) -> Any:
        return self._position_sensitive(below, input, boxes, output_size, spatial_scale, 0, "ps_roi_pool")

    def _rotated(
        self, below: Any, maps: Sequence[Tensor], boxes: Tensor, output_size: Any, scales: list[float],
        rule_args: list[float] | None, sampling_ratio: int, aligned: bool, clockwise: bool, angle_unit: str,
    ) -> Any:  # fmt: skip
        if angle_unit not in ("degree", "radian"):
            raise ValueError(f"angle_unit: expected 'degree' or 'radian', got '{angle_unit}'")
        rule = "rotated_half_pixel" if aligned else "rotated_legacy"
        rule += "_radian" if angle_unit == "radian" else ""
        if clockwise:
            check_tensor("boxes", boxes)
            if boxes.dim() == 2:  # else refused below
                boxes = torch.cat([boxes[:, :5], -boxes[:, 5:]], 1)
        pool = self._pool if clockwise else self._only_pool
        return pool(below, maps, boxes, None, None, None, output_size, scales, rule_args, sampling_ratio, rule)

    def roi_align_rotated(
        self,
        below: Any,
        input: Tensor,
        boxes: Tensor,
        output_size: Any,
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = True,
        clockwise: bool = False,
        angle_unit: str = "degree",
    ) -> Any:
        options = sampling_ratio, aligned, clockwise, angle_unit
        return self._rotated(below, [input], boxes, output_size, [spatial_scale], None, *options)

    def multiscale_roi_align_rotated(
        self,
        below: Any,
        features: list[Tensor],
        boxes: Tensor,
        output_size: Any,
        scales: list[float],
        sampling_ratio: int = -1,
        aligned: bool = True,
        clockwise: bool = False,
        angle_unit: str = "degree",
        canonical_scale: float = 224.0,
        canonical_level: float = 4.0,
    ) -> Any:
        _check_one_level(features, boxes, scales)
        options = sampling_ratio, aligned, clockwise, angle_unit
        return self._rotated(below, features, boxes, output_size, scales, [canonical_scale, canonical_level], *options)

    def crop_and_resize(
        self,
        below: Any,
        input: Tensor,
        boxes: Tensor,
        box_indices: Tensor,
        crop_size: Any,
        method: str = "bilinear",
        extrapolation_value: float = 0.0,
        samples_per_bin: int = 1,
        mode: str = "avg",
    ) -> Any:
        if method not in ("bilinear", "nearest"):
            raise ValueError(f"method: expected 'bilinear' or 'nearest', got '{method}'")
        if mode not in ("avg", "max"):
            raise ValueError(f"mode: expected 'avg' or 'max', got '{mode}'")
        if samples_per_bin <= 0:
            raise ValueError(f"samples_per_bin: expected a positive number, got {samples_per_bin}")
        check_output_size("crop_size", crop_size)
        check_samples("samples_per_bin", samples_per_bin, crop_size)
        check_tensor("input", input)
        check_tensor("boxes", boxes)
        if input.dim() != 4:
            raise ValueError(f"input: expected a 4-D tensor [N, C, H, W], got shape {list(input.shape)}")
        indexed = _boxes_of_crops(input, boxes, box_indices)
        # With C = 0 both modes return an empty tensor, which max_pool2d rejects.
        is_max = mode == "max" and samples_per_bin > 1 and input.shape[1] != 0
        averaged, pooled = (1, samples_per_bin) if is_max else (samples_per_bin, 1)
        size = [crop_size[0] * pooled, crop_size[1] * pooled]
        geometry = ([1.0], None, averaged, f"crop_{method}")
        crop = self._pool(below, [input], indexed, None, None, None, size, *geometry, extrapolation_value)
        return torch.max_pool2d(crop, [pooled, pooled]) if is_max else crop


def decompositions(*private: Callable[..., Any]) -> dict[str, Callable[..., Tensor]]:
    """The public operators by name, from the arguments of ``Operators``."""
    operators = Operators(*private)
    return {name: getattr(operators, name) for name in vars(Operators) if not name.startswith("_")}


def _check_one_level(features: list[Tensor], boxes: Tensor, scales: list[float]) -> None:
    """Names the arguments of a pyramid: with one map a private operator would name ``input`` and ``spatial_scale``."""
    if len(features) == 1 and len(scales) == 1:
        check_tensor("features[0]", features[0])
        check_scale("scales[0]", scales[0], coordinate_type(features[0], boxes))


def _boxes_of_bins(boxes: Tensor, bins: Any) -> Tensor:
    """[K * bins, 5]: each box once for each of its bins. A gradient is added up before it is rounded."""
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    return boxes.unsqueeze(1).expand(-1, bins, -1).reshape(-1, 5)


def _channel_groups(input: Tensor, bins_y: Any, bins_x: Any) -> Tensor:
    """[N * bins, C, H, W]: an image for each bin of each image; bin p has every channel c * bins + p of the input."""
    bins = bins_y * bins_x
    images, channels, height, width = input.shape
    if not holds(channels % bins == 0):
        raise ValueError(
            f"input: expected channels in groups of {bins}, one for each of {bins_y} x {bins_x} bins, got {channels}"
        )
    channels = channels // bins
    if is_channels_last(input):
        groups = input.permute(0, 2, 3, 1).reshape(images, height, width, channels, bins).permute(0, 4, 3, 1, 2)
    else:
        groups = input.reshape(images, channels, bins, height, width).permute(0, 2, 1, 3, 4)
    return groups.reshape(images * bins, channels, height, width)


def _boxes_of_crops(input: Tensor, boxes: Tensor, box_indices: Tensor) -> Tensor:
    """Boxes (index, x1, y1, x2, y2) from boxes (y1, x1, y2, x2) and their images."""
    if boxes.dim() != 2 or not holds(boxes.shape[1] == 4):
        raise ValueError(f"boxes: expected a tensor [K, 4] of rows (y1, x1, y2, x2), got shape {list(boxes.shape)}")
    if box_indices.dim() != 1 or not holds(box_indices.shape[0] == boxes.shape[0]):
        raise ValueError(
            f"box_indices: expected one index per box, [{boxes.shape[0]}], got shape {list(box_indices.shape)}"
        )
    if box_indices.dtype not in INDEX_DTYPES:
        raise TypeError(f"box_indices: expected a tensor of integers, got {box_indices.dtype}")
    check_device("boxes", boxes, "input", input)
    check_device("box_indices", box_indices, "input", input)
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()  # half precision would not hold large indices
    y1, x1, y2, x2 = boxes.unbind(1)
    return torch.stack([box_indices.to(boxes.dtype), x1, y1, x2, y2], 1)
