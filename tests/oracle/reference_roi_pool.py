"""The definition of ``roi_pool``: the maximum of the whole map pixels of every bin, and its position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracle.reference_sampled import round_half_away

Array = NDArray[Any]


@dataclass(frozen=True)
class Params:
    """The arguments of ``roi_pool`` after ``input`` and ``boxes``, and the type of coordinates."""

    output_size: tuple[int, int]
    spatial_scale: float = 1.0
    coordinate: type[np.floating[Any]] = np.float64


def pixels_of(first: float, second: float, count: int, length: int, params: Params) -> list[range]:
    """The pixels of every bin of one axis; bins overlap by a pixel if an edge is not whole."""
    dtype = params.coordinate
    scale, one = dtype(params.spatial_scale), dtype(1.0)
    result = []
    with np.errstate(all="ignore"):
        start = round_half_away(dtype(first) * scale)
        size = (round_half_away(dtype(second) * scale) - start) + one
        size = one if size < one else size
        step = size / dtype(count)
        for p in range(count):
            low, high = np.floor(dtype(p) * step), np.ceil(dtype(p + 1) * step)
            if not (np.isfinite(start) and np.isfinite(low) and np.isfinite(high)):
                result.append(range(0))
            else:
                edges = int(start) + int(low), int(start) + int(high)
                result.append(range(*(min(max(edge, 0), length) for edge in edges)))
    return result


@dataclass(frozen=True)
class Maximum:
    """The values and their pixels ``(image, r, q)``; a bin without pixels has value 0 and no pixel."""

    values: Array  # [K, C, PH, PW]
    argmax: dict[tuple[int, int, int, int], tuple[int, int, int]]


def maximum(features: Array, boxes: Array, params: Params) -> Maximum:
    """Pixels in order, rows outermost; the first of equal values wins; NaN wins over every number."""
    channels, height, width = features.shape[1:]
    values = np.zeros((len(boxes), channels, *params.output_size))
    argmax: dict[tuple[int, int, int, int], tuple[int, int, int]] = {}
    for k, (image, x1, y1, x2, y2) in enumerate(boxes.astype(params.coordinate)):
        columns = pixels_of(x1, x2, params.output_size[1], width, params)
        for py, rows in enumerate(pixels_of(y1, y2, params.output_size[0], height, params)):
            for px, within in enumerate(columns):
                for c in range(channels):
                    best = -math.inf
                    for r in rows:
                        for q in within:
                            value = float(features[int(image), c, r, q])
                            first = (k, c, py, px) not in argmax
                            if first or value > best or (math.isnan(value) and not math.isnan(best)):
                                best = value
                                argmax[k, c, py, px] = (int(image), r, q)
                    values[k, c, py, px] = best if (k, c, py, px) in argmax else 0.0
    return Maximum(values, argmax)


def forward(features: Array, boxes: Array, params: Params) -> Array:
    """The maxima."""
    return maximum(features, boxes, params).values


def grad_input(grad: Array, features: Array, boxes: Array, params: Params) -> Array:
    """The gradient of ``sum(grad * forward(features, boxes))`` w.r.t. the features, for a fixed argmax."""
    result = np.zeros(features.shape)
    for (k, c, py, px), (image, r, q) in maximum(features, boxes, params).argmax.items():
        result[image, c, r, q] += grad[k, c, py, px]
    return result
