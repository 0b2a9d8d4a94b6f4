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

from ._autograd import KERNELS, key_set
from ._form import ops
from ._registration import AUTOGRAD

_keys_of, _is_profiled = torch._C._dispatch_keys, torch._C._autograd._profiler_enabled
_included, _is_excluded = torch._C._dispatch_tls_local_include_set, torch._C._dispatch_tls_is_dispatch_key_excluded
# Keys that a usual thread includes, and the key of autograd on every device, which it does not exclude. Modes,
# transforms, tracers and inference mode change that.
_INCLUDED = key_set(DispatchKey.BackendSelect, DispatchKey.ADInplaceOrView)
_AUTOGRAD = DispatchKey.AutogradFunctionality


def _call_of(name: str) -> Callable[..., Tensor]:
    operator, autograd = getattr(ops, name), AUTOGRAD[name]

    def call(input: Tensor, boxes: Tensor, *arguments: Any) -> Tensor:
        if not torch.compiler.is_compiling():
            keys = _keys_of(input)
            if (
                _keys_of(boxes) == keys
                and _included() == _INCLUDED
                and not _is_excluded(_AUTOGRAD)
                and not _is_profiled()
            ):
                kernel = KERNELS.get(keys.raw_repr())
                if kernel is not None:
                    return autograd(kernel, input, boxes, *arguments)  # type: ignore[no-any-return]
        return operator(input, boxes, *arguments)  # type: ignore[no-any-return]

    return call


roi_align = _call_of("roi_align")
prroi_pool = _call_of("prroi_pool")
roi_warp = _call_of("roi_warp")
roi_pool = _call_of("roi_pool")
ps_roi_align = _call_of("ps_roi_align")
ps_roi_pool = _call_of("ps_roi_pool")
roi_align_rotated = _call_of("roi_align_rotated")
