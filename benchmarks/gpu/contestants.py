"""What is timed: this package and torchvision, their kernels alone and their whole layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .workloads import CANONICAL_LEVEL, CANONICAL_SCALE, IMAGE, Workload


class Contestant(NamedTuple):
    """`pool` takes maps and what `prepare` made, beforehand and outside the time, of rows (image, x1, y1, x2, y2)."""

    prepare: Callable[[Tensor, torch.dtype], Any]
    pool: Callable[[list[Tensor], Any], list[Tensor]]


def our_kernel(workload: Workload) -> Contestant:
    """One call for every level."""
    from roialign_ext import multiscale_roi_align, roi_align

    bins, ratio, scales = workload.bins, workload.ratio, workload.scales

    def pool(maps: list[Tensor], rows: Tensor) -> list[Tensor]:
        if len(scales) == 1:
            return [roi_align(maps[0], rows, bins, scales[0], ratio)]
        return [
            multiscale_roi_align(
                maps, rows, bins, scales, ratio, canonical_scale=CANONICAL_SCALE, canonical_level=CANONICAL_LEVEL
            )
        ]

    return Contestant(lambda rows, dtype: rows.cuda(), pool)


def torchvision_kernel(workload: Workload) -> Contestant:
    """A call for each level, on the rows of that level; they have to be of the features' dtype."""
    from torchvision.ops import roi_align

    def prepare(rows: Tensor, dtype: torch.dtype) -> list[Tensor]:
        levels = workload.levels(rows)
        return [rows[levels == level].to(dtype).cuda() for level in range(len(workload.strides))]

    def pool(maps: list[Tensor], rows: list[Tensor]) -> list[Tensor]:
        return [
            roi_align(one, mine, workload.bins, scale, workload.ratio)
            for one, mine, scale in zip(maps, rows, workload.scales, strict=True)
        ]

    return Contestant(prepare, pool)


def _layer(workload: Workload, layer: Any, dtype_of_boxes: Callable[[torch.dtype], torch.dtype]) -> Contestant:
    names = [str(stride) for stride in workload.strides]
    pooler = layer(names, workload.bins, workload.ratio)

    def prepare(rows: Tensor, dtype: torch.dtype) -> list[Tensor]:
        boxes = [rows[rows[:, 0] == image, 1:] for image in range(workload.images)]
        return [one.to(dtype_of_boxes(dtype)).cuda() for one in boxes]

    def pool(maps: list[Tensor], boxes: list[Tensor]) -> list[Tensor]:
        return [pooler(dict(zip(names, maps, strict=True)), boxes, [IMAGE] * workload.images)]

    return Contestant(prepare, pool)


def our_layer(workload: Workload) -> Contestant:
    from roialign_ext import MultiScaleRoIAlign

    return _layer(workload, MultiScaleRoIAlign, lambda dtype: torch.float32)


def torchvision_layer(workload: Workload) -> Contestant:
    from torchvision.ops import MultiScaleRoIAlign

    return _layer(workload, MultiScaleRoIAlign, lambda dtype: dtype)


KERNELS = {"ours": our_kernel, "torchvision": torchvision_kernel}
LAYERS = {"ours": our_layer, "torchvision": torchvision_layer}
