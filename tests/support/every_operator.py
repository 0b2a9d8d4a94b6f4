"""All public operators in one module, for programs that are saved: their results side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from support.operator_calls import OperatorCall
from support.small_cases import CASES

SIDE = 8
FEATURES = torch.arange(64.0).reshape(1, 1, SIDE, SIDE)


def boxes_of(count: int) -> Tensor:
    """Boxes (image, x1, y1, x2, y2) on a map of 8 x 8 pixels; the first two are those of examples/cpp."""
    first = [[0.0, 2.0, 2.0, 6.0, 6.0], [0.0, 1.0, 0.0, 7.5, 3.0]]
    others = [[0.0, 0.3 * i % 3, 0.7 * i % 3, 4.1 + 0.2 * i % 3, 3.9 + 0.5 * i % 4] for i in range(2, count)]
    return torch.tensor([*first, *others][:count]).reshape(-1, 5)


def arguments(call: OperatorCall, features: Tensor, boxes: Tensor) -> dict[str, Any]:
    # Some operators have no gradient with respect to the boxes. torch.export drops boxes.detach().
    boxes = boxes if call.box_order > 0 else boxes.long().float()
    return call.arguments(call.input_of(features), call.from_corners(boxes, SIDE, SIDE))


class EveryOperator(nn.Module):
    """Every function in each mode, results ``[results, K, C, 2, 3]``, times a weight that can be trained.

    ``prepare`` may replace the functions, as ``torch.jit.script`` does.
    """

    def __init__(self, prepare: Callable[[Any], Any] = lambda function: function) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.calls = [(case.call, prepare(case.call.function)) for case in CASES]

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        results = [function(**arguments(call, features, boxes)) for call, function in self.calls]
        return self.weight * torch.stack(results)
