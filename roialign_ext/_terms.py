"""The private operators on the feature maps of several levels, and the terms that make up their derivatives.

roialign_ext/autograd.py puts the terms together (docs/math.md, sections 7 and 8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

ops = torch.ops.roialign_ext

Directions: TypeAlias = list[Tensor]
Maps: TypeAlias = list[Tensor]  # of all levels, finest first
Gradients: TypeAlias = tuple[Any, ...]
Rule: TypeAlias = tuple[list[float], list[float], int, str]  # scales, canonical, sampling_ratio, name
Linear = TypeVar("Linear", Tensor, Maps)

MAX_DIRECTIONS = 2
CANONICAL = [224.0, 4.0]  # canonical_scale and canonical_level, read only with more than one level


def has_box_derivative(rule: Rule, order: int) -> bool:
    """Whether the derivative of that order by the boxes, first to third, is to be computed; else it is zero.

    This is the one place in Python that says which there are; csrc/autograd.cpp says the same in C++. That roi_pool has
    none is said by the operators themselves.
    """
    if order <= MAX_DIRECTIONS:
        return True
    name = rule[-1]
    if name == "prroi_pool" or name.startswith("rotated_"):
        raise NotImplementedError(f"third derivatives by the boxes are not implemented for {name}")
    return False


def given(*directions: Tensor | None) -> Directions:
    return [direction for direction in directions if direction is not None]


def padded(directions: Directions, length: int = MAX_DIRECTIONS) -> list[Tensor | None]:
    return [*directions, *[None] * (length - len(directions))]


def total(terms: list[Tensor]) -> Tensor:
    return sum(terms[1:], start=terms[0])


def any_given(tensors: Sequence[Tensor | None]) -> bool:
    return any(tensor is not None for tensor in tensors)


def filled(tensors: Sequence[Tensor | None], like: Maps) -> Maps:
    """Tangents or gradients of maps, with zeros where there is none."""
    return [torch.zeros_like(one) if tensor is None else tensor for tensor, one in zip(tensors, like, strict=True)]


def filled_to(tensors: Sequence[Tensor | None], some: Tensor, input_size: Sequence[int]) -> Maps:
    """The same from sizes [N, C, H0, W0, H1, W1, ...], in the dtype and on the device of `some`."""
    planes = zip(input_size[2::2], input_size[3::2], strict=True)
    return [
        some.new_zeros((*input_size[:2], *plane)) if tensor is None else tensor
        for tensor, plane in zip(tensors, planes, strict=True)
    ]


def is_channels_last(maps: Sequence[Tensor]) -> bool:
    """Of the finest level, which decides for all gradients: by its strides, as in C++, also where it has gaps."""
    return suggest_memory_format(maps[0]) == torch.channels_last


def sizes(maps: Sequence[Tensor]) -> list[int]:
    """[N, C, H0, W0, H1, W1, ...]."""
    size = list(maps[0].shape[:2])
    for one in maps:
        size += one.shape[2:]
    return size


def pool(maps: Maps, boxes: Tensor, directions: Directions, winners: Tensor | None, size: Any, rule: Rule) -> Tensor:
    result: Tensor = ops._pool(maps, boxes, *padded(directions), winners, size, *rule)
    return result


def grad_input(
    grad: Tensor, boxes: Tensor, directions: Directions, winners: Tensor | None, size: Any, last: bool, rule: Rule
) -> Maps:
    results: Maps = ops._pool_grad_input(grad, boxes, *padded(directions), winners, size, last, *rule)
    return results


def grad_boxes(
    grad: Tensor, maps: Maps, boxes: Tensor, directions: Directions, winners: Tensor | None, rule: Rule
) -> Tensor:
    result: Tensor = ops._pool_grad_boxes(grad, maps, boxes, *padded(directions, 1), winners, *rule)
    return result


def wanted(needed: Sequence[bool], gradients: Maps) -> Gradients:
    return tuple(gradient if need else None for need, gradient in zip(needed, gradients, strict=True))


def box_gradients(
    needed: Sequence[bool],
    grad: Tensor,
    maps: Maps,
    boxes: Tensor,
    u: Tensor | None,
    v: Tensor | None,
    winners: Tensor | None,
    rule: Rule,
) -> Gradients:
    """Gradients by boxes, u and v of the form, as far as needed."""

    def along(directions: Directions) -> Tensor:
        return grad_boxes(grad, maps, boxes, directions, winners, rule)

    directions = given(u, v)
    by_boxes = along(directions) if needed[0] and has_box_derivative(rule, len(directions) + 1) else None
    by_u = along(given(v)) if u is not None and needed[1] else None
    by_v = along(given(u)) if v is not None and needed[2] else None
    return by_boxes, by_u, by_v


def box_terms(
    evaluate: Callable[[Directions], Linear],
    order: int,
    rule: Rule,
    u: Tensor | None,
    v: Tensor | None,
    boxes_tangent: Tensor | None,
    u_tangent: Tensor | None,
    v_tangent: Tensor | None,
) -> list[Linear]:
    """What the tangents of boxes and directions add to the tangent of evaluate(directions); there may be no term.

    `order` is that of the derivative by the boxes which a tangent of theirs asks for.
    """
    terms = []
    if boxes_tangent is not None and has_box_derivative(rule, order):
        terms.append(evaluate([*given(u, v), boxes_tangent]))
    if u_tangent is not None:
        terms.append(evaluate(given(u_tangent, v)))
    if v_tangent is not None:
        terms.append(evaluate(given(u, v_tangent)))
    return terms
