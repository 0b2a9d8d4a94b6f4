"""The private operators under autograd, under torch.func and under torch's older vmap.

Formulas stand in roialign_ext/_form.py, the batching rule in roialign_ext/vmap.py; roialign_ext/_registration.py says
which function runs under which dispatch key.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
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
from ._form import BIND, Form, Settings, call, defined, ops
from ._operator_checks import CHECKS

Kernel: TypeAlias = Callable[..., Any]
Below: TypeAlias = tuple[Kernel, Any, tuple[Any, ...]]  # what runs below a key: a kernel, the keys, other arguments

# Names of this module, because every call pays for a look into another one.
is_compiling, is_grad_enabled = torch.compiler.is_compiling, torch.is_grad_enabled
_any_requires_grad, _has_transforms = torch._C._any_requires_grad, torch._C._are_functorch_transforms_active
keys_of = torch._C._dispatch_keys
_number_of_modes = torch._C._len_torch_dispatch_stack  # of those that see every call, as they do that record graphs


def key_set(*keys: DispatchKey) -> DispatchKeySet:
    union = DispatchKeySet(keys[0])
    for key in keys[1:]:
        union = union.add(key)
    return union


# The keys of a usual tensor on each device, and those of its kernel. Subclasses, wrappers of transforms and tensors of
# inference mode have others. Autocast falls through, because the operators have no kernels for it.
CPU, CUDA = (
    (key_set(device, autograd, autocast, DispatchKey.ADInplaceOrView), key_set(device))
    for device, autograd, autocast in (
        (DispatchKey.CPU, DispatchKey.AutogradCPU, DispatchKey.AutocastCPU),
        (DispatchKey.CUDA, DispatchKey.AutogradCUDA, DispatchKey.AutocastCUDA),
    )
)


def _raise_out_of_memory(error: Exception) -> None:
    """Raises torch.OutOfMemoryError if a CUDA allocation failed. A compiled library can only raise RuntimeError."""
    if type(error) is RuntimeError and "CUDA out of memory." in str(error):
        raise torch.OutOfMemoryError(str(error)) from None


def _explain(name: str, arguments: tuple[Any, ...], error: Exception) -> None:
    """Raises the error of the operator's checks in Python, if a kernel refused the arguments.

    Some of their kinds of exceptions do not cross the boundary of a compiled library.
    """
    _raise_out_of_memory(error)
    try:
        CHECKS[name](*arguments)
    except Exception as explanation:
        raise explanation from None


# --- the function of every private operator


class Differentiable(torch.autograd.Function):
    """A private operator under its Autograd key, in eager mode and while programs are traced.

    The first argument computes the value. The others are those that ``BIND`` of _form.py makes of the private
    operator's arguments.
    """

    @staticmethod
    def forward(
        ctx: Any, below: Below, settings: Settings, boxes: Tensor, u: Tensor | None,
        v: Tensor | None, argmax: Tensor | None, grad: Tensor | None, *maps: Tensor,
    ) -> Any:  # fmt: skip
        kernel, keys, arguments = below
        result = kernel(keys, *arguments)
        if settings.operator == "_pool_grad_input":
            result = tuple(result)
        _save(ctx, settings, result, boxes, u, v, argmax, grad, maps)
        return result

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        saved = ctx.saved_tensors  # whose hooks may run forward passes
        if is_compiling():  # Dynamo, of compiled autograd, which follows neither engine nor dispatcher
            return _gradients(ctx, saved, cotangents, ctx.needs_input_grad)
        if is_grad_enabled() or forward_ad._current_level >= 0 or _number_of_modes() > 0 or _has_transforms():
            return _gradients(ctx, saved, cotangents, _needed_now(ctx))
        try:
            grad, boxes = cotangents[0], saved[0]
            if ctx.needs_maps_alone and grad is not None:
                usual, kernel_keys = CPU if grad.is_cpu else CUDA
                if keys_of(grad) == usual and keys_of(boxes) == usual:
                    # The usual training step: Form.grad_input() straight from the kernel, with less overhead.
                    _, u, v, argmax, _ = saved
                    _, geometry, _, input_size, last, _ = ctx.settings
                    grad_input = _grad_input(kernel_keys, grad, boxes, u, v, argmax, input_size, last, *geometry)
                    return (None, None, None, None, None, None, None, *grad_input)
            with torch._C._AutoDispatchBelowAutograd():  # nothing here is differentiated once more
                return _gradients(ctx, saved, cotangents, _needed_now(ctx))
        except RuntimeError as error:
            _raise_out_of_memory(error)
            raise

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _tangent(ctx, ctx.saved_tensors, tangents)


class Transformed(torch.autograd.Function):
    """The same under a transform of torch.func, which removes one level at a time."""

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
        """Computes the tangent one transform further down, with forward mode on.

        torch switches forward mode off for jvp(), so an enclosing jvp would take the tangent for a constant. One
        transform further down the saved tensors have only the tangents of the enclosing transforms.
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
    ctx.materialize_grads = False  # this and to_save as torch's functions set them, which are slower
    if settings.operator == "_max_pool":
        argmax = output[1]
        ctx.mark_non_differentiable(argmax)
    ctx.saved_for_forward = (boxes, u, v, argmax, grad, *maps)  # as save_for_forward() does, but without its checks
    # Phi is linear in the maps and in G: a derivative w.r.t. one of them does not need its value. So the usual training
    # step keeps no map alive.
    _, _, needs_boxes, needs_u, needs_v, _, needs_grad, *needs_maps = ctx.needs_input_grad
    moves = needs_boxes or needs_u or needs_v  # a derivative w.r.t. boxes or directions, which needs maps and G
    if not moves:
        if not needs_grad:
            maps = ()
        if grad is not None and True not in needs_maps:
            grad = None
    ctx.needs_maps_alone = not (moves or needs_grad) and settings.operator in ("_pool", "_max_pool")
    ctx.to_save = (boxes, u, v, argmax, grad, *maps)


def _needed_now(ctx: Any) -> Sequence[bool]:
    """The gradients that this backward pass needs: torch.autograd.grad may ask for fewer than exist."""
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
    if ctx.settings.operator == "_max_pool":
        return tangent, None
    return tuple(tangent) if ctx.settings.operator == "_pool_grad_input" else tangent


def _form_of(ctx: Any, saved: Sequence[Any]) -> Form:
    boxes, u, v, argmax, grad, *maps = saved
    return Form(ctx.settings, maps, grad, boxes, (u, v), argmax)


_operators = {name: getattr(ops, name).default for name in BIND}
# They call the kernel of the given keys, and look neither at the schema nor at the tensors again.
_redispatch: dict[str, Kernel] = {name: operator._handle.redispatch_boxed for name, operator in _operators.items()}
_grad_input = _redispatch["_pool_grad_input"]
# torch.autograd.Function.apply looks for transforms of torch.func first: under the Autograd key there are none left.
_apply_differentiable: Kernel = super(torch.autograd.Function, Differentiable).apply
_apply_transformed: Kernel = Transformed.apply


# --- kernels; the first argument is the keys of the call that are left below the kernel's own, or Below with them


def _has_tangent(arguments: tuple[Any, ...]) -> bool:
    """Whether a tensor, also in a list, has a tangent of Dynamo's graphs, whose levels forward_ad does not know."""
    if "torch._dynamo" not in sys.modules:
        return False
    for argument in arguments:
        for tensor in argument if isinstance(argument, list) else [argument]:
            if tensor is not None and torch._unpack_dual(tensor, level=0).tangent is not None:
                return True
    return False


def differentiated(name: str, is_part: bool = False) -> Kernel:
    """The operator as a node of the graph or on dual numbers, or as one that a mode watches.

    The kernel below may be that of a public operator that is this private operator and nothing else: it has fewer
    arguments to convert. ``is_part`` serves public operators that do more. Modes see private operators.
    """
    bind, redispatch = BIND[name], _redispatch[name]

    def kernel(below: Below, *arguments: Any) -> Any:
        if is_part or _number_of_modes() > 0:
            _, keys, _ = below
            below = (redispatch, keys, arguments)
        try:
            results = _apply_differentiable(below, *bind(*arguments))
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
                or (
                    is_grad_enabled()
                    and (_any_requires_grad(*arguments[:tensors]) or _has_tangent(arguments[:tensors]))
                )
            ):
                return redispatch(keys, *arguments)
        except Exception as error:
            _raise_out_of_memory(error)
            otherwise((redispatch, keys, arguments), *arguments)  # raises the full error message
            raise
        return otherwise((redispatch, keys, arguments), *arguments)

    return kernel


def under_transforms(name: str) -> Kernel:
    """FuncTorchDynamicLayerFrontMode: what runs while a transform of torch.func is active.

    ``torch.func.functionalize`` does not accept functions written in Python. The operator makes no views and changes no
    argument, so it runs one transform further down.
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
