"""Are second derivatives right, by finite differences and by autograd of the definition?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from roialign_ext import roi_align, roi_warp
from support import differentiable
from support.inputs import BOX_SETS, MODES, as_array, joined, random_tensor, smooth_boxes, spread
from support.operator_calls import RoIAlignCall
from support.small_cases import NAMED, SIZE, close

FEATURES = random_tensor(2, 2, 4, 5, seed=1)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradgradcheck(mode: str, aligned: bool, ratio: int, layout: torch.memory_format) -> None:
    call = RoIAlignCall((2, 2), 0.6, ratio, aligned, mode)
    boxes = smooth_boxes(3, tuple(FEATURES.shape), call, seed=2)
    features = FEATURES.clone(memory_format=layout).requires_grad_()
    corners = boxes[:, 1:].clone().requires_grad_()
    assert gradgradcheck(
        lambda f, c: call(f, joined(boxes[:, 0], c)),
        (features, corners),
        gen_non_contig_grad_outputs=True,
        check_fwd_over_rev=True,
        check_batched_grad=True,
    )


@pytest.mark.parametrize("mode", MODES)
def test_gradgradcheck_of_the_input_alone(mode: str) -> None:
    call = RoIAlignCall((2, 2), 0.6, -1, True, mode)
    boxes = smooth_boxes(3, tuple(FEATURES.shape), call, seed=3)
    assert gradgradcheck(lambda f: call(f, boxes), (FEATURES.clone().requires_grad_(),), check_fwd_over_rev=True)


@pytest.mark.parametrize("mode", MODES)
def test_gradgradcheck_of_the_boxes_alone(mode: str) -> None:
    call = RoIAlignCall((2, 2), 0.6, 2, False, mode)
    boxes = smooth_boxes(3, tuple(FEATURES.shape), call, seed=4)
    corners = boxes[:, 1:].clone().requires_grad_()
    assert gradgradcheck(lambda c: call(FEATURES, joined(boxes[:, 0], c)), (corners,), check_fwd_over_rev=True)


def second_order(out: Tensor, features: Tensor, boxes: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Both gradients, then the three derivatives of a random linear form of both gradients, all connected."""
    grad = random_tensor(*out.shape, seed=5, dtype=dtype).requires_grad_()
    firsts = torch.autograd.grad(out, (features, boxes), grad, create_graph=True)
    loss = sum(
        ((first * random_tensor(*first.shape, seed=6 + i, dtype=dtype)).sum() for i, first in enumerate(firsts)),
        start=torch.zeros((), dtype=dtype),
    )
    seconds = torch.autograd.grad(loss, (features, boxes, grad), create_graph=True)
    return [*firsts, *seconds]


NASTY = spread(
    torch.cat([BOX_SETS[name] for name in ("inside", "crossing", "outside", "empty", "reversed", "border", "tiny")]), 2
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-3)])
def test_equals_autograd_of_the_definition(
    mode: str, aligned: bool, ratio: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Clamped, rejected, mirrored and empty grids, cell borders, the legacy minimum: pure and mixed second derivatives.

    In float32 a sample can fall into the neighbouring cell of the float64 definition: there boxes avoid borders.
    """
    call = RoIAlignCall((2, 3), 0.75, ratio, aligned, mode)
    boxes = NASTY if dtype == torch.float64 else smooth_boxes(8, (2, 3, 7, 9), call, seed=7).float().double()
    features = random_tensor(2, 3, 7, 9, seed=8, dtype=dtype)
    ours = features.clone().requires_grad_(), boxes.to(dtype).requires_grad_()
    theirs = features.double().requires_grad_(), boxes.clone().requires_grad_()
    actual = second_order(call(*ours), *ours, dtype)
    params = call.params(theirs[0], theirs[1])
    expected = second_order(differentiable.roi_align(*theirs, params, mode), *theirs, torch.float64)
    for a, e in zip(actual, expected, strict=True):
        scale = max(1.0, float(e.detach().abs().max()))
        torch.testing.assert_close(a.double(), e, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_third_derivatives_equal_autograd_of_the_definition(mode: str) -> None:
    """Mixed third derivatives (two directions in the boxes, one in the input) exist; those w.r.t. boxes alone are 0."""
    call = RoIAlignCall((2, 2), 0.75, 2, True, mode)
    features = random_tensor(2, 3, 7, 9, seed=9)
    results = []
    for package in (True, False):
        leaves = features.clone().requires_grad_(), NASTY.clone().requires_grad_()
        out = call(*leaves) if package else differentiable.roi_align(*leaves, call.params(*leaves), mode)
        *_, by_features, grad_boxes, by_grad = second_order(out, *leaves, torch.float64)
        loss = (by_features * random_tensor(*by_features.shape, seed=10)).sum()
        loss = loss + (grad_boxes * random_tensor(*grad_boxes.shape, seed=11)).sum()
        loss = loss + (by_grad * random_tensor(*by_grad.shape, seed=12)).sum()
        results.append(torch.autograd.grad(loss, leaves))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("aligned", [False, True])
def test_second_derivative_by_the_boxes_couples_the_axes_only(aligned: bool) -> None:
    """Equation (27): the Hessian of one box has no entries within an axis, and is symmetric."""
    call = RoIAlignCall((2, 2), 0.75, 2, aligned)
    box = smooth_boxes(1, (1, 2, 4, 5), call, seed=13)[0, 1:]
    features = FEATURES[:1]

    def loss(corners: Tensor) -> Tensor:
        out = call(features, joined(torch.zeros(1, dtype=torch.float64), corners[None]))
        return (out * random_tensor(*out.shape, seed=14)).sum()

    hessian = torch.autograd.functional.hessian(loss, box)
    assert isinstance(hessian, Tensor)
    torch.testing.assert_close(hessian, hessian.T, atol=1e-12, rtol=0)
    assert float(hessian.abs().max()) > 1e-3
    for axis in ((0, 2), (1, 3)):
        for i in axis:
            for j in axis:
                assert hessian[i, j].item() == 0.0


@pytest.mark.parametrize("mode", MODES)
def test_gradient_penalty_trains_the_input(mode: str) -> None:
    """The everyday use: a penalty on grad_input, differentiated by a parameter before the operator."""
    call = RoIAlignCall((2, 2), 0.75, 2, True, mode)
    boxes = smooth_boxes(3, tuple(FEATURES.shape), call, seed=15)

    def penalty(weight: Tensor) -> Tensor:
        features = (FEATURES * weight[:, None, None]).tanh()
        out = call(features, boxes)
        (by_input,) = torch.autograd.grad((out**2).sum(), features, create_graph=True)
        return (by_input**2).sum()

    assert gradcheck(penalty, (torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True),))


def test_second_order_graph_is_only_built_on_request() -> None:
    boxes = spread(BOX_SETS["inside"], 2).requires_grad_()
    features = FEATURES.clone().requires_grad_()
    out = RoIAlignCall((2, 2), 1.0, 2, True)(features, boxes)
    firsts = torch.autograd.grad(out.sum(), (features, boxes), retain_graph=True)
    assert not any(first.requires_grad for first in firsts)
    firsts = torch.autograd.grad(out.sum(), (features, boxes), create_graph=True)
    assert all(first.requires_grad for first in firsts)


@pytest.mark.parametrize("mode", MODES)
def test_grad_input_depends_on_the_output_gradient_only(mode: str) -> None:
    """The operator is linear in its input: grad_input, differentiated by the output gradient, is the forward."""
    call = RoIAlignCall((2, 2), 0.75, 2, True, mode)
    boxes = smooth_boxes(3, tuple(FEATURES.shape), call, seed=16)
    features = FEATURES.clone().requires_grad_()
    out = call(features, boxes)
    grad = random_tensor(*out.shape, seed=17).requires_grad_()
    (by_input,) = torch.autograd.grad(out, features, grad, create_graph=True)
    (by_grad,) = torch.autograd.grad(by_input, grad, FEATURES)
    torch.testing.assert_close(by_grad, out.detach(), atol=1e-13, rtol=0)
    assert as_array(by_grad).shape == tuple(out.shape)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_roi_warp_passes_straight_through_the_rounding(mode: str, ratio: int) -> None:
    """roi_warp is roi_align on rounded corners; the rounding has the derivative 1, in second derivatives too."""
    results = []
    for rounded in (False, True):
        features, corners = NAMED["roi_warp"].leaves()
        scaled = 0.8 * corners
        scaled = scaled + (scaled.round() - scaled).detach() if rounded else scaled
        images = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        if rounded:
            out = roi_align(features, torch.cat([images, scaled], 1), SIZE, 1.0, ratio, False, mode)
        else:
            out = roi_warp(features, torch.cat([images, corners], 1), SIZE, 0.8, ratio, mode)
        firsts = torch.autograd.grad((out**3).sum(), (features, corners), create_graph=True)
        seconds = torch.autograd.grad(sum((first**2).sum() for first in firsts), (features, corners))
        results.append((out, *firsts, *seconds))
    close(*results)
