"""Forward-mode differentiation by dual numbers, and forward mode over backward (Hessian-vector products)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from roialign_ext import RoIAlignFunction, roi_align
from support import differentiable
from support.inputs import MODES, random_tensor
from support.operators import RoIAlignCall, smooth_boxes

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (2, 2, 4, 5)
CALLS = [
    pytest.param(
        RoIAlignCall((2, 2), 0.8, ratio, aligned, mode), id=f"{mode}-{'half_pixel' if aligned else 'legacy'}-{ratio}"
    )
    for mode in MODES
    for aligned in (True, False)
    for ratio in (2, -1)
]
each_call = pytest.mark.parametrize("call", CALLS)


def point_of(call: RoIAlignCall) -> tuple[Tensor, Tensor]:
    return random_tensor(*SHAPE, seed=1), smooth_boxes(3, SHAPE, call, seed=2)


def direction_at(call: RoIAlignCall) -> tuple[Tensor, Tensor]:
    return random_tensor(*SHAPE, seed=3), random_tensor(3, 5, seed=4)


def defined(call: RoIAlignCall, features: Tensor, boxes: Tensor) -> Tensor:
    return differentiable.roi_align(features, boxes, call.params(features, boxes), call.mode)


def close(actual: Tensor | None, expected: Tensor) -> None:
    assert actual is not None
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@each_call
@pytest.mark.parametrize("moved", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_dual_numbers(call: RoIAlignCall, moved: tuple[bool, bool], requires_grad: bool) -> None:
    point = point_of(call)
    tangents = [
        direction if move else torch.zeros_like(direction)
        for direction, move in zip(direction_at(call), moved, strict=True)
    ]
    value, expected = torch.autograd.functional.jvp(lambda *p: defined(call, *p), point, tuple(tangents))
    with forward_ad.dual_level():
        arguments = [
            forward_ad.make_dual(primal.clone().requires_grad_(requires_grad), tangent) if move else primal
            for primal, tangent, move in zip(point, tangents, moved, strict=True)
        ]
        result = forward_ad.unpack_dual(call(arguments[0], arguments[1]))
        close(result.primal.detach(), value)
        assert result.tangent is not None
        close(result.tangent.detach(), expected)


@each_call
def test_tangent_under_no_grad(call: RoIAlignCall) -> None:
    point, tangents = point_of(call), direction_at(call)
    _, expected = torch.autograd.functional.jvp(lambda *p: defined(call, *p), point, tangents)
    with torch.no_grad(), forward_ad.dual_level():
        duals = [forward_ad.make_dual(primal, tangent) for primal, tangent in zip(point, tangents, strict=True)]
        result = forward_ad.unpack_dual(call(duals[0], duals[1]))
        close(result.tangent, expected)
        assert not result.primal.requires_grad


@pytest.mark.parametrize("mode", MODES)
def test_no_tangent_without_a_dual_argument(mode: str) -> None:
    call = RoIAlignCall(mode=mode)
    with forward_ad.dual_level():
        assert forward_ad.unpack_dual(call(*point_of(call))).tangent is None


@each_call
@pytest.mark.parametrize("moved", [(True, False), (False, True), (True, True)])
def test_forward_over_backward(call: RoIAlignCall, moved: tuple[bool, bool]) -> None:
    """The tangents of both gradients along a direction are a product of the Hessian with it."""
    point = point_of(call)
    weights = random_tensor(3, SHAPE[1], *call.output_size, seed=5)
    tangents = tuple(
        direction if move else torch.zeros_like(direction)
        for direction, move in zip(direction_at(call), moved, strict=True)
    )
    _, expected = torch.autograd.functional.vhp(lambda *p: (weights * defined(call, *p) ** 2).sum(), point, tangents)
    with forward_ad.dual_level():
        leaves = [primal.clone().requires_grad_() for primal in point]
        duals = [
            forward_ad.make_dual(leaf, tangent) if move else leaf
            for leaf, tangent, move in zip(leaves, tangents, moved, strict=True)
        ]
        gradients = torch.autograd.grad((weights * call(duals[0], duals[1]) ** 2).sum(), leaves)
        for gradient, product in zip(gradients, expected, strict=True):
            close(forward_ad.unpack_dual(gradient).tangent, product)


@each_call
def test_forward_over_backward_of_a_linear_loss(call: RoIAlignCall) -> None:
    """The same with a gradient that does not depend on the result: only what backward saved carries tangents."""
    features, boxes = point_of(call)
    weights = random_tensor(3, SHAPE[1], *call.output_size, seed=5)
    tangents = direction_at(call)
    _, expected = torch.autograd.functional.vhp(
        lambda *p: (weights * defined(call, *p)).sum(), (features, boxes), tangents
    )
    with forward_ad.dual_level():
        leaves = [features.clone().requires_grad_(), boxes.clone().requires_grad_()]
        duals = [forward_ad.make_dual(leaf, tangent) for leaf, tangent in zip(leaves, tangents, strict=True)]
        gradients = torch.autograd.grad(call(duals[0], duals[1]), leaves, weights)
        for gradient, product in zip(gradients, expected, strict=True):
            close(forward_ad.unpack_dual(gradient).tangent, product)


@each_call
def test_backward_over_forward(call: RoIAlignCall) -> None:
    """The tangent is differentiable itself."""
    point, tangents = point_of(call), direction_at(call)
    weights = random_tensor(3, SHAPE[1], *call.output_size, seed=5)
    _, expected = torch.autograd.functional.vhp(lambda *p: (weights * defined(call, *p)).sum(), point, tangents)
    with forward_ad.dual_level():
        leaves = [primal.clone().requires_grad_() for primal in point]
        duals = [forward_ad.make_dual(leaf, tangent) for leaf, tangent in zip(leaves, tangents, strict=True)]
        tangent = forward_ad.unpack_dual(call(duals[0], duals[1])).tangent
        assert tangent is not None
        gradients = torch.autograd.grad(tangent, leaves, weights)
    for gradient, product in zip(gradients, expected, strict=True):
        close(gradient, product)


@each_call
def test_finite_differences(call: RoIAlignCall) -> None:
    features, boxes = point_of(call)
    features.requires_grad_()
    image, corners = boxes[:, :1], boxes[:, 1:].clone().requires_grad_()

    def pooled(features: Tensor, corners: Tensor) -> Tensor:
        return call(features, torch.cat([image, corners], 1))

    assert gradcheck(
        pooled, (features, corners), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True,
        fast_mode=True,
    )  # fmt: skip
    assert gradgradcheck(pooled, (features, corners), check_fwd_over_rev=True, check_batched_grad=True, fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_tangent_has_the_dtype_and_layout_of_the_result(
    mode: str, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    features = random_tensor(*SHAPE, dtype=dtype).to(memory_format=layout)
    boxes = torch.tensor([[0.0, 0.3, 0.4, 3.2, 2.9], [1.0, -1.0, 0.5, 2.0, 3.0]])
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(features, features), forward_ad.make_dual(boxes, torch.zeros_like(boxes))]
        value, tangent = forward_ad.unpack_dual(roi_align(duals[0], duals[1], 2, mode=mode))
        assert tangent is not None
        assert tangent.dtype == value.dtype == dtype
        assert tangent.stride() == value.stride()
        torch.testing.assert_close(tangent, value)  # linear in the features


@pytest.mark.parametrize("mode", MODES)
def test_function_has_forward_mode(mode: str) -> None:
    call = RoIAlignCall((2, 2), 0.8, 2, True, mode)
    point, tangents = point_of(call), direction_at(call)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(primal, tangent) for primal, tangent in zip(point, tangents, strict=True)]
        result = RoIAlignFunction.apply(*duals, (2, 2), 0.8, 2, True, mode)
        expected = forward_ad.unpack_dual(call(duals[0], duals[1]))
        tangent = forward_ad.unpack_dual(result).tangent
        assert tangent is not None
        assert expected.tangent is not None
        assert torch.equal(tangent, expected.tangent)
