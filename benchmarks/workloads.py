"""The named workloads for CPU and GPU: feature maps, boxes and pooling arguments. Box corners are in image pixels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SEED = 20240131
# Objects per image, for clustered boxes.
_OBJECTS = 10

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
# A layout of the backward pass, as if a box head flattened the result: channels_last maps with an NCHW gradient.
NCHW_GRADIENT = "channels_last, NCHW gradient"
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
HALF_DTYPES = ("float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Workload:
    """One pooling problem, in the terms of roi_align. `aligned` is False, except for rotated boxes."""

    key: str
    name: str
    channels: int
    maps: tuple[tuple[int, int], ...]  # (H, W) of each level, map pixels
    strides: tuple[int, ...]  # image pixels per map pixel of each level
    boxes: int
    box_px: tuple[int, int]  # range of sqrt(area) of a box, image pixels, log-uniform
    output_size: int
    sampling_ratio: int  # 0: adaptive, ceil(bin size in map pixels) samples per bin and axis
    operator: str = "roi_align"
    images: int = 1  # boxes belong to them in turn
    arrangement: str = "scattered"  # or "clustered" around ten objects per image, or "sorted" by image and place

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.maps[0]
        return height * self.strides[0], width * self.strides[0]

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return self.boxes, self.channels, self.output_size, self.output_size

    @property
    def elements_moved(self) -> int:
        """Elements that every implementation reads or writes at least once if the boxes cover the maps."""
        features = self.images * self.channels * sum(height * width for height, width in self.maps)
        return features + math.prod(self.output_shape)

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "operator": self.operator,
            "features": [[self.images, self.channels, height, width] for height, width in self.maps],
            "strides": list(self.strides),
            "boxes": self.boxes,
            "box_px": list(self.box_px),
            "output_size": self.output_size,
            "sampling_ratio": self.sampling_ratio,
            "aligned": self.operator == "roi_align_rotated",
        }

    def shrunk(self) -> Workload:
        """A tenth of the boxes and an eighth of the channels, for a run that only checks that everything works."""
        return dataclasses.replace(self, boxes=max(1, self.boxes // 10), channels=self.channels // 8)


def _pyramid(height: int, width: int, strides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((math.ceil(height / stride), math.ceil(width / stride)) for stride in strides)


_IMAGE, _SMALLER_IMAGE = (800, 1344), (800, 1216)
_FPN_STRIDES = (4, 8, 16, 32)
_PYRAMID = _pyramid(*_SMALLER_IMAGE, _FPN_STRIDES)
_ONE_LEVEL = _pyramid(*_SMALLER_IMAGE, (4,))
# Boxes up to this size lie inside the image in every orientation.
_ANY_WAY_ROUND = (16, 384)

WORKLOADS = {
    workload.key: workload
    for workload in (
        Workload("A", "box head", 256, _pyramid(*_IMAGE, (4,)), (4,), 1000, (16, 512), 7, 2),
        Workload("B", "mask head", 256, _pyramid(*_IMAGE, (4,)), (4,), 100, (16, 512), 14, 2),
        Workload("C", "adaptive, large boxes", 256, _pyramid(*_IMAGE, (4,)), (4,), 1000, (16, 800), 7, 0),
        Workload("D", "C4 head, adaptive", 1024, _pyramid(*_IMAGE, (16,)), (16,), 512, (16, 800), 14, 0),
        Workload(
            "E", "FPN, four levels", 256, _pyramid(*_IMAGE, _FPN_STRIDES), _FPN_STRIDES, 1000, (16, 512), 7, 2,
            "multiscale_roi_align",
        ),
        Workload("F", "tiny", 16, ((32, 32),), (4,), 8, (16, 96), 7, 2),
        Workload("G", "FPN box head", 256, _PYRAMID, _FPN_STRIDES, 512, (16, 512), 7, 2, "multiscale_roi_align"),
        Workload("H", "FPN mask head", 256, _PYRAMID, _FPN_STRIDES, 512, (16, 512), 14, 2, "multiscale_roi_align"),
        Workload("I", "RoIPool", 256, _ONE_LEVEL, (4,), 512, _ANY_WAY_ROUND, 7, 0, "roi_pool"),
        Workload("J", "PrRoIPool", 256, _ONE_LEVEL, (4,), 512, _ANY_WAY_ROUND, 7, 0, "prroi_pool"),
        Workload("K", "RoIWarp", 256, _ONE_LEVEL, (4,), 512, _ANY_WAY_ROUND, 7, 2, "roi_warp"),
        Workload("L", "crop and resize", 256, _ONE_LEVEL, (4,), 512, _ANY_WAY_ROUND, 14, 1, "crop_and_resize"),
        Workload("M", "rotated RoIAlign", 256, _ONE_LEVEL, (4,), 512, _ANY_WAY_ROUND, 7, 2, "roi_align_rotated"),
    )
}  # fmt: skip
# The workloads of the main table; the rest are those of the other operators.
MAIN = ("A", "B", "C", "D", "E", "F")
# Workloads that may behave differently on a GPU: boxes near each other, very many, and very few.
VARIATIONS = {
    key: dataclasses.replace(WORKLOADS[key[0]], key=key, name=f"{WORKLOADS[key[0]].name}, {change}", **fields)
    for key, change, fields in (
        ("A sorted", "sorted boxes", {"arrangement": "sorted"}),
        ("E sorted", "sorted boxes", {"arrangement": "sorted"}),
        ("E clustered", "clustered boxes", {"arrangement": "clustered"}),
        ("E two images", "two images", {"images": 2}),
        ("E many", "16 images", {"images": 16, "boxes": 8192}),
        ("E few", "ten boxes", {"boxes": 10}),
    )
}


@dataclasses.dataclass(frozen=True)
class Data:
    """Tensors of one workload: a feature map per level, and boxes as rows (batch index, x1, y1, x2, y2) in image
    pixels. Rows of rotated boxes are (batch index, centre x, centre y, width, height, angle in degrees)."""

    features: tuple[Tensor, ...]
    boxes: Tensor

    def upcast(self) -> Data:
        """The same values in float32."""
        return Data(tuple(feature.float() for feature in self.features), self.boxes.float())


def make_boxes(workload: Workload, generator: torch.Generator) -> Tensor:
    """Boxes inside the image: sqrt(area) log-uniform over `box_px`, aspect log-uniform in 1/2..2, position (and angle)
    uniform."""
    height, width = workload.image_size
    clustered = workload.arrangement == "clustered"
    drawn = _OBJECTS * workload.images if clustered else workload.boxes

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(drawn, generator=generator, dtype=torch.float64) * (high - low) + low

    side = uniform(math.log(workload.box_px[0]), math.log(workload.box_px[1])).exp()
    aspect = uniform(math.log(0.5), math.log(2.0)).exp().sqrt()
    batch_index = (torch.arange(workload.boxes) % workload.images).double()
    if workload.operator == "roi_align_rotated":
        box_width, box_height = (side * aspect).clamp(max=width), (side / aspect).clamp(max=height)
        diagonal = torch.hypot(box_width, box_height)
        centre_x = diagonal / 2 + uniform(0.0, 1.0) * (width - diagonal)
        centre_y = diagonal / 2 + uniform(0.0, 1.0) * (height - diagonal)
        rows = [batch_index, centre_x, centre_y, box_width, box_height, uniform(-180.0, 180.0)]
        return torch.stack(rows, dim=1).float()
    place_x, place_y = uniform(0.0, 1.0), uniform(0.0, 1.0)
    if clustered:
        # A box is an object of its image, moved and scaled by about a tenth of its size.
        chosen = torch.randint(_OBJECTS, (workload.boxes,), generator=generator) * workload.images + batch_index.long()
        moved = torch.randn(3, workload.boxes, generator=generator, dtype=torch.float64) / 10
        side, aspect = side[chosen] * moved[0].exp(), aspect[chosen]
        place_x = (place_x[chosen] + moved[1] * side / width).clamp(0, 1)
        place_y = (place_y[chosen] + moved[2] * side / height).clamp(0, 1)
    box_width, box_height = (side * aspect).clamp(max=width), (side / aspect).clamp(max=height)
    x1, y1 = place_x * (width - box_width), place_y * (height - box_height)
    boxes = torch.stack([batch_index, x1, y1, x1 + box_width, y1 + box_height], dim=1).float()
    if workload.arrangement == "sorted":
        # By image, then by the 64-pixel square that holds the corner.
        squares = (boxes[:, 1:3] / 64).floor()
        boxes = boxes[(boxes[:, 0] * 1e6 + squares[:, 1] * 1e3 + squares[:, 0]).argsort(stable=True)]
    return boxes


def make_data(workload: Workload, dtype: str, layout: str, device: str = "cpu", number: int = 0) -> Data:
    """Seeded features and boxes; `number` selects the set.

    On the CPU box corners are rounded to the dtype of half-precision features. An operator that requires one dtype then
    pools the same boxes as one that keeps boxes in float32. On another device features are drawn on that device."""
    memory_format = LAYOUTS["channels_last" if layout == NCHW_GRADIENT else layout]
    generator = torch.Generator().manual_seed(SEED + number)
    boxes = make_boxes(workload, generator)
    if device != "cpu":
        generator = torch.Generator(device).manual_seed(SEED + number)
    features = tuple(
        torch.randn((workload.images, workload.channels, height, width), generator=generator, device=device)
        .to(DTYPES[dtype])
        .contiguous(memory_format=memory_format)
        for height, width in workload.maps
    )
    if dtype in HALF_DTYPES and device == "cpu":
        boxes = boxes.to(DTYPES[dtype]).float()
    elif dtype == "float64":
        boxes = boxes.double()
    return Data(features, boxes.to(device))


def assign_levels(boxes: Tensor, levels: int) -> Tensor:
    """Level of each box by the FPN rule of torchvision's pooler: floor(4 + log2(sqrt(area) / 224) + 1e-6), clamped to
    levels 2 (stride 4) to 5 (stride 32), counted from 0."""
    area = (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2])
    level = torch.floor(4 + torch.log2(torch.sqrt(area) / 224) + 1e-6).to(torch.int64)
    return level.clamp(2, levels + 1) - 2
