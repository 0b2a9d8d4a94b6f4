"""The private operators under autograd, under torch.func and under torch's older vmap; :class:`RoIAlignFunction`.

Formulas stand in roialign_ext/_form.py, the batching rule in roialign_ext/vmap.py; roialign_ext/_registration.py says
which function runs under which dispatch key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from ._form import BIND, CANONICAL, Form, Settings, arguments_of, call, defined, is_channels_last
from ._shapes import CHECKS
from .functional import roi_align

ops = torch.ops.roialign_ext

Kernel: TypeAlias = Callable[..., Any]


def explained(name: str, kernel: Kernel) -> Kernel:
    """The kernel, whose refusal is said in the words of the shape function.

    Those name every argument, and raise kinds of exceptions that do not cross the boundary of a compiled library.
    """
    check = CHECKS[name]

    def explaining(*arguments: Any) -> Any:
        try:
            return kernel(*arguments)
        except Exception:
            _explain(check, arguments)
            raise

    return explaining


def _explain(check: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    try:
        check(*arguments)
    except Exception as explanation:
        raise explanation from None


# --- the function of every private operator


class Differentiable(torch.autograd.Function):
    """A private operator in eager mode, below whose Autograd key it runs; also while programs are traced."""

    @staticmethod
    def forward(name: str, settings: Settings, *tensors: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            result = _operators[name](*arguments_of(name, settings, *tensors))
        return tuple(result) if name == "_pool_grad_input" else result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        name, settings, *maps, grad, boxes, u, v, argmax = inputs
        ctx.operator, ctx.settings = name, settings
        ctx.set_materialize_grads(False)
        if name == "_pool_max":
            argmax = output[1]
            ctx.mark_non_differentiable(argmax)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(*maps, grad, boxes, u, v, argmax)
        # Phi is linear in the maps and in G: a derivative by an argument does not need the argument itself. So the
        # usual training case keeps no map alive.
        needed = ctx.needs_input_grad
        by_boxes = needed[-4] or needed[-3] or needed[-2]
        if not (by_boxes or needed[-5]):
            maps = ()
        if not (by_boxes or any(needed[:-5])):
            grad = None
        ctx.save_for_backward(*maps, grad, boxes, u, v, argmax)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        return _gradients(ctx, cotangents, _wanted(ctx))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _tangent(ctx, ctx.saved_tensors, tangents)


def _wanted(ctx: Any) -> Sequence[bool]:
    """Which gradients this backward pass uses: torch.autograd.grad may ask for some of those that exist."""
    needed: Sequence[bool] = ctx.needs_input_grad
    if sum(needed) == 1 or torch.compiler.is_compiling():
        return needed
    nodes = iter([node for node, _ in ctx.next_functions if node is not None])  # of the arguments that require grad
    return [need and _is_executed(next(nodes)) for need in needed]


def _is_executed(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that torch.autograd.grad asked for
        return True


def _gradients(ctx: Any, cotangents: Sequence[Tensor | None], needed: Sequence[bool]) -> Any:
    *maps, grad, boxes, u, v, argmax = ctx.saved_tensors
    form = Form(ctx.settings, maps, grad, boxes, defined(u, v), argmax).completed(ctx.operator, cotangents)
    if form is None:
        return (None,) * len(needed)
    return (None, None, *form.gradients(needed[2:]))


def _tangent(ctx: Any, saved: Sequence[Any], tangents: Sequence[Any]) -> Any:
    *maps, grad, boxes, u, v, argmax = saved
    form = Form(ctx.settings, maps, grad, boxes, defined(u, v), argmax)
    tangent = form.tangent(ctx.operator, tangents[2:])
    if ctx.operator == "_pool_max":
        return tangent, None
    return tuple(tangent) if ctx.operator == "_pool_grad_input" else tangent


class Transformed(Differentiable):
    """The same while a transform of torch.func is active, whose levels are peeled off one by one."""

    vmap = staticmethod(vmap.batched)

    @staticmethod
    def forward(name: str, settings: Settings, *tensors: Any) -> Any:
        return call(name, settings, *tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        return _gradients(ctx, cotangents, ctx.needs_input_grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Computes the tangent below the transform that asks for it, with forward mode on.

        torch calls jvp() with forward mode switched off, for which an enclosing jvp would take the tangent for a
        constant. One transform further down the saved tensors are bare of the tangents that the transform at hand gave
        them, and still have those of the enclosing ones.
        """
        transform: Any = retrieve_current_functorch_interpreter()
        level = transform.level()

        def unwrapped(tensor: Tensor) -> Tensor:
            return _unwrap_for_grad(tensor, level)

        saved, tangents = tree_map_only(Tensor, unwrapped, (ctx.saved_tensors, tangents))
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), transform.lower():
            results = _tangent(ctx, saved, tangents)
        return tree_map_only(Tensor, lambda tensor: _wrap_for_grad(tensor, level), results)


# torch.autograd.Function.apply binds the arguments by their signature first, for 15 us; without defaults there is
# nothing to bind, and under the Autograd key no transform of torch.func is left.
_apply_differentiable: Kernel = super(torch.autograd.Function, Differentiable).apply  # type: ignore[misc]
_apply_transformed: Any = Transformed.apply  # untyped in some releases of torch
_operators = {name: getattr(ops, name).default for name in BIND}


# --- kernels


def under_autograd(name: str) -> Kernel:
    """Autograd: a node of the graph, or a dual number, only where there is something to differentiate."""
    operator, bind = _operators[name], BIND[name]
    is_grad_enabled, any_requires_grad = torch.is_grad_enabled, torch._C._any_requires_grad
    below_autograd = torch._C._AutoDispatchBelowAutograd

    def kernel(*arguments: Any) -> Any:
        if forward_ad._current_level < 0 and not (is_grad_enabled() and any_requires_grad(*arguments)):
            with below_autograd():
                return operator(*arguments)
        results = _apply_differentiable(*bind(*arguments))
        return list(results) if name == "_pool_grad_input" else results

    return explained(name, kernel)


def under_transforms(name: str) -> Kernel:
    """FuncTorchDynamicLayerFrontMode: what runs while a transform of torch.func is active.

    ``torch.func.functionalize`` knows no Python functions: there the operator itself, which neither makes views nor
    changes its arguments, runs one transform further down.
    """
    operator, bind = _operators[name], BIND[name]

    def kernel(*arguments: Any) -> Any:
        transform: Any = retrieve_current_functorch_interpreter()
        if transform.key() != TransformType.Functionalize:
            results = _apply_transformed(*bind(*arguments))
            return list(results) if name == "_pool_grad_input" else results
        add_back_views, level = transform.functionalize_add_back_views(), transform.level()

        def unwrapped(tensor: Tensor) -> Tensor:
            if not torch._is_functional_tensor(tensor):
                return tensor
            torch._sync(tensor)  # type: ignore[attr-defined, no-untyped-call]
            return _unwrap_functional_tensor(tensor, add_back_views)

        arguments = tree_map_only(Tensor, unwrapped, arguments)
        with transform.lower():
            results = operator(*arguments)
        return tree_map_only(Tensor, lambda result: _wrap_functional_tensor(result, level), results)

    return explained(name, kernel)


def under_older_vmap(name: str) -> Kernel:
    """Batched: torch's older vmap, which batched gradients (is_grads_batched), the vectorised functions of
    torch.autograd.functional and gradcheck still use. The innermost batch is taken off by the rule of torch.func."""
    bind = BIND[name]
    return explained(name, lambda *arguments: vmap.under_older_vmap(*bind(*arguments)))


def dispatched(name: str) -> Kernel:
    """The operator through the dispatcher, for public operators under other keys than Autograd."""
    return explained(name, _operators[name])


# --- the public function


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
    def backward(ctx: Any, grad: Tensor) -> Any:
        input, boxes = ctx.saved_tensors
        # Only the value is an output of forward(), so a traced backward finds the argmax anew.
        argmax = ops._pool_max([input], boxes, grad.shape[2:], *ctx.rule)[1] if ctx.is_max else None
        settings = Settings(ctx.rule, grad.shape[2:], ctx.input_size, ctx.channels_last)
        form = Form(settings, [input], grad, boxes, [], argmax)
        by_input = form.by_maps()[0] if ctx.needs_input_grad[0] else None
        by_boxes = form.by_boxes() if ctx.needs_input_grad[1] else None
        return by_input, by_boxes, None, None, None, None, None
