"""Are derivatives by dual numbers right, and those of forward mode over backward?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import roialign_ext
from roialign_ext import RoIAlignFunction, roi_align
from support.inputs import MODES, random_tensor
from support.small_cases import SHAPE, SIZE, WEIGHTS, SmallCase, close, each_case, each_mode

pytestmark = pytest.mark.usefixtures("one_thread")


def tangents_of(case: SmallCase) -> Iterator[tuple[Tensor, ...]]:
    """A direction of everything, then one for each argument alone, the others zero."""
    along = case.directions()
    yield along
    if len(along) > 1:
        for place in range(len(along)):
            yield tuple(tangent if i == place else torch.zeros_like(tangent) for i, tangent in enumerate(along))


def duals(primals: tuple[Tensor, ...] | list[Tensor], tangents: tuple[Tensor, ...]) -> list[Tensor]:
    """Dual numbers; a primal alone if its tangent is zero."""
    return [
        forward_ad.make_dual(primal, tangent) if tangent.any() else primal
        for primal, tangent in zip(primals, tangents, strict=True)
    ]


def tangent_of(result: Tensor) -> Tensor:
    tangent = forward_ad.unpack_dual(result).tangent
    assert tangent is not None
    return tangent


@each_case
@pytest.mark.parametrize("requires_grad", [False, True])
def test_dual_numbers(case: SmallCase, requires_grad: bool) -> None:
    for tangents in tangents_of(case):
        value, expected = torch.autograd.functional.jvp(case.varied(case.defined), case.varied_point(), tangents)
        with forward_ad.dual_level():
            leaves = [primal.clone().requires_grad_(requires_grad) for primal in case.varied_point()]
            result = case.varied(case)(*duals(leaves, tangents))
            close(forward_ad.unpack_dual(result).primal.detach(), value)
            close(tangent_of(result).detach(), expected)


@each_case
def test_tangent_under_no_grad(case: SmallCase) -> None:
    point, tangents = case.varied_point(), case.directions()
    _, expected = torch.autograd.functional.jvp(case.varied(case.defined), point, tangents)
    with torch.no_grad(), forward_ad.dual_level():
        result = forward_ad.unpack_dual(case.varied(case)(*duals(point, tangents)))
        assert result.tangent is not None
        close(result.tangent, expected)
        assert not result.primal.requires_grad


@each_case
def test_no_tangent_without_a_dual_argument(case: SmallCase) -> None:
    with forward_ad.dual_level():
        assert forward_ad.unpack_dual(case(*case.point())).tangent is None


@each_case
def test_forward_over_backward(case: SmallCase) -> None:
    """The tangents of all gradients along a direction are a product of the Hessian with it."""
    for tangents in tangents_of(case):
        _, expected = torch.autograd.functional.vhp(case.varied(case.defined_scalar), case.varied_point(), tangents)
        with forward_ad.dual_level():
            leaves = [primal.clone().requires_grad_() for primal in case.varied_point()]
            gradients = torch.autograd.grad(case.varied(case.scalar)(*duals(leaves, tangents)), leaves)
            for gradient, product in zip(gradients, expected, strict=True):
                close(tangent_of(gradient), product)


def linear_loss_products(case: SmallCase) -> tuple[Tensor, ...]:
    """Products of the Hessian of a weighted sum with the directions."""

    def loss(*tensors: Tensor) -> Tensor:
        return (WEIGHTS * case.varied(case.defined)(*tensors)).sum()

    products = torch.autograd.functional.vhp(loss, case.varied_point(), case.directions())[1]
    assert isinstance(products, tuple)
    return products


@each_case
def test_forward_over_backward_of_a_linear_loss(case: SmallCase) -> None:
    """The gradient does not depend on the result, so that only the tensors saved for backward carry tangents."""
    with forward_ad.dual_level():
        leaves = [primal.clone().requires_grad_() for primal in case.varied_point()]
        out = case.varied(case)(*duals(leaves, case.directions()))
        gradients = torch.autograd.grad(out, leaves, WEIGHTS)
        for gradient, product in zip(gradients, linear_loss_products(case), strict=True):
            tangent = forward_ad.unpack_dual(gradient).tangent
            close(torch.zeros_like(product) if tangent is None else tangent, product)


@each_case
def test_backward_over_forward(case: SmallCase) -> None:
    """The tangent is differentiable itself. The gradients have tangents too, which are third derivatives."""
    with forward_ad.dual_level():
        leaves = [primal.clone().requires_grad_() for primal in case.varied_point()]
        tangent = tangent_of(case.varied(case)(*duals(leaves, case.directions())))
        if case.box_order == 2:
            with pytest.raises(NotImplementedError, match="third derivatives"):
                torch.autograd.grad(tangent, leaves, WEIGHTS)
            return
        gradients = (
            torch.autograd.grad(tangent, leaves, WEIGHTS, materialize_grads=True)
            if tangent.requires_grad
            else tuple(map(torch.zeros_like, leaves))  # linear in the maps alone
        )
        close(gradients, linear_loss_products(case))


@each_case
def test_finite_differences(case: SmallCase) -> None:
    """roi_warp in its maps alone: derivatives with respect to the boxes pass straight through the rounding."""
    *maps, boxes = case.point()
    exact = case.box_order > 0 and case.function is not roialign_ext.roi_warp

    def call(*tensors: Tensor) -> Tensor:
        return case(*tensors) if exact else case(*tensors, boxes)

    tensors = tuple(tensor.requires_grad_() for tensor in ((*maps, boxes) if exact else maps))
    # The tangent of torch.max_pool2d, which the maximum of a crop is made of, knows no batches of this kind.
    batched = case.name != "crop_and_resize-max"
    checks = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": batched}
    assert gradcheck(call, tensors, fast_mode=True, **checks)
    assert gradgradcheck(call, tensors, check_fwd_over_rev=True, check_batched_grad=True, fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_tangent_has_the_dtype_and_layout_of_the_result(
    mode: str, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    features = random_tensor(*SHAPE, dtype=dtype).to(memory_format=layout)
    boxes = torch.tensor([[0.0, 0.3, 0.4, 3.2, 2.9], [1.0, -1.0, 0.5, 2.0, 3.0]])
    with forward_ad.dual_level():
        dual_boxes = forward_ad.make_dual(boxes, torch.zeros_like(boxes))
        value, tangent = forward_ad.unpack_dual(
            roi_align(forward_ad.make_dual(features, features), dual_boxes, 2, mode=mode)
        )
        assert tangent is not None
        assert tangent.dtype == value.dtype == dtype
        assert tangent.stride() == value.stride()
        torch.testing.assert_close(tangent, value)  # linear in the features


@each_mode
def test_function_has_forward_mode(case: SmallCase) -> None:
    (rows,), along = case.box_arguments(case.boxes()), case.directions()
    with forward_ad.dual_level():
        dual_features = forward_ad.make_dual(case.maps()[0], along[0])
        dual_rows = forward_ad.make_dual(rows, torch.cat([torch.zeros(2, 1), along[1]], 1))
        result = RoIAlignFunction.apply(dual_features, dual_rows, SIZE, *case.options.values())
        expected = case(*duals(case.point(), along))
        assert torch.equal(tangent_of(result), tangent_of(expected))
