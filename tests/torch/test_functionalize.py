"""Does torch.func.functionalize give the same, alone and composed, and in graphs that make_fx records?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functionalize, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from support.small_cases import SmallCase, close, each_case

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:There is a performance drop because:UserWarning"),  # torch's copying views
    pytest.mark.parametrize("remove", ["mutations", "mutations_and_views"]),
]


def in_place(case: SmallCase) -> Callable[..., Tensor]:
    """Arguments that are changed through views before the call, and a result that is changed after it."""

    def call(*tensors: Tensor) -> Tensor:
        copies = [tensor.clone() for tensor in tensors]
        for copy in copies:
            copy[:, 0].mul_(0.98)
        return case(*copies).add_(1.0)

    return call


@each_case
def test_recorded_graph(case: SmallCase, remove: str) -> None:
    """The graph is one call of the operator, without changes in place; it gives the same for other maps."""
    call = in_place(case)
    close(functionalize(call, remove=remove)(*case.point()), call(*case.point()))
    graph = make_fx(functionalize(call, remove=remove))(*case.point())
    operators = [node.target for node in graph.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    assert sum(operator.namespace == "roialign_ext" for operator in operators) == 1
    assert not any(operator._schema.is_mutable for operator in operators)
    other = (*case.maps(1), case.boxes())
    close(graph(*other), call(*other))


@each_case
def test_under_other_transforms(case: SmallCase, remove: str) -> None:
    def loss(*maps: Tensor) -> Tensor:
        return in_place(case)(*maps, case.boxes()).square().sum()

    places, functional = tuple(range(case.levels)), functionalize(loss, remove=remove)
    close(grad(functional, places)(*case.maps()), grad(loss, places)(*case.maps()))
    batches = [torch.stack(level) for level in zip(*(case.maps(seed) for seed in range(3)), strict=True)]
    close(vmap(functional)(*batches), torch.stack([loss(*case.maps(seed)) for seed in range(3)]))


@each_case
def test_of_vmap(case: SmallCase, remove: str) -> None:
    points = [(*case.maps(seed), case.boxes() + shift) for seed, shift in enumerate((0.0, 1e-2))]
    batches = [torch.stack(tensors) for tensors in zip(*points, strict=True)]
    expected = torch.stack([in_place(case)(*point) for point in points])
    close(functionalize(vmap(in_place(case)), remove=remove)(*batches), expected)
