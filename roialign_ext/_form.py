"""The form that every operator comes from, and all of its derivatives (docs/math.md, sections 7 and 8).

    Phi(F, G, b; u, v) = <G, D_u D_v A(b) F>

F are the feature maps, one per level, G a gradient of the output, b the boxes, A(b) the average or, with fixed argmax,
the maximum, and D_u the derivative along a direction u in the space of boxes. Phi is linear in F, G, u and v. Every
private operator is the derivative of Phi with respect to one argument, which the operator leaves out:

    with respect to G: ``_pool``, ``_max_pool``        F: ``_pool_grad_input``        b: ``_pool_grad_boxes``

So a backward pass puts the cotangent into the place that was left out, and differentiates with respect to the other
arguments. A tangent is the sum over the arguments of the value with the tangent in the place of the argument.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

ops = torch.ops.roialign_ext

Maps: TypeAlias = list[Tensor]  # of all levels, finest first
Sizes: TypeAlias = Sequence[Any]  # of ints and of sizes of a graph
Geometry: TypeAlias = tuple[list[float], list[float] | None, int, str]  # scales, rule_args, sampling_ratio, rule

Directions: TypeAlias = tuple[Tensor | None, ...]  # u and v, as far as there are any; a third one in third derivatives
Bound: TypeAlias = tuple[Any, ...]

MAX_DIRECTIONS = 2
NO_GRAD_BOXES = {  # of the rules that have none
    name: f"{name} has no gradient with respect to the boxes: detach them (boxes.detach()), or use {other}"
    for name, other in (("roi_pool", "roi_align"), ("ps_roi_pool", "ps_roi_align"))
}


class Settings(NamedTuple):
    """Everything of a form except its tensors, and the operator that computes it."""

    operator: str
    geometry: Geometry
    output_size: Sizes
    input_size: Sizes  # [N, C, H0, W0, H1, W1, ...]
    channels_last: bool  # of the gradient of the maps
    extrapolation_value: float = 0.0  # a constant of the value, which derivatives do not have


# Skips NamedTuple's constructor, which is slower than the tuple.
_settings: Callable[[tuple[Any, ...]], Settings] = functools.partial(tuple.__new__, Settings)


class Form:
    """Phi, complete except for the argument with respect to which it is differentiated next."""

    def __init__(
        self, settings: Settings, maps: Maps, grad: Tensor | None, boxes: Tensor, directions: Directions,
        argmax: Tensor | None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.maps = maps
        self.grad = grad
        self.boxes = boxes
        self.directions = directions
        self.argmax = argmax

    @property
    def _rule(self) -> str:
        return self.settings.geometry[3]

    # --- Phi with another argument

    def with_maps(self, maps: Maps) -> Form:
        return Form(self.settings, maps, self.grad, self.boxes, self.directions, self.argmax)

    def with_grad(self, grad: Tensor) -> Form:
        return Form(self.settings, self.maps, grad, self.boxes, self.directions, self.argmax)

    def with_directions(self, *directions: Tensor | None) -> Form:
        padding = (None,) * (MAX_DIRECTIONS - len(directions))
        return Form(self.settings, self.maps, self.grad, self.boxes, (*directions, *padding), self.argmax)

    def along(self, one_more: Tensor) -> Form:
        return self.with_directions(*defined(*self.directions), one_more)

    # --- derivatives with respect to one argument

    def pool(self) -> Tensor:
        u, v, *third = self.directions
        size, geometry = self.settings.output_size, self.settings.geometry
        if third:
            self._check_third_derivative()
            return self.maps[0].new_zeros((self.boxes.shape[0], self.maps[0].shape[1], *size))
        return ops._pool(self.maps, self.boxes, u, v, self.argmax, size, *geometry)  # type: ignore[no-any-return]

    def grad_input(self) -> Maps:
        u, v, *third = self.directions
        _, geometry, _, size, last, _ = self.settings
        if third:
            self._check_third_derivative()
            assert self.grad is not None
            return zero_maps([None] * (len(size) // 2 - 1), size, self.grad)
        return ops._pool_grad_input(self.grad, self.boxes, u, v, self.argmax, size, last, *geometry)  # type: ignore[no-any-return]

    def grad_boxes(self) -> Tensor:
        v, second, *_ = self.directions
        geometry = self.settings.geometry
        if self._rule in NO_GRAD_BOXES:
            raise NotImplementedError(NO_GRAD_BOXES[self._rule])
        if second is not None:
            self._check_third_derivative()
            return torch.zeros_like(self.boxes)
        return ops._pool_grad_boxes(self.grad, self.maps, self.boxes, v, self.argmax, *geometry)  # type: ignore[no-any-return]

    def grad_direction(self, place: int) -> Tensor:
        """With respect to a direction: grad_boxes along the other one, because Phi is linear in both."""
        direction = self.directions[place]
        assert direction is not None
        return self.with_directions(self.directions[1 - place]).grad_boxes().to(direction.dtype)

    def _check_third_derivative(self) -> None:
        """Third derivatives w.r.t. the boxes are zero where tables are piecewise linear in the edges, else refused."""
        if self._rule == "prroi_pool" or self._rule.startswith("rotated_"):
            raise NotImplementedError(
                f"third derivatives with respect to the boxes are not implemented for {self._rule}"
            )

    # --- what the operator makes of it

    def value(self) -> Any:
        """The derivative that is the operator's value."""
        operator = self.settings.operator
        if operator == "_pool_grad_input":
            return self.grad_input()
        if operator == "_pool_grad_boxes":
            return self.grad_boxes()
        return self.pool()

    def complete(self, cotangents: Sequence[Tensor | None]) -> None:
        """Puts the cotangent in the place of the missing argument. At least one of its tensors is defined."""
        operator = self.settings.operator
        if operator == "_pool_grad_input":
            self.maps = zero_maps(cotangents, self.settings.input_size, defined(*cotangents)[0])
        elif operator == "_pool_grad_boxes":
            self.directions = (*defined(self.directions[0]), cotangents[0], None)[:MAX_DIRECTIONS]
        else:
            self.grad = cotangents[0]

    def gradients(self, needed: Sequence[bool]) -> list[Any]:
        """The needed gradients, with respect to boxes, u, v, the argmax (always None), G and every map."""
        boxes, u, v, _, grad, *maps = needed
        grad_input = self.grad_input() if True in maps else maps
        return [
            self.grad_boxes() if boxes else None,
            self.grad_direction(0) if u else None,
            self.grad_direction(1) if v else None,
            None,
            self.pool() if grad else None,
            *[grad if need else None for grad, need in zip(grad_input, maps, strict=True)],
        ]

    def tangent(self, tangents: Sequence[Tensor | None]) -> Any:
        """The tangent of the value, for tangents of boxes, u, v, the argmax, G and every map; None stands for zero."""
        boxes, u, v, _, grad, *maps = tangents
        moved = []
        if defined(*maps):
            pairs = zip(maps, self.maps, strict=True)
            moved.append(
                self.with_maps([torch.zeros_like(feature_map) if by is None else by for by, feature_map in pairs])
            )
        if grad is not None:
            moved.append(self.with_grad(grad))
        if boxes is not None:
            moved.append(self.along(boxes))
        if u is not None:
            moved.append(self.with_directions(u, self.directions[1]))
        if v is not None:
            moved.append(self.with_directions(self.directions[0], v))
        terms = [form.value() for form in moved]
        if self.settings.operator == "_pool_grad_input":
            return [sum(level[1:], start=level[0]) for level in zip(*terms, strict=True)]
        return sum(terms[1:], start=terms[0])


def defined(*tensors: Tensor | None) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def zero_maps(maps: Sequence[Tensor | None], input_size: Sizes, like: Tensor) -> Maps:
    """Gradients of maps, with zeros in the dtype and on the device of ``like`` where there is none."""
    planes = zip(input_size[2::2], input_size[3::2], strict=True)
    return [
        like.new_zeros((*input_size[:2], *plane)) if feature_map is None else feature_map
        for feature_map, plane in zip(maps, planes, strict=True)
    ]


def layout_of(maps: Maps) -> tuple[Sizes, bool]:
    """[N, C, H0, W0, H1, W1, ...], and whether the finest is channels_last, which decides for all gradients."""
    finest = maps[0]
    sizes: Sizes = finest.shape
    if len(maps) > 1:
        sizes = [*sizes, *(length for level in maps[1:] for length in level.shape[2:])]
    return sizes, is_channels_last(finest)


def bins_per_image(geometry: Geometry) -> int:
    """How many images of the operators belong to one batch index: position-sensitive rules have one for each bin."""
    _, bins, _, rule = geometry
    return int(bins[0]) * int(bins[1]) if bins is not None and rule.startswith("ps_") else 1


def is_channels_last(features: Tensor) -> bool:
    """True if results that take the memory format of this tensor are channels_last."""
    strides = features.stride()
    # The first comparison of suggest_memory_format, which most NCHW maps fail, at a tenth of its cost.
    return not strides[3] < strides[1] and suggest_memory_format(features) == torch.channels_last


# --- the arguments of the operators as those of a function of torch.autograd, which does not track tensors in lists:
# Settings, boxes, u, v, argmax, G and every map; None stands for the argument that the operator does not have


def _bind_pool(
    input: list[Tensor], boxes: Tensor, u: Tensor | None, v: Tensor | None, argmax: Tensor | None, output_size: Any,
    scales: Any, rule_args: Any, sampling_ratio: int, rule: str, extrapolation_value: float = 0.0,
) -> Bound:  # fmt: skip
    input_size, channels_last = layout_of(input)
    geometry = (scales, rule_args, sampling_ratio, rule)
    settings = _settings(("_pool", geometry, output_size, input_size, channels_last, extrapolation_value))
    return (settings, boxes, u, v, argmax, None, *input)


def _bind_max_pool(input: list[Tensor], boxes: Tensor, output_size: Any, *geometry: Any) -> Bound:
    return (Settings("_max_pool", geometry, output_size, *layout_of(input)), boxes, None, None, None, None, *input)


def _bind_pool_grad_input(
    grad: Tensor, boxes: Tensor, u: Tensor | None, v: Tensor | None, argmax: Tensor | None, input_size: Any,
    channels_last: bool, *geometry: Any,
) -> Bound:  # fmt: skip
    settings = Settings("_pool_grad_input", geometry, grad.shape[2:], input_size, channels_last)
    return (settings, boxes, u, v, argmax, grad)


def _bind_pool_grad_boxes(
    grad: Tensor, input: list[Tensor], boxes: Tensor, v: Tensor | None, argmax: Tensor | None, *geometry: Any
) -> Bound:
    settings = Settings("_pool_grad_boxes", geometry, grad.shape[2:], *layout_of(input))
    return (settings, boxes, v, None, argmax, grad, *input)


BIND: dict[str, Callable[..., Bound]] = {
    "_pool": _bind_pool,
    "_max_pool": _bind_max_pool,
    "_pool_grad_input": _bind_pool_grad_input,
    "_pool_grad_boxes": _bind_pool_grad_boxes,
}


def call(
    settings: Settings, boxes: Tensor, u: Tensor | None, v: Tensor | None, argmax: Tensor | None,
    grad: Tensor | None, *maps: Tensor,
) -> Any:  # fmt: skip
    """The operator through the dispatcher; several results in a tuple."""
    operator, geometry, output_size, input_size, channels_last, extrapolation_value = settings
    if operator == "_pool":
        return ops._pool(list(maps), boxes, u, v, argmax, output_size, *geometry, extrapolation_value)
    if operator == "_max_pool":
        return ops._max_pool(list(maps), boxes, output_size, *geometry)
    if operator == "_pool_grad_input":
        return tuple(ops._pool_grad_input(grad, boxes, u, v, argmax, input_size, channels_last, *geometry))
    return ops._pool_grad_boxes(grad, list(maps), boxes, u, argmax, *geometry)
