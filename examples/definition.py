"""RoIAlign by its definition, for any number of axes: plain loops in float64, to check the recipes against.

The mean over a grid of samples in each bin, each sample interpolated between the pixels around it. Boxes are in map
pixels; coordinate 0 is the edge of the first pixel (``aligned=True``). A sample further than one pixel from the centre
of the nearest pixel counts as 0.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def positions(start: float, end: float, bins: int, ratio: int) -> list[list[float]]:
    """The samples of each bin along one axis, counted from the centre of the first pixel."""
    size = (end - start) / bins
    grid = ratio if ratio > 0 else math.ceil(size)
    return [[start - 0.5 + (bin + (i + 0.5) / grid) * size for i in range(grid)] for bin in range(bins)]


def neighbours(position: float, length: int) -> list[tuple[int, float]]:
    """The pixels around a position on an axis of ``length`` pixels, with their weights; none off the map."""
    if not -1 <= position <= length:
        return []
    position = min(max(position, 0.0), length - 1.0)
    low = int(position)
    return [(low, 1 - (position - low)), (min(low + 1, length - 1), position - low)]


def roi_align_by_definition(
    values: NDArray[Any], box: Sequence[tuple[float, float]], bins: Sequence[int], ratio: int
) -> NDArray[np.float64]:
    """One channel of one box; ``box`` has the start and the end along each axis of ``values``."""
    axes = [positions(start, end, count, ratio) for (start, end), count in zip(box, bins, strict=True)]
    result = np.zeros(tuple(bins))
    for bin in np.ndindex(*bins):
        samples = list(itertools.product(*(axis[index] for axis, index in zip(axes, bin, strict=True))))
        for sample in samples:
            around = (neighbours(at, length) for at, length in zip(sample, values.shape, strict=True))
            for corner in itertools.product(*around):
                index = tuple(pixel for pixel, _ in corner)
                weight = math.prod(weight for _, weight in corner)
                result[bin] += weight * float(values[index]) / len(samples)
    return result
