"""Are forward and backward adjoint, <A F, G> = <F, A^T G>, also in the derivatives with respect to the boxes?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from support.inputs import LAYOUTS, LOW_PRECISION, MODES, all_boxes, random_tensor, smooth_boxes, with_layout
from support.operator_calls import RoIAlignCall

RATIOS = (-1, 1, 2, 3, 6)
SHAPE = (2, 5, 7, 9)
RULES = {False: "roi_align_legacy", True: "roi_align_half_pixel"}


def inner(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())


def assert_adjoint(forward: Tensor, grad: Tensor, features: Tensor, backward: Tensor, tolerance: float) -> None:
    """``tolerance`` is relative to the absolute terms of the two sums."""
    terms = inner(forward.abs(), grad.abs()) + inner(features.abs(), backward.abs())
    assert abs(inner(forward, grad) - inner(features, backward)) <= tolerance * (terms + 1e-300)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_grad_input_is_the_adjoint(aligned: bool, ratio: int, mode: str, dtype: torch.dtype) -> None:
    """In max mode with the argmax of ``features``: the operator is homogeneous, so F itself may stand on the left."""
    features = random_tensor(*SHAPE, seed=1, dtype=dtype).requires_grad_()
    boxes = all_boxes(2).to(dtype)
    out = RoIAlignCall((3, 2), 0.9, ratio, aligned, mode)(features, boxes)
    grad = random_tensor(*out.shape, seed=2, dtype=dtype)
    (grad_input,) = torch.autograd.grad(out, features, grad)
    assert_adjoint(out.detach(), grad, features.detach(), grad_input, 1e-14 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", ["contiguous", "channels_last", "sliced", "expanded_pixels"])
@pytest.mark.parametrize("mode", MODES)
def test_every_layout(layout: str, grad_layout: str, mode: str) -> None:
    features = with_layout(random_tensor(*SHAPE, seed=1), layout).requires_grad_()
    out = RoIAlignCall((3, 2), 0.9, 2, True, mode)(features, all_boxes(2))
    grad = with_layout(random_tensor(*out.shape, seed=2), grad_layout)
    (grad_input,) = torch.autograd.grad(out, features, grad)
    assert_adjoint(out.detach(), grad, features.detach(), grad_input, 1e-14)


@pytest.mark.parametrize("dtype", LOW_PRECISION)
@pytest.mark.parametrize("mode", MODES)
def test_low_precision(dtype: torch.dtype, mode: str) -> None:
    features = random_tensor(*SHAPE, seed=1, dtype=dtype).requires_grad_()
    out = RoIAlignCall((3, 2), 0.9, 2, True, mode)(features, all_boxes(2).float())
    grad = random_tensor(*out.shape, seed=2, dtype=dtype)
    (grad_input,) = torch.autograd.grad(out, features, grad)
    assert_adjoint(out.detach(), grad, features.detach(), grad_input, torch.finfo(dtype).eps)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 2])
@pytest.mark.parametrize("directions", [0, 1, 2])
@pytest.mark.parametrize("has_argmax", [False, True])
def test_the_derivatives_are_adjoint_too(aligned: bool, ratio: int, directions: int, has_argmax: bool) -> None:
    """D_u A and D_u D_v A of equations (21) and (22), with tables of all samples and of the argmax."""
    ops = torch.ops.roialign_ext
    features, boxes = random_tensor(*SHAPE, seed=1), all_boxes(2)
    arguments = ([3, 2], [0.9], [224.0, 4.0], ratio, RULES[aligned])
    argmax = ops._max_pool([features], boxes, *arguments)[1] if has_argmax else None
    along = [random_tensor(*boxes.shape, seed=3 + i) if i < directions else None for i in range(2)]
    out = ops._pool([features], boxes, *along, argmax, *arguments)
    grad = random_tensor(*out.shape, seed=2)
    for channels_last in (False, True):
        back = ops._pool_grad_input(grad, boxes, *along, argmax, list(SHAPE), channels_last, *arguments[1:])[0]
        assert_adjoint(out, grad, features, back, 1e-13)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 2])
@pytest.mark.parametrize("has_argmax", [False, True])
def test_directional_derivatives(aligned: bool, ratio: int, has_argmax: bool) -> None:
    """Equation (21) against central differences, (22) symmetric and against the same, (25) against (21)."""
    ops = torch.ops.roialign_ext
    call = RoIAlignCall((3, 2), 0.9, ratio, aligned)
    boxes = smooth_boxes(6, SHAPE, call, seed=5)
    features = random_tensor(*SHAPE, seed=1)
    arguments = ([3, 2], [0.9], [224.0, 4.0], ratio, RULES[aligned])
    argmax = ops._max_pool([features], boxes, *arguments)[1] if has_argmax else None

    def pool(rows: Tensor, u: Tensor | None = None, v: Tensor | None = None) -> Tensor:
        result: Tensor = ops._pool([features], rows, u, v, argmax, *arguments)
        return result

    u, v = random_tensor(*boxes.shape, seed=3), random_tensor(*boxes.shape, seed=4)
    step = 1e-5
    move = step * u * torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        pool(boxes, u), (pool(boxes + move) - pool(boxes - move)) / (2 * step), atol=1e-8, rtol=0
    )
    numeric = (pool(boxes + move, v) - pool(boxes - move, v)) / (2 * step)
    torch.testing.assert_close(pool(boxes, u, v), numeric, atol=1e-8, rtol=0)
    torch.testing.assert_close(pool(boxes, u, v), pool(boxes, v, u), atol=1e-13, rtol=0)
    grad = random_tensor(len(boxes), SHAPE[1], 3, 2, seed=2)
    for along in (None, v):
        grad_boxes = ops._pool_grad_boxes(grad, [features], boxes, along, argmax, *arguments[1:])
        moved = pool(boxes, u) if along is None else pool(boxes, v, u)
        per_box = (grad_boxes * u)[:, 1:].sum(1)
        torch.testing.assert_close(per_box, (moved * grad).sum((1, 2, 3)), atol=1e-11, rtol=0)
        assert not bool(grad_boxes[:, 0].any())


def test_the_image_column_of_a_direction_is_ignored() -> None:
    ops = torch.ops.roialign_ext
    features, boxes = random_tensor(*SHAPE, seed=1), all_boxes(2)
    u = random_tensor(*boxes.shape, seed=3)
    other = u.clone()
    other[:, 0] = float("nan")
    arguments = (None, None, [3, 2], [0.9], [224.0, 4.0], 2, "roi_align_half_pixel")
    assert torch.equal(ops._pool([features], boxes, u, *arguments), ops._pool([features], boxes, other, *arguments))


@pytest.mark.parametrize("mode", MODES)
def test_forward_is_linear_in_the_input(mode: str) -> None:
    """The average is linear; the maximum is homogeneous for factors that are not negative."""
    call = RoIAlignCall((3, 2), 0.9, -1, False, mode)
    features, other, boxes = random_tensor(*SHAPE, seed=1), random_tensor(*SHAPE, seed=2), all_boxes(2)
    torch.testing.assert_close(call(2.5 * features, boxes), 2.5 * call(features, boxes), atol=1e-13, rtol=0)
    if mode == "avg":
        combined = call(features - 3.0 * other, boxes)
        torch.testing.assert_close(combined, call(features, boxes) - 3.0 * call(other, boxes), atol=1e-13, rtol=0)
