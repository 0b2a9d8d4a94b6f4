"""Which function runs under which dispatch key: the part of the operators that is Python.

docs/design.md has the table. The compiled module registers the schemas and, for CPU and CUDA, the kernels.
"""

from __future__ import annotations

import torch

from ._operators import decompositions
from ._shapes import SHAPES
from .autograd import dispatched, under_autograd, under_older_vmap, under_transforms

PRIVATE = ("_pool", "_pool_max", "_pool_grad_input", "_pool_grad_boxes")


def _register() -> torch.library.Library:
    library = torch.library.Library("roialign_ext", "IMPL")  # type: ignore[no-untyped-call]
    autograd = {name: under_autograd(name) for name in PRIVATE}
    for name in PRIVATE:
        library.impl(name, autograd[name], "Autograd")  # type: ignore[no-untyped-call]
        library.impl(name, SHAPES[name], "Meta")  # type: ignore[no-untyped-call]
        library.impl(name, under_older_vmap(name), "Batched")  # type: ignore[no-untyped-call]
        library.impl(name, under_transforms(name), "FuncTorchDynamicLayerFrontMode")  # type: ignore[no-untyped-call]
    # Under the Autograd key what a public operator is made of stays there: one pass through the dispatcher less.
    for name, kernel in decompositions(autograd["_pool"], autograd["_pool_max"]).items():
        library.impl(name, kernel, "Autograd")  # type: ignore[no-untyped-call]
    # A transform of torch.func has to meet the private operators before it is taken off the stack, and so has the
    # older vmap. The composite keys are those of tensors without a kernel: without data, sparse, nested ...
    keys = (
        "FuncTorchDynamicLayerFrontMode",
        "Batched",
        "CompositeImplicitAutograd",
        "CompositeImplicitAutogradNestedTensor",
    )
    for name, kernel in decompositions(dispatched("_pool"), dispatched("_pool_max")).items():
        for key in keys:
            library.impl(name, kernel, key)  # type: ignore[no-untyped-call]
    return library


_library = _register()  # the registrations last as long as this object
