"""Public operators for callers in Python, past the dispatcher where its choice is known.

The dispatcher converts the arguments of a call twice and then calls a function of this package, that of the Autograd
key. For usual tensors on a thread where nothing watches, these calls go to that function directly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey

from ._autograd import CPU, CUDA, is_compiling, key_set, keys_of
from ._form import ops
from ._registration import AUTOGRAD

_is_profiled = torch._C._autograd._profiler_enabled
_included, _is_excluded = torch._C._dispatch_tls_local_include_set, torch._C._dispatch_tls_is_dispatch_key_excluded
# Keys that a usual thread includes, and the key of autograd on every device, which it does not exclude. Modes,
# transforms, tracers and inference mode change that.
_INCLUDED = key_set(DispatchKey.BackendSelect, DispatchKey.ADInplaceOrView)
_AUTOGRAD = DispatchKey.AutogradFunctionality


def _call_of(name: str) -> Callable[..., Tensor]:
    operator, autograd = getattr(ops, name), AUTOGRAD[name]

    def call(input: Tensor, boxes: Tensor, *arguments: Any) -> Tensor:
        if not is_compiling():
            usual, kernel_keys = CPU if input.is_cpu else CUDA
            if (
                keys_of(input) == usual
                and keys_of(boxes) == usual
                and _included() == _INCLUDED
                and not _is_excluded(_AUTOGRAD)
                and not _is_profiled()
            ):
                return autograd(kernel_keys, input, boxes, *arguments)  # type: ignore[no-any-return]
        return operator(input, boxes, *arguments)  # type: ignore[no-any-return]

    return call


roi_align = _call_of("roi_align")
prroi_pool = _call_of("prroi_pool")
roi_warp = _call_of("roi_warp")
roi_pool = _call_of("roi_pool")
ps_roi_align = _call_of("ps_roi_align")
ps_roi_pool = _call_of("ps_roi_pool")
roi_align_rotated = _call_of("roi_align_rotated")
