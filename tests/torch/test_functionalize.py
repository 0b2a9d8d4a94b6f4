"""torch.func.functionalize, alone and composed, and graphs that make_fx records with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functionalize, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from roialign_ext import roi_align
from support.inputs import MODES, random_tensor

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:There is a performance drop because:UserWarning"),  # torch's copying views
    pytest.mark.parametrize("mode", MODES),
    pytest.mark.parametrize("remove", ["mutations", "mutations_and_views"]),
]

FEATURES = random_tensor(2, 2, 5, 6)
BOXES = torch.tensor([[0, 0.3, 0.4, 3.1, 3.2], [1, 1.1, 1.3, 4.2, 3.7], [0, -1.0, 2.0, 3.0, 3.3]], dtype=torch.float64)


def in_place(mode: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Arguments that are changed through views before the call, and a result that is changed after it."""

    def call(features: Tensor, boxes: Tensor) -> Tensor:
        features, boxes = features.clone(), boxes.clone()
        features[:, 0].mul_(2.0)
        boxes[:, 1:].add_(0.25)
        return roi_align(features, boxes, 2, 1.0, 2, True, mode).add_(1.0)

    return call


def test_in_place_changes_around_the_call(mode: str, remove: str) -> None:
    call = in_place(mode)
    torch.testing.assert_close(functionalize(call, remove=remove)(FEATURES, BOXES), call(FEATURES, BOXES))


def test_recorded_graph(mode: str, remove: str) -> None:
    call = in_place(mode)
    graph = make_fx(functionalize(call, remove=remove))(FEATURES, BOXES)
    operators = [node.target for node in graph.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    assert sum(operator.namespace == "roialign_ext" for operator in operators) == 1
    assert not any(operator._schema.is_mutable for operator in operators)
    torch.testing.assert_close(graph(FEATURES + 1.0, BOXES), call(FEATURES + 1.0, BOXES))


def test_under_other_transforms(mode: str, remove: str) -> None:
    def loss(features: Tensor) -> Tensor:
        return in_place(mode)(features, BOXES).square().sum()

    batch = torch.stack([FEATURES, -FEATURES, 2.0 * FEATURES])
    torch.testing.assert_close(grad(functionalize(loss, remove=remove))(FEATURES), grad(loss)(FEATURES))
    torch.testing.assert_close(
        vmap(functionalize(loss, remove=remove))(batch), torch.stack([loss(features) for features in batch])
    )


def test_of_vmap(mode: str, remove: str) -> None:
    batch = torch.stack([FEATURES, -FEATURES])
    shifted = torch.stack([BOXES, BOXES + torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0], dtype=torch.float64)])
    expected = torch.stack([in_place(mode)(features, boxes) for features, boxes in zip(batch, shifted, strict=True)])
    torch.testing.assert_close(functionalize(vmap(in_place(mode)), remove=remove)(batch, shifted), expected)
