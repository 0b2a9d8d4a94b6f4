"""Lower bounds of a workload: the bytes that any kernel moves and its multiply-adds.

Counted from the boxes, pixel by pixel on each axis. `python -m benchmarks.floors` prints the counts."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .markdown import table
from .workloads import DTYPES, SEED, WORKLOADS, Workload, assign_levels, make_boxes

SECTOR = 32
"""Bytes of the smallest transfer between caches."""
TILE = 8
"""Side, in map pixels, of the tile of a map that a block of the grad_input kernels owns."""


class Least(NamedTuple):
    """Lower bounds of one pass: bytes of device memory, bytes from the L2 cache, multiply-adds."""

    memory: float
    cache: float
    multiply_adds: float


class _Axis:
    """Counts of the boxes of a plane along one axis; `pixels` [K, bins, length] marks the pixels that a bin touches."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.touched = pixels.amax(1)  # [K, length]
        self.extent = self.touched.sum(1)  # [K] pixels
        self.terms = pixels.sum((1, 2))  # [K] pairs of a bin and a pixel
        self.bins = pixels.amax(2).sum(1)  # [K] bins that touch any pixel

    def tiles(self, size: int) -> Tensor:
        """[K] pairs of a bin and a tile."""
        padded = pad(self.pixels, (0, -self.pixels.size(2) % size))
        return padded.reshape(*padded.shape[:2], padded.size(2) // size, size).amax(3).sum((1, 2))


def _pixels_of_bins(low: Tensor, high: Tensor, workload: Workload, length: int) -> Tensor:
    bins, ratio = workload.output_size, workload.sampling_ratio
    size = (high - low).clamp(min=1) / bins
    count = torch.full_like(size, ratio) if ratio > 0 else size.ceil()
    sample = torch.arange(int(count.max()) if len(count) else 0)
    start = low[:, None, None] + torch.arange(bins)[:, None] * size[:, None, None]
    place = start + (sample + 0.5) * (size / count)[:, None, None]  # [K, bins, samples]
    valid = (sample < count[:, None, None]) & (place >= -1) & (place <= length)
    first = place.clamp(0, length - 1).long()
    touched = torch.zeros(len(low), bins, length)
    for pixel in (first, (first + 1).clamp(max=length - 1)):
        touched.scatter_reduce_(2, pixel, valid.float(), "amax")
    return touched


@lru_cache(maxsize=2)
def _planes(workload: Workload) -> tuple[tuple[_Axis, _Axis], ...]:
    """y and x of every image of every level."""
    boxes = make_boxes(workload, torch.Generator().manual_seed(SEED))
    levels = assign_levels(boxes, len(workload.maps)) if len(workload.maps) > 1 else torch.zeros(len(boxes))
    planes = []
    for level, ((height, width), stride) in enumerate(zip(workload.maps, workload.strides, strict=True)):
        for image in range(workload.images):
            x1, y1, x2, y2 = (boxes[(levels == level) & (boxes[:, 0] == image), 1:] / stride).unbind(1)
            sides = (y1, y2, height), (x1, x2, width)
            y, x = (_Axis(_pixels_of_bins(low, high, workload, length)) for low, high, length in sides)
            planes.append((y, x))
    return tuple(planes)


def _sectors(y: _Axis, x: _Axis, of_sector: int) -> float:
    """Sectors of the pixels that boxes touch, for contiguous rows and a map that starts on a sector boundary."""
    height, width = y.touched.size(1), x.touched.size(1)
    shifts = torch.arange(height) * width % of_sector  # offset of each row in its sector
    sectors = 0.0
    for shift in set(shifts.tolist()):
        padded = pad(x.touched, (shift, -(shift + width) % of_sector))
        pieces = padded.reshape(len(padded), padded.size(1) // of_sector, of_sector).amax(2).sum(1)
        sectors += float((y.touched[:, shifts == shift].sum(1) * pieces).sum())
    return sectors


def least(workload: Workload, direction: str, dtype: str, layout: str) -> Least:
    """Lower bounds of a pass.

    Forward: pixels that some box touches are read from memory once, and the output is written. Each box reads each
    pixel that it touches once from the cache, in whole sectors for NCHW. A box is summed along the cheaper axis first.

    Backward: the gradient of the output is read from memory once, and the gradient of the maps is written. Each tile of
    a map reads each bin with pixels in the tile once from the cache. It sums bins along y first and the columns of bins
    along x then, or in the other order."""
    itemsize = DTYPES[dtype].itemsize
    outputs = float(workload.boxes * workload.output_size**2)
    memory = cache = products = 0.0
    for y, x in _planes(workload):
        if direction == "backward":
            tiles_y, tiles_x = y.tiles(TILE), x.tiles(TILE)
            memory += y.touched.size(1) * x.touched.size(1)
            cache += float((tiles_y * tiles_x).sum())
            first_y, first_x = y.terms * tiles_x + y.extent * x.terms, x.terms * tiles_y + x.extent * y.terms
        else:
            memory += float((y.touched.T @ x.touched > 0).sum())
            if layout == "NCHW":
                cache += _sectors(y, x, SECTOR // itemsize) * SECTOR / itemsize
            else:
                cache += float((y.extent * x.extent).sum())
            first_y, first_x = y.terms * x.extent + y.bins * x.terms, x.terms * y.extent + x.bins * y.terms
        products += float(torch.minimum(first_y, first_x).sum())
    element = workload.channels * itemsize
    return Least((outputs + memory) * element, cache * element, products * workload.channels)


def main() -> None:
    rows = []
    for key in ("A", "B", "C", "D", "E"):
        for direction in ("forward", "backward"):
            for layout in ("NCHW", "channels_last"):
                amounts = least(WORKLOADS[key], direction, "float32", layout)
                rows.append([f"{key} {WORKLOADS[key].name}", direction, layout, *(f"{x / 1e6:.0f}" for x in amounts)])
    print(table(["workload", "pass", "layout", "memory, MB", "cache, MB", "multiply-adds, millions"], rows))


if __name__ == "__main__":
    main()
