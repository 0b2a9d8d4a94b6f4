"""The definition of ``roi_align_rotated`` as plain loops over samples, in float64.

Rows are (image, cx, cy, w, h, angle). Coordinates are computed in ``Params.coordinate`` (float32 or float64), one
rounded operation at a time. The angle in radians, its cosine and its sine are computed in float64 and rounded to that
type once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracle.reference import bilinear_sample, interpolate

Array = NDArray[Any]
REACH = 8.0
"""Upper bound of the shift of a sample by rounding: map pixels, times the spacing of float32 at the box's size."""


@dataclass(frozen=True)
class Params:
    """The arguments of ``roi_align_rotated`` after ``input`` and ``boxes``, and the type of coordinates."""

    output_size: tuple[int, int]
    spatial_scale: float = 1.0
    sampling_ratio: int = -1
    aligned: bool = True
    clockwise: bool = False
    angle_unit: str = "degree"
    coordinate: type[np.floating[Any]] = np.float64


@dataclass(frozen=True)
class Side:
    """One side of the box before rotation: sample offsets from its centre."""

    half: Any  # minus half the length
    step: Any  # length of a bin
    grid: int  # samples per bin
    held: bool  # the legacy minimum, not the box, determines the length

    def offsets(self, p: int, index: Array) -> Array:
        """Offsets of samples ``index`` of bin ``p``, in map pixels."""
        dtype = type(self.step)
        in_bin = ((index.astype(dtype) + dtype(0.5)) * self.step) / dtype(self.grid)
        return np.asarray((self.half + dtype(p) * self.step) + in_bin)


@dataclass(frozen=True)
class Frame:
    """A box in map pixels."""

    image: int
    cy: Any
    cx: Any
    cos: Any
    sin: Any
    turn: float  # radians, counter-clockwise, per unit of the angle of the row
    height: Side
    width: Side

    def positions(self, yy: Array, xx: Array) -> tuple[Array, Array]:
        """Positions of the offsets ``yy``, ``xx`` on the map, in map pixels."""
        y = yy * self.cos - xx * self.sin + self.cy
        x = yy * self.sin + xx * self.cos + self.cx
        return y, x


def side(length: Any, bins: int, params: Params) -> Side:
    """The samples along a side of the box that is ``length`` image pixels long."""
    dtype = params.coordinate
    size = dtype(length) * dtype(params.spatial_scale)
    held = not params.aligned and bool(size < 1)
    if held:
        size = dtype(1.0)
    step = size / dtype(bins)
    adaptive = math.ceil(step) if math.isfinite(step) else 1
    grid = params.sampling_ratio if params.sampling_ratio > 0 else adaptive
    return Side(-size / dtype(2.0), step, grid, held)


def frame(row: Array, params: Params) -> Frame:
    """The box of one row."""
    dtype = params.coordinate
    image, cx, cy, w, h, angle = (dtype(value) for value in row)
    scale, offset = dtype(params.spatial_scale), dtype(0.5 if params.aligned else 0.0)
    turn = (-1.0 if params.clockwise else 1.0) * (math.pi / 180.0 if params.angle_unit == "degree" else 1.0)
    with np.errstate(all="ignore"):
        theta = float(angle) * math.pi / 180.0 if params.angle_unit == "degree" else float(angle)
        theta = float(dtype(-theta if params.clockwise else theta))
        cos, sin = (math.cos(theta), math.sin(theta)) if math.isfinite(theta) else (math.nan, math.nan)
        return Frame(
            int(image),
            cy * scale - offset,
            cx * scale - offset,
            dtype(cos),
            dtype(sin),
            turn,
            side(h, params.output_size[0], params),
            side(w, params.output_size[1], params),
        )


@dataclass(frozen=True)
class Sample:
    """One sample on the map."""

    py: int
    px: int
    y: float
    x: float
    yy: float  # offsets from the centre before rotation
    xx: float
    along_y: float  # relative position in the box, -1/2 to 1/2
    along_x: float


def _candidates(f: Frame, yy: Array, xx: Array, height: int, width: int) -> Iterator[tuple[int, Array]]:
    """The index of every grid row near the map, and a run of columns that includes all samples inside.

    Skips distant samples, because a huge box has too many to enumerate.
    """
    if len(xx) * len(yy) <= 4096:
        yield from ((i, np.arange(len(xx))) for i in range(len(yy)))
        return
    cos, sin, cy, cx = float(f.cos), float(f.sin), float(f.cy), float(f.cx)
    extent = max(abs(float(yy[0])), abs(float(yy[-1])), abs(float(xx[0])), abs(float(xx[-1])), abs(cy), abs(cx))
    reach = REACH * (1.0 + extent * float(np.finfo(type(f.cos)).eps))
    # A sample is on the map if  y = -xx sin + (yy cos + cy)  and  x = xx cos + (yy sin + cx)  are in range.
    low, high = np.full(len(yy), -math.inf), np.full(len(yy), math.inf)
    rows = yy.astype(np.float64)
    for slope, base, length in ((-sin, rows * cos + cy, height), (cos, rows * sin + cx, width)):
        if abs(slope) * extent < reach:  # the row runs along the border
            outside = (base < -1.0 - 2 * reach) | (base > length + 2 * reach)
            low = np.where(outside, math.inf, low)
        else:
            ends = np.stack([(-1.0 - reach - base) / slope, (length + reach - base) / slope])
            low, high = np.maximum(low, ends.min(0)), np.minimum(high, ends.max(0))
    columns = xx.astype(np.float64)
    for i in np.flatnonzero(low <= high):
        yield int(i), np.arange(np.searchsorted(columns, low[i]), np.searchsorted(columns, high[i], side="right"))


def samples(f: Frame, shape: tuple[int, ...], params: Params) -> Iterator[Sample]:
    """The samples of a box on the map, by bins, rows outermost."""
    height, width = shape[2:]
    sides = f.height, f.width
    bins_y, bins_x = params.output_size
    with np.errstate(all="ignore"):
        for py in range(bins_y):
            for px in range(bins_x):
                yy, xx = (s.offsets(p, np.arange(max(s.grid, 0))) for s, p in zip(sides, (py, px), strict=True))
                for i, columns in _candidates(f, yy, xx, height, width):
                    y, x = f.positions(yy[i], xx[columns])
                    inside = (y >= -1.0) & (y <= height) & (x >= -1.0) & (x <= width)
                    for j in np.flatnonzero(inside):
                        column = int(columns[j])
                        along_y = (py + (i + 0.5) / f.height.grid) / bins_y - 0.5
                        along_x = (px + (column + 0.5) / f.width.grid) / bins_x - 0.5
                        yield Sample(
                            py, px, float(y[j]), float(x[j]), float(yy[i]), float(xx[column]), along_y, along_x
                        )


def _count(f: Frame) -> int:
    return max(f.height.grid * f.width.grid, 1)


def forward(features: Array, boxes: Array, params: Params) -> Array:
    """The mean of the bilinear samples of every bin; samples beyond the map count as 0."""
    out = np.zeros((len(boxes), features.shape[1], *params.output_size))
    height, width = features.shape[2:]
    for k, row in enumerate(boxes):
        f = frame(row, params)
        for s in samples(f, features.shape, params):
            y, x = bilinear_sample(0, s.y, height, 0.0, 0.0), bilinear_sample(0, s.x, width, 0.0, 0.0)
            out[k, :, s.py, s.px] += interpolate(features[f.image], y.taps, x.taps)
        out[k] /= _count(f)
    return out


def grad_input(grad: Array, features: Array, boxes: Array, params: Params) -> Array:
    """The gradient of ``sum(grad * forward(features, boxes))`` w.r.t. the features."""
    result = np.zeros(features.shape)
    height, width = features.shape[2:]
    for k, row in enumerate(boxes):
        f = frame(row, params)
        for s in samples(f, features.shape, params):
            y, x = bilinear_sample(0, s.y, height, 0.0, 0.0), bilinear_sample(0, s.x, width, 0.0, 0.0)
            for r, wy in y.taps:
                for q, wx in x.taps:
                    result[f.image, :, r, q] += wy * wx * grad[k, :, s.py, s.px] / _count(f)
    return result


def grad_boxes(grad: Array, features: Array, boxes: Array, params: Params) -> Array:
    """The gradient of ``sum(grad * forward(features, boxes))`` w.r.t. the rows, through the sample positions."""
    result = np.zeros((len(boxes), 6))
    height, width = features.shape[2:]
    scale = float(params.coordinate(params.spatial_scale))
    for k, row in enumerate(boxes):
        f = frame(row, params)
        cos, sin = float(f.cos), float(f.sin)
        by_w, by_h = (0.0 if s.held else scale for s in (f.width, f.height))
        for s in samples(f, features.shape, params):
            y, x = bilinear_sample(0, s.y, height, 0.0, 0.0), bilinear_sample(0, s.x, width, 0.0, 0.0)
            share = grad[k, :, s.py, s.px] / _count(f)
            by_y = float(share @ interpolate(features[f.image], y.slopes, x.taps))
            by_x = float(share @ interpolate(features[f.image], y.taps, x.slopes))
            result[k, 1] += by_x * scale
            result[k, 2] += by_y * scale
            result[k, 3] += (by_x * cos - by_y * sin) * s.along_x * by_w
            result[k, 4] += (by_x * sin + by_y * cos) * s.along_y * by_h
            result[k, 5] += (by_x * (s.yy * cos - s.xx * sin) - by_y * (s.yy * sin + s.xx * cos)) * f.turn
    return result
