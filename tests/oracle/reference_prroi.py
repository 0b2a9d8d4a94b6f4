"""The definition of ``prroi_pool`` as a sum over the cells of the map.

The surface is the bilinear interpolation of a map that is 0 everywhere outside. It falls to 0 one pixel beyond the
outer pixel centres. Between four neighbouring pixel centres it is bilinear, so its integral over a rectangle there is
the area times the value at the centre. A bin is cut into such rectangles. Its edges are computed in float32 or float64,
one rounded operation at a time. In a small bin the mean and the surface along an edge nearly cancel in the derivative,
so the weights of the pixels are computed in more than float64 if the processor supports it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Params:
    """The arguments of ``prroi_pool`` after ``input`` and ``boxes``, and the type of coordinates."""

    output_size: tuple[int, int]
    spatial_scale: float = 1.0
    coordinate: type[np.floating[Any]] = np.float64


@dataclass(frozen=True)
class Bin:
    """One bin along one axis, in map pixels."""

    number: int
    low: float
    high: float
    low_by: tuple[float, float]  # derivatives of `low` w.r.t. the two edges of the box
    high_by: tuple[float, float]

    @property
    def size(self) -> Any:
        """The divisor of the integral."""
        return np.longdouble(self.high) - np.longdouble(self.low)

    def reach(self, length: int) -> slice:
        """The pixels of the axis on which the surface over the bin depends, ends included."""
        edges = math.floor(self.low), math.floor(self.high) + 2
        return slice(*(min(max(edge, 0), length) for edge in edges))

    @property
    def is_point(self) -> bool:
        """Whether both ends round to one number: the mean is then the value there."""
        return self.high == self.low


def bins_of(first: float, second: float, count: int, params: Params) -> list[Bin]:
    """The bins of one axis that are not empty and have finite ends."""
    dtype, s = params.coordinate, float(params.coordinate(params.spatial_scale))
    with np.errstate(all="ignore"):
        start = dtype(first) * dtype(s)
        step = (dtype(second) * dtype(s) - start) / dtype(count)
        edges = [start + dtype(p) * step for p in range(count + 1)]
        if not (step > 0 and np.isfinite(step)):
            return []
        by = [(s * (1.0 - p / count), s * p / count) for p in range(count + 1)]
        return [
            Bin(p, float(edges[p]), float(edges[p + 1]), by[p], by[p + 1])
            for p in range(count)
            if np.isfinite(edges[p + 1] - edges[p])
        ]


def pieces(low: float, high: float, length: int) -> list[tuple[float, float]]:
    """The interval cut at the pixel centres, without the part beyond the surface; a point is one piece."""
    low, high = max(low, -1.0), min(high, float(length))
    if low >= high:
        return [(low, high)] if low == high else []
    cuts = [low, *(float(r) for r in range(math.floor(low) + 1, math.ceil(high))), high]
    return list(pairwise(cuts))


def taps(piece: tuple[float, float], length: int) -> list[tuple[int, Any]]:
    """The pixels of an axis on which the surface in the middle of a piece depends, with their weights."""
    begin, end = (np.longdouble(edge) for edge in piece)
    low = math.floor((begin + end) / 2)
    pairs = ((low, ((low + 1 - begin) + (low + 1 - end)) / 2), (low + 1, ((begin - low) + (end - low)) / 2))
    return [(r, weight) for r, weight in pairs if 0 <= r < length and weight != 0.0]


def measure(piece: tuple[float, float]) -> Any:
    """The weight of the value in the middle of a piece: its length, or 1 for a point."""
    return np.longdouble(piece[1]) - np.longdouble(piece[0]) if piece[1] > piece[0] else np.longdouble(1.0)


@dataclass(frozen=True)
class Cell:
    """One bin of one box, with the part of the map that it covers."""

    k: int
    image: int
    y: Bin
    x: Bin
    rows: list[tuple[float, float]]
    columns: list[tuple[float, float]]
    height: int
    width: int

    @property
    def place(self) -> tuple[int, slice, int, int]:
        """Index of its result in the output."""
        return self.k, slice(None), self.y.number, self.x.number

    @property
    def window(self) -> tuple[int, slice, slice, slice]:
        """The part of the input that its tables of weights cover."""
        return self.image, slice(None), self.y.reach(self.height), self.x.reach(self.width)

    def integral(
        self, rows: list[tuple[float, float]] | None = None, columns: list[tuple[float, float]] | None = None
    ) -> Array:
        """The weight of every pixel of ``window`` in the integral over the bin, or over other rows or columns."""
        _, _, within_y, within_x = self.window
        result = np.zeros([within.stop - within.start for within in (within_y, within_x)], np.longdouble)
        for row in self.rows if rows is None else rows:
            for column in self.columns if columns is None else columns:
                for r, wy in taps(row, self.height):
                    for q, wx in taps(column, self.width):
                        result[r - within_y.start, q - within_x.start] += measure(row) * measure(column) * wy * wx
        return result

    def mean(self) -> Array:
        """The weight of every pixel of ``window`` in the mean over the bin."""
        size_y, size_x = (np.longdouble(1.0) if axis.is_point else axis.size for axis in (self.y, self.x))
        return np.asarray(self.integral() / (size_y * size_x))

    def mean_by_row_edge(self, corner: int) -> Array:
        """The derivative of ``mean`` w.r.t. y1 (``corner`` 0) or y2 (1).

        A moving edge of the bin adds the surface along the edge to the integral, and changes the size of the bin. If
        the bin is a point, the mean is the surface there and changes with its slope in the cell above.
        """
        y, size_x = self.y, np.longdouble(1.0) if self.x.is_point else self.x.size
        if y.is_point:
            low = math.floor(y.low)
            slope = self.integral(rows=[(low + 1.0, low + 1.0)]) - self.integral(rows=[(float(low), float(low))])
            return np.asarray(slope * (y.low_by[corner] + y.high_by[corner]) / 2 / size_x)
        swept = self.integral(rows=[(y.high, y.high)]) * y.high_by[corner]
        swept -= self.integral(rows=[(y.low, y.low)]) * y.low_by[corner]
        return np.asarray(swept / (y.size * size_x) - self.mean() * (y.high_by[corner] - y.low_by[corner]) / y.size)

    def transposed(self) -> Cell:
        """The same with the axes swapped."""
        return Cell(self.k, self.image, self.x, self.y, self.columns, self.rows, self.width, self.height)


def cells(boxes: Array, shape: tuple[int, ...], params: Params) -> Iterator[Cell]:
    """Every bin of every box; ``shape`` is that of the input."""
    height, width = shape[2:]
    for k, (image, x1, y1, x2, y2) in enumerate(boxes.astype(params.coordinate)):
        for y in bins_of(y1, y2, params.output_size[0], params):
            for x in bins_of(x1, x2, params.output_size[1], params):
                rows, columns = pieces(y.low, y.high, height), pieces(x.low, x.high, width)
                yield Cell(k, int(image), y, x, rows, columns, height, width)


def weighted(plane: Array, weights: Array) -> Array:
    """The weighted sum of ``plane [C, rows, columns]`` per channel; a pixel of weight 0 is not read."""
    used = weights != 0.0
    return np.asarray((plane[:, used] * weights[used]).sum(1))


def forward(features: Array, boxes: Array, params: Params) -> Array:
    """The mean of the surface over every bin."""
    out = np.zeros((len(boxes), features.shape[1], *params.output_size))
    for cell in cells(boxes, features.shape, params):
        out[cell.place] = weighted(features[cell.window], cell.mean())
    return out


def grad_input(grad: Array, features: Array, boxes: Array, params: Params) -> Array:
    """The gradient of ``sum(grad * forward(features, boxes))`` w.r.t. the features."""
    result = np.zeros(features.shape)
    for cell in cells(boxes, features.shape, params):
        weights = cell.mean()
        used = weights != 0.0  # a gradient that is not finite reaches only the pixels of its bin
        result[cell.window][:, used] += grad[cell.place][:, None] * weights[used]
    return result


def grad_boxes(grad: Array, features: Array, boxes: Array, params: Params) -> Array:
    """The gradient of ``sum(grad * forward(features, boxes))`` w.r.t. the boxes."""
    result = np.zeros((len(boxes), 5))
    for cell in cells(boxes, features.shape, params):
        for corner in (0, 1):
            by_y = cell.mean_by_row_edge(corner)
            by_x = cell.transposed().mean_by_row_edge(corner).T
            for column, weights in ((1 + 2 * corner, by_x), (2 + 2 * corner, by_y)):
                result[cell.k, column] += float(grad[cell.place] @ weighted(features[cell.window], weights))
    return result
