"""One small call of every public operator in float64, away from cell borders, as a function of maps and coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import roialign_ext as package
from support.inputs import random_tensor
from support.operators import FIRST, OPERATORS, OperatorCall

SIZE = (2, 3)
SHAPE = (2, 2, 4, 5)
COARSE = (2, 2, 2, 3)
WEIGHTS = random_tensor(2, SHAPE[1], *SIZE, seed=3)
IMAGES = torch.tensor([[0.0], [1.0]], dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """An operator of the table as a function of maps and coordinates, and the module of the same meaning.

    ``box_order`` is how often the boxes may be differentiated.
    """

    name: str
    call: OperatorCall
    function: Callable[..., Tensor]
    options: dict[str, Any]
    box_order: int
    levels: int

    def module(self) -> nn.Module:
        if self.levels > 1:
            options = {name: value for name, value in self.options.items() if name != "sampling_ratio"}
            return package.MultiScaleRoIAlign(["0", "1"], SIZE, self.options["sampling_ratio"], **options)
        return self.call.module(SIZE, **self.options)

    @property
    def is_crop(self) -> bool:
        return self.function is package.crop_and_resize

    def maps(self, seed: int = 0) -> tuple[Tensor, ...]:
        shapes = [(n, c * self.call.groups, h, w) for n, c, h, w in (SHAPE, COARSE)[: self.levels]]
        return tuple(random_tensor(*shape, seed=10 * seed + level) for level, shape in enumerate(shapes))

    def boxes(self) -> Tensor:
        """Coordinates without the image, which no derivative should move."""
        return torch.tensor(self.call.smooth, dtype=torch.float64)

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


VARIANTS = (
    "roi_warp-max_adaptive",
    "crop_and_resize-max",
    "crop_and_resize-nearest",
    "roi_align_rotated-radian",
    "multiscale_roi_align-max",
)
"""Rows of the table that take other ways through Python than the first one of their function."""


def small(name: str) -> Case:
    """The row for a map of ``SHAPE``."""
    scale = {"spatial_scale": 0.8} if "spatial_scale" in OPERATORS[name].options else {}
    call = replace(OPERATORS[name], output_size=SIZE, **scale)
    return Case(name, call, call.function, call.options, call.box_order, call.levels)


CASES = [small(name) for name in OPERATORS if name in FIRST or name in VARIANTS]
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
