"""What any kernel has to move and to multiply on a workload.

Counted from the boxes themselves, pixel by pixel of each axis; `python -m benchmarks.floors` prints the counts."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .markdown import table
from .workloads import DTYPES, SEED, WORKLOADS, Workload, assign_levels, make_boxes

SECTOR = 32
"""Bytes that the caches move at least."""
TILE = 8
"""Side in pixels of what a block of the gradient's kernels owns of a map."""


class Least(NamedTuple):
    """The least of one pass: bytes of device memory, bytes from the second-level cache, multiply-adds."""

    memory: float
    cache: float
    multiply_adds: float


class _Axis:
    """What the boxes of a plane take from one axis; `pixels` [K, bins, length] says which bin touches what."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.touched = pixels.amax(1)  # [K, length]
        self.extent = self.touched.sum(1)  # [K] pixels
        self.terms = pixels.sum((1, 2))  # [K] pairs of a bin and a pixel
        self.bins = pixels.amax(2).sum(1)  # [K] bins that touch any

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
    """Sectors of the pixels that boxes touch, in rows that lie one after the other, if the map begins with a sector."""
    height, width = y.touched.size(1), x.touched.size(1)
    shifts = torch.arange(height) * width % of_sector  # where in a sector each row begins
    sectors = 0.0
    for shift in set(shifts.tolist()):
        padded = pad(x.touched, (shift, -(shift + width) % of_sector))
        pieces = padded.reshape(len(padded), padded.size(1) // of_sector, of_sector).amax(2).sum(1)
        sectors += float((y.touched[:, shifts == shift].sum(1) * pieces).sum())
    return sectors


def least(workload: Workload, direction: str, dtype: str, layout: str) -> Least:
    """Forward: the pixels that some box touches are read from memory once and the output is written; each box reads
    each pixel that it touches once from the cache, where channels lie apart in whole sectors. A box is summed along the
    cheaper axis first.

    Backward: the gradient of the output is read from memory once and that of the maps is written. Each tile of a map
    reads each bin that has pixels in it once from the cache, and sums its bins along y first, its columns of bins along
    x then, or the other way round."""
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
