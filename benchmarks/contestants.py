"""What is timed: this package, torchvision, and the same pooling built from grid_sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, max_pool2d

from .workloads import HALF_DTYPES, Data, Workload, assign_levels

OURS = "roialign_ext"
TORCHVISION = "torchvision"
GRID_SAMPLE = "grid_sample"
NAMES = (OURS, TORCHVISION, GRID_SAMPLE)

# (feature map, boxes, spatial scale, workload, mode) -> [K, C, PH, PW]
PoolOneLevel = Callable[[Tensor, Tensor, float, Workload, str], Tensor]


def pool_ours(features: Tensor, boxes: Tensor, scale: float, workload: Workload, mode: str) -> Tensor:
    import roialign_ext

    result: Tensor = roialign_ext.roi_align(
        features, boxes, workload.output_size, scale, workload.sampling_ratio, mode=mode
    )
    return result


def pool_torchvision(features: Tensor, boxes: Tensor, scale: float, workload: Workload, mode: str) -> Tensor:
    """torchvision has no max mode; with g samples per bin, pooling at g times the size with one sample per bin and a
    g x g max after it gives the same numbers."""
    if mode == "avg":
        boxes = boxes.to(features.dtype)
        result: Tensor = torchvision.ops.roi_align(
            features, boxes, workload.output_size, scale, workload.sampling_ratio
        )
        return result
    samples = workload.sampling_ratio
    result = torchvision.ops.roi_align(features, boxes, workload.output_size * samples, scale, 1)
    return max_pool2d(result, samples)


def pool_grid_sample(features: Tensor, boxes: Tensor, scale: float, workload: Workload, mode: str) -> Tensor:
    """Every sample of every box in one grid_sample over the one image, then a pooling of each bin's samples."""
    samples = workload.sampling_ratio
    per_axis = workload.output_size * samples
    height, width = features.shape[2:]
    start = boxes[:, 1:3] * scale  # map pixels, (x, y)
    size = (boxes[:, 3:5] * scale - start).clamp(min=1.0)
    steps = (torch.arange(per_axis, dtype=boxes.dtype) + 0.5) / per_axis
    # [K, samples, 2] in map pixels, then in grid_sample's units: -1 and 1 are the centres of the first and last pixel.
    positions = start[:, None, :] + steps[None, :, None] * size[:, None, :]
    positions = positions * (2 / torch.tensor([width - 1, height - 1], dtype=boxes.dtype)) - 1
    x = positions[:, None, :, 0].expand(-1, per_axis, -1)
    y = positions[:, :, None, 1].expand(-1, -1, per_axis)
    grid = torch.stack([x, y], dim=3).reshape(1, -1, per_axis, 2)
    sampled = grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=True)
    pooled = avg_pool2d(sampled, samples) if mode == "avg" else max_pool2d(sampled, samples)
    out = pooled.reshape(features.shape[1], boxes.shape[0], workload.output_size, workload.output_size)
    return out.transpose(0, 1).contiguous()


_POOL: dict[str, PoolOneLevel] = {
    OURS: pool_ours,
    TORCHVISION: pool_torchvision,
    GRID_SAMPLE: pool_grid_sample,
}


def _reordered(pooled: Tensor, order: Tensor) -> Tensor:
    """Rows in the given order; the detour by [K, PH, PW, C] keeps the memory format of channels_last results."""
    if pooled.is_contiguous():
        return pooled.index_select(0, order)
    return pooled.permute(0, 2, 3, 1).index_select(0, order).permute(0, 3, 1, 2)


def _per_level(name: str, data: Data, workload: Workload, mode: str) -> Tensor:
    """One call per level on that level's boxes, put back into the order of the boxes."""
    level_of_box = assign_levels(data.boxes, len(workload.strides))
    rows = [torch.nonzero(level_of_box == level).squeeze(1) for level in range(len(workload.strides))]
    pooled = [
        _POOL[name](feature, data.boxes[level_rows], 1 / stride, workload, mode)
        for feature, level_rows, stride in zip(data.features, rows, workload.strides, strict=True)
    ]
    return _reordered(torch.cat(pooled), torch.argsort(torch.cat(rows)))


def _torchvision_pooler(workload: Workload) -> Callable[[Data], Tensor]:
    names = [str(level) for level in range(len(workload.strides))]
    pooler = torchvision.ops.MultiScaleRoIAlign(names, workload.output_size, workload.sampling_ratio)

    def pool(data: Data) -> Tensor:
        features = dict(zip(names, data.features, strict=True))
        result: Tensor = pooler(features, [data.boxes[:, 1:]], [workload.image_size])
        return result

    return pool


def pooling(name: str, workload: Workload, mode: str) -> Callable[[Data], Tensor]:
    """The contestant's whole operation on the workload: features and boxes in, [K, C, PH, PW] out."""
    if len(workload.strides) > 1:
        if name == TORCHVISION:
            return _torchvision_pooler(workload)
        return lambda data: _per_level(name, data, workload, mode)
    pool, scale = _POOL[name], 1 / workload.strides[0]
    return lambda data: pool(data.features[0], data.boxes, scale, workload, mode)


def refusal(name: str, workload: Workload, direction: str, mode: str, dtype: str) -> str | None:
    """Why the contestant cannot take part in a case, or None."""
    if name == TORCHVISION:
        if direction == "box_backward":
            return "no gradient for boxes"
        if dtype == "bfloat16":
            return "bfloat16 is not supported on the CPU"
        if mode == "max" and (workload.sampling_ratio < 1 or len(workload.strides) > 1):
            return "no max mode, and one of an adaptive ratio or of several levels cannot be built from the average"
    if name == GRID_SAMPLE:
        if workload.sampling_ratio < 1:
            return "an adaptive ratio gives each box its own number of samples, a grid has one"
        if dtype in HALF_DTYPES:
            return "the grid has the dtype of the features, too coarse for positions in half precision"
    return None
