"""The private operators under autograd, under torch.func and under torch's older vmap; :class:`RoIAlignFunction`.

Formulas stand in roialign_ext/_form.py, the batching rule in roialign_ext/vmap.py; roialign_ext/_registration.py says
which function runs under which dispatch key.
"""

from __future__ import annotations

import sys
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
    is_legacy_batchedtensor,
)
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map_only

from . import vmap
from ._form import BIND, CANONICAL, Form, Settings, call, defined, layout_of
from ._operator_checks import CHECKS
from ._typing import BroadcastingList2
from .functional import roi_align

ops = torch.ops.roialign_ext

Kernel: TypeAlias = Callable[..., Any]

_is_grad_enabled, _any_requires_grad = torch.is_grad_enabled, torch._C._any_requires_grad
_dispatch_keys = torch._C._dispatch_keys
_number_of_modes = torch._C._len_torch_dispatch_stack  # of those that see every call, as they do that record graphs


def _raise_out_of_memory(error: Exception) -> None:
    """Raises torch.OutOfMemoryError if a CUDA allocation failed. A compiled library can only raise RuntimeError."""
    if type(error) is RuntimeError and "CUDA out of memory." in str(error):
        raise torch.OutOfMemoryError(str(error)) from None


def _explain(name: str, arguments: tuple[Any, ...], error: Exception) -> None:
    """Raises the error of the shape function, if a kernel refused the arguments.

    Shape functions name every argument. Some of their kinds of exceptions do not cross the boundary of a library.
    """
    _raise_out_of_memory(error)
    try:
        CHECKS[name](*arguments)
    except Exception as explanation:
        raise explanation from None


# --- the function of every private operator


class Differentiable(torch.autograd.Function):
    """A private operator in eager mode, below whose Autograd key it runs; also while programs are traced.

    It is applied to its kernel's keys and arguments, and then to what ``BIND`` of _form.py makes of the arguments.
    """

    @staticmethod
    def forward(
        ctx: Any, keys_and_arguments: tuple[Any, ...], settings: Settings, boxes: Tensor, u: Tensor | None,
        v: Tensor | None, argmax: Tensor | None, grad: Tensor | None, *maps: Tensor,
    ) -> Any:  # fmt: skip
        result = _redispatch[settings.operator](*keys_and_arguments)
        if settings.operator == "_pool_grad_input":
            result = tuple(result)
        _save(ctx, settings, result, boxes, u, v, argmax, grad, maps)
        return result

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        saved = ctx.saved_tensors  # whose hooks may run forward passes
        if torch.compiler.is_compiling():  # Dynamo, of compiled autograd, which follows neither engine nor dispatcher
            return _gradients(ctx, saved, cotangents, ctx.needs_input_grad)
        if (
            _is_grad_enabled()
            or forward_ad._current_level >= 0
            or _number_of_modes() > 0
            or torch._C._are_functorch_transforms_active()
        ):
            return _gradients(ctx, saved, cotangents, _wanted(ctx))
        try:
            grad = cotangents[0]
            if ctx.needs_maps_alone and grad is not None and not is_legacy_batchedtensor(grad):
                # The usual training step: Form.by_maps() straight from the kernel, with less overhead.
                boxes, u, v, argmax, *_ = saved
                _, rule, _, *layout, _ = ctx.settings
                keys = (_dispatch_keys(grad) | _dispatch_keys(boxes)) & _KERNEL_KEYS
                by_maps = _redispatch["_pool_grad_input"](keys, grad, boxes, u, v, argmax, *layout, *rule)
                return (None, None, None, None, None, None, None, *by_maps)
            with torch._C._AutoDispatchBelowAutograd():  # nothing here is differentiated once more
                return _gradients(ctx, saved, cotangents, _wanted(ctx))
        except RuntimeError as error:
            _raise_out_of_memory(error)
            raise

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _tangent(ctx, ctx.saved_tensors, tangents)


class Transformed(torch.autograd.Function):
    """The same while a transform of torch.func is active, whose levels are peeled off one by one."""

    vmap = staticmethod(vmap.batched)

    @staticmethod
    def forward(_: None, *bound: Any) -> Any:
        return call(*bound)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, settings, boxes, u, v, argmax, grad, *maps = inputs
        _save(ctx, settings, output, boxes, u, v, argmax, grad, maps)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        return _gradients(ctx, ctx.saved_tensors, cotangents, ctx.needs_input_grad)

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


def _save(
    ctx: Any, settings: Settings, output: Any, boxes: Tensor, u: Tensor | None, v: Tensor | None,
    argmax: Tensor | None, grad: Tensor | None, maps: Sequence[Tensor],
) -> None:  # fmt: skip
    ctx.settings = settings
    ctx.set_materialize_grads(False)
    if settings.operator == "_pool_max":
        argmax = output[1]
        ctx.mark_non_differentiable(argmax)
    ctx.saved_for_forward = (boxes, u, v, argmax, grad, *maps)  # save_for_forward() without a look at their types
    # Phi is linear in the maps and in G: a derivative w.r.t. one of them does not need its value. So the usual training
    # step keeps no map alive.
    _, _, by_boxes, by_u, by_v, _, by_grad, *by_maps = ctx.needs_input_grad
    if not (by_boxes or by_u or by_v):
        if not by_grad:
            maps = ()
        if grad is not None and True not in by_maps:
            grad = None
    ctx.needs_maps_alone = not (by_boxes or by_u or by_v or by_grad) and settings.operator in ("_pool", "_pool_max")
    ctx.save_for_backward(boxes, u, v, argmax, grad, *maps)


def _wanted(ctx: Any) -> Sequence[bool]:
    """Which gradients this backward pass uses: torch.autograd.grad may ask for some of those that exist."""
    needed: Sequence[bool] = ctx.needs_input_grad
    if sum(needed) == 1:
        return needed
    nodes = iter([node for node, _ in ctx.next_functions if node is not None])  # of the arguments that require grad
    return [need and _is_executed(next(nodes)) for need in needed]


def _is_executed(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that torch.autograd.grad asked for
        return True


def _gradients(ctx: Any, saved: Sequence[Any], cotangents: Sequence[Tensor | None], needed: Sequence[bool]) -> Any:
    if cotangents[0] is None and not defined(*cotangents):
        return (None,) * len(needed)
    form = _form_of(ctx, saved)
    form.complete(cotangents)
    return (None, None, *form.gradients(needed[2:]))


def _tangent(ctx: Any, saved: Sequence[Any], tangents: Sequence[Any]) -> Any:
    tangent = _form_of(ctx, saved).tangent(tangents[2:])
    if ctx.settings.operator == "_pool_max":
        return tangent, None
    return tuple(tangent) if ctx.settings.operator == "_pool_grad_input" else tangent


def _form_of(ctx: Any, saved: Sequence[Any]) -> Form:
    boxes, u, v, argmax, grad, *maps = saved
    return Form(ctx.settings, maps, grad, boxes, (u, v), argmax)


_operators = {name: getattr(ops, name).default for name in BIND}
# Straight to the kernel of the keys that are left: neither the schema nor the tensors are looked at again.
_redispatch: dict[str, Kernel] = {name: operator._handle.redispatch_boxed for name, operator in _operators.items()}
# torch.autograd.Function.apply looks for transforms of torch.func first: under the Autograd key there are none left.
_apply_differentiable: Kernel = super(torch.autograd.Function, Differentiable).apply
_apply_transformed: Kernel = Transformed.apply
_BELOW_AUTOGRAD = torch._C._after_autograd_keyset
_KERNEL_KEYS = _BELOW_AUTOGRAD.remove(torch._C.DispatchKey.ADInplaceOrView)  # which has no kernel


# --- kernels, which take the keys of the call first


def _is_followed(arguments: tuple[Any, ...]) -> bool:
    """Whether a tensor, also in a list, requires grad or has a tangent."""
    if _any_requires_grad(*arguments):
        return True
    if "torch._dynamo" not in sys.modules:
        return False
    # forward_ad does not know of the levels that graphs of Dynamo open.
    for argument in arguments:
        for one in argument if isinstance(argument, list) else [argument]:
            if one is not None and torch._unpack_dual(one, level=0).tangent is not None:
                return True
    return False


def differentiated(name: str) -> Kernel:
    """The operator as a node of the graph or on dual numbers, or as one that a mode watches."""
    bind = BIND[name]

    def kernel(keys: Any, *arguments: Any) -> Any:
        try:
            results = _apply_differentiable((keys & _BELOW_AUTOGRAD, *arguments), *bind(*arguments))
        except Exception as error:
            _explain(name, arguments, error)
            raise
        return list(results) if name == "_pool_grad_input" else results

    return kernel


def under_autograd(name: str, otherwise: Kernel) -> Kernel:
    """Autograd: the kernel itself if nothing is differentiated and no mode watches, else ``otherwise``."""
    redispatch: Kernel = getattr(ops, name).default._handle.redispatch_boxed
    # The number of leading arguments that may be differentiated.
    tensors = 4 if name in ("_pool", "_pool_grad_input", "_pool_grad_boxes") else 2

    def kernel(keys: Any, *arguments: Any) -> Any:
        try:
            if not (
                forward_ad._current_level >= 0
                or _number_of_modes() > 0
                or (_is_grad_enabled() and _is_followed(arguments[:tensors]))
            ):
                return redispatch(keys & _BELOW_AUTOGRAD, *arguments)
        except Exception as error:
            _raise_out_of_memory(error)
            otherwise(keys, *arguments)  # which explains what it refuses
            raise
        return otherwise(keys, *arguments)

    return kernel


def under_transforms(name: str) -> Kernel:
    """FuncTorchDynamicLayerFrontMode: what runs while a transform of torch.func is active.

    ``torch.func.functionalize`` knows no Python functions: there the operator itself, which neither makes views nor
    changes its arguments, runs one transform further down.
    """
    operator, bind = _operators[name], BIND[name]

    def kernel(keys: Any, *arguments: Any) -> Any:
        transform: Any = retrieve_current_functorch_interpreter()
        if transform.key() != TransformType.Functionalize:
            results = _apply_transformed(None, *bind(*arguments))
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

    return kernel


def under_older_vmap(name: str) -> Kernel:
    """Batched: torch's older vmap, which batched gradients (is_grads_batched), the vectorised functions of
    torch.autograd.functional and gradcheck still use. The innermost batch is taken off by the rule of torch.func."""
    bind = BIND[name]
    return lambda keys, *arguments: vmap.under_older_vmap(*bind(*arguments))


def dispatched(name: str) -> Kernel:
    """The operator through the dispatcher, for public operators under other keys than Autograd."""
    operator = _operators[name]

    def kernel(keys: Any, *arguments: Any) -> Any:
        try:
            return operator(*arguments)
        except Exception as error:
            _explain(name, arguments, error)
            raise

    return kernel


# --- the public function


def _refuse_list(boxes: object) -> None:
    if isinstance(boxes, (list, tuple)):
        raise TypeError(f"boxes: expected a Tensor[K, 5], got a {type(boxes).__name__}, which roi_align takes")


class RoIAlignFunction(torch.autograd.Function):
    """RoIAlign as an autograd function, for code that calls ``apply``; :func:`roialign_ext.roi_align` is the same.

    Subclasses are refused, because methods that they override would not be called.

    Raises:
        TypeError: on making a subclass.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        raise TypeError(
            f"{cls.__name__}: expected no subclass of RoIAlignFunction, whose apply() calls roi_align and no method of "
            "the class: call roialign_ext.roi_align in a torch.autograd.Function of your own"
        )

    @classmethod
    def apply(
        cls,
        input: Tensor,
        boxes: Tensor,
        output_size: BroadcastingList2[int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = False,
        mode: str = "avg",
        /,
    ) -> Tensor:
        """Pools ``boxes`` from ``input``.

        Args:
            input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
            boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)`` in image pixels, in any of these dtypes.
            output_size: bins ``(PH, PW)`` per box, or one int for both.
            spatial_scale: map pixels per image pixel.
            sampling_ratio: samples per bin along each axis; if not positive, the length of the bin in map pixels,
                rounded up. A positive ratio times the bins of an axis is at most 2**31 - 1.
            aligned: ``True`` shifts boxes by minus half a map pixel, so that pixel centres lie at half-integers.
                ``False``, the older convention, shifts nothing and makes boxes at least one map pixel long.
            mode: ``"avg"`` for the mean of a bin's samples, ``"max"`` for the largest. With ``"max"`` at most 65535
                samples of a bin may lie on the map along one axis.

        Returns:
            ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable any number of times with
            respect to ``input`` and ``boxes``.

        Raises:
            BoxShapeError: ``boxes`` has the wrong shape.
            ValueError: another argument has a shape or a value not allowed above.
            TypeError: an argument has a type or dtype not allowed above, such as boxes in a list.
            IndexError: a batch index is not a whole number in ``[0, N)``. On CUDA its row is NaN instead, unless
                ``ROIALIGN_EXT_CHECK=1`` is set.
        """
        # The operator is differentiable by itself, in forward mode too, and its call costs a quarter of what binding
        # the arguments of forward() would. Dynamo looks past this method and traces forward() and backward().
        _refuse_list(boxes)
        return roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned, mode)

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
        ctx.input_size, ctx.channels_last = layout_of([input])
        ctx.save_for_backward(input if ctx.is_max or ctx.needs_input_grad[1] else None, boxes)
        return roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned, mode)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        input, boxes = ctx.saved_tensors
        # Only the value is an output of forward(), so a traced backward finds the argmax anew.
        argmax = ops._pool_max([input], boxes, grad.shape[2:], *ctx.rule)[1] if ctx.is_max else None
        settings = Settings("_pool", ctx.rule, grad.shape[2:], ctx.input_size, ctx.channels_last)
        form = Form(settings, [input], grad, boxes, (None, None), argmax)
        by_input = form.by_maps()[0] if ctx.needs_input_grad[0] else None
        by_boxes = form.by_boxes() if ctx.needs_input_grad[1] else None
        return by_input, by_boxes, None, None, None, None, None
