"""The contestants: this package, torchvision, and the same pooling built from grid_sample.

A pyramid is pooled by one of two calls. "layer" is a whole MultiScaleRoIAlign, as a detector calls it. "kernel" takes
boxes prepared as rows; for torchvision they are split by level beforehand, with one `roi_align` per level. For other
workloads the two calls are the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, max_pool2d

from .workloads import HALF_DTYPES, Workload, assign_levels

OURS = "roialign_ext"
TORCHVISION = "torchvision"
GRID_SAMPLE = "grid_sample"
NAMES = (OURS, TORCHVISION, GRID_SAMPLE)

# torchvision's counterpart of each operator.
PEERS = {
    "roi_align": "roi_align",
    "multiscale_roi_align": "MultiScaleRoIAlign",
    "roi_pool": "roi_pool",
    "prroi_pool": "no such operator; adaptive roi_align stands in, with other numbers",
    "roi_warp": "roi_align of boxes rounded beforehand",
    "crop_and_resize": "roi_align with one sample per bin, of boxes shifted beforehand to the same samples",
    "roi_align_rotated": "no such operator; roi_align of the upright box stands in, with other numbers",
}
STAND_INS = ("prroi_pool", "roi_align_rotated")

# (feature map, boxes, spatial scale, workload, mode) -> [K, C, PH, PW]
PoolOneLevel = Callable[[Tensor, Tensor, float, Workload, str], Tensor]
# Rows of boxes, or several tensors of boxes: one per image (a list) or rows per level.
Boxes = Tensor | list[Tensor]
# (features, boxes) -> [K, C, PH, PW], or one such tensor per level
Pool = Callable[[Sequence[Tensor], Any], tuple[Tensor, ...]]


def pool_ours(features: Tensor, boxes: Tensor, scale: float, workload: Workload, mode: str) -> Tensor:
    import roialign_ext

    result: Tensor = roialign_ext.roi_align(
        features, boxes, workload.output_size, scale, workload.sampling_ratio, mode=mode
    )
    return result


def pool_torchvision(features: Tensor, boxes: Tensor, scale: float, workload: Workload, mode: str) -> Tensor:
    """torchvision has no max mode. For g samples per bin it pools g times as many bins along each axis, with one sample
    each. A g x g maximum then gives the same results."""
    if mode == "avg":
        result: Tensor = torchvision.ops.roi_align(
            features, boxes, workload.output_size, scale, workload.sampling_ratio
        )
        return result
    samples = workload.sampling_ratio
    result = torchvision.ops.roi_align(features, boxes, workload.output_size * samples, scale, 1)
    return max_pool2d(result, samples)


def pool_grid_sample(features: Tensor, boxes: Tensor, scale: float, workload: Workload, mode: str) -> Tensor:
    """Reads every sample of every box by one grid_sample over the single image, then pools the samples of each bin."""
    per_axis = workload.output_size * workload.sampling_ratio
    start = boxes[:, 1:3] * scale  # map pixels, (x, y)
    size = (boxes[:, 3:5] * scale - start).clamp(min=1.0)
    steps = (torch.arange(per_axis, dtype=boxes.dtype) + 0.5) / per_axis
    positions = start[:, None, :] + steps[None, :, None] * size[:, None, :]  # [K, samples, 2]
    x = positions[:, None, :, 0].expand(-1, per_axis, -1)
    y = positions[:, :, None, 1].expand(-1, -1, per_axis)
    return _sample_and_pool(features, x, y, workload, mode)


def pool_grid_sample_rotated(features: Tensor, boxes: Tensor, scale: float, workload: Workload) -> Tensor:
    """The same for rotated boxes (`aligned=True`, degrees, counter-clockwise)."""
    per_axis = workload.output_size * workload.sampling_ratio
    steps = (torch.arange(per_axis, dtype=boxes.dtype) + 0.5) / per_axis - 0.5
    centre_x, centre_y = (boxes[:, 1:3] * scale - 0.5)[:, :, None, None].unbind(1)
    along_x = (steps * boxes[:, 3:4] * scale)[:, None, :]
    along_y = (steps * boxes[:, 4:5] * scale)[:, :, None]
    angle = boxes[:, 5, None, None] * (math.pi / 180)
    x = along_y * angle.sin() + along_x * angle.cos() + centre_x
    y = along_y * angle.cos() - along_x * angle.sin() + centre_y
    return _sample_and_pool(features, x, y, workload, "avg")


def _sample_and_pool(features: Tensor, x: Tensor, y: Tensor, workload: Workload, mode: str) -> Tensor:
    """Interpolates at (x, y), each [K, samples, samples] in map pixels, and pools the samples bin by bin."""
    samples, height, width = workload.sampling_ratio, *features.shape[2:]
    # Units of grid_sample: -1 and 1 are the centres of the first and the last pixel.
    grid = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=3)
    grid = grid.reshape(1, -1, x.shape[2], 2)
    sampled = grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=True)
    if len(x) == 0:  # the pooling functions reject a level without boxes
        return sampled.reshape(0, features.shape[1], workload.output_size, workload.output_size)
    pooled = avg_pool2d(sampled, samples) if mode == "avg" else max_pool2d(sampled, samples)
    out = pooled.reshape(features.shape[1], x.shape[0], workload.output_size, workload.output_size)
    return out.transpose(0, 1).contiguous()


_POOL: dict[str, PoolOneLevel] = {
    OURS: pool_ours,
    TORCHVISION: pool_torchvision,
    GRID_SAMPLE: pool_grid_sample,
}


def _grid_sample_pyramid(features: Sequence[Tensor], boxes: Tensor, workload: Workload, mode: str) -> Tensor:
    """Pools the boxes of each level in one call, and restores the order of the boxes."""
    level_of_box = assign_levels(boxes, len(workload.strides))
    rows = [torch.nonzero(level_of_box == level).squeeze(1) for level in range(len(workload.strides))]
    pooled = [
        pool_grid_sample(feature, boxes[level_rows], 1 / stride, workload, mode)
        for feature, level_rows, stride in zip(features, rows, workload.strides, strict=True)
    ]
    return torch.cat(pooled).index_select(0, torch.argsort(torch.cat(rows)))


def _pyramid_layer(layer: Callable[..., Any], workload: Workload) -> Pool:
    """A whole MultiScaleRoIAlign, as a detector calls it."""
    names = [str(level) for level in range(len(workload.strides))]
    pooler = layer(names, workload.output_size, workload.sampling_ratio)
    sizes = [workload.image_size] * workload.images
    return lambda features, boxes: (pooler(dict(zip(names, features, strict=True)), boxes, sizes),)


def _pyramid_kernels(name: str, workload: Workload, mode: str) -> Pool:
    """The same without a layer: ours in one call for all levels, torchvision's in one call per level."""
    scales = [1 / stride for stride in workload.strides]
    if name == TORCHVISION:
        return lambda features, rows: tuple(
            pool_torchvision(feature, mine, scale, workload, mode)
            for feature, mine, scale in zip(features, rows, scales, strict=True)
        )
    import roialign_ext

    size, ratio = workload.output_size, workload.sampling_ratio
    return lambda features, boxes: (roialign_ext.multiscale_roi_align(list(features), boxes, size, scales, ratio),)


def own_boxes(name: str, workload: Workload, boxes: Tensor, dtype: torch.dtype, call: str) -> Boxes:
    """The boxes in the form of the contestant's call, which is not part of the timed call."""
    if workload.operator == "multiscale_roi_align" and name != GRID_SAMPLE:
        pieces = [boxes]
        if call == "layer":
            pieces = [boxes[boxes[:, 0] == image, 1:] for image in range(workload.images)]
        elif name == TORCHVISION:
            levels = assign_levels(boxes, len(workload.strides))
            pieces = [boxes[levels == level] for level in range(len(workload.strides))]
        if name == TORCHVISION:
            return [piece.to(dtype) for piece in pieces]
        return pieces if call == "layer" else boxes
    if name == TORCHVISION:
        boxes = boxes.to(dtype)  # it requires features and boxes of one dtype
    if workload.operator == "roi_warp" and name == TORCHVISION:
        stride = workload.strides[0]
        return torch.cat([boxes[:, :1], torch.floor(boxes[:, 1:] / stride + 0.5) * stride], dim=1)
    if workload.operator == "crop_and_resize":
        return _normalised_boxes(workload, boxes) if name == OURS else _boxes_of_crops(workload, boxes)
    if workload.operator == "roi_align_rotated" and name == TORCHVISION:
        centre, half_size = boxes[:, 1:3], boxes[:, 3:5] / 2
        return torch.cat([boxes[:, :1], centre - half_size, centre + half_size], dim=1)
    return boxes


def _normalised_boxes(workload: Workload, boxes: Tensor) -> Tensor:
    """Rows (batch index, y1, x1, y2, x2), with 0 and 1 at the centres of the first and the last pixel."""
    height, width = workload.image_size
    return boxes[:, [0, 2, 1, 4, 3]] / torch.tensor([1.0, height, width, height, width], dtype=boxes.dtype)


def _boxes_of_crops(workload: Workload, boxes: Tensor) -> Tensor:
    """Boxes in image pixels whose bin centres are the samples of crop_and_resize."""
    height, width = workload.maps[0]
    last = torch.tensor([width - 1.0, height - 1.0], dtype=boxes.dtype)
    normalised = _normalised_boxes(workload, boxes)
    first = normalised[:, [2, 1]] * last  # map pixels, (x, y)
    step = (normalised[:, [4, 3]] * last - first) / (workload.output_size - 1)
    start = first - step / 2
    corners = torch.cat([start, start + step * workload.output_size], dim=1)
    return torch.cat([boxes[:, :1], corners * workload.strides[0]], dim=1)


def _call_ours(workload: Workload) -> Callable[[Tensor, Tensor], Tensor]:
    """This package's operator: (feature map, boxes) -> [K, C, PH, PW]."""
    import roialign_ext

    size, scale, ratio = workload.output_size, 1 / workload.strides[0], workload.sampling_ratio
    calls: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "roi_pool": lambda features, boxes: roialign_ext.roi_pool(features, boxes, size, scale),
        "prroi_pool": lambda features, boxes: roialign_ext.prroi_pool(features, boxes, size, scale),
        "roi_warp": lambda features, boxes: roialign_ext.roi_warp(features, boxes, size, scale, ratio),
        "crop_and_resize": lambda features, boxes: roialign_ext.crop_and_resize(
            features, boxes[:, 1:], boxes[:, 0].long(), size
        ),
        "roi_align_rotated": lambda features, boxes: roialign_ext.roi_align_rotated(
            features, boxes, size, scale, ratio
        ),
    }
    return calls[workload.operator]


def _call_torchvision(workload: Workload) -> Callable[[Tensor, Tensor], Tensor]:
    """torchvision's counterpart from PEERS: (feature map, boxes) -> [K, C, PH, PW]."""
    size, scale, ratio = workload.output_size, 1 / workload.strides[0], workload.sampling_ratio
    aligned = workload.operator == "roi_align_rotated"

    def call(features: Tensor, boxes: Tensor) -> Tensor:
        if workload.operator == "roi_pool":
            result: Tensor = torchvision.ops.roi_pool(features, boxes, size, scale)
        else:
            result = torchvision.ops.roi_align(features, boxes, size, scale, ratio, aligned)
        return result

    return call


def pooling(name: str, workload: Workload, mode: str, call: str) -> Pool:
    """The contestant's operation on the workload: (features, boxes) -> [K, C, PH, PW]."""
    scale = 1 / workload.strides[0]
    if workload.operator == "roi_align":
        pool = _POOL[name]
        return lambda features, boxes: (pool(features[0], boxes, scale, workload, mode),)
    if workload.operator == "multiscale_roi_align":
        if name == GRID_SAMPLE:
            return lambda features, boxes: (_grid_sample_pyramid(features, boxes, workload, mode),)
        if call != "layer":
            return _pyramid_kernels(name, workload, mode)
        if name == TORCHVISION:
            return _pyramid_layer(torchvision.ops.MultiScaleRoIAlign, workload)
        import roialign_ext

        return _pyramid_layer(roialign_ext.MultiScaleRoIAlign, workload)
    if name == GRID_SAMPLE:
        return lambda features, boxes: (pool_grid_sample_rotated(features[0], boxes, scale, workload),)
    operator = _call_ours(workload) if name == OURS else _call_torchvision(workload)
    return lambda features, boxes: (operator(features[0], boxes),)


def refusal(name: str, workload: Workload, direction: str, mode: str, dtype: str) -> str | None:
    """The reason why the contestant cannot run a case, or None."""
    if name == TORCHVISION:
        if direction == "grad_boxes":
            return "no gradient for boxes"
        if dtype == "bfloat16":
            return "no kernels for bfloat16"
        no_max = workload.operator != "roi_pool" and mode == "max"
        if no_max and (workload.sampling_ratio < 1 or len(workload.strides) > 1):
            return "no max mode, and one of an adaptive ratio or of several levels cannot be built from the average"
    if name == GRID_SAMPLE:
        if workload.operator not in ("roi_align", "multiscale_roi_align", "roi_align_rotated"):
            return "built for RoIAlign and its rotated form alone"
        if workload.sampling_ratio < 1:
            return "an adaptive ratio gives each box its own number of samples, a grid has one"
        if dtype in HALF_DTYPES:
            return "the grid has the dtype of the features, too coarse for positions in half precision"
    return None
