"""One small call of every public operator in float64, away from cell borders, as a function of maps and coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import roialign_ext as package
from conftest import random_tensor

SIZE = (2, 3)
SHAPE = (2, 2, 4, 5)
COARSE = (2, 2, 2, 3)
WEIGHTS = random_tensor(2, SHAPE[1], *SIZE, seed=3)
IMAGES = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
CORNERS = [[0.63, 0.41, 4.37, 3.91], [-0.7, 1.2, 3.3, 5.9]]
NORMALISED = [[0.13, 0.07, 0.81, 0.93], [-0.21, 0.33, 1.17, 0.64]]
DEGREES = [[2.4, 2.1, 3.3, 2.2, 25.0], [1.9, 2.6, 2.7, 3.9, -70.0]]
RADIANS = [[2.4, 2.1, 3.3, 0.6, 0.4], [1.9, 2.6, 2.7, 3.9, -1.2]]
PYRAMID = {"scales": [1.0, 0.5], "canonical_scale": 4.2, "canonical_level": 1.0}  # one box on either level


@dataclass(frozen=True)
class Case:
    """A public function with its constant arguments, and the module of the same meaning.

    ``box_order`` is how often the boxes may be differentiated.
    """

    name: str
    function: Callable[..., Tensor]
    module: Callable[[], nn.Module]
    options: dict[str, Any]
    coordinates: list[list[float]]
    box_order: int = 3
    levels: int = 1

    @property
    def is_crop(self) -> bool:
        return self.function is package.crop_and_resize

    def maps(self, seed: int = 0) -> tuple[Tensor, ...]:
        shapes = (SHAPE, COARSE)[: self.levels]
        return tuple(random_tensor(*shape, seed=10 * seed + level) for level, shape in enumerate(shapes))

    def boxes(self) -> Tensor:
        """Coordinates without the image, which no derivative should move."""
        return torch.tensor(self.coordinates, dtype=torch.float64)

    def point(self) -> tuple[Tensor, ...]:
        return (*self.maps(), self.boxes())

    def rows(self, boxes: Tensor) -> tuple[Tensor, ...]:
        """The arguments that stand for these boxes, image indices 0, 1, 0, 1, ..."""
        images = IMAGES.to(boxes.dtype).repeat(len(boxes) // 2 + 1, 1)[: len(boxes)]
        if self.is_crop:
            return boxes, images.flatten().long()
        return (torch.cat([images, boxes], dim=1),)

    def features(self, *maps: Tensor) -> Any:
        """The first argument of the function."""
        return list(maps) if self.function is package.multiscale_roi_align else maps[0]

    def forward_arguments(self, *tensors: Tensor) -> tuple[Any, ...]:
        """Of the module."""
        *maps, boxes = tensors
        if self.function is package.multiscale_roi_align:
            shapes = [(SHAPE[2], SHAPE[3])] * 2
            parts = [boxes[0::2], boxes[1::2]]  # the images of rows() in order
            return {str(level): one for level, one in enumerate(maps)}, parts, shapes
        return (maps[0], *self.rows(boxes))

    def __call__(self, *tensors: Tensor) -> Tensor:
        *maps, boxes = tensors
        return self.function(self.features(*maps), *self.rows(boxes), SIZE, **self.options)

    def scalar(self, *tensors: Tensor) -> Tensor:
        """The same to a number, with a gradient that depends on the point."""
        result = self(*tensors)
        return (WEIGHTS * result * result).sum()


CROP = {"samples_per_bin": 2, "extrapolation_value": 0.3}
ROTATED = {"spatial_scale": 0.8, "sampling_ratio": 2}
CASES = [
    Case("roi_align", package.roi_align, lambda: package.RoIAlign(SIZE, 0.8, 2, True),
         {"spatial_scale": 0.8, "sampling_ratio": 2, "aligned": True}, CORNERS),
    Case("prroi_pool", package.prroi_pool, lambda: package.PrRoIPool(SIZE, 0.8),
         {"spatial_scale": 0.8}, CORNERS, box_order=2),
    Case("roi_warp", package.roi_warp, lambda: package.RoIWarp(SIZE, 0.8, 2),
         {"spatial_scale": 0.8, "sampling_ratio": 2}, CORNERS),
    Case("roi_warp-max", package.roi_warp, lambda: package.RoIWarp(SIZE, 0.8, -1, "max"),
         {"spatial_scale": 0.8, "mode": "max"}, CORNERS),
    Case("roi_pool", package.roi_pool, lambda: package.RoIPool(SIZE, 0.8),
         {"spatial_scale": 0.8}, CORNERS, box_order=0),
    Case("crop_and_resize", package.crop_and_resize, lambda: package.CropAndResize(SIZE, **CROP),
         CROP, NORMALISED),
    Case("crop_and_resize-max", package.crop_and_resize, lambda: package.CropAndResize(SIZE, mode="max", **CROP),
         {**CROP, "mode": "max"}, NORMALISED),
    Case("crop_and_resize-nearest", package.crop_and_resize, lambda: package.CropAndResize(SIZE, "nearest", **CROP),
         {**CROP, "method": "nearest"}, NORMALISED),
    Case("roi_align_rotated", package.roi_align_rotated, lambda: package.RoIAlignRotated(SIZE, 0.8, 2),
         ROTATED, DEGREES, box_order=2),
    Case("roi_align_rotated-radian", package.roi_align_rotated,
         lambda: package.RoIAlignRotated(SIZE, 0.8, -1, False, True, "radian"),
         {"spatial_scale": 0.8, "aligned": False, "clockwise": True, "angle_unit": "radian"}, RADIANS, box_order=2),
    Case("multiscale_roi_align", package.multiscale_roi_align,
         lambda: package.MultiScaleRoIAlign(["0", "1"], SIZE, 2, aligned=True, **PYRAMID),
         {**PYRAMID, "sampling_ratio": 2, "aligned": True}, CORNERS, levels=2),
    Case("multiscale_roi_align-max", package.multiscale_roi_align,
         lambda: package.MultiScaleRoIAlign(["0", "1"], SIZE, -1, mode="max", **PYRAMID),
         {**PYRAMID, "mode": "max"}, CORNERS, levels=2),
]  # fmt: skip
NAMED = {case.name: case for case in CASES}
BY_FUNCTION = [case for case in CASES if case.name == case.function.__name__]
"""One of each function."""

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_function = pytest.mark.parametrize("case", BY_FUNCTION, ids=lambda case: case.name)


def close(actual: Any, expected: Any) -> None:
    """Equal in float64 up to rounding."""
    assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def varied(case: Case, function: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The function of what may be differentiated, of roi_pool the maps alone, and the point."""
    *maps, boxes = case.point()
    if case.box_order == 0:
        return lambda *varied: function(*varied, boxes), tuple(maps)
    return function, case.point()
