"""The two implementations of an operator, the package's and its oracle, for tests that must hold for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from support.inputs import DTYPES
from support.operator_calls import OperatorCall

Gradients = Callable[[OperatorCall, Tensor, Any, Tensor], list[Tensor]]


@dataclass(frozen=True)
class Implementation:
    """The result of a call, and its gradients with respect to the maps and, where there are some, to the boxes."""

    value: Callable[[OperatorCall, Any, Tensor], Tensor]
    gradients: Gradients
    dtypes: tuple[torch.dtype, ...]


def package_gradients(call: OperatorCall, grad: Tensor, features: Any, boxes: Tensor) -> list[Tensor]:
    return call.gradients(call.leaves(features, boxes), grad)


def oracle_gradients(call: OperatorCall, grad: Tensor, features: Any, boxes: Tensor) -> list[Tensor]:
    grad_boxes = [call.grad_boxes(grad, features, boxes)] if call.box_order > 0 else []
    return [*call.grad_inputs(grad, features, boxes), *grad_boxes]


PACKAGE = Implementation(lambda call, features, boxes: call(features, boxes), package_gradients, DTYPES)
ORACLE = Implementation(lambda call, features, boxes: call.forward(features, boxes), oracle_gradients, (torch.float64,))

each_implementation = pytest.mark.parametrize("implementation", [PACKAGE, ORACLE], ids=["package", "oracle"])
