"""The definitions of ``ps_roi_align`` and ``ps_roi_pool`` as plain loops, in float64.

Both take the mean over the points of a bin, bin ``(py, px)`` of output channel ``c`` from channel
``(c * PH + py) * PW + px`` of the input. They differ in the points: samples, or whole pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracle import reference
from oracle.reference import Sample, add_grad_boxes, interpolate
from oracle.reference_sampled import round_half_away

Array = NDArray[Any]
Points = tuple[list[Sample], int]
"""Those of one bin along one axis that lie on the map, and how many there are with the others."""


@dataclass(frozen=True)
class AlignParams:
    """The arguments of ``ps_roi_align`` after ``input`` and ``boxes``, and the type of coordinates."""

    output_size: tuple[int, int]
    spatial_scale: float = 1.0
    sampling_ratio: int = -1
    coordinate: type[np.floating[Any]] = np.float64

    def axis(self, first: float, second: float, bins: int, length: int) -> list[Points]:
        """The samples of ``roi_align`` with ``aligned=True``."""
        params = reference.Params(self.output_size, self.spatial_scale, self.sampling_ratio, True, self.coordinate)
        axis = reference.sample_axis(first, second, bins, length, params)
        return [(samples, axis.grid) for samples in axis.bins]


@dataclass(frozen=True)
class PoolParams:
    """The arguments of ``ps_roi_pool`` after ``input`` and ``boxes``, and the type of coordinates."""

    output_size: tuple[int, int]
    spatial_scale: float = 1.0
    coordinate: type[np.floating[Any]] = np.float64

    def axis(self, first: float, second: float, bins: int, length: int) -> list[Points]:
        """The pixels of every bin, of which the last one of the map is none."""
        dtype = self.coordinate
        scale, one = dtype(self.spatial_scale), dtype(1.0)
        result: list[Points] = []
        with np.errstate(all="ignore"):
            start = round_half_away(dtype(first) * scale)
            size = round_half_away(dtype(second) * scale) - start
            size = one if size < one else size
            step = size / dtype(bins)
            for p in range(bins):
                low, high = np.floor(dtype(p) * step), np.ceil(dtype(p + 1) * step)
                pixels = range(0)
                if np.isfinite(start) and np.isfinite(low) and np.isfinite(high):
                    edges = int(start) + int(low), int(start) + int(high)
                    pixels = range(*(min(max(edge, 0), max(length - 1, 0)) for edge in edges))
                result.append(([Sample(0, float(r), ((r, 1.0),), (), 0.0, 0.0) for r in pixels], len(pixels)))
        return result


Params = AlignParams | PoolParams


@dataclass(frozen=True)
class Bin:
    """One bin of one box, with points."""

    place: tuple[int, slice, int, int]  # in the output, of every channel
    image: int
    channels: list[int]  # of the input, one for each channel of the output
    rows: list[Sample]
    columns: list[Sample]
    count: int


def bins(boxes: Array, shape: tuple[int, ...], params: Params) -> Iterator[Bin]:
    """Every bin with points; ``shape`` is that of the input."""
    bins_y, bins_x = params.output_size
    channels = range(shape[1] // (bins_y * bins_x))
    for k, (image, x1, y1, x2, y2) in enumerate(boxes.astype(params.coordinate)):
        ys, xs = params.axis(y1, y2, bins_y, shape[2]), params.axis(x1, x2, bins_x, shape[3])
        for py, (rows, rows_in_all) in enumerate(ys):
            for px, (columns, columns_in_all) in enumerate(xs):
                if rows_in_all > 0 and columns_in_all > 0:
                    group = [(c * bins_y + py) * bins_x + px for c in channels]
                    place = (k, slice(None), py, px)
                    yield Bin(place, int(image), group, rows, columns, rows_in_all * columns_in_all)


def forward(features: Array, boxes: Array, params: Params) -> Array:
    """The mean over the points of every bin; points beside the map count as 0, a bin without points gives 0."""
    bins_y, bins_x = params.output_size
    out = np.zeros((len(boxes), features.shape[1] // (bins_y * bins_x), bins_y, bins_x))
    for bin_ in bins(boxes, features.shape, params):
        plane = features[bin_.image, bin_.channels]
        for y in bin_.rows:
            for x in bin_.columns:
                out[bin_.place] += interpolate(plane, y.taps, x.taps)
        out[bin_.place] /= bin_.count
    return out


def grad_input(grad: Array, features: Array, boxes: Array, params: Params) -> Array:
    """The gradient of ``sum(grad * forward(features, boxes))`` with respect to the features."""
    result = np.zeros(features.shape)
    for bin_ in bins(boxes, features.shape, params):
        share = grad[bin_.place] / bin_.count
        for y in bin_.rows:
            for x in bin_.columns:
                for r, wy in y.taps:
                    for q, wx in x.taps:
                        result[bin_.image, bin_.channels, r, q] += wy * wx * share
    return result


def grad_boxes(grad: Array, features: Array, boxes: Array, params: Params) -> Array:
    """The gradient of ``sum(grad * forward(features, boxes))`` with respect to the boxes, of samples."""
    result = np.zeros((len(boxes), 5))
    for bin_ in bins(boxes, features.shape, params):
        plane = features[bin_.image, bin_.channels]
        for y in bin_.rows:
            for x in bin_.columns:
                add_grad_boxes(result[bin_.place[0]], grad[bin_.place] / bin_.count, plane, y, x)
    return result
