"""The operators compared in the pictures: their calls and their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..functional import prroi_pool, roi_align, roi_pool, roi_warp
from .geometry import OPERATORS


@dataclass(frozen=True)
class Words:
    """Captions of one operator."""

    name: str
    rounding: str
    detail: str
    result: str


WORDS = {
    "roi_pool": Words("RoIPool", "corners and bins rounded", "cells of the marked bin", "largest cell of a bin"),
    "roi_warp": Words("RoIWarp", "corners rounded, bins sampled", "one sample of the bin", "mean of the samples"),
    "roi_align": Words("RoIAlign", "nothing rounded, bins sampled", "one sample of the bin", "mean of the samples"),
    "roi_align_half_pixel": Words(
        "RoIAlign, aligned", "half a pixel back, bins sampled", "one sample of the bin", "mean of the samples"
    ),
    "prroi_pool": Words("PrRoIPool", "nothing rounded, bins integrated", "weights of the bin", "mean of the area"),
}


def check_operators(operators: Sequence[str]) -> None:
    """Raises ValueError unless ``operators`` names at least one operator and every name is known."""
    several = isinstance(operators, (list, tuple)) and len(operators) > 0
    if not several or not all(isinstance(name, str) and name in OPERATORS for name in operators):
        raise ValueError(f"operators: expected names out of {', '.join(OPERATORS)}, got {operators!r}")


def pool(
    operator: str,
    input: Tensor,
    rows: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
) -> Tensor:
    """The package's ``operator`` on ``input`` ``[N, C, H, W]`` and ``rows`` ``[K, 5]``, in mode ``"avg"``."""
    if operator == "roi_pool":
        return roi_pool(input, rows, output_size, spatial_scale)
    if operator == "prroi_pool":
        return prroi_pool(input, rows, output_size, spatial_scale)
    if operator == "roi_warp":
        return roi_warp(input, rows, output_size, spatial_scale, sampling_ratio)
    aligned = operator == "roi_align_half_pixel"
    return roi_align(input, rows, output_size, spatial_scale, sampling_ratio, aligned)
