"""The workloads: detection heads on images of 800 x 1344 pixels, boxes of 24 to 640 pixels. Needs no GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

IMAGE = (800, 1344)
SEED = 20240131
# The side of a square box that belongs to level 4, as in MultiScaleRoIAlign.
CANONICAL_SCALE, CANONICAL_LEVEL = 224.0, 4.0
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}
SECTOR = 32
"""Bytes that the caches move at least."""


@dataclass(frozen=True)
class Workload:
    """One pooling problem; several strides are the levels of a pyramid, pooled as MultiScaleRoIAlign does."""

    key: str
    images: int
    boxes: int
    channels: int
    bins: int
    ratio: int
    strides: tuple[int, ...]
    dtypes: tuple[str, ...] = ("f32", "f16", "bf16")
    arrangement: str = "scattered"  # or "clustered" around ten objects of an image, or "sorted" by place
    graph: bool = False  # whether replays of a CUDA graph are measured too

    @property
    def planes(self) -> list[tuple[int, int]]:
        """(H, W) of every level."""
        return [(math.ceil(IMAGE[0] / stride), math.ceil(IMAGE[1] / stride)) for stride in self.strides]

    @property
    def scales(self) -> list[float]:
        return [1.0 / stride for stride in self.strides]

    def corners(self, shift: int = 0) -> Tensor:
        """Rows (image, x1, y1, x2, y2), sqrt(area) log-uniform, inside the image; `shift` chooses another set."""
        generator = torch.Generator().manual_seed(SEED + shift)
        image = torch.arange(self.boxes) % self.images
        count = 10 * self.images if self.arrangement == "clustered" else self.boxes
        unit = torch.rand(count, 4, generator=generator)
        size = 24 * (640 / 24) ** unit[:, 0]
        aspect = torch.exp(0.4 * torch.randn(count, generator=generator)).sqrt()
        if self.arrangement == "clustered":
            # A box is one of the ten objects of its image, moved and scaled by about a tenth of it.
            chosen = image + self.images * torch.randint(10, (self.boxes,), generator=generator)
            unit, size, aspect = unit[chosen], size[chosen], aspect[chosen]
            moved = torch.randn(self.boxes, 3, generator=generator) / 10
            size = size * torch.exp(moved[:, 0])
            unit[:, 1] += moved[:, 1] * size / IMAGE[1]
            unit[:, 2] += moved[:, 2] * size / IMAGE[0]
            unit.clamp_(0, 1)
        width = (size * aspect).clamp(max=IMAGE[1] - 1)
        height = (size / aspect).clamp(max=IMAGE[0] - 1)
        left, top = unit[:, 1] * (IMAGE[1] - width), unit[:, 2] * (IMAGE[0] - height)
        rows = torch.stack([image.float(), left, top, left + width, top + height], dim=1)
        if self.arrangement == "sorted":
            # By image, then by squares of 64 pixels that the corners lie in.
            squares = (rows[:, 1:3] / 64).floor()
            rows = rows[(rows[:, 0] * 1e6 + squares[:, 1] * 1e3 + squares[:, 0]).argsort(stable=True)]
        return rows

    def levels(self, rows: Tensor) -> Tensor:
        """The level of every box, by the rule of MultiScaleRoIAlign."""
        if len(self.strides) == 1:
            return torch.zeros(len(rows), dtype=torch.long)
        area = (rows[:, 3] - rows[:, 1]) * (rows[:, 4] - rows[:, 2])
        level = torch.floor(CANONICAL_LEVEL + torch.log2(area.sqrt() / CANONICAL_SCALE) + 1e-6).long()
        first = round(math.log2(self.strides[0]))
        return level.clamp(first, first + len(self.strides) - 1) - first

    def _touched(self, low: Tensor, high: Tensor, length: int) -> Tensor:
        """Which of the `length` pixels of an axis each box takes samples from, as `[K, length]` of 0 and 1."""
        size = (high - low).clamp(min=1) / self.bins
        count = torch.full_like(size, self.ratio) if self.ratio > 0 else size.ceil()
        sample = torch.arange(int(count.max()) if len(count) else 0)
        start = low[:, None, None] + torch.arange(self.bins)[:, None] * size[:, None, None]
        place = start + (sample + 0.5) * (size / count)[:, None, None]  # [K, bins, samples]
        valid = (sample < count[:, None, None]) & (place >= -1) & (place <= length)
        first = place.clamp(0, length - 1).long()
        touched = torch.zeros(len(low), length)
        for pixel in (first, (first + 1).clamp(max=length - 1)):
            touched.scatter_reduce_(1, pixel.flatten(1), valid.float().flatten(1), "amax")
        return touched

    @cached_property
    def _touched_by_plane(self) -> list[tuple[Tensor, Tensor]]:
        """The rows and the columns that every box touches, for every image of every level."""
        rows = self.corners()
        levels = self.levels(rows)
        result = []
        for level, (height, width) in enumerate(self.planes):
            for image in range(self.images):
                x1, y1, x2, y2 = (rows[(levels == level) & (rows[:, 0] == image), 1:] * self.scales[level]).unbind(1)
                result.append((self._touched(y1, y2, height), self._touched(x1, x2, width)))
        return result

    def touched_pixels(self) -> int:
        """Pixels of all levels and images that some box takes samples from."""
        return sum(int((ys.T @ xs > 0).sum()) for ys, xs in self._touched_by_plane)

    def output_bytes(self, element_size: int) -> int:
        return self.boxes * self.channels * self.bins**2 * element_size

    def least_bytes(self, element_size: int) -> tuple[int, int]:
        """What a forward and a backward pass move through the memory of the device at least."""
        maps = self.images * self.channels * sum(height * width for height, width in self.planes)
        output = self.output_bytes(element_size)
        return output + self.channels * self.touched_pixels() * element_size, output + maps * element_size

    def cached_bytes(self, element_size: int, channels_last: bool) -> int:
        """What a forward pass moves from the second-level cache to the multiprocessors at least.

        Every box reads each pixel that it touches once; where the channels lie apart these are pieces of rows, of whole
        sectors (rows are counted as if every channel began with one).
        """
        if channels_last:
            pixels = sum(float((ys.sum(1) * xs.sum(1)).sum()) for ys, xs in self._touched_by_plane)
            return int(pixels) * self.channels * element_size
        sectors = 0.0
        of_sector = SECTOR // element_size
        for ys, xs in self._touched_by_plane:
            height, width = ys.size(1), xs.size(1)
            shifts = torch.arange(height) * width % of_sector  # where in a sector each row begins
            for shift in set(shifts.tolist()):
                count = -(-(shift + width) // of_sector)
                padded = torch.nn.functional.pad(xs, (shift, count * of_sector - shift - width))
                pieces = padded.reshape(len(xs), count, of_sector).amax(2).sum(1)
                sectors += float((ys[:, shifts == shift].sum(1) * pieces).sum())
        return int(sectors) * self.channels * SECTOR


PYRAMID = (4, 8, 16, 32)
WORKLOADS = (
    Workload("box head", 2, 1000, 256, 7, 2, PYRAMID, dtypes=tuple(DTYPES)),
    Workload("mask head", 2, 256, 256, 14, 2, PYRAMID),
    Workload("C4 head", 2, 1000, 1024, 14, 0, (16,), dtypes=tuple(DTYPES)),
    Workload("large batch", 16, 8192, 256, 7, 2, PYRAMID),
    Workload("one level", 2, 1000, 256, 7, 2, (4,)),
    Workload("box head, clustered", 2, 1000, 256, 7, 2, PYRAMID, arrangement="clustered"),
    Workload("box head, sorted", 2, 1000, 256, 7, 2, PYRAMID, arrangement="sorted"),
    Workload("tiny", 1, 10, 256, 7, 2, PYRAMID, dtypes=("f32", "f16"), graph=True),
)
