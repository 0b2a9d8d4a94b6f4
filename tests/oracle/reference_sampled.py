"""The definitions of ``roi_warp`` and ``crop_and_resize``: the loops of ``reference.py`` over other samples.

Both take the mean or the maximum of bilinear samples, like ``roi_align``. So they define only the sample positions of
an axis, the samples on the map, and the derivatives of positions w.r.t. the edges of the box. Pass the parameters below
to ``reference.forward``, ``reference.grad_input`` and ``reference.grad_boxes``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.reference import Axis, Params, Sample, bilinear_sample, regular_grid


def round_half_away(value: Any) -> Any:
    """The nearest whole number in the type of ``value``, ties away from 0 (C's ``round``); NaN and inf stay."""
    whole = np.trunc(value)
    with np.errstate(all="ignore"):
        return whole + np.copysign(type(value)(1), value) if abs(value - whole) >= 0.5 else whole


@dataclass(frozen=True)
class WarpParams(Params):
    """``roi_warp``: edges rounded to whole map pixels, at least one apart, then the rule of ``aligned=False``.

    The derivative treats the rounding as the identity.
    """

    def axis(self, first: float, second: float, bins: int, length: int) -> Axis:
        dtype = self.coordinate
        scale = dtype(self.spatial_scale)
        with np.errstate(all="ignore"):
            start = round_half_away(dtype(first) * scale)
            size = round_half_away(dtype(second) * scale) - start
        held = bool(size < 1)
        return regular_grid(start, dtype(1.0) if held else size, held, bins, length, self)


@dataclass(frozen=True)
class CropParams(Params):
    """``crop_and_resize``: ``sampling_ratio`` is ``samples_per_bin``; rows are (image, x1, y1, x2, y2), normalised.

    The samples of all bins of an axis form one grid from edge to edge. The last lies exactly on the edge, and rounded
    steps move none past it. The map ends at its outer pixel centres; samples beyond have the extrapolation value.
    """

    method: str = "bilinear"
    extrapolation_value: float = 0.0

    @property
    def rejected_value(self) -> float:
        return self.extrapolation_value

    def axis(self, first: float, second: float, bins: int, length: int) -> Axis:
        dtype, per_bin = self.coordinate, self.sampling_ratio
        low, high, last = dtype(first), dtype(second), dtype(length - 1)
        count = bins * per_bin
        result = Axis(per_bin, [], [])
        for p in range(bins):
            samples: list[Sample] = []
            first_rejected = per_bin
            for i in range(per_bin):
                with np.errstate(all="ignore"):
                    if count > 1:
                        step = ((high - low) * last) / dtype(count - 1)
                        position = self._between(low * last, high * last, p * per_bin + i, step, count)
                        t = (p * per_bin + i) / (count - 1)
                    else:
                        position = (dtype(0.5) * (low + high)) * last
                        t = 0.5
                if 0 <= position <= length - 1:
                    slopes = float(last) * (1.0 - t), float(last) * t
                    samples.append(self._sample(i, float(position), length, *slopes))
                else:
                    first_rejected = min(first_rejected, i)
            result.bins.append(samples)
            result.first_rejected.append(first_rejected)
        return result

    @staticmethod
    def _between(first: Any, last: Any, number: int, step: Any, count: int) -> Any:
        """Sample ``number`` of a grid of ``count`` samples between two positions."""
        dtype = type(step)
        if not np.isfinite(step):
            return dtype(np.nan)
        if number == count - 1:
            return last
        return min(max(first + dtype(number) * step, min(first, last)), max(first, last))

    def _sample(self, index: int, position: float, length: int, by_first: float, by_second: float) -> Sample:
        if self.method == "bilinear":
            return bilinear_sample(index, position, length, by_first, by_second)
        nearest = math.floor(position)
        nearest += 1 if position - nearest >= 0.5 else 0
        return Sample(index, position, ((nearest, 1.0),), (), by_first, by_second)
