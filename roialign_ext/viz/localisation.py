"""Localisation error of each operator against a sub-pixel shift of the box.

The box has a true place on the map, in map pixels. Its bin ``p`` covers the positions from ``start + p * size / P`` to
``start + (p + 1) * size / P``. Each operator gets the box in its own convention. A constant half pixel between two
conventions is left to the caller and does not count as an error.

- RoIAlign (``aligned=False``), RoIWarp and PrRoIPool map coordinate ``c`` to map position ``c`` and get ``start`` and
  ``end``. RoIAlign with ``aligned=True`` maps it to ``c - 0.5`` and gets both half a pixel larger.
- RoIPool's corners are the first and the last cell, both included, so it gets ``start + 0.5`` and ``end - 0.5``.

**Error of the position.** The map is the ramp ``F(y, x) = x``, whose values are positions. Its mean over the true bin
is the bin's centre. An average returns the mean position of the bin. A maximum returns the far end of the bin. So the
position is defined as ``(pool(F) - pool(-F)) / 2``: the middle of the cells for RoIPool, the value itself for a linear
operator. The error is that position minus the centre of the true bin.

**Error of the value.** The map is a Gaussian blob sampled at the cell centres. The ideal is the mean of the blob itself
over the true bin (by error functions). For RoIPool, which computes no mean, it is the maximum of the blob over the true
bin. The error is the root mean square over the bins of a box at 25 places, as a share of the blob's height.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .._checks import as_integer, as_number
from .operators import WORDS, check_operators, pool

# Okabe and Ito's colours; dashes distinguish coinciding curves.
_STYLES = {
    "roi_pool": ("#CC79A7", "-"),
    "roi_warp": ("#E69F00", "-"),
    "roi_align": ("#0072B2", "-"),
    "roi_align_half_pixel": ("#56B4E9", (0, (1, 1))),
    "prroi_pool": ("#009E73", (0, (4, 3))),
}
_LENGTH = 32
"""Map pixels along each axis: the border is far from every box below."""
_START = 11.25
"""Start of the unshifted box, map pixels: a quarter pixel from the positions where RoIWarp and RoIPool are exact."""


def _boxes(operator: str, starts: Tensor, size: float) -> Tensor:
    """Boxes ``[K, 5]`` of length ``size`` that ``operator`` reads at the true places ``starts`` ``[K, 2]`` (y, x)."""
    first = starts + (0.5 if operator in ("roi_align_half_pixel", "roi_pool") else 0.0)
    last = first + (size - 1.0 if operator == "roi_pool" else size)
    return torch.cat([torch.zeros(len(starts), 1, dtype=starts.dtype), first.flip(1), last.flip(1)], dim=1)


def _true_bins(starts: Tensor, size: float, bins: int) -> Tensor:
    """First position of every true bin, ``[K, P]``; the bins are ``size / bins`` long."""
    return starts[:, None] + torch.arange(bins, dtype=starts.dtype) * (size / bins)


def _check(operator: str, shifts: Sequence[float] | Tensor, size: float, bins: int) -> tuple[Tensor, float, int]:
    """The shifts in float64, the size and the bins; raises if :func:`position_error` does not allow them."""
    check_operators([operator])
    message = f"shifts: expected a row of numbers in [-1, 1], got {shifts!r}"
    try:
        numbers = shifts.tolist() if isinstance(shifts, Tensor) else list(shifts)
        moved = torch.tensor([as_number("shifts", number) for number in numbers], dtype=torch.float64)
        allowed = bool((moved.abs() <= 1).all())
    except (TypeError, RuntimeError) as error:
        raise TypeError(message) from error
    if not allowed:
        raise ValueError(message)
    size, bins = as_number("size", size), as_integer("bins", bins)
    if not 1.0 <= size <= 12.0:
        raise ValueError(f"size: expected 1 to 12 map pixels, got {size!r}")
    if bins < 1:
        raise ValueError(f"bins: expected a positive number, got {bins!r}")
    return moved, size, bins


def position_error(
    operator: str, shifts: Sequence[float] | Tensor, size: float = 7.0, bins: int = 3, sampling_ratio: int = 2
) -> Tensor:
    """Position error of every bin of a shifted box; docs/gallery.md has the definition.

    Args:
        operator: ``"roi_pool"``, ``"roi_warp"``, ``"roi_align"``, ``"roi_align_half_pixel"`` or ``"prroi_pool"``.
        shifts: shifts of the box along x, in map pixels, in ``[-1, 1]``.
        size: length of the box in map pixels, from 1 to 12.
        bins: bins along each axis.
        sampling_ratio: samples per bin along each axis, for RoIAlign and RoIWarp.

    Returns:
        ``[len(shifts), bins]``, float64, in map pixels; positive if the operator read to the right of the true bin.

    Raises:
        ValueError: ``operator`` is unknown, a size or a shift is outside its range, or there are no bins.
    """
    moved, size, bins = _check(operator, shifts, size, bins)
    ramp = torch.arange(_LENGTH, dtype=torch.float64).expand(1, 1, _LENGTH, _LENGTH)
    starts = torch.stack([torch.full_like(moved, _START), _START + moved], dim=1)
    both = torch.cat([ramp, -ramp], dim=1)
    pooled = pool(operator, both, _boxes(operator, starts, size), (bins, bins), 1.0, sampling_ratio)
    read = (pooled[:, 0, 0] - pooled[:, 1, 0]) / 2
    return read - (_true_bins(starts[:, 1], size, bins) + size / bins / 2)


def mean_of_gaussian(first: Tensor, length: float, deviation: float) -> Tensor:
    """Mean of ``exp(-t * t / 2 / deviation ** 2)`` over ``[first, first + length]``."""
    scale = deviation * math.sqrt(2.0)
    area = torch.erf((first + length) / scale) - torch.erf(first / scale)
    return area * (deviation * math.sqrt(math.pi / 2.0) / length)


def max_of_gaussian(first: Tensor, length: float, deviation: float) -> Tensor:
    """Maximum of ``exp(-t * t / 2 / deviation ** 2)`` over ``[first, first + length]``."""
    nearest = torch.zeros_like(first).clamp(first, first + length)
    return torch.exp(-(nearest**2) / 2 / deviation**2)


def value_error(
    operator: str,
    shifts: Sequence[float] | Tensor,
    size: float = 7.0,
    bins: int = 3,
    sampling_ratio: int = 2,
    deviation: float = 2.0,
) -> Tensor:
    """Value error of a shifted box on a Gaussian blob; docs/gallery.md has the definition.

    The box is shifted along both axes, from 5 x 5 places around the blob, whole map pixels apart.

    Args:
        operator, shifts, size, bins, sampling_ratio: as for :func:`position_error`.
        deviation: standard deviation of the blob in map pixels.

    Returns:
        ``[len(shifts)]``, float64: the root mean square error as a share of the blob's height.

    Raises:
        ValueError: as :func:`position_error`, or ``deviation`` is not positive.
    """
    moved, size, bins = _check(operator, shifts, size, bins)
    deviation = as_number("deviation", deviation)
    if not deviation > 0:
        raise ValueError(f"deviation: expected a positive number, got {deviation!r}")
    centre = _START + 0.5 + size / 2  # centre of the middle one of the 25 boxes, at a shift of 0.5
    profile = torch.exp(-((torch.arange(_LENGTH, dtype=torch.float64) - centre) ** 2) / 2 / deviation**2)
    blob = (profile[:, None] * profile)[None, None]
    places = torch.cartesian_prod(*[_START + torch.arange(-2.0, 3.0, dtype=torch.float64)] * 2)
    starts = (places + moved[:, None, None]).flatten(0, 1)
    pooled = pool(operator, blob, _boxes(operator, starts, size), (bins, bins), 1.0, sampling_ratio)[:, 0]
    along_axis = max_of_gaussian if operator == "roi_pool" else mean_of_gaussian
    y, x = (along_axis(_true_bins(starts[:, i], size, bins) - centre, size / bins, deviation) for i in (0, 1))
    error = pooled - y[:, :, None] * x[:, None, :]
    return error.reshape(len(moved), len(places) * bins * bins).square().mean(dim=1).sqrt()


def plot_localisation_error(
    operators: Sequence[str] = ("roi_pool", "roi_warp", "roi_align", "prroi_pool"),
    size: float = 7.0,
    bins: int = 3,
    sampling_ratio: int = 2,
) -> Figure:
    """Plots the errors of each operator against a shift of the box from 0 to 1 map pixel.

    Left: the position error on a ramp, a line for the mean over the bins and a band from the smallest to the largest.
    Right: the value error on a Gaussian blob. docs/gallery.md has the definitions.

    Args:
        operators: the curves: ``"roi_pool"``, ``"roi_warp"``, ``"roi_align"``, ``"roi_align_half_pixel"``,
            ``"prroi_pool"``.
        size: length of the box in map pixels, from 1 to 12.
        bins: bins along each axis.
        sampling_ratio: samples per bin along each axis, for RoIAlign and RoIWarp.

    Returns:
        A matplotlib ``Figure`` without a window; save it by ``figure.savefig(path)``.

    Raises:
        ValueError: an operator is unknown, the size is outside its range, or there are no bins.
    """
    check_operators(operators)
    figure = Figure(figsize=(10.0, 4.2), layout="constrained", facecolor="white")
    positions: Axes = figure.add_subplot(1, 2, 1)
    values: Axes = figure.add_subplot(1, 2, 2)
    shifts = torch.linspace(0.0, 1.0, 201, dtype=torch.float64)
    x = shifts.tolist()
    for operator in operators:
        colour, line = _STYLES[operator]
        error = position_error(operator, shifts, size, bins, sampling_ratio)
        mean, smallest, largest = error.mean(1).tolist(), error.amin(1).tolist(), error.amax(1).tolist()
        positions.fill_between(x, smallest, largest, color=colour, alpha=0.25, linewidth=0)
        positions.plot(x, mean, color=colour, linestyle=line, linewidth=2, label=WORDS[operator].name)
        share = 100 * value_error(operator, shifts, size, bins, sampling_ratio)
        values.plot(x, share.tolist(), color=colour, linestyle=line, linewidth=2)
    positions.set_title("Position read on a ramp", fontsize=11)
    positions.set_ylabel("mean error of the bins, map pixels")
    values.set_title("Value read on a blob", fontsize=11)
    values.set_ylabel("r.m.s. error, % of the blob's height")
    values.set_ylim(bottom=0)
    for axes in (positions, values):
        axes.set_xlabel("shift of the box, map pixels")
        axes.set_xlim(0, 1)
        axes.grid(color="#E4E8EB", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = positions.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(operators), frameon=False, handlelength=2.6)
    return figure
