"""One small call in float64, away from cell borders, for the tests of how the operator lives in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from roialign_ext import roi_align

SIZE = (3, 2)
SCALE = 0.9
RATIO = 2
IMAGES = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)

Operator = Callable[[Tensor, Tensor], Tensor]


def features(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def corners() -> Tensor:
    """Boxes without their image column: inside, near a corner, across the border."""
    rows = [[1.13, 2.21, 7.37, 6.91], [0.3, 0.41, 4.77, 8.13], [-2.3, -1.7, 4.1, 15.2]]
    return torch.tensor(rows, dtype=torch.float64)


def rows(xyxy: Tensor) -> Tensor:
    """Boxes with their image column, which no derivative should move."""
    return torch.cat([IMAGES.to(xyxy.dtype), xyxy], dim=1)


def operator(mode: str = "avg", aligned: bool = True) -> Operator:
    """The call as a function of features and corners."""
    return lambda x, xyxy: roi_align(x, rows(xyxy), SIZE, SCALE, RATIO, aligned, mode)


def loss(mode: str = "avg", aligned: bool = True) -> Operator:
    return lambda x, xyxy: operator(mode, aligned)(x, xyxy).square().sum()
