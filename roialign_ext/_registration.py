"""Which function runs under which dispatch key: the part of the operators that is Python.

docs/design.md has the table. The compiled libraries register the schemas and, for CPU and CUDA, the kernels.
"""

from __future__ import annotations

import torch

from . import vmap
from ._autograd import Kernel, differentiated, dispatched, under_autograd, under_transforms
from ._form import BIND
from ._operators import decompositions
from ._shapes import SHAPES

# The parts of a public operator stay under the Autograd key, which saves a pass through the dispatcher.
_private = {name: differentiated(name) for name in BIND}
_public = decompositions(
    _private["_pool"], differentiated("_pool", is_part=True), differentiated("_max_pool", is_part=True)
)
AUTOGRAD = {name: under_autograd(name, kernel) for name, kernel in {**_private, **_public}.items()}


def _below_autograd(kernel: Kernel) -> Kernel:
    return lambda keys, *arguments: kernel(keys & torch._C._after_autograd_keyset, *arguments)


def _under_older_vmap(name: str) -> Kernel:
    """torch's older vmap, which batched gradients (is_grads_batched), the vectorised functions of
    torch.autograd.functional and gradcheck still use."""
    bind = BIND[name]
    return lambda keys, *arguments: vmap.under_older_vmap(*bind(*arguments))


def _register() -> torch.library.Library:
    library = torch.library.Library("roialign_ext", "IMPL")  # type: ignore[no-untyped-call]

    def register(key: str, kernels: dict[str, Kernel]) -> None:
        for name, kernel in kernels.items():
            library.impl(name, kernel, key, with_keyset=True)  # type: ignore[no-untyped-call]

    register("Autograd", {name: _below_autograd(kernel) for name, kernel in AUTOGRAD.items()})
    register("Batched", {name: _under_older_vmap(name) for name in BIND})
    register("FuncTorchDynamicLayerFrontMode", {name: under_transforms(name) for name in BIND})
    for name in BIND:
        library.impl(name, SHAPES[name], "Meta")  # type: ignore[no-untyped-call]
    # A transform of torch.func has to meet the private operators before it leaves the stack, and so has the older vmap.
    # The composite keys serve tensors that no kernel takes: meta, sparse and nested ones.
    composed = decompositions(dispatched("_pool"), dispatched("_pool"), dispatched("_max_pool"))
    for key in ("FuncTorchDynamicLayerFrontMode", "Batched"):
        register(key, composed)
    for key in ("CompositeImplicitAutograd", "CompositeImplicitAutogradNestedTensor"):
        register(key, composed)
    return library


_library = _register()  # the registrations last as long as this object
