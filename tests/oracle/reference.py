"""The definition of ``roi_align`` (``docs/math.md``) as plain loops over samples, in float64.

Deliberately slow and obvious: no axis table, no merged taps, no code shared with the package. Coordinates are computed
in ``Params.coordinate`` (float32 or float64), one rounded operation at a time, equations (1) to (5); the rest is
float64. ``dense_average`` is a second oracle, built from the matrices of equation (12).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAX_GRID = 20_000_000
"""Most samples per bin and axis that the oracle enumerates."""


@dataclass(frozen=True)
class Sample:
    """One inside sample of one bin along one axis, in map pixels."""

    index: int  # i of equation (5)
    position: float  # y of equation (5), before clamping
    taps: tuple[tuple[int, float], ...]  # (map row, weight), weights other than 0: equation (9)
    slopes: tuple[tuple[int, float], ...]  # (map row, derivative of its weight w.r.t. the position): equation (17)
    by_first: float  # derivative of the position w.r.t. y1, map pixels per image pixel: equations (15), (16)
    by_second: float  # the same w.r.t. y2


@dataclass(frozen=True)
class Axis:
    """The sample grid of one box along one axis."""

    grid: int  # g of equation (4)
    bins: list[list[Sample]]  # the inside samples of each bin, in the order of i
    first_rejected: list[int]  # smallest rejected i of each bin, or g


@dataclass(frozen=True)
class Params:
    """The arguments of ``roi_align`` after ``input`` and ``boxes``, and the type of coordinates.

    Rules that differ from ``roi_align`` only in the sample positions (``reference_sampled.py``) derive from it.
    """

    output_size: tuple[int, int]
    spatial_scale: float = 1.0
    sampling_ratio: int = -1
    aligned: bool = False
    coordinate: type[np.floating[Any]] = np.float64

    @property
    def rejected_value(self) -> float:
        """The value of a sample outside the map."""
        return 0.0

    def axis(self, first: float, second: float, bins: int, length: int) -> Axis:
        """The samples along one axis of a box with edges ``first`` and ``second``."""
        return sample_axis(first, second, bins, length, self)


def bilinear_sample(index: int, position: float, length: int, by_first: float, by_second: float) -> Sample:
    """Equations (8), (9) and (17) for a position on the map."""
    clamped = max(position, 0.0)
    low = math.floor(clamped)
    if low >= length - 1:
        return Sample(index, position, ((length - 1, 1.0),), (), by_first, by_second)
    fraction = clamped - low
    taps = tuple((r, w) for r, w in ((low, 1.0 - fraction), (low + 1, fraction)) if w != 0.0)
    slopes = ((low, -1.0), (low + 1, 1.0)) if position > 0.0 else ()
    return Sample(index, position, taps, slopes, by_first, by_second)


def sample_axis(first: float, second: float, bins: int, length: int, params: Params) -> Axis:
    """Equations (1) to (9) for one axis of one box: ``first`` and ``second`` are its edges in image pixels."""
    dtype = params.coordinate
    scale, offset = dtype(params.spatial_scale), dtype(0.5 if params.aligned else 0.0)
    with np.errstate(all="ignore"):
        start = dtype(first) * scale - offset
        size = (dtype(second) * scale - offset) - start
        legacy_minimum = not params.aligned and bool(size < 1)
        if legacy_minimum:
            size = dtype(1.0)
    return regular_grid(start, size, legacy_minimum, bins, length, params)


def regular_grid(start: Any, size: Any, size_held: bool, bins: int, length: int, params: Params) -> Axis:
    """Equations (3) to (9) and (15) to (17); ``size_held``: the minimum, not the second edge, determines the size."""
    dtype = params.coordinate
    half, s = dtype(0.5), float(dtype(params.spatial_scale))
    with np.errstate(all="ignore"):
        step = size / dtype(bins)
        adaptive = math.ceil(step) if math.isfinite(step) else 1  # not finite: all samples are rejected
        grid = params.sampling_ratio if params.sampling_ratio > 0 else adaptive
        if grid > MAX_GRID:
            raise ValueError(f"a grid of {grid} samples per bin is too large to enumerate")
        index = np.arange(max(grid, 0), dtype=np.int64)
        result = Axis(grid, [], [])
        for p in range(bins):
            positions = (start + dtype(p) * step) + ((index.astype(dtype) + half) * step) / dtype(grid)
            inside = (positions >= -1.0) & (positions <= length)
            samples = []
            for i in index[inside]:
                t = (p + (int(i) + 0.5) / grid) / bins
                by_first, by_second = (s, 0.0) if size_held else (s * (1.0 - t), s * t)
                samples.append(bilinear_sample(int(i), float(positions[i]), length, by_first, by_second))
            result.bins.append(samples)
            result.first_rejected.append(int(np.argmin(inside)) if not inside.all() else grid)
    return result


def _grids(boxes: Array, shape: tuple[int, ...], params: Params) -> Iterator[tuple[int, int, Axis, Axis]]:
    """``(k, image, y axis, x axis)`` of every box whose grid is not empty; ``shape`` is that of the input."""
    for k, (image, x1, y1, x2, y2) in enumerate(boxes.astype(params.coordinate)):
        ys = params.axis(y1, y2, params.output_size[0], shape[2])
        xs = params.axis(x1, x2, params.output_size[1], shape[3])
        if ys.grid > 0 and xs.grid > 0:
            yield k, int(image), ys, xs


def interpolate(plane: Array, rows: tuple[tuple[int, float], ...], columns: tuple[tuple[int, float], ...]) -> Array:
    """Equation (10) for every channel of ``plane [C, H, W]``; the lists hold no tap of weight 0."""
    value = np.zeros(plane.shape[0])
    for r, wy in rows:
        for q, wx in columns:
            value += wy * wx * plane[:, r, q]
    return value


def average(features: Array, boxes: Array, params: Params) -> Array:
    """Equation (11)."""
    out = np.zeros((len(boxes), features.shape[1], *params.output_size))
    for k, image, ys, xs in _grids(boxes, features.shape, params):
        for py, row in enumerate(ys.bins):
            for px, column in enumerate(xs.bins):
                rejected = ys.grid * xs.grid - len(row) * len(column)
                out[k, :, py, px] = rejected * params.rejected_value if rejected else 0.0
                for y in row:
                    for x in column:
                        out[k, :, py, px] += interpolate(features[image], y.taps, x.taps)
        out[k] /= ys.grid * xs.grid
    return out


def average_grad_input(grad: Array, shape: tuple[int, ...], boxes: Array, params: Params) -> Array:
    """The gradient of ``sum(grad * average(features))`` w.r.t. the features ``[shape]``: equation (24), over
    samples."""
    result = np.zeros(shape)
    for k, image, ys, xs in _grids(boxes, shape, params):
        for py, row in enumerate(ys.bins):
            for px, column in enumerate(xs.bins):
                for y in row:
                    for x in column:
                        for r, wy in y.taps:
                            for q, wx in x.taps:
                                result[image, :, r, q] += wy * wx * grad[k, :, py, px] / (ys.grid * xs.grid)
    return result


def add_grad_boxes(row: Array, grad: Array, plane: Array, y: Sample, x: Sample) -> None:
    """Adds the term of one sample of equation (26) to the row (image, x1, y1, x2, y2); ``grad [C]`` weighs channels."""
    by_x = float(grad @ interpolate(plane, y.taps, x.slopes))
    by_y = float(grad @ interpolate(plane, y.slopes, x.taps))
    row += (0.0, by_x * x.by_first, by_y * y.by_first, by_x * x.by_second, by_y * y.by_second)


def average_grad_boxes(grad: Array, features: Array, boxes: Array, params: Params) -> Array:
    """The gradient of ``sum(grad * average(features, boxes))`` w.r.t. the boxes: equations (15) to (17), (26)."""
    result = np.zeros((len(boxes), 5))
    for k, image, ys, xs in _grids(boxes, features.shape, params):
        for py, row in enumerate(ys.bins):
            for px, column in enumerate(xs.bins):
                for y in row:
                    for x in column:
                        share = grad[k, :, py, px] / (ys.grid * xs.grid)
                        add_grad_boxes(result[k], share, features[image], y, x)
    return result


@dataclass(frozen=True)
class Maximum:
    """Equation (14): the values, the chosen samples (argmax), and the smallest lead over another value."""

    values: Array  # [K, C, PH, PW]
    argmax: dict[tuple[int, int, int, int], tuple[int, Sample, Sample]]  # element -> image, y, x; absent: none inside
    margin: float  # smallest lead of a chosen sample over a sample of another value


def _first_rejected(ys: Axis, xs: Axis, py: int, px: int) -> tuple[int, int] | None:
    """The first rejected sample ``(i_y, i_x)`` of a bin, rows outermost; either axis can reject a sample."""
    y, x = ys.first_rejected[py], xs.first_rejected[px]
    if y == 0:
        return 0, 0
    if x < xs.grid:
        return 0, x
    return (y, 0) if y < ys.grid else None


def maximum(features: Array, boxes: Array, params: Params) -> Maximum:
    """Equation (14): samples in order, rows outermost; the first of equal values wins; NaN wins over every number."""
    channels = features.shape[1]
    values = np.zeros((len(boxes), channels, *params.output_size))
    argmax: dict[tuple[int, int, int, int], tuple[int, Sample, Sample]] = {}
    margin = math.inf
    for k, image, ys, xs in _grids(boxes, features.shape, params):
        for py, row in enumerate(ys.bins):
            for px, column in enumerate(xs.bins):
                entries: list[tuple[tuple[int, int], tuple[Sample, Sample] | None, Array]] = [
                    ((y.index, x.index), (y, x), interpolate(features[image], y.taps, x.taps))
                    for y in row
                    for x in column
                ]
                rejected = _first_rejected(ys, xs, py, px)
                if rejected is not None:
                    entries.append((rejected, None, np.full(channels, params.rejected_value)))
                entries.sort(key=lambda entry: entry[0])
                for c in range(channels):
                    best, chosen = -math.inf, None
                    for _, samples, value in entries:
                        if value[c] > best or (math.isnan(value[c]) and not math.isnan(best)):
                            best, chosen = float(value[c]), samples
                    values[k, c, py, px] = best
                    if chosen is not None:
                        argmax[k, c, py, px] = (image, *chosen)
                    others = [best - float(v[c]) for _, s, v in entries if s is not chosen and v[c] != best]
                    margin = min([margin, *others])
    return Maximum(values, argmax, margin)


def maximum_grad_input(grad: Array, features: Array, boxes: Array, params: Params) -> Array:
    """The gradient of ``sum(grad * maximum(features))`` w.r.t. the features, for a fixed argmax."""
    result = np.zeros(features.shape)
    for (k, c, py, px), (image, y, x) in maximum(features, boxes, params).argmax.items():
        for r, wy in y.taps:
            for q, wx in x.taps:
                result[image, c, r, q] += wy * wx * grad[k, c, py, px]
    return result


def maximum_grad_boxes(grad: Array, features: Array, boxes: Array, params: Params) -> Array:
    """The gradient of ``sum(grad * maximum(features, boxes))`` w.r.t. the boxes, for a fixed argmax."""
    result = np.zeros((len(boxes), 5))
    for (k, c, py, px), (image, y, x) in maximum(features, boxes, params).argmax.items():
        add_grad_boxes(result[k], grad[k, c : c + 1, py, px], features[image, c : c + 1], y, x)
    return result


def forward(features: Array, boxes: Array, params: Params, mode: str) -> Array:
    """``roi_align`` in either mode."""
    return average(features, boxes, params) if mode == "avg" else maximum(features, boxes, params).values


def grad_input(grad: Array, features: Array, boxes: Array, params: Params, mode: str) -> Array:
    """grad_input in either mode."""
    if mode == "avg":
        return average_grad_input(grad, features.shape, boxes, params)
    return maximum_grad_input(grad, features, boxes, params)


def grad_boxes(grad: Array, features: Array, boxes: Array, params: Params, mode: str) -> Array:
    """grad_boxes in either mode."""
    gradient = average_grad_boxes if mode == "avg" else maximum_grad_boxes
    return gradient(grad, features, boxes, params)


def dense_table(axis: Axis, length: int) -> Array:
    """Equation (12) as a dense matrix ``[P, L]``."""
    table = np.zeros((len(axis.bins), length))
    for p, samples in enumerate(axis.bins):
        for sample in samples:
            for r, weight in sample.taps:
                table[p, r] += weight / axis.grid
    return table


def dense_average(features: Array, boxes: Array, params: Params) -> Array:
    """Equation (13) with dense matrices: the second oracle."""
    out = np.zeros((len(boxes), features.shape[1], *params.output_size))
    height, width = features.shape[2:]
    for k, image, ys, xs in _grids(boxes, features.shape, params):
        out[k] = dense_table(ys, height) @ features[image] @ dense_table(xs, width).T
    return out


def distance_to_kinks(boxes: Array, height: int, width: int, params: Params) -> float:
    """Distance in map pixels from the sample positions to the nearest jump of the derivative w.r.t. the box.

    Jumps are at the cell borders (all integers from -1 to the length of the map). For the box as a whole they are at
    sizes at which the legacy minimum or the adaptive number of samples changes.
    """
    nearest = math.inf
    for _, x1, y1, x2, y2 in boxes:
        for first, second, bins, length in (
            (y1, y2, params.output_size[0], height),
            (x1, x2, params.output_size[1], width),
        ):
            axis = sample_axis(first, second, bins, length, params)
            size = (second - first) * params.spatial_scale
            if not params.aligned:
                nearest = min(nearest, abs(size - 1.0))
            if params.sampling_ratio <= 0 and (params.aligned or size > 1.0):
                nearest = min(nearest, abs(size / bins - round(size / bins)))
            size = max(size, 1.0) if not params.aligned else size
            start = first * params.spatial_scale - (0.5 if params.aligned else 0.0)
            for p in range(bins):
                for i in range(axis.grid):
                    position = start + (p + (i + 0.5) / axis.grid) * size / bins
                    if -1.5 < position < length + 0.5:
                        nearest = min(nearest, abs(position - round(position)))
    return nearest
