"""Derivatives of the whole family, in eager mode and by torch.func.

They are held against finite differences once, in eager mode; torch.func is held against eager mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

import roialign_ext
from support.inputs import random_tensor
from support.integration_cases import CASES, NAMED, SHAPE, SIZE, Case, close, each_case, varied

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # opcheck looks at it
]
differentiable_in_boxes = pytest.mark.parametrize(
    "case", [case for case in CASES if case.box_order > 0], ids=lambda case: case.name
)


def leaves_of(case: Case) -> list[Tensor]:
    *maps, boxes = (tensor.clone() for tensor in case.point())
    return [*(one.requires_grad_() for one in maps), boxes.requires_grad_(case.box_order > 0)]


# --- derivatives in eager mode


@each_case
def test_opcheck(case: Case) -> None:
    *maps, boxes = leaves_of(case)
    arguments = (case.features(*maps), *case.rows(boxes), SIZE)
    opcheck(getattr(torch.ops.roialign_ext, case.function.__name__).default, arguments, case.options)


@each_case
def test_gradcheck(case: Case) -> None:
    """roi_warp in its maps alone: derivatives with respect to the boxes pass straight through the rounding."""
    *maps, boxes = case.point()
    exact = case.box_order > 0 and case.function is not roialign_ext.roi_warp

    def call(*tensors: Tensor) -> Tensor:
        return case(*tensors) if exact else case(*tensors, boxes)

    tensors = tuple(tensor.requires_grad_() for tensor in ((*maps, boxes) if exact else maps))
    # the tangent of torch.max_pool2d, which the maximum of a crop is made of, knows no batches of this kind
    batched = case.name != "crop_and_resize-max"
    checks = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": batched}
    assert gradcheck(call, tensors, fast_mode=True, **checks)
    assert gradgradcheck(call, tensors, check_fwd_over_rev=True, check_batched_grad=True, fast_mode=True)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_roi_warp_passes_straight_through_the_rounding(mode: str, ratio: int) -> None:
    """It is roi_align on rounded corners, with the derivative of the rounding taken to be 1; twice too."""
    results = []
    for rounded in (False, True):
        (features, corners) = leaves_of(NAMED["roi_warp"])
        scaled = 0.8 * corners
        scaled = scaled + (scaled.round() - scaled).detach() if rounded else scaled
        images = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        if rounded:
            out = roialign_ext.roi_align(features, torch.cat([images, scaled], 1), SIZE, 1.0, ratio, False, mode)
        else:
            out = roialign_ext.roi_warp(features, torch.cat([images, corners], 1), SIZE, 0.8, ratio, mode)
        firsts = torch.autograd.grad((out**3).sum(), (features, corners), create_graph=True)
        seconds = torch.autograd.grad(sum((first**2).sum() for first in firsts), (features, corners))
        results.append((out, *firsts, *seconds))
    close(*results)


def test_roi_pool_has_no_grad_boxes() -> None:
    case = NAMED["roi_pool"]
    maps, boxes = case.point()
    refused = pytest.raises(NotImplementedError, match=r"roi_pool.*boxes")
    leaves = maps.clone().requires_grad_(), boxes.clone().requires_grad_()
    result = case(*leaves)
    with refused:
        result.sum().backward()
    (by_maps,) = torch.autograd.grad(case(*leaves).sum(), leaves[:1])
    assert torch.equal(by_maps, grad(lambda maps: case(maps, boxes).sum())(maps))
    for transform in (grad, jacrev, jacfwd):
        with refused:
            transform(lambda boxes: case(maps, boxes).sum())(boxes)
    with forward_ad.dual_level(), refused:
        case(maps, forward_ad.make_dual(boxes, boxes))


@differentiable_in_boxes
@pytest.mark.parametrize("by_functions", [False, True], ids=["autograd", "func"])
def test_third_derivative_by_the_boxes(case: Case, by_functions: bool) -> None:
    """Zero where the tables are piecewise linear in the box, refused where they are not."""
    maps, boxes = case.maps(), case.boxes()
    directions = [random_tensor(*boxes.shape, seed=seed) for seed in range(3)]

    def derivative(function: Callable[[Tensor], Tensor], along: Tensor) -> Callable[[Tensor], Tensor]:
        if by_functions:
            return lambda at: (grad(function)(at) * along).sum()
        return lambda at: (torch.autograd.grad(function(at), at, create_graph=True)[0] * along).sum()

    function: Callable[[Tensor], Tensor] = lambda at: case(*maps, at).sum()  # noqa: E731
    for along in directions:
        function = derivative(function, along)
    if case.box_order == 2:
        with pytest.raises(NotImplementedError, match="third derivatives with respect to the boxes"):
            function(boxes.requires_grad_())
    else:
        assert function(boxes.requires_grad_()).item() == 0.0


@each_case
def test_half_precision_and_layout(case: Case) -> None:
    """Gradients have the dtypes and layouts of what they belong to."""
    *maps, boxes = case.point()
    maps = [one.bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_() for one in maps]
    boxes = boxes.float().requires_grad_(case.box_order > 0)
    out = case(*maps, boxes)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    out.float().square().sum().backward()
    for one in maps:
        assert one.grad is not None
        assert one.grad.dtype == torch.bfloat16
        assert one.grad.is_contiguous(memory_format=torch.channels_last)
    assert case.box_order == 0 or (boxes.grad is not None and boxes.grad.dtype == torch.float32)


def test_only_wanted_levels_get_gradients() -> None:
    case = NAMED["multiscale_roi_align"]
    *maps, boxes = case.point()
    maps[1].requires_grad_()
    case(*maps, boxes).sum().backward()
    assert maps[0].grad is None
    assert maps[1].grad is not None
    (by_coarse,) = (grad(lambda coarse: case(maps[0], coarse, boxes).sum())(maps[1].detach()),)
    close(by_coarse, maps[1].grad)
    _, tangent = jvp(lambda coarse: case(maps[0], coarse, boxes), (maps[1].detach(),), (maps[1].detach(),))
    assert not bool(tangent[0].any())  # the first box is on the fine level
    assert bool(tangent[1].any())


# --- torch.func


@each_case
def test_first_derivatives_of_torch_func(case: Case) -> None:
    call, point = varied(case, case)
    scalar, _ = varied(case, case.scalar)
    places = tuple(range(len(point)))
    leaves = tuple(tensor.clone().requires_grad_() for tensor in point)
    close(grad(scalar, places)(*point), torch.autograd.grad(scalar(*leaves), leaves))
    tangents = tuple(random_tensor(*tensor.shape, seed=7 + place) for place, tensor in enumerate(point))
    close(jvp(call, point, tangents), torch.autograd.functional.jvp(call, point, tangents))
    value, pullback = vjp(call, *point)
    close(value, call(*point))
    close(pullback(value), torch.autograd.functional.vjp(call, point, value)[1])
    expected = torch.autograd.functional.jacobian(call, point)
    close(jacrev(call, places)(*point), expected)
    close(jacfwd(call, places)(*point), expected)


def forward_forward(function: Callable[..., Tensor], places: Any) -> Callable[..., Any]:
    return jacfwd(jacfwd(function, places), places)


def reverse_reverse(function: Callable[..., Tensor], places: Any) -> Callable[..., Any]:
    return jacrev(jacrev(function, places), places)


@each_case
@pytest.mark.parametrize("transform", [hessian, forward_forward, reverse_reverse])
def test_second_derivatives_of_torch_func(case: Case, transform: Callable[..., Any]) -> None:
    scalar, point = varied(case, case.scalar)
    expected = torch.autograd.functional.hessian(scalar, point, vectorize=True)
    close(transform(scalar, tuple(range(len(point))))(*point), expected)


@differentiable_in_boxes
@pytest.mark.parametrize("outer", [jacrev, jacfwd])
def test_mixed_third_derivative_of_torch_func(case: Case, outer: Callable[..., Any]) -> None:
    """Twice by the boxes and once by the maps: every rule has it."""
    *maps, boxes = case.point()

    def curvature(first: Tensor) -> Tensor:
        result = hessian(lambda at: case(first, *maps[1:], at).sum())(boxes)
        assert isinstance(result, Tensor)
        return result

    def curvature_by_autograd(first: Tensor) -> Tensor:
        result = torch.autograd.functional.hessian(
            lambda at: case(first, *maps[1:], at).sum(), boxes, create_graph=True, vectorize=True
        )
        assert isinstance(result, Tensor)
        return result

    close(outer(curvature)(maps[0]), torch.autograd.functional.jacobian(curvature_by_autograd, maps[0]))


BATCH = 3


def batches(case: Case) -> list[Tensor]:
    """BATCH maps per level and BATCH sets of boxes."""
    maps = [torch.stack(level) for level in zip(*(case.maps(seed) for seed in range(BATCH)), strict=True)]
    boxes = case.boxes()
    return [*maps, torch.stack([boxes, boxes.flip(0), boxes + 1e-4])]


def in_dims_of(case: Case) -> list[tuple[int | None, ...]]:
    some = [(0,) * case.levels, (2,) * case.levels, (None,) * case.levels]
    chosen = [(*dims, boxes) for dims in some for boxes in (0, None)]
    if case.levels == 2:
        chosen += [(None, 0, None), (0, None, 1), (None, 1, 0)]
    return [dims for dims in chosen if any(dim is not None for dim in dims)]


@each_case
def test_vmap(case: Case) -> None:
    """Of values and gradients, with a batch in any of the arguments."""
    points = batches(case)
    places = tuple(range(case.levels + (case.box_order > 0)))
    per_sample = grad(case.scalar, places)
    for in_dims in in_dims_of(case):
        pairs = list(zip(points, in_dims, strict=True))
        arguments = [point[0] if dim is None else point.movedim(0, dim) for point, dim in pairs]
        samples = [[point[0] if dim is None else point[i] for point, dim in pairs] for i in range(BATCH)]
        close(vmap(case, in_dims)(*arguments), torch.stack([case(*sample) for sample in samples]))
        expected = zip(*(per_sample(*sample) for sample in samples), strict=True)
        close(vmap(per_sample, in_dims)(*arguments), tuple(torch.stack(one) for one in expected))


@differentiable_in_boxes
def test_vmap_of_second_derivatives(case: Case) -> None:
    points = batches(case)
    curvature = hessian(case.scalar, case.levels)
    samples = [curvature(*(point[i] for point in points)) for i in range(BATCH)]
    close(vmap(curvature)(*points), torch.stack(samples))


@pytest.mark.parametrize("index", [2.0, -1.0, 0.5, float("nan")])
def test_vmap_refuses_bad_batch_index(index: float) -> None:
    """Also where it would name an image of the next call, with rows of six numbers and with several levels."""
    rows = torch.tensor([[0, 2.4, 2.1, 3.3, 2.2, 25.0]], dtype=torch.float64).repeat(BATCH, 1, 1)
    rows[1, 0, 0] = index
    maps = random_tensor(BATCH, *SHAPE)
    with pytest.raises(IndexError, match="batch index"):
        vmap(lambda one, boxes: roialign_ext.roi_align_rotated(one, boxes, 2))(maps, rows)
    with pytest.raises(IndexError, match="batch index"):
        vmap(lambda one, boxes: roialign_ext.multiscale_roi_align([one, one], boxes, 2, [1.0, 0.5]))(
            maps, rows[..., :5]
        )


@pytest.mark.filterwarnings("ignore:There is a performance drop because:UserWarning")  # torch's copying views
@each_case
def test_functionalize(case: Case) -> None:
    def in_place(*tensors: Tensor) -> Tensor:
        copies = [tensor.clone() for tensor in tensors]
        for copy in copies:
            copy[:, 0].mul_(0.75)
        return case(*copies).add_(1.0)

    def total(*tensors: Tensor) -> Tensor:
        return in_place(*tensors).square().sum()

    graph = make_fx(functionalize(in_place))(*case.point())
    assert not any(
        node.target._schema.is_mutable for node in graph.graph.nodes if isinstance(node.target, torch._ops.OpOverload)
    )
    close(graph(*case.point()), in_place(*case.point()))
    places = tuple(range(case.levels))
    close(grad(functionalize(total), places)(*case.point()), grad(total, places)(*case.point()))
    points = batches(case)
    close(functionalize(vmap(in_place))(*points), vmap(in_place)(*points))
