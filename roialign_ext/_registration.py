"""Which function runs under which dispatch key: the part of the operators that is Python.

docs/design.md has the table. The compiled module registers the schemas and, for CPU and CUDA, the kernels.
"""

from __future__ import annotations

import torch

from ._operators import decompositions
from ._shapes import SHAPES
from .autograd import Kernel, differentiated, dispatched, under_autograd, under_older_vmap, under_transforms

PRIVATE = ("_pool", "_pool_max", "_pool_grad_input", "_pool_grad_boxes")


def _register() -> torch.library.Library:
    library = torch.library.Library("roialign_ext", "IMPL")  # type: ignore[no-untyped-call]

    def register(key: str, kernels: dict[str, Kernel]) -> None:
        for name, kernel in kernels.items():
            library.impl(name, kernel, key, with_keyset=True)  # type: ignore[no-untyped-call]

    # The parts of a public operator stay under the Autograd key, which saves a pass through the dispatcher.
    private = {name: differentiated(name) for name in PRIVATE}
    public = decompositions(private["_pool"], private["_pool_max"])
    register("Autograd", {name: under_autograd(name, kernel) for name, kernel in {**private, **public}.items()})
    register("Batched", {name: under_older_vmap(name) for name in PRIVATE})
    register("FuncTorchDynamicLayerFrontMode", {name: under_transforms(name) for name in PRIVATE})
    for name in PRIVATE:
        library.impl(name, SHAPES[name], "Meta")  # type: ignore[no-untyped-call]
    # A transform of torch.func has to meet the private operators before it is taken off the stack, and so has the older
    # vmap. The composite keys are those of tensors that no kernel takes: without data, sparse, nested ...
    composed = decompositions(dispatched("_pool"), dispatched("_pool_max"))
    for key in ("FuncTorchDynamicLayerFrontMode", "Batched"):
        register(key, composed)
    for key in ("CompositeImplicitAutograd", "CompositeImplicitAutogradNestedTensor"):
        register(key, composed)
    return library


_library = _register()  # the registrations last as long as this object
