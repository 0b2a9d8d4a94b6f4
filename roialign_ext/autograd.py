"""Derivatives for ``torch.func``, and the public :class:`RoIAlignFunction`.

The operators carry their derivatives in C++ (csrc/autograd.cpp), but the transforms of ``torch.func`` accept only
functions written in Python. While a transform is active the dispatcher sends each private operator to its function
below, with the same formulas (docs/math.md, sections 7 and 8): the form ``D_u D_v <G, A(b) F>`` is linear in G, F,
u and v,

    by G: ``_pool``        by F: ``_pool_grad_input``        by b, or along one more direction: ``_pool_grad_boxes``

and its third derivative by the boxes is zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._C._functorch import (
    TransformType,
    _unwrap_for_grad,
    _unwrap_functional_tensor,
    _wrap_for_grad,
    _wrap_functional_tensor,
)
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map_only

from . import vmap
from .functional import as_pair

ops = torch.ops.roialign_ext

Directions: TypeAlias = list[Tensor]
Saved: TypeAlias = tuple[Any, ...]
Gradients: TypeAlias = tuple[Any, ...]
Rule: TypeAlias = tuple[float, int, str]  # spatial_scale, sampling_ratio, name

MAX_DIRECTIONS = 2


def _given(*directions: Tensor | None) -> Directions:
    return [direction for direction in directions if direction is not None]


def _padded(directions: Directions, length: int = MAX_DIRECTIONS) -> list[Tensor | None]:
    return [*directions, *[None] * (length - len(directions))]


def _sum(terms: list[Tensor]) -> Tensor | None:
    return sum(terms[1:], start=terms[0]) if terms else None


def _is_channels_last(input: Tensor) -> bool:
    return input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()


def _pool(
    input: Tensor, boxes: Tensor, directions: Directions, winners: Tensor | None, size: Any, rule: Rule
) -> Tensor:
    result: Tensor = ops._pool(input, boxes, *_padded(directions), winners, size, *rule)
    return result


def _grad_input(
    grad: Tensor, boxes: Tensor, directions: Directions, winners: Tensor | None, size: Any, last: bool, rule: Rule
) -> Tensor:
    result: Tensor = ops._pool_grad_input(grad, boxes, *_padded(directions), winners, size, last, *rule)
    return result


def _grad_boxes(
    grad: Tensor, input: Tensor, boxes: Tensor, directions: Directions, winners: Tensor | None, rule: Rule
) -> Tensor:
    result: Tensor = ops._pool_grad_boxes(grad, input, boxes, *_padded(directions, 1), winners, *rule)
    return result


def _box_gradients(
    needed: tuple[bool, ...],
    grad: Tensor,
    features: Tensor,
    boxes: Tensor,
    u: Tensor | None,
    v: Tensor | None,
    winners: Tensor | None,
    rule: Rule,
) -> Gradients:
    """Gradients by boxes, u and v of the form, as far as needed."""

    def along(directions: Directions) -> Tensor:
        return _grad_boxes(grad, features, boxes, directions, winners, rule)

    directions = _given(u, v)
    by_boxes = along(directions) if needed[0] and len(directions) < MAX_DIRECTIONS else None
    by_u = along(_given(v)) if u is not None and needed[1] else None
    by_v = along(_given(u)) if v is not None and needed[2] else None
    return by_boxes, by_u, by_v


def _box_tangents(
    evaluate: Callable[[Directions], Tensor],
    u: Tensor | None,
    v: Tensor | None,
    boxes_tangent: Tensor | None,
    u_tangent: Tensor | None,
    v_tangent: Tensor | None,
    max_directions: int = MAX_DIRECTIONS,
) -> list[Tensor]:
    """What the tangents of boxes and directions add to the tangent of evaluate(directions)."""
    terms = []
    directions = _given(u, v)
    if boxes_tangent is not None and len(directions) < max_directions:
        terms.append(evaluate([*directions, boxes_tangent]))
    if u_tangent is not None:
        terms.append(evaluate(_given(u_tangent, v)))
    if v_tangent is not None:
        terms.append(evaluate(_given(u, v_tangent)))
    return terms


def _one_transform_down(jvp: Callable[..., Any]) -> Callable[..., Any]:
    """Computes the tangent below the transform that asks for it, with forward mode on.

    torch calls jvp() with forward mode switched off, for which an enclosing jvp would take the tangent for a constant.
    One transform further down the saved tensors are bare of the tangents that the transform at hand gave them, and
    still have those of the enclosing ones.
    """

    @functools.wraps(jvp)
    def below(ctx: Any, *tangents: Any) -> Any:
        transform: Any = retrieve_current_functorch_interpreter()
        level = transform.level()

        def unwrapped(tensor: Tensor) -> Tensor:
            return _unwrap_for_grad(tensor, level)

        saved, tangents = tree_map_only(Tensor, unwrapped, (ctx.saved_tensors, tangents))
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), transform.lower():
            results = jvp(ctx, saved, *tangents)
        return tree_map_only(Tensor, lambda tensor: _wrap_for_grad(tensor, level), results)

    return below


class Pool(torch.autograd.Function):
    """``_pool(input, boxes, u, v, winners, output_size, spatial_scale, sampling_ratio, rule)``."""

    vmap = staticmethod(vmap.pool)

    @staticmethod
    def forward(*args: Any) -> Tensor:
        result: Tensor = ops._pool(*args)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, boxes, u, v, winners, ctx.output_size, *rule = inputs
        ctx.set_materialize_grads(False)
        ctx.rule, ctx.input_size, ctx.channels_last = tuple(rule), input.shape, _is_channels_last(input)
        needs_input = any(ctx.needs_input_grad[1:4])
        ctx.save_for_backward(input if needs_input else None, boxes, u, v, winners)
        ctx.save_for_forward(input, boxes, u, v, winners)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        input, boxes, u, v, winners = ctx.saved_tensors
        if grad is None:
            return (None,) * 9
        by_input = None
        if ctx.needs_input_grad[0]:
            by_input = _grad_input(grad, boxes, _given(u, v), winners, ctx.input_size, ctx.channels_last, ctx.rule)
        by_boxes: Gradients = (None, None, None)
        if input is not None:
            by_boxes = _box_gradients(ctx.needs_input_grad[1:4], grad, input, boxes, u, v, winners, ctx.rule)
        return (by_input, *by_boxes, *[None] * 5)

    @staticmethod
    @_one_transform_down
    def jvp(ctx: Any, saved: Saved, *tangents: Any) -> Tensor | None:
        input, boxes, u, v, winners = saved
        input_tangent, *box_tangents = tangents[:4]

        def evaluate(features: Tensor, directions: Directions) -> Tensor:
            return _pool(features, boxes, directions, winners, ctx.output_size, ctx.rule)

        terms = [] if input_tangent is None else [evaluate(input_tangent, _given(u, v))]
        terms += _box_tangents(lambda directions: evaluate(input, directions), u, v, *box_tangents)
        return _sum(terms)


class PoolMax(torch.autograd.Function):
    """``_pool_max(input, boxes, output_size, spatial_scale, sampling_ratio, rule)``."""

    vmap = staticmethod(vmap.pool_max)

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        values, winners = ops._pool_max(*args)
        return values, winners

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        input, boxes, ctx.output_size, *rule = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.rule, ctx.input_size, ctx.channels_last = tuple(rule), input.shape, _is_channels_last(input)
        ctx.save_for_backward(input if ctx.needs_input_grad[1] else None, boxes, output[1])
        ctx.save_for_forward(input, boxes, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> Gradients:
        input, boxes, winners = ctx.saved_tensors
        if grad is None:
            return (None,) * 6
        by_input, by_boxes = None, None
        if ctx.needs_input_grad[0]:
            by_input = _grad_input(grad, boxes, [], winners, ctx.input_size, ctx.channels_last, ctx.rule)
        if ctx.needs_input_grad[1]:
            by_boxes = _grad_boxes(grad, input, boxes, [], winners, ctx.rule)
        return by_input, by_boxes, None, None, None, None

    @staticmethod
    @_one_transform_down
    def jvp(ctx: Any, saved: Saved, *tangents: Any) -> tuple[Tensor | None, None]:
        input, boxes, winners = saved
        terms = []
        if tangents[0] is not None:
            terms.append(_pool(tangents[0], boxes, [], winners, ctx.output_size, ctx.rule))
        if tangents[1] is not None:
            terms.append(_pool(input, boxes, [tangents[1]], winners, ctx.output_size, ctx.rule))
        return _sum(terms), None


class PoolGradInput(torch.autograd.Function):
    """``_pool_grad_input(grad, boxes, u, v, winners, input_size, channels_last, *rule)``."""

    vmap = staticmethod(vmap.pool_grad_input)

    @staticmethod
    def forward(*args: Any) -> Tensor:
        result: Tensor = ops._pool_grad_input(*args)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, boxes, u, v, winners, ctx.input_size, ctx.channels_last, *rule = inputs
        ctx.set_materialize_grads(False)
        ctx.rule, ctx.output_size = tuple(rule), grad.shape[2:]
        ctx.save_for_backward(grad, boxes, u, v, winners)
        ctx.save_for_forward(grad, boxes, u, v, winners)

    @staticmethod
    def backward(ctx: Any, features: Tensor | None) -> Gradients:
        grad, boxes, u, v, winners = ctx.saved_tensors
        if features is None:
            return (None,) * 10
        by_grad = None
        if ctx.needs_input_grad[0]:
            by_grad = _pool(features, boxes, _given(u, v), winners, ctx.output_size, ctx.rule)
        by_boxes = _box_gradients(ctx.needs_input_grad[1:4], grad, features, boxes, u, v, winners, ctx.rule)
        return (by_grad, *by_boxes, *[None] * 6)

    @staticmethod
    @_one_transform_down
    def jvp(ctx: Any, saved: Saved, *tangents: Any) -> Tensor | None:
        grad, boxes, u, v, winners = saved
        grad_tangent, *box_tangents = tangents[:4]

        def evaluate(of: Tensor, directions: Directions) -> Tensor:
            return _grad_input(of, boxes, directions, winners, ctx.input_size, ctx.channels_last, ctx.rule)

        terms = [] if grad_tangent is None else [evaluate(grad_tangent, _given(u, v))]
        terms += _box_tangents(lambda directions: evaluate(grad, directions), u, v, *box_tangents)
        return _sum(terms)


class PoolGradBoxes(torch.autograd.Function):
    """``_pool_grad_boxes(grad, input, boxes, v, winners, *rule)``."""

    vmap = staticmethod(vmap.pool_grad_boxes)

    @staticmethod
    def forward(*args: Any) -> Tensor:
        result: Tensor = ops._pool_grad_boxes(*args)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, input, boxes, v, winners, *rule = inputs
        ctx.set_materialize_grads(False)
        ctx.rule, ctx.channels_last = tuple(rule), _is_channels_last(input)
        ctx.save_for_backward(grad, input, boxes, v, winners)
        ctx.save_for_forward(grad, input, boxes, v, winners)

    @staticmethod
    def backward(ctx: Any, direction: Tensor | None) -> Gradients:
        grad, input, boxes, v, winners = ctx.saved_tensors
        by_grad, by_input, by_boxes, by_v = None, None, None, None
        if direction is not None:
            directions = [*_given(v), direction]
            if ctx.needs_input_grad[0]:
                by_grad = _pool(input, boxes, directions, winners, grad.shape[2:], ctx.rule)
            if ctx.needs_input_grad[1]:
                by_input = _grad_input(grad, boxes, directions, winners, input.shape, ctx.channels_last, ctx.rule)
            if v is None and ctx.needs_input_grad[2]:
                by_boxes = _grad_boxes(grad, input, boxes, [direction], winners, ctx.rule)
            if v is not None and ctx.needs_input_grad[3]:
                by_v = _grad_boxes(grad, input, boxes, [direction], winners, ctx.rule)
        return by_grad, by_input, by_boxes, by_v, None, None, None, None

    @staticmethod
    @_one_transform_down
    def jvp(ctx: Any, saved: Saved, *tangents: Any) -> Tensor | None:
        grad, input, boxes, v, winners = saved
        grad_tangent, input_tangent, boxes_tangent, v_tangent = tangents[:4]

        def evaluate(of: Tensor, features: Tensor, directions: Directions) -> Tensor:
            return _grad_boxes(of, features, boxes, directions, winners, ctx.rule)

        terms = []
        if grad_tangent is not None:
            terms.append(evaluate(grad_tangent, input, _given(v)))
        if input_tangent is not None:
            terms.append(evaluate(grad, input_tangent, _given(v)))
        terms += _box_tangents(
            lambda directions: evaluate(grad, input, directions), v, None, boxes_tangent, v_tangent, None, 1
        )
        return _sum(terms)


class RoIAlignFunction(torch.autograd.Function):
    """RoIAlign as an autograd function: ``RoIAlignFunction.apply(input, boxes, output_size, spatial_scale=1.0,
    sampling_ratio=-1, aligned=False, mode="avg")``, with boxes as ``Tensor[K, 5]``.

    Arguments, result and errors as in :func:`roialign_ext.roi_align`.
    """

    @classmethod
    def apply(cls, *args: Any) -> Tensor:
        # The operator is differentiable by itself, in forward mode too, and its call costs a fifth of what binding the
        # arguments of forward() would. Dynamo looks past this method and traces forward() and backward().
        input, boxes, output_size, *rest = args
        result: Tensor = ops.roi_align(input, boxes, as_pair(output_size), *rest)
        return result

    @staticmethod
    def forward(
        input: Tensor,
        boxes: Tensor,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = False,
        mode: str = "avg",
    ) -> Tensor:
        result: Tensor = ops.roi_align(input, boxes, as_pair(output_size), spatial_scale, sampling_ratio, aligned, mode)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, boxes, _, spatial_scale, sampling_ratio, aligned, mode = inputs
        ctx.rule = (spatial_scale, sampling_ratio, "roi_align_half_pixel" if aligned else "roi_align_legacy")
        ctx.is_max = mode == "max"
        ctx.input_size, ctx.channels_last = input.shape, _is_channels_last(input)
        ctx.save_for_backward(input if ctx.is_max or ctx.needs_input_grad[1] else None, boxes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        input, boxes = ctx.saved_tensors
        # Only the value is an output of forward(), so a traced backward finds the winners anew.
        winners = ops._pool_max(input, boxes, grad.shape[2:], *ctx.rule)[1] if ctx.is_max else None
        by_input, by_boxes = None, None
        if ctx.needs_input_grad[0]:
            by_input = _grad_input(grad, boxes, [], winners, ctx.input_size, ctx.channels_last, ctx.rule)
        if ctx.needs_input_grad[1]:
            by_boxes = _grad_boxes(grad, input, boxes, [], winners, ctx.rule)
        return by_input, by_boxes, None, None, None, None, None


def _kernel_under_transforms(name: str, function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """What the operator runs while a transform is active.

    ``torch.func.functionalize`` knows no Python functions: there the operator itself, which neither makes views nor
    changes its arguments, runs one transform further down.
    """
    operator = getattr(ops, name).default
    apply: Callable[..., Any] = function.apply

    def kernel(*args: Any) -> Any:
        transform: Any = retrieve_current_functorch_interpreter()
        if transform.key() != TransformType.Functionalize:
            return apply(*args)
        add_back_views, level = transform.functionalize_add_back_views(), transform.level()

        def unwrapped(tensor: Tensor) -> Tensor:
            if not torch._is_functional_tensor(tensor):
                return tensor
            torch._sync(tensor)  # type: ignore[attr-defined, no-untyped-call]
            return _unwrap_functional_tensor(tensor, add_back_views)

        arguments = tree_map_only(Tensor, unwrapped, args)
        with transform.lower():
            results = operator(*arguments)
        return tree_map_only(Tensor, lambda result: _wrap_functional_tensor(result, level), results)

    return kernel


def _redirect_transforms() -> torch.library.Library:
    library = torch.library.Library("roialign_ext", "IMPL")  # type: ignore[no-untyped-call]
    functions = {
        "_pool": Pool,
        "_pool_max": PoolMax,
        "_pool_grad_input": PoolGradInput,
        "_pool_grad_boxes": PoolGradBoxes,
    }
    for name, function in functions.items():
        kernel = _kernel_under_transforms(name, function)
        library.impl(name, kernel, "FuncTorchDynamicLayerFrontMode")  # type: ignore[no-untyped-call]
    return library


_library = _redirect_transforms()  # the registrations last as long as this object
