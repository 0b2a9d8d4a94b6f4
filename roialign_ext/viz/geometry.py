"""Boxes, bins, samples and weights of one box along one axis, as the pictures draw them.

Positions are in map pixels: cell ``(r, q)`` of a map is the unit square around the point ``(r, q)``. The two axes never
mix, so every function handles one axis. Equation numbers are those of docs/math.md. The equations are written again in
plain Python, independent of the kernels, so that a picture shows the definition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

OPERATORS = ("roi_pool", "roi_warp", "roi_align", "roi_align_half_pixel", "prroi_pool")
"""``roi_align`` is RoIAlign with ``aligned=False``, its default, and ``roi_align_half_pixel`` with ``aligned=True``."""


def round_half_away(coordinate: float) -> float:
    """The nearest whole number, halves away from zero, as RoIPool and RoIWarp quantise a corner."""
    whole = math.trunc(coordinate)
    return whole + math.copysign(1.0, coordinate) if abs(coordinate - whole) >= 0.5 else float(whole)


def sampling_grid(size: float, bins: int, sampling_ratio: int) -> int:
    """Samples of a bin along an axis, equation (4)."""
    return sampling_ratio if sampling_ratio > 0 else math.ceil(size / bins)


def sample_positions(start: float, size: float, bins: int, grid: int) -> tuple[tuple[float, ...], ...]:
    """Sample positions of each bin, equations (3) and (5)."""
    step = size / bins
    return tuple(tuple((start + p * step) + (i + 0.5) * step / grid for i in range(grid)) for p in range(bins))


def taps(position: float, length: int) -> dict[int, float]:
    """The pixels that a sample reads of an axis of ``length`` pixels, with their weights: equations (7) to (9).

    Empty for a rejected sample; one pixel for a sample on a pixel centre or clamped to the border.
    """
    if not -1.0 <= position <= length:
        return {}
    clamped = min(max(position, 0.0), length - 1.0)
    low = math.floor(clamped)
    return {pixel: weight for pixel, weight in ((low, 1.0 - (clamped - low)), (low + 1, clamped - low)) if weight}


def hat_integral(offset: float) -> float:
    """Integral of the hat function ``max(1 - |t|, 0)`` from minus infinity to ``offset``."""
    offset = min(max(offset, -1.0), 1.0)
    return (1.0 + offset) ** 2 / 2.0 if offset <= 0.0 else 1.0 - (1.0 - offset) ** 2 / 2.0


@dataclass(frozen=True)
class Axis:
    """One axis of one box as an operator reads it, in map pixels in the operator's own frame."""

    box: tuple[float, float]
    """The box as passed in, scaled."""
    region: tuple[float, float]
    """The interval divided into bins: the quantised box, or ``box`` if nothing is rounded. For RoIPool it reaches from
    the outer border of the first cell to that of the last."""
    bins: tuple[tuple[float, float], ...]
    """First and last position of each bin. RoIPool's are whole cells and may overlap."""
    samples: tuple[tuple[float, ...], ...]
    """Sample positions of each bin; empty if the operator does not sample."""
    weights: Tensor
    """``[bins, length]``, float64: the axis weights, equation (12); for RoIPool 1 for each cell of a bin."""


def _divided(region: tuple[float, float], bins: int) -> tuple[tuple[float, float], ...]:
    start, end = region
    return tuple((start + p * (end - start) / bins, start + (p + 1) * (end - start) / bins) for p in range(bins))


def _pool_axis(first: float, second: float, bins: int, length: int) -> Axis:
    start, end = round_half_away(first), round_half_away(second)
    size = max(end - start + 1.0, 1.0)
    step = size / bins
    weights = torch.zeros(bins, length, dtype=torch.float64)
    borders = []
    for p in range(bins):
        low, high = (
            int(min(max(edge + start, 0), length)) for edge in (math.floor(p * step), math.ceil((p + 1) * step))
        )
        weights[p, low:high] = 1.0
        borders.append((low - 0.5, high - 0.5))
    return Axis((first, second), (start - 0.5, start + size - 0.5), tuple(borders), (), weights)


def _sampled_axis(
    box: tuple[float, float], corners: tuple[float, float], bins: int, length: int, sampling_ratio: int, aligned: bool
) -> Axis:
    start, size = corners[0], corners[1] - corners[0]
    if not aligned:
        size = max(size, 1.0)
    grid = sampling_grid(size, bins, sampling_ratio)
    samples = sample_positions(start, size, bins, grid)
    weights = torch.zeros(bins, length, dtype=torch.float64)
    for p, positions in enumerate(samples):
        for position in positions:
            for pixel, weight in taps(position, length).items():
                weights[p, pixel] += weight / grid
    region = (start, start + size)
    return Axis(box, region, _divided(region, bins), samples, weights)


def _integrated_axis(first: float, second: float, bins: int, length: int) -> Axis:
    borders = _divided((first, second), bins)
    weights = torch.zeros(bins, length, dtype=torch.float64)
    for p, (low, high) in enumerate(borders):
        if high > low:
            for pixel in range(length):
                weights[p, pixel] = (hat_integral(high - pixel) - hat_integral(low - pixel)) / (high - low)
    return Axis((first, second), (first, second), borders, (), weights)


def operator_axis(
    operator: str,
    edges: Sequence[float],
    bins: int,
    length: int,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
) -> Axis:
    """One axis of one box as ``operator`` reads it.

    Args:
        operator: one of ``OPERATORS``.
        edges: the two edges of the box along the axis, in image pixels.
        bins: bins along the axis.
        length: pixels of the map along the axis.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along the axis for RoIWarp and RoIAlign; if not positive, adaptive.
    """
    first, second = (edge * spatial_scale for edge in edges)
    if operator == "roi_pool":
        return _pool_axis(first, second, bins, length)
    if operator == "roi_warp":
        corners = (round_half_away(first), round_half_away(second))
        return _sampled_axis((first, second), corners, bins, length, sampling_ratio, aligned=False)
    if operator == "roi_align":
        return _sampled_axis((first, second), (first, second), bins, length, sampling_ratio, aligned=False)
    if operator == "roi_align_half_pixel":
        box = (first - 0.5, second - 0.5)
        return _sampled_axis(box, box, bins, length, sampling_ratio, aligned=True)
    if operator == "prroi_pool":
        return _integrated_axis(first, second, bins, length)
    raise ValueError(f"operator: expected one of {', '.join(OPERATORS)}, got {operator!r}")
