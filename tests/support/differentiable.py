"""The definition of ``roi_align`` once more, as differentiable torch operations in float64; torch's interpolation.

Samples are gathered one by one with their four taps (equation (10)); every derivative, of any order, is then
autograd's. The tests use it where finite differences cannot go: on clamped and rejected samples, on cell borders, under
the legacy minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from oracle.reference import Params


def _axis(first: Tensor, second: Tensor, bins: int, length: int, params: Params) -> tuple[int, Tensor, Tensor, Tensor]:
    """Grid ``g``; for the ``bins * g`` samples of an axis: inside or not, the two tap rows, the second's weight."""
    offset = 0.5 if params.aligned else 0.0
    start = first * params.spatial_scale - offset
    size = (second * params.spatial_scale - offset) - start
    if not params.aligned and float(size.detach()) < 1.0:
        size = torch.ones_like(size)
    grid = params.sampling_ratio if params.sampling_ratio > 0 else int(torch.ceil(size.detach() / bins))
    bin_index = torch.arange(bins, dtype=torch.float64)[:, None]
    sample_index = torch.arange(max(grid, 0), dtype=torch.float64)
    position = ((start + bin_index * (size / bins)) + (sample_index + 0.5) * (size / bins) / grid).flatten()
    inside = (position >= -1.0) & (position <= length)
    position = torch.where(inside & (position > 0.0), position, torch.zeros_like(position))
    low = position.detach().floor()
    last = low >= length - 1
    fraction = torch.where(last, torch.zeros_like(position), position - low)
    low = low.clamp(max=length - 1).long()
    return grid, inside, torch.stack([low, (low + 1).clamp(max=length - 1)]), fraction


def roi_align(features: Tensor, boxes: Tensor, params: Params, mode: str) -> Tensor:
    """``roi_align`` of float64 tensors, differentiable by both as often as one likes."""
    outputs = []
    channels, height, width = features.shape[1:]
    bins_y, bins_x = params.output_size
    for row in boxes:
        image = int(row[0])
        grid_y, inside_y, taps_y, fraction_y = _axis(row[2], row[4], bins_y, height, params)
        grid_x, inside_x, taps_x, fraction_x = _axis(row[1], row[3], bins_x, width, params)
        if grid_y <= 0 or grid_x <= 0:
            outputs.append(features.new_zeros(channels, bins_y, bins_x))
            continue
        value = features.new_zeros(channels, bins_y * grid_y, bins_x * grid_x)
        for r, weight_y in zip(taps_y, (1.0 - fraction_y, fraction_y), strict=True):
            for q, weight_x in zip(taps_x, (1.0 - fraction_x, fraction_x), strict=True):
                value = value + weight_y[:, None] * weight_x * features[image][:, r[:, None], q]
        value = torch.where(inside_y[:, None] & inside_x, value, torch.zeros_like(value))
        samples = value.reshape(channels, bins_y, grid_y, bins_x, grid_x).transpose(2, 3).flatten(3)
        outputs.append(samples.sum(-1) / (grid_y * grid_x) if mode == "avg" else samples.max(-1).values)
    return torch.stack(outputs)


def surface(features: Tensor, y: Tensor, x: Tensor, padding: str) -> Tensor:
    """torch's own bilinear interpolation at map pixels ``y``, ``x``, shaped alike: ``[C, *y.shape]``."""
    height, width = features.shape[1:]
    grid = torch.stack([2.0 * x / (width - 1) - 1.0, 2.0 * y / (height - 1) - 1.0], -1).reshape(1, 1, -1, 2)
    values = functional.grid_sample(features[None], grid, "bilinear", padding, align_corners=True)
    return values.reshape(features.shape[0], *y.shape)
