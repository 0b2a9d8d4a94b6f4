"""The one tolerance of the tests, and what holds the package against an oracle with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from support.inputs import finest, random_tensor

if TYPE_CHECKING:
    from support.operator_calls import OperatorCall

SUM_ROUNDINGS = 32
"""Roundings of the arithmetic type that one result may collect, in units of the sum of absolute terms."""


def assert_within_rounding(
    actual: Tensor, expected: Tensor, magnitude: Tensor, arithmetic: torch.dtype | None = None
) -> None:
    """``actual`` is the float64 ``expected`` up to rounding.

    The allowed error has two parts, in every dtype: twice the error of rounding the exact result once to
    ``actual.dtype``, and the rounding errors of a sum in the arithmetic type, by default float32, float64 for float64.
    The absolute values of its terms add up to ``magnitude``, or to the largest finite one where it is infinite.
    Infinite results are exact.
    """
    assert actual.shape == expected.shape
    storage = torch.finfo(actual.dtype)
    sums = torch.finfo(arithmetic or (torch.float64 if actual.dtype == torch.float64 else torch.float32))
    smallest = storage.smallest_normal * storage.eps
    finite = magnitude.abs().masked_fill(~magnitude.isfinite(), 0.0)
    largest = float(finite.max()) if finite.numel() > 0 else 0.0
    terms = torch.where(magnitude.isinf(), expected.abs().clamp(min=largest), magnitude.abs())
    bound = storage.eps * expected.abs() + SUM_ROUNDINGS * sums.eps * terms + smallest
    bound = bound.masked_fill(expected.isinf(), 0.0)
    actual = actual.detach().double()
    right = ((actual - expected).abs() <= bound) | (actual == expected) | (actual.isnan() & expected.isnan())
    if not bool(right.all()):
        first = tuple(int(i) for i in (~right).nonzero()[0])
        raise AssertionError(
            f"{int((~right).sum())} of {right.numel()} elements off; at {first}: got {actual[first].item()}, expected"
            f" {expected[first].item()}, allowed error {bound[first].item():.3g}"
        )


def assert_matches_oracle(call: OperatorCall, features: Any, boxes: Tensor) -> Tensor:
    """Runs the package, holds the result against the oracle, returns it."""
    out = call(features, boxes)
    assert out.dtype == finest(features).dtype
    assert_within_rounding(out, call.forward(features, boxes), call.forward_terms(features, boxes))
    return out


def assert_are_gradients(
    actual: list[Tensor], expected: list[tuple[Tensor, Tensor]], features: Any, boxes: Tensor
) -> None:
    """Gradients of the maps, and of the boxes where there is one, against ``expected_gradients()`` of an operator."""
    maps = tree_leaves(features)
    for gradient, (exact, terms), leaf in zip(actual, expected, [*maps, boxes][: len(expected)], strict=True):
        assert gradient.dtype == leaf.dtype
        double = leaf.dtype == maps[0].dtype == torch.float64
        assert_within_rounding(gradient, exact, terms, torch.float64 if double else torch.float32)
    assert len(expected) == len(maps) or not bool(actual[-1][:, 0].any())


def assert_gradients_match_oracle(call: OperatorCall, features: Any, boxes: Tensor, grad: Tensor) -> list[Tensor]:
    """Runs forward and backward, holds every gradient that the operator has against the oracle, returns them."""
    actual = call.gradients(call.leaves(features, boxes), grad)
    assert_are_gradients(actual, call.expected_gradients(grad, features, boxes), features, boxes)
    return actual


def assert_is_the_definition(call: OperatorCall, features: Any, boxes: Tensor, seed: int = 4) -> Tensor:
    """Holds the result and every gradient against the oracle; returns the result."""
    out = assert_matches_oracle(call, features, boxes)
    assert_gradients_match_oracle(call, features, boxes, random_tensor(*out.shape, seed=seed, dtype=out.dtype))
    return out
