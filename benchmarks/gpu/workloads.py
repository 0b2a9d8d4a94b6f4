"""The workloads: detection heads on images of 800 x 1344 pixels, boxes of 24 to 640 pixels. Needs no GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

IMAGE = (800, 1344)
SEED = 20240131
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


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

    @property
    def planes(self) -> list[tuple[int, int]]:
        """(H, W) of every level."""
        return [(math.ceil(IMAGE[0] / stride), math.ceil(IMAGE[1] / stride)) for stride in self.strides]

    def corners(self, shift: int = 0) -> Tensor:
        """Rows (image, x1, y1, x2, y2), sqrt(area) log-uniform, inside the image; `shift` chooses another set."""
        generator = torch.Generator().manual_seed(SEED + shift)
        unit = torch.rand(self.boxes, 4, generator=generator)
        size = 24 * (640 / 24) ** unit[:, 0]
        aspect = torch.exp(0.4 * torch.randn(self.boxes, generator=generator)).sqrt()
        width = (size * aspect).clamp(max=IMAGE[1] - 1)
        height = (size / aspect).clamp(max=IMAGE[0] - 1)
        left, top = unit[:, 1] * (IMAGE[1] - width), unit[:, 2] * (IMAGE[0] - height)
        image = (torch.arange(self.boxes) % self.images).float()
        return torch.stack([image, left, top, left + width, top + height], dim=1)

    def levels(self, rows: Tensor) -> Tensor:
        """The level of every box, by the rule of MultiScaleRoIAlign."""
        if len(self.strides) == 1:
            return torch.zeros(len(rows), dtype=torch.long)
        area = (rows[:, 3] - rows[:, 1]) * (rows[:, 4] - rows[:, 2])
        level = torch.floor(4 + torch.log2(area.sqrt() / 224) + 1e-6).long()
        first = round(math.log2(self.strides[0]))
        return level.clamp(first, first + len(self.strides) - 1) - first

    def touched_pixels(self) -> int:
        """Pixels of all levels and images that some box covers, its margin of one pixel included."""
        rows = self.corners()
        levels = self.levels(rows)
        total = 0
        for level, (height, width) in enumerate(self.planes):
            for image in range(self.images):
                touched = torch.zeros(height, width, dtype=torch.bool)
                mine = rows[(levels == level) & (rows[:, 0] == image), 1:] / self.strides[level]
                for x1, y1, x2, y2 in mine.tolist():
                    touched[max(int(y1), 0) : int(y2) + 2, max(int(x1), 0) : int(x2) + 2] = True
                total += int(touched.sum())
        return total

    def least_bytes(self, element_size: int) -> tuple[int, int]:
        """What a forward and a backward pass move through the memory of the device at least."""
        output = self.boxes * self.channels * self.bins**2
        maps = self.images * self.channels * sum(height * width for height, width in self.planes)
        touched = self.channels * self.touched_pixels()
        return (output + touched) * element_size, (output + maps) * element_size


WORKLOADS = (
    Workload("box head", 2, 1000, 256, 7, 2, (4, 8, 16, 32)),
    Workload("mask head", 2, 256, 256, 14, 2, (4, 8, 16, 32)),
    Workload("C4 head", 2, 1000, 1024, 14, 0, (16,)),
    Workload("large batch", 16, 8192, 256, 7, 2, (4, 8, 16, 32)),
    Workload("one level", 2, 1000, 256, 7, 2, (4,)),
)
