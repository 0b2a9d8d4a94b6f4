"""The transforms of torch.func, alone and composed, against autograd of the definition and against loops."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from roialign_ext import RoIAlignFunction, roi_align
from support import differentiable
from support.inputs import MODES, random_tensor
from support.operators import RoIAlignCall, smooth_boxes

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (2, 2, 4, 4)
BATCH = 3
CALLS = [
    pytest.param(
        RoIAlignCall((2, 2), 0.8, ratio, aligned, mode), id=f"{mode}-{'half_pixel' if aligned else 'legacy'}-{ratio}"
    )
    for mode in MODES
    for aligned, ratio in ((True, 2), (False, -1))
]
each_call = pytest.mark.parametrize("call", CALLS)


class Problem:
    """A call at a point where it is smooth, as functions of features and corners: the package's and the definition."""

    def __init__(self, call: RoIAlignCall, boxes: int = 2) -> None:
        self.call = call
        self.features = random_tensor(*SHAPE, seed=1)
        rows = smooth_boxes(boxes, SHAPE, call, seed=2)
        self.image, self.corners = rows[:, :1], rows[:, 1:].contiguous()
        self.point = (self.features, self.corners)
        self.weights = random_tensor(boxes, SHAPE[1], *call.output_size, seed=3)

    def pooled(self, features: Tensor, corners: Tensor) -> Tensor:
        return self.call(features, torch.cat([self.image, corners], 1))

    def scalar(self, features: Tensor, corners: Tensor) -> Tensor:
        return (self.weights * self.pooled(features, corners) ** 2).sum()

    def defined_pooled(self, features: Tensor, corners: Tensor) -> Tensor:
        boxes = torch.cat([self.image, corners], 1)
        return differentiable.roi_align(features, boxes, self.call.params(features, boxes), self.call.mode)

    def defined_scalar(self, features: Tensor, corners: Tensor) -> Tensor:
        return (self.weights * self.defined_pooled(features, corners) ** 2).sum()

    def tangents(self) -> tuple[Tensor, Tensor]:
        return random_tensor(*SHAPE, seed=4), random_tensor(*self.corners.shape, seed=5)


def close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@each_call
def test_grad(call: RoIAlignCall) -> None:
    problem = Problem(call)
    leaves = tuple(tensor.clone().requires_grad_() for tensor in problem.point)
    expected = torch.autograd.grad(problem.defined_scalar(*leaves), leaves)
    close(grad(problem.scalar, (0, 1))(*problem.point), expected)
    close(grad(problem.scalar)(*problem.point), expected[0])
    close(grad(problem.scalar, 1)(*problem.point), expected[1])


@each_call
def test_vjp(call: RoIAlignCall) -> None:
    problem = Problem(call)
    value, pullback = vjp(problem.pooled, *problem.point)
    close(value, problem.defined_pooled(*problem.point))
    _, expected = torch.autograd.functional.vjp(problem.defined_pooled, problem.point, problem.weights)
    close(pullback(problem.weights), expected)


@each_call
@pytest.mark.parametrize("of", ["features", "corners", "both"])
def test_jvp(call: RoIAlignCall, of: str) -> None:
    problem = Problem(call)
    features_tangent, corners_tangent = problem.tangents()
    tangents = (features_tangent * float(of != "corners"), corners_tangent * float(of != "features"))
    _, expected = torch.autograd.functional.jvp(problem.defined_pooled, problem.point, tangents)
    if of == "features":
        _, tangent = jvp(lambda features: problem.pooled(features, problem.corners), problem.point[:1], tangents[:1])
    elif of == "corners":
        _, tangent = jvp(lambda corners: problem.pooled(problem.features, corners), problem.point[1:], tangents[1:])
    else:
        _, tangent = jvp(problem.pooled, problem.point, tangents)
    close(tangent, expected)


# torch.fx's own constant folding, on which linearize relies, warns of the attributes it inserts.
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
@each_call
def test_linearize(call: RoIAlignCall) -> None:
    problem = Problem(call)
    value, pushforward = linearize(problem.pooled, *problem.point)
    close(value, problem.pooled(*problem.point))
    for scale in (1.0, -2.0):
        tangents = tuple(scale * tangent for tangent in problem.tangents())
        close(pushforward(*tangents), jvp(problem.pooled, problem.point, tangents)[1])


@each_call
@pytest.mark.parametrize("transform", [jacrev, jacfwd])
def test_jacobian(call: RoIAlignCall, transform: Callable[..., Any]) -> None:
    problem = Problem(call)
    expected = torch.autograd.functional.jacobian(problem.defined_pooled, problem.point)
    close(transform(problem.pooled, (0, 1))(*problem.point), expected)


def reverse_reverse(function: Callable[..., Tensor], argnums: Any) -> Callable[..., Any]:
    return jacrev(jacrev(function, argnums), argnums)


def forward_forward(function: Callable[..., Tensor], argnums: Any) -> Callable[..., Any]:
    return jacfwd(jacfwd(function, argnums), argnums)


def reverse_forward(function: Callable[..., Tensor], argnums: Any) -> Callable[..., Any]:
    return jacrev(jacfwd(function, argnums), argnums)


@each_call
@pytest.mark.parametrize("transform", [hessian, reverse_reverse, forward_forward, reverse_forward])
def test_hessian(call: RoIAlignCall, transform: Callable[..., Any]) -> None:
    problem = Problem(call)
    expected = torch.autograd.functional.hessian(problem.defined_scalar, problem.point, vectorize=True)
    close(transform(problem.scalar, (0, 1))(*problem.point), expected)


@each_call
@pytest.mark.parametrize("outer", [jacrev, jacfwd])
@pytest.mark.parametrize("inner", [hessian, reverse_reverse, forward_forward])
def test_third_derivative(call: RoIAlignCall, outer: Callable[..., Any], inner: Callable[..., Any]) -> None:
    problem = Problem(call)

    def second(features: Tensor, corners: Tensor) -> Tensor:
        result = torch.autograd.functional.hessian(
            lambda varied: problem.defined_scalar(features, varied), corners, create_graph=True, vectorize=True
        )
        assert isinstance(result, Tensor)
        return result

    expected = torch.autograd.functional.jacobian(second, problem.point, vectorize=True)
    close(outer(inner(problem.scalar, 1), (0, 1))(*problem.point), expected)


def batch_of_points(problem: Problem) -> tuple[Tensor, Tensor]:
    """Features and full box rows of BATCH calls; the rows' batch indices differ from call to call."""
    features = random_tensor(BATCH, *SHAPE, seed=6)
    rows = torch.stack([smooth_boxes(4, SHAPE, problem.call, seed=seed) for seed in (7, 8, 9)])
    rows[1, :, 0] = 1.0 - rows[1, :, 0]
    return features, rows


IN_DIMS = [(0, 0), (0, None), (None, 0), (3, 1), (2, 2), (-1, -1), (4, None), (None, 2), (1, 0)]


@each_call
@pytest.mark.parametrize("in_dims", IN_DIMS)
def test_vmap(call: RoIAlignCall, in_dims: tuple[int | None, int | None]) -> None:
    points = batch_of_points(Problem(call))
    arguments = [point[0] if dim is None else point.movedim(0, dim) for point, dim in zip(points, in_dims, strict=True)]
    single = [
        (point[:1].expand_as(point) if dim is None else point) for point, dim in zip(points, in_dims, strict=True)
    ]
    expected = torch.stack([call(features, rows) for features, rows in zip(*single, strict=True)])
    close(vmap(call, in_dims)(*arguments), expected)
    close(vmap(call, in_dims, out_dims=2, chunk_size=2)(*arguments), expected.movedim(0, 2))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_vmap_without_boxes(mode: str, in_dims: tuple[int | None, int | None], layout: torch.memory_format) -> None:
    features, rows = random_tensor(*SHAPE).to(memory_format=layout), torch.zeros(0, 5)
    sizes = [tensor if dim is None else tensor.expand(BATCH, *tensor.shape) for tensor, dim in
             zip((features, rows), in_dims, strict=True)]  # fmt: skip
    assert vmap(RoIAlignCall((3, 2), mode=mode), in_dims)(*sizes).shape == (BATCH, 0, SHAPE[1], 3, 2)


@each_call
def test_nested_vmap(call: RoIAlignCall) -> None:
    features, rows = batch_of_points(Problem(call))
    expected = torch.stack([torch.stack([call(image, boxes) for boxes in rows]) for image in features])
    close(vmap(vmap(call, (None, 0)), (0, None))(features, rows), expected)


@each_call
def test_vmap_of_boxes_in_a_list(call: RoIAlignCall) -> None:
    features, rows = batch_of_points(Problem(call))
    lists = rows[:, :2, 1:], rows[:, 2:, 1:]
    expected = torch.stack([call(image, [first, last]) for image, first, last in zip(features, *lists, strict=True)])
    close(vmap(lambda image, first, last: call(image, [first, last]))(features, *lists), expected)


PER_SAMPLE: list[Any] = [
    pytest.param(lambda scalar: grad(scalar, (0, 1)), id="grad"),
    pytest.param(lambda scalar: hessian(scalar, 1), id="hessian"),
    pytest.param(lambda scalar: jacrev(jacfwd(scalar, 0), 1), id="mixed"),
]


@each_call
@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (1, 2), (-1, None)])
@pytest.mark.parametrize("transform", PER_SAMPLE)
def test_per_sample_derivatives(
    call: RoIAlignCall, in_dims: tuple[int | None, int | None], transform: Callable[..., Callable[..., Any]]
) -> None:
    problem = Problem(call)
    # steps within the cells in which the problem is smooth
    points = [
        torch.stack([problem.features, -problem.features, 2.0 * problem.features]),
        torch.stack([problem.corners, problem.corners + 4e-4, problem.corners - 4e-4]),
    ]
    derive = transform(problem.scalar)
    arguments = [point[0] if dim is None else point.movedim(0, dim) for point, dim in zip(points, in_dims, strict=True)]
    samples = [
        derive(*(point[0] if dim is None else point[i] for point, dim in zip(points, in_dims, strict=True)))
        for i in range(BATCH)
    ]
    results = vmap(derive, in_dims)(*arguments)
    if isinstance(results, tuple):
        for k, result in enumerate(results):
            close(result, torch.stack([sample[k] for sample in samples]))
    else:
        close(results, torch.stack(samples))


@each_call
def test_vmap_of_tangents(call: RoIAlignCall) -> None:
    problem = Problem(call)
    tangents = [torch.stack([tangent, 2.0 * tangent, -tangent]) for tangent in problem.tangents()]
    _, one = jvp(problem.pooled, problem.point, problem.tangents())
    batch = vmap(lambda *tangent: jvp(problem.pooled, problem.point, tangent)[1])(*tangents)
    close(batch, torch.stack([one, 2.0 * one, -one]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("index", [2.0, 3.0, -1.0, -2.0, 0.5, float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_vmap_refuses_bad_batch_index(
    mode: str, index: float, in_dims: tuple[int | None, int | None], position: int
) -> None:
    """Also where the index would name an image of the next call: only the images of a call are its own."""
    features, rows = batch_of_points(Problem(RoIAlignCall(mode=mode)))
    rows[position, 1, 0] = index
    arguments = [
        features if in_dims[0] is not None else features[0],
        rows if in_dims[1] is not None else rows[position],
    ]

    def total(features: Tensor, boxes: Tensor) -> Tensor:
        return roi_align(features, boxes, 2, mode=mode).sum()

    message = rf"(?s)boxes.*batch index.*\[0, {SHAPE[0]}\).*got {re.escape(f'{index:g}')}\b"
    with pytest.raises(IndexError, match=message):
        vmap(total, in_dims)(*arguments)
    with pytest.raises(IndexError, match=message):
        vmap(grad(total), in_dims)(*arguments)
    nested = vmap(vmap(total, in_dims), (0, None))
    with pytest.raises(IndexError, match=message):
        nested(torch.stack([arguments[0]] * 2), arguments[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_vmap_of_half_boxes(mode: str, dtype: torch.dtype) -> None:
    """Together the calls have more images than the boxes' dtype can count."""
    batch = 2500 if dtype == torch.float16 else 200
    features = random_tensor(batch, 2, 1, 3, 3, dtype=torch.float32)
    boxes = torch.tensor([[1, 0, 0, 2, 2], [0, 0.5, 0, 1.5, 2]], dtype=dtype).expand(batch, 2, 5).contiguous()

    def pooled(features: Tensor, boxes: Tensor) -> Tensor:
        return roi_align(features, boxes, 1, 1.0, 2, True, mode)

    def scalar(features: Tensor, boxes: Tensor) -> Tensor:
        return (pooled(features, boxes) ** 2).sum()

    chosen = [0, 1, 129, batch - 1]
    expected = torch.stack([pooled(features[i], boxes[i]) for i in chosen])
    torch.testing.assert_close(vmap(pooled)(features, boxes)[chosen], expected)
    gradients = vmap(grad(scalar, (0, 1)))(features, boxes)
    for k, (gradient, of) in enumerate(zip(gradients, (features, boxes), strict=True)):
        assert gradient.dtype == of.dtype
        expected = torch.stack([grad(scalar, (0, 1))(features[i], boxes[i])[k] for i in chosen])
        torch.testing.assert_close(gradient[chosen], expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("boxes_dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_transforms_keep_dtypes(mode: str, dtype: torch.dtype, boxes_dtype: torch.dtype) -> None:
    features = random_tensor(*SHAPE, dtype=dtype)
    boxes = torch.tensor([[0, 0.25, 0.5, 3, 2.5], [1, 1, 0.25, 3.5, 3]], dtype=boxes_dtype)

    def scalar(features: Tensor, boxes: Tensor) -> Tensor:
        return (roi_align(features, boxes, 2, 1.0, 2, True, mode).double() ** 2).sum()

    leaves = (features.clone().requires_grad_(), boxes.clone().requires_grad_())
    expected = torch.autograd.grad(scalar(*leaves), leaves)
    torch.testing.assert_close(grad(scalar, (0, 1))(features, boxes), expected)
    _, tangent = jvp(lambda x, b: roi_align(x, b, 2, 1.0, 2, True, mode), (features, boxes), (features, boxes))
    assert tangent.dtype == dtype
    both = torch.stack([boxes, boxes])
    by_boxes = vmap(grad(scalar, 1), (None, 0))(features, both)
    torch.testing.assert_close(by_boxes, torch.stack([expected[1]] * 2))


@each_call
def test_channels_last_and_function(call: RoIAlignCall) -> None:
    """RoIAlignFunction takes part in transforms like roi_align, and gradients follow the layout of the features."""
    problem = Problem(call)
    features = problem.features.to(memory_format=torch.channels_last)
    rows = torch.cat([problem.image, problem.corners], 1)

    def scalar(features: Tensor, rows: Tensor) -> Tensor:
        settings = (call.output_size, call.spatial_scale, call.sampling_ratio, call.aligned, call.mode)
        return (problem.weights * RoIAlignFunction.apply(features, rows, *settings) ** 2).sum()

    by_features, by_rows = grad(scalar, (0, 1))(features, rows)
    expected = grad(problem.scalar, (0, 1))(*problem.point)
    close(by_features, expected[0])
    close(by_rows[:, 1:], expected[1])
    assert by_features.is_contiguous(memory_format=torch.channels_last)
    by_rows = vmap(grad(scalar, 1), (0, None))(features[None], rows)
    close(by_rows[0, :, 1:], expected[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("last", [False, True])
def test_layout_of_the_gradient_of_a_map_with_gaps(mode: str, last: bool) -> None:
    """A part of the columns of a map has its memory format, and its gradient too, here as in a backward pass."""
    whole = random_tensor(2, 8, 4, 16)
    features = (whole.to(memory_format=torch.channels_last) if last else whole)[:, :, :, :8].requires_grad_()
    rows = smooth_boxes(3, (2, 8, 4, 8), RoIAlignCall(mode=mode), seed=1)

    def scalar(features: Tensor) -> Tensor:
        return (roi_align(features, rows, 2, mode=mode) ** 2).sum()

    (eager,) = torch.autograd.grad(scalar(features), features)
    transformed = grad(scalar)(features.detach())
    close(transformed, eager)
    assert transformed.stride() == eager.stride()
    assert eager.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
