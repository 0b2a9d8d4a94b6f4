"""Do the transforms of torch.func, alone and composed, give what autograd, eager mode and loops give?"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

from roialign_ext import RoIAlignFunction, multiscale_roi_align, roi_align, roi_align_rotated
from support.inputs import MODES, random_tensor, smooth_boxes
from support.operator_calls import RoIAlignCall
from support.small_cases import (
    CASES,
    NAMED,
    SHAPE,
    SIZE,
    WEIGHTS,
    SmallCase,
    close,
    differentiable_in_boxes,
    each_case,
    each_mode,
)

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH = 3
Transform = Callable[..., Callable[..., Any]]


def places(case: SmallCase) -> tuple[int, ...]:
    """All that may be differentiated."""
    return tuple(range(len(case.varied_point())))


# --- derivatives


@each_case
def test_grad(case: SmallCase) -> None:
    point, scalar = case.varied_point(), case.varied(case.scalar)
    leaves = tuple(tensor.clone().requires_grad_() for tensor in point)
    expected = torch.autograd.grad(case.varied(case.defined_scalar)(*leaves), leaves)
    close(grad(scalar, places(case))(*point), expected)
    for place in places(case):
        close(grad(scalar, place)(*point), expected[place])


@each_case
def test_vjp(case: SmallCase) -> None:
    point, defined = case.varied_point(), case.varied(case.defined)
    value, pullback = vjp(case.varied(case), *point)
    close(value, defined(*point))
    close(pullback(WEIGHTS), torch.autograd.functional.vjp(defined, point, WEIGHTS)[1])


@each_case
def test_jvp(case: SmallCase) -> None:
    """The direction is along all arguments, or along one of them with the others constant."""
    point, along, call = case.varied_point(), case.directions(), case.varied(case)
    jacobian = torch.autograd.functional.jvp
    close(jvp(call, point, along), jacobian(case.varied(case.defined), point, along))
    for place in places(case):
        zeros = tuple(tangent if i == place else torch.zeros_like(tangent) for i, tangent in enumerate(along))

        def by_one(tensor: Tensor, place: int = place) -> Any:
            return call(*point[:place], tensor, *point[place + 1 :])

        expected = jacobian(case.varied(case.defined), point, zeros)[1]
        close(jvp(by_one, (point[place],), (along[place],))[1], expected)


# torch.fx's own constant folding, on which linearize relies, warns of the attributes it inserts.
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
@each_case
def test_linearize(case: SmallCase) -> None:
    point, call = case.varied_point(), case.varied(case)
    value, pushforward = linearize(call, *point)
    close(value, call(*point))
    for scale in (1.0, -2.0):
        tangents = tuple(scale * tangent for tangent in case.directions())
        close(pushforward(*tangents), jvp(call, point, tangents)[1])


@cache
def defined_jacobian(case: SmallCase) -> Any:
    return torch.autograd.functional.jacobian(case.varied(case.defined), case.varied_point())


@each_case
@pytest.mark.parametrize("transform", [jacrev, jacfwd])
def test_jacobian(case: SmallCase, transform: Transform) -> None:
    close(transform(case.varied(case), places(case))(*case.varied_point()), defined_jacobian(case))


def reverse_reverse(function: Callable[..., Tensor], argnums: Any) -> Callable[..., Any]:
    return jacrev(jacrev(function, argnums), argnums)


def forward_forward(function: Callable[..., Tensor], argnums: Any) -> Callable[..., Any]:
    return jacfwd(jacfwd(function, argnums), argnums)


def reverse_forward(function: Callable[..., Tensor], argnums: Any) -> Callable[..., Any]:
    return jacrev(jacfwd(function, argnums), argnums)


@cache
def defined_hessian(case: SmallCase) -> Any:
    return torch.autograd.functional.hessian(case.varied(case.defined_scalar), case.varied_point(), vectorize=True)


@each_case
@pytest.mark.parametrize("transform", [hessian, reverse_reverse, forward_forward, reverse_forward])
def test_hessian(case: SmallCase, transform: Transform) -> None:
    close(transform(case.varied(case.scalar), places(case))(*case.varied_point()), defined_hessian(case))


@cache
def defined_mixed_derivative(case: SmallCase) -> Any:
    *maps, boxes = case.point()

    def curvature(first: Tensor) -> Tensor:
        result = torch.autograd.functional.hessian(
            lambda at: case.defined_scalar(first, *maps[1:], at), boxes, create_graph=True, vectorize=True
        )
        assert isinstance(result, Tensor)
        return result

    return torch.autograd.functional.jacobian(curvature, maps[0], vectorize=True)


@differentiable_in_boxes
@pytest.mark.parametrize(
    ("outer", "inner"), [(jacrev, hessian), (jacfwd, hessian), (jacrev, forward_forward), (jacfwd, reverse_reverse)]
)
def test_mixed_third_derivative(case: SmallCase, outer: Transform, inner: Transform) -> None:
    """Twice with respect to the boxes and once with respect to the maps: every rule has it."""
    close(outer(inner(case.scalar, case.levels))(*case.point()), defined_mixed_derivative(case))


# --- vmap


def batches(case: SmallCase) -> list[Tensor]:
    """BATCH maps per level and BATCH sets of boxes, within the cells in which the call is smooth."""
    maps = [torch.stack(level) for level in zip(*(case.maps(seed) for seed in range(BATCH)), strict=True)]
    boxes = case.boxes()
    return [*maps, torch.stack([boxes, boxes.flip(0), boxes + 1e-4])]


def in_dims_of(case: SmallCase) -> list[tuple[int | None, ...]]:
    some = [(0,) * case.levels, (2,) * case.levels, (None,) * case.levels]
    chosen = [(*dims, boxes) for dims in some for boxes in (0, None, -1)]
    if case.levels == 2:
        chosen += [(None, 0, None), (0, None, 1), (None, 1, 0)]
    return [dims for dims in chosen if any(dim is not None for dim in dims)]


def arguments_of(points: list[Tensor], in_dims: tuple[int | None, ...]) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The arguments of a batched call, and those of each of its samples."""
    pairs = list(zip(points, in_dims, strict=True))
    arguments = [point[0] if dim is None else point.movedim(0, dim) for point, dim in pairs]
    return arguments, [[point[0] if dim is None else point[i] for point, dim in pairs] for i in range(BATCH)]


def stacked(samples: list[Any]) -> Any:
    if isinstance(samples[0], tuple):
        return tuple(map(torch.stack, zip(*samples, strict=True)))
    return torch.stack(samples)


@each_case
def test_vmap(case: SmallCase) -> None:
    """Values and gradients, with a batch in any of the arguments."""
    per_sample = grad(case.scalar, places(case))
    for in_dims in in_dims_of(case):
        arguments, samples = arguments_of(batches(case), in_dims)
        values = torch.stack([case(*sample) for sample in samples])
        close(vmap(case, in_dims)(*arguments), values)
        close(vmap(case, in_dims, out_dims=2, chunk_size=2)(*arguments), values.movedim(0, 2))
        close(vmap(per_sample, in_dims)(*arguments), stacked([per_sample(*sample) for sample in samples]))


@differentiable_in_boxes
def test_vmap_of_second_derivatives(case: SmallCase) -> None:
    by_boxes, mixed = hessian(case.scalar, case.levels), jacrev(jacfwd(case.scalar, 0), case.levels)
    for derive, of_maps, of_boxes in ((by_boxes, 0, 0), (by_boxes, None, -1), (mixed, 1, None)):
        in_dims = (*[of_maps] * case.levels, of_boxes)
        arguments, samples = arguments_of(batches(case), in_dims)
        close(vmap(derive, in_dims)(*arguments), stacked([derive(*sample) for sample in samples]))


@each_case
def test_vmap_of_tangents(case: SmallCase) -> None:
    point, call = case.varied_point(), case.varied(case)
    tangents = [torch.stack([tangent, 2.0 * tangent, -tangent]) for tangent in case.directions()]
    _, tangent = jvp(call, point, case.directions())
    batch = vmap(lambda *tangent: jvp(call, point, tangent)[1])(*tangents)
    close(batch, torch.stack([tangent, 2.0 * tangent, -tangent]))


def batch_of_rows(case: SmallCase) -> tuple[Tensor, Tensor]:
    """Features and full box rows of BATCH calls; the rows' batch indices differ from call to call."""
    assert isinstance(case.call, RoIAlignCall)
    rows = torch.stack([smooth_boxes(4, SHAPE, case.call, seed=seed) for seed in (7, 8, 9)])
    rows[1, :, 0] = 1.0 - rows[1, :, 0]
    return random_tensor(BATCH, *SHAPE, seed=6), rows


@each_mode
@pytest.mark.parametrize(
    "in_dims", [(0, 0), (0, None), (None, 0), (3, 1), (2, 2), (-1, -1), (4, None), (None, 2), (1, 0)]
)
def test_vmap_of_rows(case: SmallCase, in_dims: tuple[int | None, ...]) -> None:
    arguments, samples = arguments_of(list(batch_of_rows(case)), in_dims)
    close(vmap(case.call, in_dims)(*arguments), torch.stack([case.call(*sample) for sample in samples]))


@each_mode
@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_vmap_without_boxes(
    case: SmallCase, in_dims: tuple[int | None, int | None], layout: torch.memory_format
) -> None:
    features, rows = random_tensor(*SHAPE).to(memory_format=layout), torch.zeros(0, 5)
    sizes = [tensor if dim is None else tensor.expand(BATCH, *tensor.shape) for tensor, dim in
             zip((features, rows), in_dims, strict=True)]  # fmt: skip
    assert vmap(case.call, in_dims)(*sizes).shape == (BATCH, 0, SHAPE[1], *SIZE)


@each_mode
def test_nested_vmap(case: SmallCase) -> None:
    features, rows = batch_of_rows(case)
    expected = torch.stack([torch.stack([case.call(image, boxes) for boxes in rows]) for image in features])
    close(vmap(vmap(case.call, (None, 0)), (0, None))(features, rows), expected)


@each_mode
def test_vmap_of_boxes_in_a_list(case: SmallCase) -> None:
    features, rows = batch_of_rows(case)
    lists = rows[:, :2, 1:], rows[:, 2:, 1:]
    expected = torch.stack(
        [case.call(image, [first, last]) for image, first, last in zip(features, *lists, strict=True)]
    )
    close(vmap(lambda image, first, last: case.call(image, [first, last]))(features, *lists), expected)


@pytest.mark.parametrize("index", [2.0, 3.0, -1.0, -2.0, 0.5, float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize(("in_dims", "position"), [((0, 0), 1), ((0, None), 0), ((None, 0), 2)])
@pytest.mark.parametrize("mode", MODES)
def test_vmap_refuses_bad_batch_index(
    mode: str, index: float, in_dims: tuple[int | None, int | None], position: int
) -> None:
    """Only the images of a call are its own, although the index would name an image of the next call."""
    features, rows = batch_of_rows(NAMED["roi_align"])
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


@pytest.mark.parametrize("index", [2.0, -1.0, 0.5, float("nan")])
def test_vmap_refuses_bad_batch_index_of_other_rows(index: float) -> None:
    """Rows of six numbers, and several levels."""
    rows = torch.tensor([[0, 2.4, 2.1, 3.3, 2.2, 25.0]], dtype=torch.float64).repeat(BATCH, 1, 1)
    rows[1, 0, 0] = index
    maps = random_tensor(BATCH, *SHAPE)
    with pytest.raises(IndexError, match="batch index"):
        vmap(lambda image, boxes: roi_align_rotated(image, boxes, 2))(maps, rows)
    with pytest.raises(IndexError, match="batch index"):
        vmap(lambda image, boxes: multiscale_roi_align([image, image], boxes, 2, [1.0, 0.5]))(maps, rows[..., :5])


# --- types and layouts


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


@pytest.mark.parametrize(
    "case", [case for case in CASES if isinstance(case.call, RoIAlignCall)], ids=lambda case: case.name
)
def test_channels_last_and_function(case: SmallCase) -> None:
    """RoIAlignFunction takes part in transforms like roi_align, and gradients follow the layout of the features."""
    features = case.maps()[0].to(memory_format=torch.channels_last)
    (rows,) = case.box_arguments(case.boxes())

    def scalar(features: Tensor, rows: Tensor) -> Tensor:
        return (WEIGHTS * RoIAlignFunction.apply(features, rows, SIZE, *case.options.values()) ** 2).sum()

    by_features, by_rows = grad(scalar, (0, 1))(features, rows)
    expected = grad(case.scalar, (0, 1))(*case.point())
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
