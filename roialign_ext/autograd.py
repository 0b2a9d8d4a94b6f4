"""Derivatives for ``torch.func``, and the public :class:`RoIAlignFunction`.

The operators carry their derivatives in C++ (csrc/autograd.cpp), but the transforms of ``torch.func`` accept only
functions written in Python. While a transform is active the dispatcher sends each private operator to its function
below, with the same formulas (docs/math.md, sections 7 and 8): the form ``D_u D_v <G, A(b) F>`` is linear in G, F,
u and v,

    by G: ``_pool``        by F: ``_pool_grad_input``        by b, or along one more direction: ``_pool_grad_boxes``

and its third derivative by the boxes is zero for most rules. F is a list of feature maps, one per level. A function of
torch.autograd follows the tensors among its arguments, not those in lists: the maps come first, after their number.
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
from ._terms import (
    CANONICAL,
    Directions,
    Gradients,
    Maps,
    any_given,
    box_gradients,
    box_terms,
    filled,
    filled_to,
    given,
    grad_boxes,
    grad_input,
    has_box_derivative,
    is_channels_last,
    pool,
    sizes,
    total,
    wanted,
)
from .functional import roi_align

ops = torch.ops.roialign_ext

Saved: TypeAlias = tuple[Any, ...]


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
    """``_pool``, applied to ``levels, *input, boxes, u, v, winners, output_size, *rule``.

    An ``extrapolation_value`` may follow: a constant, which derivatives do not know.
    """

    vmap = staticmethod(vmap.pool)

    @staticmethod
    def forward(levels: int, *args: Any) -> Tensor:
        result: Tensor = ops._pool(list(args[:levels]), *args[levels:])
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        levels: int = inputs[0]
        ctx.levels = levels
        maps, (boxes, u, v, winners, ctx.output_size, *rest) = inputs[1 : levels + 1], inputs[levels + 1 :]
        ctx.set_materialize_grads(False)
        ctx.rule, ctx.rest = tuple(rest[:4]), len(rest)
        ctx.input_size, ctx.channels_last = sizes(maps), is_channels_last(maps)
        needs_input = any(ctx.needs_input_grad[levels + 1 : levels + 4])
        ctx.save_for_backward(boxes, u, v, winners, *(maps if needs_input else ()))
        ctx.save_for_forward(boxes, u, v, winners, *maps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        levels: int = ctx.levels
        rest: int = ctx.rest
        needed, rule = ctx.needs_input_grad[1:], ctx.rule
        boxes, u, v, winners, *maps = ctx.saved_tensors
        if grad is None:
            return (None,) * (levels + 6 + rest)
        by_input: Gradients = (None,) * levels
        if any(needed[:levels]):
            size, last = ctx.input_size, ctx.channels_last
            by_input = wanted(needed[:levels], grad_input(grad, boxes, given(u, v), winners, size, last, rule))
        by_boxes: Gradients = (None,) * 3
        if maps:
            by_boxes = box_gradients(needed[levels:], grad, maps, boxes, u, v, winners, rule)
        return (None, *by_input, *by_boxes, *[None] * (2 + rest))

    @staticmethod
    @_one_transform_down
    def jvp(ctx: Any, saved: Saved, *tangents: Any) -> Tensor:
        boxes, u, v, winners, *maps = saved
        map_tangents, box_tangents = tangents[1 : ctx.levels + 1], tangents[ctx.levels + 1 : ctx.levels + 4]

        def evaluate(features: Maps, directions: Directions) -> Tensor:
            return pool(features, boxes, directions, winners, ctx.output_size, ctx.rule)

        terms = [evaluate(filled(map_tangents, maps), given(u, v))] if any_given(map_tangents) else []
        order = len(given(u, v)) + 1
        terms += box_terms(lambda directions: evaluate(maps, directions), order, ctx.rule, u, v, *box_tangents)
        # A tangent of zeros, not None: an enclosing jvp differentiates it once more.
        return total(terms) if terms else maps[0].new_zeros((*boxes.shape[:1], *maps[0].shape[1:2], *ctx.output_size))


class PoolMax(torch.autograd.Function):
    """``_pool_max``, applied to ``levels, *input, boxes, output_size, *rule``."""

    vmap = staticmethod(vmap.pool_max)

    @staticmethod
    def forward(levels: int, *args: Any) -> tuple[Tensor, Tensor]:
        values, winners = ops._pool_max(list(args[:levels]), *args[levels:])
        return values, winners

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        levels: int = inputs[0]
        ctx.levels = levels
        maps, (boxes, ctx.output_size, *rule) = inputs[1 : levels + 1], inputs[levels + 1 :]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.rule, ctx.input_size, ctx.channels_last = tuple(rule), sizes(maps), is_channels_last(maps)
        ctx.save_for_backward(boxes, output[1], *(maps if ctx.needs_input_grad[levels + 1] else ()))
        ctx.save_for_forward(boxes, output[1], *maps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> Gradients:
        levels: int = ctx.levels
        needed, rule = ctx.needs_input_grad[1:], ctx.rule
        boxes, winners, *maps = ctx.saved_tensors
        if grad is None:
            return (None,) * (levels + 7)
        by_input: Gradients = (None,) * levels
        if any(needed[:levels]):
            size, last = ctx.input_size, ctx.channels_last
            by_input = wanted(needed[:levels], grad_input(grad, boxes, [], winners, size, last, rule))
        by_boxes = None
        if needed[levels]:
            by_boxes = grad_boxes(grad, maps, boxes, [], winners, rule)
        return (None, *by_input, by_boxes, *[None] * 5)

    @staticmethod
    @_one_transform_down
    def jvp(ctx: Any, saved: Saved, *tangents: Any) -> tuple[Tensor, None]:
        boxes, winners, *maps = saved
        map_tangents, boxes_tangent = tangents[1 : ctx.levels + 1], tangents[ctx.levels + 1]

        def evaluate(features: Maps, directions: Directions) -> Tensor:
            return pool(features, boxes, directions, winners, ctx.output_size, ctx.rule)

        terms = [evaluate(filled(map_tangents, maps), [])] if any_given(map_tangents) else []
        if boxes_tangent is not None:
            terms.append(evaluate(maps, [boxes_tangent]))
        return total(terms), None


class PoolGradInput(torch.autograd.Function):
    """``_pool_grad_input(grad, boxes, u, v, winners, input_size, channels_last, *rule)``, one result per level."""

    vmap = staticmethod(vmap.pool_grad_input)

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return tuple(ops._pool_grad_input(*args))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        grad, boxes, u, v, winners, ctx.input_size, ctx.channels_last, *rule = inputs
        ctx.set_materialize_grads(False)
        ctx.rule, ctx.output_size = tuple(rule), grad.shape[2:]
        ctx.save_for_backward(grad, boxes, u, v, winners)
        ctx.save_for_forward(grad, boxes, u, v, winners)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Gradients:
        grad, boxes, u, v, winners = ctx.saved_tensors
        if not any_given(cotangents):
            return (None,) * 11
        maps = filled_to(cotangents, grad, ctx.input_size)
        by_grad = None
        if ctx.needs_input_grad[0]:
            by_grad = pool(maps, boxes, given(u, v), winners, ctx.output_size, ctx.rule)
        by_boxes = box_gradients(ctx.needs_input_grad[1:4], grad, maps, boxes, u, v, winners, ctx.rule)
        return (by_grad, *by_boxes, *[None] * 7)

    @staticmethod
    @_one_transform_down
    def jvp(ctx: Any, saved: Saved, *tangents: Any) -> tuple[Tensor, ...]:
        grad, boxes, u, v, winners = saved
        grad_tangent, *box_tangents = tangents[:4]

        def evaluate(of: Tensor, directions: Directions) -> Maps:
            return grad_input(of, boxes, directions, winners, ctx.input_size, ctx.channels_last, ctx.rule)

        terms = [] if grad_tangent is None else [evaluate(grad_tangent, given(u, v))]
        order = len(given(u, v)) + 1
        terms += box_terms(lambda directions: evaluate(grad, directions), order, ctx.rule, u, v, *box_tangents)
        if not terms:
            return tuple(filled_to([None] * (len(ctx.input_size) // 2 - 1), grad, ctx.input_size))
        return tuple(total(list(level)) for level in zip(*terms, strict=True))


class PoolGradBoxes(torch.autograd.Function):
    """``_pool_grad_boxes``, applied to ``levels, *input, grad, boxes, v, winners, *rule``."""

    vmap = staticmethod(vmap.pool_grad_boxes)

    @staticmethod
    def forward(levels: int, *args: Any) -> Tensor:
        result: Tensor = ops._pool_grad_boxes(args[levels], list(args[:levels]), *args[levels + 1 :])
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        levels: int = inputs[0]
        ctx.levels = levels
        maps, (grad, boxes, v, winners, *rule) = inputs[1 : levels + 1], inputs[levels + 1 :]
        ctx.set_materialize_grads(False)
        ctx.rule, ctx.input_size, ctx.channels_last = tuple(rule), sizes(maps), is_channels_last(maps)
        ctx.save_for_backward(grad, boxes, v, winners, *maps)
        ctx.save_for_forward(grad, boxes, v, winners, *maps)

    @staticmethod
    def backward(ctx: Any, direction: Tensor | None) -> Gradients:
        levels: int = ctx.levels
        rule = ctx.rule
        grad, boxes, v, winners, *maps = ctx.saved_tensors
        if direction is None:
            return (None,) * (levels + 9)
        needed = ctx.needs_input_grad[1:]
        directions = [*given(v), direction]
        by_input: Gradients = (None,) * levels
        by_grad, by_boxes, by_v = None, None, None
        if any(needed[:levels]):
            size, last = ctx.input_size, ctx.channels_last
            by_input = wanted(needed[:levels], grad_input(grad, boxes, directions, winners, size, last, rule))
        if needed[levels]:
            by_grad = pool(maps, boxes, directions, winners, grad.shape[2:], rule)
        if needed[levels + 1] and has_box_derivative(rule, len(directions) + 1):
            by_boxes = grad_boxes(grad, maps, boxes, directions, winners, rule)
        if v is not None and needed[levels + 2]:
            by_v = grad_boxes(grad, maps, boxes, [direction], winners, rule)
        return (None, *by_input, by_grad, by_boxes, by_v, *[None] * 5)

    @staticmethod
    @_one_transform_down
    def jvp(ctx: Any, saved: Saved, *tangents: Any) -> Tensor:
        grad, boxes, v, winners, *maps = saved
        map_tangents = tangents[1 : ctx.levels + 1]
        grad_tangent, boxes_tangent, v_tangent = tangents[ctx.levels + 1 : ctx.levels + 4]

        def evaluate(of: Tensor, features: Maps, directions: Directions) -> Tensor:
            return grad_boxes(of, features, boxes, directions, winners, ctx.rule)

        terms = []
        if grad_tangent is not None:
            terms.append(evaluate(grad_tangent, maps, given(v)))
        if any_given(map_tangents):
            terms.append(evaluate(grad, filled(map_tangents, maps), given(v)))
        order = len(given(v)) + 2
        terms += box_terms(
            lambda directions: evaluate(grad, maps, directions), order, ctx.rule, v, None, boxes_tangent, v_tangent,
            None,
        )  # fmt: skip
        return total(terms) if terms else torch.zeros_like(boxes)


def _refuse_list(boxes: object = None) -> None:
    if isinstance(boxes, (list, tuple)):
        raise TypeError(f"boxes: expected a Tensor[K, 5], got a {type(boxes).__name__}, which roi_align takes")


class RoIAlignFunction(torch.autograd.Function):
    """RoIAlign as an autograd function: ``RoIAlignFunction.apply(input, boxes, output_size, spatial_scale=1.0,
    sampling_ratio=-1, aligned=False, mode="avg")``.

    Arguments, result, derivatives and errors are those of :func:`roialign_ext.roi_align`, which is what it calls, but
    that boxes are a ``Tensor[K, 5]``. It takes no subclasses: what they override would not be called.

    Raises:
        TypeError: on making a subclass; boxes in a list.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        raise TypeError(
            f"{cls.__name__}: expected no subclass of RoIAlignFunction, whose apply() calls roi_align and no method of "
            "the class: call roialign_ext.roi_align in a torch.autograd.Function of your own"
        )

    @classmethod
    def apply(cls, *args: Any) -> Tensor:
        # The operator is differentiable by itself, in forward mode too, and its call costs a quarter of what binding
        # the arguments of forward() would. Dynamo looks past this method and traces forward() and backward().
        _refuse_list(*args[1:2])
        return roi_align(*args)

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        boxes: Tensor,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = False,
        mode: str = "avg",
    ) -> Tensor:
        _refuse_list(boxes)
        name = "roi_align_half_pixel" if aligned else "roi_align_legacy"
        ctx.rule = ([spatial_scale], CANONICAL, sampling_ratio, name)
        ctx.is_max = mode == "max"
        ctx.input_size, ctx.channels_last = input.shape, is_channels_last([input])
        ctx.save_for_backward(input if ctx.is_max or ctx.needs_input_grad[1] else None, boxes)
        return roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned, mode)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        input, boxes = ctx.saved_tensors
        # Only the value is an output of forward(), so a traced backward finds the winners anew.
        winners = ops._pool_max([input], boxes, grad.shape[2:], *ctx.rule)[1] if ctx.is_max else None
        by_input, by_boxes = None, None
        if ctx.needs_input_grad[0]:
            by_input = grad_input(grad, boxes, [], winners, ctx.input_size, ctx.channels_last, ctx.rule)[0]
        if ctx.needs_input_grad[1]:
            by_boxes = grad_boxes(grad, [input], boxes, [], winners, ctx.rule)
        return by_input, by_boxes, None, None, None, None, None


def _kernel_under_transforms(
    name: str, function: type[torch.autograd.Function], place_of_maps: int | None
) -> Callable[..., Any]:
    """What the operator runs while a transform is active.

    `place_of_maps` says which argument of the operator is the list of feature maps.
    ``torch.func.functionalize`` knows no Python functions: there the operator itself, which neither makes views nor
    changes its arguments, runs one transform further down.
    """
    operator = getattr(ops, name).default
    apply: Any = function.apply  # untyped in some releases of torch

    def differentiable(*args: Any) -> Any:
        if place_of_maps is not None:
            maps = args[place_of_maps]
            args = (len(maps), *maps, *args[:place_of_maps], *args[place_of_maps + 1 :])
        return apply(*args)

    def kernel(*args: Any) -> Any:
        transform: Any = retrieve_current_functorch_interpreter()
        if transform.key() != TransformType.Functionalize:
            results = differentiable(*args)
            return list(results) if function is PoolGradInput else results
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
    kernels = [
        ("_pool", Pool, 0),
        ("_pool_max", PoolMax, 0),
        ("_pool_grad_input", PoolGradInput, None),
        ("_pool_grad_boxes", PoolGradBoxes, 1),
    ]
    for name, function, place_of_maps in kernels:
        kernel = _kernel_under_transforms(name, function, place_of_maps)
        library.impl(name, kernel, "FuncTorchDynamicLayerFrontMode")  # type: ignore[no-untyped-call]
    return library


_library = _redirect_transforms()  # the registrations last as long as this object
