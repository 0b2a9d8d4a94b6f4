"""The definition of ``multiscale_roi_align`` and ``multiscale_roi_align_rotated``: the pyramid level of a box.

The rest is ``roi_align`` and ``roi_align_rotated``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracle import reference, reference_rotated

Array = NDArray[Any]


@dataclass(frozen=True)
class Params:
    """The arguments after ``features`` and ``boxes``, and the type of coordinates."""

    pooling: reference.Params | reference_rotated.Params  # its spatial_scale is not used
    scales: tuple[float, ...]
    mode: str = "avg"
    canonical_scale: float = 224.0
    canonical_level: float = 4.0

    def on_level(self, name: str, level: int, *arrays: Array) -> Array:
        """A function of the oracle of one map, on one level."""
        pooling = replace(self.pooling, spatial_scale=self.scales[level])
        if isinstance(pooling, reference_rotated.Params):
            return getattr(reference_rotated, name)(*arrays, pooling)  # type: ignore[no-any-return]
        return getattr(reference, name)(*arrays, pooling, self.mode)  # type: ignore[no-any-return]


def levels(boxes: Array, params: Params) -> list[int]:
    """Equation (1) of Lin et al., "Feature Pyramid Networks", 2017, clamped to the existing levels.

    Level 0 is the finest. A box with a NaN area goes to it.
    """
    dtype = params.pooling.coordinate
    finest, coarsest = (int(-np.log2(np.float32(scale))) for scale in (params.scales[0], params.scales[-1]))
    result = []
    for row in boxes:
        x1, y1, x2, y2, *angle = (dtype(value) for value in row[1:])
        with np.errstate(all="ignore"):
            width, height = (x2, y2) if angle else (x2 - x1, y2 - y1)  # a rotated box has its sides there
            size = np.sqrt(width * height)
            level = dtype(params.canonical_level) + np.log2(size / dtype(params.canonical_scale))
            level = np.floor(level + dtype(1e-6))
        level = finest if math.isnan(level) else min(max(level, finest), coarsest)
        result.append(min(int(level) - finest, len(params.scales) - 1))
    return result


def forward(features: Sequence[Array], boxes: Array, params: Params) -> Array:
    """Every box pooled from its level."""
    out = np.zeros((len(boxes), features[0].shape[1], *params.pooling.output_size))
    for k, level in enumerate(levels(boxes, params)):
        out[k] = params.on_level("forward", level, features[level], boxes[k : k + 1])[0]
    return out


def grad_inputs(grad: Array, features: Sequence[Array], boxes: Array, params: Params) -> list[Array]:
    """The gradient of ``sum(grad * forward(features, boxes))`` w.r.t. every level."""
    result = [np.zeros(level.shape) for level in features]
    for k, level in enumerate(levels(boxes, params)):
        arrays = grad[k : k + 1], features[level], boxes[k : k + 1]
        result[level] += params.on_level("grad_input", level, *arrays)
    return result


def grad_boxes(grad: Array, features: Sequence[Array], boxes: Array, params: Params) -> Array:
    """The gradient of ``sum(grad * forward(features, boxes))`` w.r.t. the boxes; the choice of level has none."""
    result = np.zeros(boxes.shape)
    for k, level in enumerate(levels(boxes, params)):
        arrays = grad[k : k + 1], features[level], boxes[k : k + 1]
        result[k] = params.on_level("grad_boxes", level, *arrays)[0]
    return result
