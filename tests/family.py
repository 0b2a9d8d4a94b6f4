"""The operators beside ``roi_align`` as the tests call them: with their oracles, and with boxes of every kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import reference
import reference_prroi
import reference_roi_pool
import reference_rotated
from conftest import BOX_SETS, INF, NAN, as_array, output_terms, rows, spread
from reference_sampled import CropParams, WarpParams

HEIGHT, WIDTH = 7, 9
"""The map that the box sets lie around."""


def coordinate(features: Tensor, boxes: Tensor) -> type[np.floating[Any]]:
    """The type of coordinates: float64 where the input or the boxes are."""
    return np.float64 if torch.float64 in (features.dtype, boxes.dtype) else np.float32


@dataclass(frozen=True)
class ScaledCall:
    """What the operators on upright boxes share."""

    output_size: tuple[int, int] = (2, 2)
    spatial_scale: float = 1.0

    def forward_terms(self, features: Tensor, boxes: Tensor) -> Tensor:
        return self.forward(features.abs(), boxes)

    def input_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        return self.input_gradient(grad.abs(), features, boxes)

    def box_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        return (output_terms(grad, features) * self.spatial_scale).expand(boxes.shape)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        raise NotImplementedError

    def input_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class PrRoIPoolCall(ScaledCall):
    """``prroi_pool``."""

    def __call__(self, features: Tensor, boxes: Tensor) -> Tensor:
        from roialign_ext import prroi_pool

        result: Tensor = prroi_pool(features, boxes, self.output_size, self.spatial_scale)
        return result

    def params(self, features: Tensor, boxes: Tensor) -> reference_prroi.Params:
        return reference_prroi.Params(self.output_size, self.spatial_scale, coordinate(features, boxes))

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        arrays = as_array(features), as_array(boxes)
        return torch.from_numpy(reference_prroi.forward(*arrays, self.params(features, boxes)))

    def input_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        arrays = as_array(grad), as_array(features), as_array(boxes)
        return torch.from_numpy(reference_prroi.input_gradient(*arrays, self.params(features, boxes)))

    def wider(self, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The map with a border of one pixel more, and the boxes on it.

        Where the surface fades it is the difference of terms as large as the pixel at the border.
        """
        corners = torch.cat([boxes[:, :1], boxes[:, 1:].double() + 1.0 / self.spatial_scale], 1)
        return torch.nn.functional.pad(features.detach().double(), (1, 1, 1, 1), "replicate"), corners

    def forward_terms(self, features: Tensor, boxes: Tensor) -> Tensor:
        terms = self.forward(features.abs(), boxes)
        return torch.where(terms == 0.0, terms, self.forward(*self.wider(features.abs(), boxes)))

    def input_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        terms = self.input_gradient(grad.abs(), features, boxes)
        inner = torch.zeros(features.shape, dtype=torch.float64, requires_grad=True)
        outer, corners = self.wider(features, boxes)
        padded = torch.nn.functional.pad(inner, (1, 1, 1, 1), "replicate")
        (folded,) = torch.autograd.grad(padded, inner, self.input_gradient(grad.abs(), outer, corners))
        return torch.where(terms == 0.0, terms, folded)

    def box_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        arrays = as_array(grad), as_array(features), as_array(boxes)
        return torch.from_numpy(reference_prroi.box_gradient(*arrays, self.params(features, boxes)))


@dataclass(frozen=True)
class RoIPoolCall(ScaledCall):
    """``roi_pool``, which has no box gradient."""

    def __call__(self, features: Tensor, boxes: Tensor) -> Tensor:
        from roialign_ext import roi_pool

        result: Tensor = roi_pool(features, boxes, self.output_size, self.spatial_scale)
        return result

    def params(self, features: Tensor, boxes: Tensor) -> reference_roi_pool.Params:
        return reference_roi_pool.Params(self.output_size, self.spatial_scale, coordinate(features, boxes))

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        arrays = as_array(features), as_array(boxes)
        return torch.from_numpy(reference_roi_pool.forward(*arrays, self.params(features, boxes)))

    def input_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        arrays = as_array(grad), as_array(features), as_array(boxes)
        return torch.from_numpy(reference_roi_pool.input_gradient(*arrays, self.params(features, boxes)))

    def box_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        raise NotImplementedError("roi_pool has no derivative by the boxes")


@dataclass(frozen=True)
class SampledCall(ScaledCall):
    """What the operators with the sample loops of ``reference`` share."""

    mode: str = "avg"

    def params(self, features: Tensor, boxes: Tensor) -> reference.Params:
        raise NotImplementedError

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        arrays = as_array(features), as_array(boxes)
        return torch.from_numpy(reference.forward(*arrays, self.params(features, boxes), self.mode))

    def input_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        arrays = as_array(grad), as_array(features), as_array(boxes)
        return torch.from_numpy(reference.input_gradient(*arrays, self.params(features, boxes), self.mode))

    def box_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        arrays = as_array(grad), as_array(features), as_array(boxes)
        return torch.from_numpy(reference.box_gradient(*arrays, self.params(features, boxes), self.mode))


@dataclass(frozen=True)
class RoIWarpCall(SampledCall):
    """``roi_warp``."""

    sampling_ratio: int = -1

    def __call__(self, features: Tensor, boxes: Tensor) -> Tensor:
        from roialign_ext import roi_warp

        result: Tensor = roi_warp(features, boxes, self.output_size, self.spatial_scale, self.sampling_ratio, self.mode)
        return result

    def params(self, features: Tensor, boxes: Tensor) -> WarpParams:
        kind = coordinate(features, boxes)
        return WarpParams(self.output_size, self.spatial_scale, self.sampling_ratio, coordinate=kind)


SWAPPED = [0, 2, 1, 4, 3]
"""Rows (image, y1, x1, y2, x2) from rows (image, x1, y1, x2, y2), and the other way round."""


@dataclass(frozen=True)
class CropCall(SampledCall):
    """``crop_and_resize``; its boxes and box indices together are rows (image, y1, x1, y2, x2)."""

    method: str = "bilinear"
    extrapolation_value: float = 0.0
    samples_per_bin: int = 1

    def __call__(self, features: Tensor, boxes: Tensor) -> Tensor:
        from roialign_ext import crop_and_resize

        result: Tensor = crop_and_resize(
            features,
            boxes[:, 1:],
            boxes[:, 0].detach().long(),
            self.output_size,
            self.method,
            self.extrapolation_value,
            self.samples_per_bin,
            self.mode,
        )
        return result

    def params(self, features: Tensor, boxes: Tensor) -> CropParams:
        kind, value = coordinate(features, boxes), self.extrapolation_value
        size, ratio = self.output_size, self.samples_per_bin
        return CropParams(size, 1.0, ratio, coordinate=kind, method=self.method, extrapolation_value=value)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        return super().forward(features, boxes[:, SWAPPED])

    def forward_terms(self, features: Tensor, boxes: Tensor) -> Tensor:
        positive = replace(self, extrapolation_value=abs(self.extrapolation_value))
        return positive.forward(features.abs(), boxes) + abs(self.extrapolation_value)

    def through_winners(self, grad: Tensor, features: Tensor, boxes: Tensor) -> tuple[CropCall, Tensor]:
        """A maximum is that of a finer crop in the dtype of the input: the finer call, and the gradient of its result.

        Values that are equal in that dtype are equal, and the first of them wins.
        """
        n = self.samples_per_bin
        bins_y, bins_x = self.output_size
        fine = replace(self, output_size=(bins_y * n, bins_x * n), samples_per_bin=1, mode="avg")
        samples = fine.forward(features, boxes).to(features.dtype).double().requires_grad_()
        if samples.numel() == 0:
            return fine, samples.detach()
        maxima = torch.nn.functional.max_pool2d(samples, n)
        return fine, torch.autograd.grad(maxima, samples, grad.double())[0]

    def input_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        if self.mode == "max":
            fine, grad = self.through_winners(grad, features, boxes)
            return fine.input_gradient(grad, features, boxes)
        return super().input_gradient(grad, features, boxes[:, SWAPPED])

    def box_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        if self.mode == "max":
            fine, grad = self.through_winners(grad, features, boxes)
            return fine.box_gradient(grad, features, boxes)
        return super().box_gradient(grad, features, boxes[:, SWAPPED])[:, SWAPPED]

    def box_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        height, width = features.shape[2:]
        return output_terms(grad, features) * torch.tensor([0.0, height, width, height, width])


@dataclass(frozen=True)
class RotatedCall(ScaledCall):
    """``roi_align_rotated``; rows (image, cx, cy, w, h, angle)."""

    sampling_ratio: int = -1
    aligned: bool = True
    clockwise: bool = False
    angle_unit: str = "degree"

    def __call__(self, features: Tensor, boxes: Tensor) -> Tensor:
        from roialign_ext import roi_align_rotated

        arguments = self.sampling_ratio, self.aligned, self.clockwise, self.angle_unit
        result: Tensor = roi_align_rotated(features, boxes, self.output_size, self.spatial_scale, *arguments)
        return result

    def params(self, features: Tensor, boxes: Tensor) -> reference_rotated.Params:
        arguments = self.sampling_ratio, self.aligned, self.clockwise, self.angle_unit
        kind = coordinate(features, boxes)
        return reference_rotated.Params(self.output_size, self.spatial_scale, *arguments, coordinate=kind)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        arrays = as_array(features), as_array(boxes)
        return torch.from_numpy(reference_rotated.forward(*arrays, self.params(features, boxes)))

    def input_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        arrays = as_array(grad), as_array(features), as_array(boxes)
        return torch.from_numpy(reference_rotated.input_gradient(*arrays, self.params(features, boxes)))

    def box_gradient(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        arrays = as_array(grad), as_array(features), as_array(boxes)
        return torch.from_numpy(reference_rotated.box_gradient(*arrays, self.params(features, boxes)))

    def box_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        """A sample moves with the centre, by up to half of what a side grows, and by its distance from the centre."""
        degree = self.angle_unit == "degree"
        sides = (boxes.detach().double()[:, 3:5].nan_to_num(0.0, 0.0, 0.0) * self.spatial_scale).clamp(min=1.0)
        # only the samples on the map count: no farther from the centre than the corners of the box or of the map
        centre = (boxes.detach().double()[:, 1:3].nan_to_num(0.0, 0.0, 0.0) * self.spatial_scale).abs().sum(1)
        radius = torch.minimum(sides.sum(1) / 2, centre + sum(features.shape[2:]) + 3.0)
        by_angle = radius * (torch.pi / 180.0 if degree else 1.0)
        s = self.spatial_scale
        columns = [torch.full_like(by_angle, value) for value in (0.0, s, s, s, s)]
        return output_terms(grad, features) * torch.stack([*columns, by_angle], 1)


# --- boxes

CROP_BOX_SETS = {
    **{name: boxes[:, SWAPPED] / torch.tensor([1.0, HEIGHT - 1, WIDTH - 1, HEIGHT - 1, WIDTH - 1])
       for name, boxes in BOX_SETS.items()},
    "inside": rows((0.12, 0.23, 0.61, 0.74), (0.31, 0.03, 0.93, 0.37), (0.2, 0.25, 0.8, 0.9)),
    "unit": rows((0.0, 0.0, 1.0, 1.0), (1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.5, 0.5, 0.5, 0.5),
                 (1.0, 1.0, 1.0, 1.0), (0.25, 0.125, 0.75, 0.875)),
}  # fmt: skip
"""``BOX_SETS`` in units of the map, and boxes whose samples lie on pixel centres; rows (image, y1, x1, y2, x2)."""


def rotated_rows(*boxes: tuple[float, float, float, float, float], image: int = 0) -> Tensor:
    """Rows (image, cx, cy, w, h, angle) of one image, float64."""
    return torch.tensor([[float(image), *box] for box in boxes], dtype=torch.float64).reshape(-1, 6)


ROTATED_BOX_SETS: dict[str, Tensor] = {
    "inside": rotated_rows((4.2, 3.4, 3.1, 2.3, 30.0), (4.4, 3.1, 2.2, 3.9, -75.0), (5.1, 3.7, 4.0, 1.3, 200.0)),
    "crossing": rotated_rows((0.3, 0.4, 5.2, 4.1, 45.3), (8.9, 6.7, 6.3, 3.9, -120.1), (4.4, -0.7, 12.2, 3.3, 10.4)),
    "outside": rotated_rows((-30.0, 2.0, 4.0, 4.0, 33.0), (4.0, 50.0, 3.0, 9.0, 80.0), (100.0, 100.0, 1.0, 1.0, 5.0)),
    "empty": rotated_rows((3.2, 2.1, 0.0, 0.0, 15.0), (3.3, 3.1, 4.4, 0.0, 25.0), (2.9, 3.3, 0.0, 3.4, -25.0)),
    "upright": rotated_rows((4.0, 3.0, 4.0, 4.0, 0.0), (4.3, 3.2, 3.7, 2.9, 90.0), (4.3, 3.2, 3.7, 2.9, 180.0),
                            (4.3, 3.2, 3.7, 2.9, -90.0), (4.3, 3.2, 3.7, 2.9, 360.0), (4.5, 3.5, 9.0, 7.0, 0.0)),
    "tiny": rotated_rows((3.15, 2.95, 0.11, 0.12, 37.0), (0.0015, 0.0015, 0.001, 0.001, 61.0)),
    "large": rotated_rows((4.4, 3.3, 712.2, 534.1, 20.0), (3.3, 2.2, 1.3, 2e3, 88.8), (300.3, 200.1, 900.3, 30., 33.)),
    "turned": rotated_rows((4.2, 3.4, 3.1, 2.3, 1234.5), (4.2, 3.4, 3.1, 2.3, -98765.0), (4.2, 3.4, 3.1, 2.3, 1e-4)),
    "not_finite": rotated_rows(
        (NAN, 1.0, 3.0, 4.0, 5.0), (1.0, NAN, 3.0, 4.0, 5.0), (1.0, 1.0, NAN, 4.0, 5.0), (1.0, 1.0, 3.0, NAN, 5.0),
        (1.0, 1.0, 3.0, 4.0, NAN), (INF, 1.0, 3.0, 4.0, 5.0), (1.0, -INF, 3.0, 4.0, 5.0), (1.0, 1.0, INF, 4.0, 5.0),
        (1.0, 1.0, 3.0, INF, 5.0), (1.0, 1.0, 3.0, 4.0, INF), (1.0, 1.0, 3.0, 4.0, -INF), (4.0, 3.0, INF, INF, 0.0),
    ),
}  # fmt: skip
"""Rotated boxes in map pixels (scale 1) around the same map; every row is of image 0."""

Family = PrRoIPoolCall | RoIWarpCall | RoIPoolCall | CropCall | RotatedCall


def box_sets(call: Family) -> dict[str, Tensor]:
    """Boxes of every kind for an operator, by name."""
    if isinstance(call, CropCall):
        return CROP_BOX_SETS
    return ROTATED_BOX_SETS if isinstance(call, RotatedCall) else BOX_SETS


def boxes_for(call: Family, *names: str, images: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    """The sets of these names (all of them by default) dealt out over the images."""
    sets = box_sets(call)
    return spread(torch.cat([sets[name] for name in names or sets]), images).to(dtype)


def output_of(call: Family, features: Tensor, boxes: Tensor) -> tuple[int, ...]:
    """The shape of the result."""
    return (len(boxes), features.shape[1], *call.output_size)


AVERAGES: dict[str, Family] = {
    "prroi_pool": PrRoIPoolCall((3, 2), 0.9),
    "roi_warp": RoIWarpCall((3, 2), 0.9, sampling_ratio=2),
    "roi_warp_adaptive": RoIWarpCall((3, 2), 0.9),
    "crop": CropCall((3, 2)),
    "crop_extrapolated": CropCall((2, 3), samples_per_bin=2, extrapolation_value=-1.5),
    "crop_nearest": CropCall((3, 2), method="nearest", samples_per_bin=2, extrapolation_value=0.75),
    "rotated": RotatedCall((3, 2), 0.9, 2),
    "rotated_adaptive": RotatedCall((3, 2), 0.9),
    "rotated_legacy": RotatedCall((2, 3), 0.9, 2, aligned=False),
    "rotated_mmcv": RotatedCall((3, 2), 0.9, 2, clockwise=True, angle_unit="radian"),
}
MAXIMA: dict[str, Family] = {
    "roi_warp_max": RoIWarpCall((3, 2), 0.9, "max", 2),
    "roi_warp_max_adaptive": RoIWarpCall((3, 2), 0.9, "max"),
    "crop_max": CropCall((3, 2), mode="max", samples_per_bin=2, extrapolation_value=-0.5),
    "crop_nearest_max": CropCall((2, 2), mode="max", method="nearest", samples_per_bin=3),
    "roi_pool": RoIPoolCall((3, 2), 0.9),
}
FAMILY = {**AVERAGES, **MAXIMA}
"""Every operator on one map, in its variants."""
WITH_BOX_GRADIENT = [name for name, call in FAMILY.items() if not isinstance(call, RoIPoolCall)]
