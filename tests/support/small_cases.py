"""One small call of every public operator in float64, away from cell borders, as a function of maps and coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import roialign_ext as package
from support import differentiable
from support.inputs import random_tensor
from support.operator_calls import OperatorCall, RoIAlignCall
from support.operators import FIRST, OPERATORS

SIZE = (2, 3)
SHAPE = (2, 2, 4, 5)
COARSE = (2, 2, 2, 3)
WEIGHTS = random_tensor(2, SHAPE[1], *SIZE, seed=3)
IMAGES = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
DIRECTION_SEED = 7


@dataclass(frozen=True)
class SmallCase:
    """An operator of the table as a function of maps and coordinates, and the module of the same meaning."""

    name: str
    call: OperatorCall
    # Fields, because TorchDynamo does not trace the properties of the call.
    function: Callable[..., Tensor] = field(compare=False)
    options: dict[str, Any] = field(compare=False)
    box_order: int  # how often the boxes may be differentiated
    levels: int

    @property
    def is_pyramid_by_name(self) -> bool:
        """Whether the module takes maps by name, as torchvision's does."""
        return self.call.module is package.MultiScaleRoIAlign

    @property
    def is_crop(self) -> bool:
        return self.function is package.crop_and_resize

    def module(self) -> nn.Module:
        return self.call.layer()

    def maps(self, seed: int = 0) -> tuple[Tensor, ...]:
        shapes = [(n, c * self.call.groups, h, w) for n, c, h, w in (SHAPE, COARSE)[: self.levels]]
        return tuple(random_tensor(*shape, seed=10 * seed + level) for level, shape in enumerate(shapes))

    def boxes(self, count: int = 2) -> Tensor:
        """Coordinates without the image, which no derivative should move; from the third on near the first two."""
        boxes = torch.tensor(self.call.smooth, dtype=torch.float64)
        if count == 2:
            return boxes
        return boxes.repeat(count // 2 + 1, 1)[:count] + 0.01 * random_tensor(count, boxes.shape[1], seed=count)

    def point(self) -> tuple[Tensor, ...]:
        return (*self.maps(), self.boxes())

    def leaves(self, count: int = 2) -> list[Tensor]:
        """Maps and boxes; they require a gradient where the operator has one."""
        maps = [feature_map.requires_grad_() for feature_map in self.maps()]
        return [*maps, self.boxes(count).requires_grad_(self.box_order > 0)]

    def box_arguments(self, boxes: Tensor) -> tuple[Tensor, ...]:
        """The arguments that stand for these boxes, batch indices 0, 1, 0, 1, ..."""
        images = IMAGES.to(boxes.dtype).repeat(len(boxes) // 2 + 1, 1)[: len(boxes)]
        if self.is_crop:
            return boxes, images.flatten().long()
        return (torch.cat([images, boxes], dim=1),)

    def features(self, *maps: Tensor) -> Any:
        """The first argument of the function."""
        return list(maps) if self.levels > 1 else maps[0]

    def forward_arguments(self, *tensors: Tensor) -> tuple[Any, ...]:
        """The arguments of the module."""
        *maps, boxes = tensors
        if self.is_pyramid_by_name:
            parts = [boxes[0::2], boxes[1::2]]  # the images of box_arguments() in order
            return tuple(self.call.layer_inputs(self.features(*maps), parts).values())
        return (self.features(*maps), *self.box_arguments(boxes))

    def __call__(self, *tensors: Tensor) -> Tensor:
        *maps, boxes = tensors
        return self.function(self.features(*maps), *self.box_arguments(boxes), SIZE, **self.options)

    def defined(self, *tensors: Tensor) -> Tensor:
        """The same by the definition, where there is one that autograd can differentiate.

        Of the other operators it is the call itself: eager mode is held against finite differences elsewhere.
        """
        if not isinstance(self.call, RoIAlignCall):
            return self(*tensors)
        features, (joined,) = tensors[0], self.box_arguments(tensors[1])
        return differentiable.roi_align(features, joined, self.call.params(features, joined), self.call.mode)

    def scalar(self, *tensors: Tensor) -> Tensor:
        """The call to a number, with a gradient that depends on the point."""
        return (WEIGHTS * self(*tensors) ** 2).sum()

    def defined_scalar(self, *tensors: Tensor) -> Tensor:
        return (WEIGHTS * self.defined(*tensors) ** 2).sum()

    def varied(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` of what may be differentiated: without gradients w.r.t. the boxes, of the maps alone."""
        if self.box_order > 0:
            return function
        boxes = self.boxes()
        return lambda *maps: function(*maps, boxes)

    def varied_point(self) -> tuple[Tensor, ...]:
        return self.point() if self.box_order > 0 else self.maps()

    def directions(self) -> tuple[Tensor, ...]:
        """At that point."""
        return tuple(
            random_tensor(*tensor.shape, seed=DIRECTION_SEED + place)
            for place, tensor in enumerate(self.varied_point())
        )


VARIANTS = (
    "roi_align-legacy_adaptive",
    "roi_align-max",
    "roi_align-max_legacy_adaptive",
    "roi_warp-max_adaptive",
    "crop_and_resize-max",
    "crop_and_resize-nearest",
    "roi_align_rotated-radian",
    "multiscale_roi_align-max",
)
"""Rows of the table that take other ways through Python than the first one of their function."""


def small(name: str) -> SmallCase:
    """The row for a map of ``SHAPE``."""
    scale = {"spatial_scale": 0.8} if "spatial_scale" in OPERATORS[name].options else {}
    call = replace(OPERATORS[name], output_size=SIZE, **scale)
    return SmallCase(name, call, call.function, call.options, call.box_order, call.levels)


CASES = [small(name) for name in OPERATORS if name in FIRST or name in VARIANTS]
NAMED = {case.name: case for case in CASES}
BY_FUNCTION = [case for case in CASES if case.name in FIRST]
"""One of each function."""
DIFFERENTIABLE_IN_BOXES = [case for case in CASES if case.box_order > 0]


def name_of(case: SmallCase) -> str:
    return case.name


each_case = pytest.mark.parametrize("case", CASES, ids=name_of)
each_function = pytest.mark.parametrize("case", BY_FUNCTION, ids=name_of)
each_mode = pytest.mark.parametrize("case", [NAMED["roi_align"], NAMED["roi_align-max"]], ids=name_of)
"""An average and a maximum, where the question is one of ways through torch and not of the operator."""
differentiable_in_boxes = pytest.mark.parametrize("case", DIFFERENTIABLE_IN_BOXES, ids=name_of)


def close(actual: Any, expected: Any) -> None:
    """Equal in float64 up to rounding."""
    assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def value_and_gradients(function: Callable[..., Tensor], case: SmallCase, count: int = 2) -> tuple[Tensor, ...]:
    """The result and gradients of the module of ``case``, or of its replacement, with so many boxes."""
    leaves = case.leaves(count)
    value = function(*case.forward_arguments(*leaves))
    return value, *torch.autograd.grad(value.square().sum(), [leaf for leaf in leaves if leaf.requires_grad])
