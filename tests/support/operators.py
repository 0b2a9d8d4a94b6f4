"""The table of operators: every public operator with its oracle, its boxes and what is known about it.

A new operator is one class, which says how to call it and its oracle, and one row of ``OPERATORS`` for each variant.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import roialign_ext as package
from oracle import reference, reference_multiscale, reference_prroi, reference_ps, reference_roi_pool, reference_rotated
from oracle.reference_sampled import CropParams, WarpParams
from support.inputs import BOX_SETS, CROP_BOX_SETS, ROTATED_BOX_SETS, SWAPPED, as_array, rows, spread


def coordinate_type(features: Tensor, boxes: Tensor) -> type[np.floating[Any]]:
    """float64 where the input or the boxes are, else float32."""
    return np.float64 if torch.float64 in (features.dtype, boxes.dtype) else np.float32


def largest_sum(grad: Tensor, features: Tensor) -> Tensor:
    """For every box: the sum of ``|grad|`` times the largest step between two pixels, ``[K, 1]``."""
    step = 2.0 * float(features.detach().double().abs().max()) if features.numel() else 0.0
    return (grad.double().abs().sum((1, 2, 3)) * step)[:, None]


@dataclass(frozen=True)
class OperatorCall:
    """A public operator with its arguments after ``input`` and ``boxes``, and its oracle.

    ``boxes`` are rows (image, coordinates) for every operator. Oracles return float64; ``*_terms`` bound the sums of
    the absolute values of their terms, for ``assert_within_rounding``.
    """

    function: ClassVar[Any]
    module: ClassVar[type[nn.Module]]
    oracle: ClassVar[ModuleType] = reference
    oracle_params: ClassVar[Any] = reference.Params
    rules: ClassVar[tuple[str, ...]]  # of the private operators
    box_sets: ClassVar[dict[str, Tensor]] = BOX_SETS
    box_order: ClassVar[int] = 3  # how often the boxes may be differentiated
    has_mean: ClassVar[bool] = True
    levels: ClassVar[int] = 1

    output_size: tuple[int, int] = (2, 2)

    # --- the package

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments after the size."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "output_size"}

    def box_arguments(self, boxes: Any) -> tuple[Any, ...]:
        """The arguments of the function that stand for rows, or a list, of boxes."""
        return (boxes,)

    def __call__(self, features: Any, boxes: Any) -> Tensor:
        result: Tensor = self.function(features, *self.box_arguments(boxes), self.output_size, **self.options)
        return result

    @property
    def rule(self) -> str:
        """The rule of the private operators."""
        return self.rules[0]

    @property
    def has_argmax(self) -> bool:
        """Whether the operator has a maximum: with pixels or samples that are chosen."""
        return "mode" in self.options or not self.has_mean

    @property
    def chooses_samples(self) -> bool:
        """A maximum of interpolated samples: among equal ones rounding chooses."""
        return getattr(self, "mode", "avg") == "max"

    @property
    def outside(self) -> float:
        """The value of a box beside the map."""
        return 0.0

    @property
    def groups(self) -> int:
        """How many channels of the input belong to one of the output."""
        return 1

    def widened(self, features: Tensor) -> Tensor:
        """Features as the operator needs them for as many channels of the output as ``features`` has."""
        return features

    def channels_of(self, channels: list[int]) -> list[int]:
        """The channels of the input that these of the output read."""
        return channels

    def output_shape(self, features: Tensor, boxes: Tensor) -> tuple[int, ...]:
        return (len(boxes), features.shape[1] // self.groups, *self.output_size)

    def leaves(self, features: Tensor, boxes: Tensor) -> list[Tensor]:
        """Both detached; they require a gradient where the operator has one."""
        return [features.detach().requires_grad_(), boxes.detach().requires_grad_(self.box_order > 0)]

    def gradients(self, leaves: list[Tensor], grad: Tensor | None = None, **options: Any) -> list[Tensor]:
        """Of the result (of its sum) with respect to the leaves that require one."""
        out = self(*leaves)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        return list(torch.autograd.grad(out.sum() if grad is None else out, wanted, grad, **options))

    # --- boxes

    def from_corners(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """Rows as the operator reads them from rows (image, x1, y1, x2, y2) in pixels of such a map."""
        return boxes

    def boxes(self, *names: str, images: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
        """The sets of these names (all of them by default) dealt out over the images."""
        return spread(torch.cat([self.box_sets[name] for name in names or self.box_sets]), images).to(dtype)

    @property
    def smooth(self) -> list[list[float]]:
        """Coordinates of two boxes around a map of 4 x 5 pixels.

        At scales of 0.8 and 1 edges and samples are away from the borders of cells, under every rule and ratio.
        """
        return [[0.54, 0.38, 4.61, 3.28], [-0.77, 0.82, 3.26, 5.68]]

    # --- the oracle

    def params(self, features: Tensor, boxes: Tensor) -> Any:
        options = {name: value for name, value in self.options.items() if name != "mode"}
        return self.oracle_params(self.output_size, **options, coordinate=coordinate_type(features, boxes))

    def _ask(self, name: str, features: Tensor, boxes: Tensor, *grad: Tensor) -> Tensor:
        arrays = [as_array(tensor) for tensor in (*grad, features, boxes)]
        mode = [value for option, value in self.options.items() if option == "mode"]
        return torch.from_numpy(getattr(self.oracle, name)(*arrays, self.params(features, boxes), *mode))

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        return self._ask("forward", features, boxes)

    def grad_input(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        return self._ask("grad_input", features, boxes, grad)

    def grad_boxes(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        return self._ask("grad_boxes", features, boxes, grad)

    def forward_terms(self, features: Tensor, boxes: Tensor) -> Tensor:
        """The weights are not negative, so it is the result for ``|features|``."""
        return self.forward(features.abs(), boxes)

    def input_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        return self.grad_input(grad.abs(), features, boxes)

    def box_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        """At most the sum of |G| over the outputs, times the largest step of the map, times the scale."""
        return (largest_sum(grad, features) * self.options.get("spatial_scale", 1.0)).expand(boxes.shape)

    def expected_gradients(self, grad: Tensor, features: Tensor, boxes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Exact gradients and the size of their terms: of the input, and of the boxes where there is one."""
        arguments = grad, features, boxes
        expected = [(self.grad_input(*arguments), self.input_terms(*arguments))]
        if self.box_order > 0:
            expected.append((self.grad_boxes(*arguments), self.box_terms(*arguments)))
        return expected


@dataclass(frozen=True)
class RoIAlignCall(OperatorCall):
    function = staticmethod(package.roi_align)
    module = package.RoIAlign
    rules = ("roi_align_half_pixel", "roi_align_legacy")

    spatial_scale: float = 1.0
    sampling_ratio: int = -1
    aligned: bool = False
    mode: str = "avg"

    @property
    def rule(self) -> str:
        return self.rules[0 if self.aligned else 1]


@dataclass(frozen=True)
class RoIWarpCall(OperatorCall):
    function = staticmethod(package.roi_warp)
    module = package.RoIWarp
    oracle_params = WarpParams
    rules = ("roi_warp",)

    spatial_scale: float = 1.0
    sampling_ratio: int = -1
    mode: str = "avg"


@dataclass(frozen=True)
class PrRoIPoolCall(OperatorCall):
    function = staticmethod(package.prroi_pool)
    module = package.PrRoIPool
    oracle = reference_prroi
    oracle_params = reference_prroi.Params
    rules = ("prroi_pool",)
    box_order = 2

    spatial_scale: float = 1.0

    def wider(self, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The map with a border of one pixel more, and the boxes on it.

        Where the surface fades it is the difference of terms as large as the pixel at the border.
        """
        corners = torch.cat([boxes[:, :1], boxes[:, 1:].double() + 1.0 / self.spatial_scale], 1)
        return nn.functional.pad(features.detach().double(), (1, 1, 1, 1), "replicate"), corners

    def forward_terms(self, features: Tensor, boxes: Tensor) -> Tensor:
        terms = self.forward(features.abs(), boxes)
        return torch.where(terms == 0.0, terms, self.forward(*self.wider(features.abs(), boxes)))

    def input_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        terms = self.grad_input(grad.abs(), features, boxes)
        inner = torch.zeros(features.shape, dtype=torch.float64, requires_grad=True)
        outer, corners = self.wider(features, boxes)
        padded = nn.functional.pad(inner, (1, 1, 1, 1), "replicate")
        (folded,) = torch.autograd.grad(padded, inner, self.grad_input(grad.abs(), outer, corners))
        return torch.where(terms == 0.0, terms, folded)


@dataclass(frozen=True)
class RoIPoolCall(OperatorCall):
    function = staticmethod(package.roi_pool)
    module = package.RoIPool
    oracle = reference_roi_pool
    oracle_params = reference_roi_pool.Params
    rules = ("roi_pool",)
    box_order = 0
    has_mean = False

    spatial_scale: float = 1.0


@dataclass(frozen=True)
class PositionSensitiveCall(OperatorCall):
    """Every bin reads its own group of channels."""

    oracle = reference_ps

    @property
    def groups(self) -> int:
        return self.output_size[0] * self.output_size[1]

    def widened(self, features: Tensor) -> Tensor:
        """No two groups are alike."""
        parts = [features.roll((p, 2 * p), (2, 3)) for p in range(self.groups)]
        layout = torch.channels_last if features.is_contiguous(memory_format=torch.channels_last) else None
        wide = torch.stack(parts, 2).flatten(1, 2)
        return wide if layout is None or features.is_contiguous() else wide.contiguous(memory_format=layout)

    def channels_of(self, channels: list[int]) -> list[int]:
        return [channel * self.groups + p for channel in channels for p in range(self.groups)]


@dataclass(frozen=True)
class PSRoIAlignCall(PositionSensitiveCall):
    function = staticmethod(package.ps_roi_align)
    module = package.PSRoIAlign
    oracle_params = reference_ps.AlignParams
    rules = ("ps_roi_align",)

    spatial_scale: float = 1.0
    sampling_ratio: int = -1


@dataclass(frozen=True)
class PSRoIPoolCall(PositionSensitiveCall):
    function = staticmethod(package.ps_roi_pool)
    module = package.PSRoIPool
    oracle_params = reference_ps.PoolParams
    rules = ("ps_roi_pool",)
    box_order = 0

    spatial_scale: float = 1.0


@dataclass(frozen=True)
class CropCall(OperatorCall):
    """``crop_and_resize``; its boxes and box indices together are rows (image, y1, x1, y2, x2)."""

    function = staticmethod(package.crop_and_resize)
    module = package.CropAndResize
    rules = ("crop_bilinear", "crop_nearest")
    box_sets = CROP_BOX_SETS

    method: str = "bilinear"
    extrapolation_value: float = 0.0
    samples_per_bin: int = 1
    mode: str = "avg"

    @property
    def rule(self) -> str:
        return f"crop_{self.method}"

    @property
    def outside(self) -> float:
        return self.extrapolation_value

    @property
    def smooth(self) -> list[list[float]]:
        return [[0.13, 0.07, 0.81, 0.93], [-0.21, 0.33, 1.17, 0.64]]

    def box_arguments(self, boxes: Tensor) -> tuple[Any, ...]:
        return boxes[:, 1:], boxes[:, 0].detach().long()

    def from_corners(self, boxes: Tensor, height: int, width: int) -> Tensor:
        last_y, last_x = max(height - 1.0, 1.0), max(width - 1.0, 1.0)
        return boxes[:, SWAPPED] / torch.tensor([1.0, last_y, last_x, last_y, last_x], dtype=boxes.dtype)

    def params(self, features: Tensor, boxes: Tensor) -> CropParams:
        kind, value = coordinate_type(features, boxes), self.extrapolation_value
        size, ratio = self.output_size, self.samples_per_bin
        return CropParams(size, 1.0, ratio, coordinate=kind, method=self.method, extrapolation_value=value)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        return super().forward(features, boxes[:, SWAPPED])

    def forward_terms(self, features: Tensor, boxes: Tensor) -> Tensor:
        positive = replace(self, extrapolation_value=abs(self.extrapolation_value))
        return positive.forward(features.abs(), boxes) + abs(self.extrapolation_value)

    def through_argmax(self, grad: Tensor, features: Tensor, boxes: Tensor) -> tuple[CropCall, Tensor]:
        """A maximum is that of a finer crop in the dtype of the input: the finer call, and the gradient of its result.

        Values that are equal in that dtype are equal, and the first of them wins.
        """
        n = self.samples_per_bin
        bins_y, bins_x = self.output_size
        fine = replace(self, output_size=(bins_y * n, bins_x * n), samples_per_bin=1, mode="avg")
        samples = fine.forward(features, boxes).to(features.dtype).double().requires_grad_()
        if samples.numel() == 0:
            return fine, samples.detach()
        maxima = nn.functional.max_pool2d(samples, n)
        return fine, torch.autograd.grad(maxima, samples, grad.double())[0]

    def grad_input(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        if self.mode == "max":
            fine, grad = self.through_argmax(grad, features, boxes)
            return fine.grad_input(grad, features, boxes)
        return super().grad_input(grad, features, boxes[:, SWAPPED])

    def grad_boxes(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        if self.mode == "max":
            fine, grad = self.through_argmax(grad, features, boxes)
            return fine.grad_boxes(grad, features, boxes)
        return super().grad_boxes(grad, features, boxes[:, SWAPPED])[:, SWAPPED]

    def box_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        height, width = features.shape[2:]
        return largest_sum(grad, features) * torch.tensor([0.0, height, width, height, width])


@dataclass(frozen=True)
class RotatedCall(OperatorCall):
    """``roi_align_rotated``; rows (image, cx, cy, w, h, angle)."""

    function = staticmethod(package.roi_align_rotated)
    module = package.RoIAlignRotated
    oracle = reference_rotated
    oracle_params = reference_rotated.Params
    rules = ("rotated_half_pixel", "rotated_legacy", "rotated_half_pixel_radian", "rotated_legacy_radian")
    box_sets = ROTATED_BOX_SETS
    box_order = 2

    spatial_scale: float = 1.0
    sampling_ratio: int = -1
    aligned: bool = True
    clockwise: bool = False
    angle_unit: str = "degree"

    @property
    def rule(self) -> str:
        return self.rules[(0 if self.aligned else 1) + (2 if self.angle_unit == "radian" else 0)]

    @property
    def smooth(self) -> list[list[float]]:
        if self.angle_unit == "radian":
            return [[2.4, 2.1, 3.3, 0.6, 0.4], [1.9, 2.6, 2.7, 3.9, -1.2]]
        return [[2.4, 2.1, 3.3, 2.2, 25.0], [1.9, 2.6, 2.7, 3.9, -70.0]]

    def from_corners(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """About the centres of the corners, each by another angle."""
        image, low, high = boxes[:, :1], boxes[:, 1:3], boxes[:, 3:]
        angle = torch.linspace(20.0, -160.0, len(boxes), dtype=boxes.dtype)[:, None]
        return torch.cat([image, (low + high) / 2, (high - low).abs(), angle], 1)

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
        return largest_sum(grad, features) * torch.stack([*columns, by_angle], 1)


@dataclass(frozen=True)
class MultiscaleCall(OperatorCall):
    """``multiscale_roi_align``; its features are a list of maps, the finest first."""

    function = staticmethod(package.multiscale_roi_align)
    module = package.MultiScaleRoIAlign
    oracle = reference_multiscale
    rules = RoIAlignCall.rules
    levels = 2

    scales: tuple[float, ...] = (1.0, 0.5)
    sampling_ratio: int = -1
    aligned: bool = False
    mode: str = "avg"
    canonical_scale: float = 4.2
    canonical_level: float = 1.0

    @property
    def rule(self) -> str:
        return self.rules[0 if self.aligned else 1]

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "scales": list(self.scales)}

    def params(self, features: list[Tensor], boxes: Tensor) -> reference_multiscale.Params:
        kind = coordinate_type(features[0], boxes)
        pooling = reference.Params(self.output_size, 1.0, self.sampling_ratio, self.aligned, kind)
        return reference_multiscale.Params(pooling, self.scales, self.mode, self.canonical_scale, self.canonical_level)

    def forward(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        arrays = [as_array(level) for level in features], as_array(boxes)
        return torch.from_numpy(self.oracle.forward(*arrays, self.params(features, boxes)))

    def grad_inputs(self, grad: Tensor, features: list[Tensor], boxes: Tensor) -> list[Tensor]:
        arrays = as_array(grad), [as_array(level) for level in features], as_array(boxes)
        gradients = self.oracle.grad_inputs(*arrays, self.params(features, boxes))
        return [torch.from_numpy(gradient) for gradient in gradients]

    def grad_boxes(self, grad: Tensor, features: list[Tensor], boxes: Tensor) -> Tensor:
        arrays = as_array(grad), [as_array(level) for level in features], as_array(boxes)
        return torch.from_numpy(self.oracle.grad_boxes(*arrays, self.params(features, boxes)))

    def box_terms(self, grad: Tensor, features: list[Tensor], boxes: Tensor) -> Tensor:
        largest = torch.stack([level.detach().double().abs().max() for level in features])
        return (largest_sum(grad, largest) * max(self.scales)).expand(boxes.shape)


@dataclass(frozen=True)
class MultiscaleRotatedCall(MultiscaleCall):
    """``multiscale_roi_align_rotated``."""

    function = staticmethod(package.multiscale_roi_align_rotated)
    module = package.MultiScaleRoIAlignRotated
    rules = RotatedCall.rules
    box_sets = ROTATED_BOX_SETS
    box_order = 2

    mode: ClassVar[str] = "avg"  # type: ignore[misc]
    clockwise: bool = False
    angle_unit: str = "degree"

    @property
    def rule(self) -> str:
        return self.rules[(0 if self.aligned else 1) + (2 if self.angle_unit == "radian" else 0)]

    @property
    def on_one_map(self) -> RotatedCall:
        """On the finest level."""
        names = ("sampling_ratio", "aligned", "clockwise", "angle_unit")
        options = {name: getattr(self, name) for name in names}
        return RotatedCall(self.output_size, self.scales[0], **options)

    @property
    def smooth(self) -> list[list[float]]:
        return self.on_one_map.smooth

    def from_corners(self, boxes: Tensor, height: int, width: int) -> Tensor:
        return self.on_one_map.from_corners(boxes, height, width)

    def params(self, features: list[Tensor], boxes: Tensor) -> reference_multiscale.Params:
        pooling = self.on_one_map.params(features[0], boxes)
        return reference_multiscale.Params(
            pooling, self.scales, canonical_scale=self.canonical_scale, canonical_level=self.canonical_level
        )

    def box_terms(self, grad: Tensor, features: list[Tensor], boxes: Tensor) -> Tensor:
        largest = max(float(level.detach().abs().max()) for level in features)
        return self.on_one_map.box_terms(grad, torch.full_like(features[0], largest), boxes)


OPERATORS: dict[str, OperatorCall] = {
    "roi_align": RoIAlignCall((3, 2), 0.9, 2, True),
    "roi_align-adaptive": RoIAlignCall((3, 2), 0.9, -1, True),
    "roi_align-legacy": RoIAlignCall((2, 3), 0.9, 2),
    "roi_align-legacy_adaptive": RoIAlignCall((3, 2), 0.9),
    "roi_align-max": RoIAlignCall((3, 2), 0.9, 2, True, "max"),
    "roi_align-max_legacy_adaptive": RoIAlignCall((3, 2), 0.9, mode="max"),
    "prroi_pool": PrRoIPoolCall((3, 2), 0.9),
    "roi_warp": RoIWarpCall((3, 2), 0.9, 2),
    "roi_warp-adaptive": RoIWarpCall((3, 2), 0.9),
    "roi_warp-max": RoIWarpCall((3, 2), 0.9, 2, "max"),
    "roi_warp-max_adaptive": RoIWarpCall((3, 2), 0.9, mode="max"),
    "roi_pool": RoIPoolCall((3, 2), 0.9),
    "ps_roi_align": PSRoIAlignCall((3, 2), 0.9, 2),
    "ps_roi_align-adaptive": PSRoIAlignCall((2, 3), 0.9),
    "ps_roi_pool": PSRoIPoolCall((3, 2), 0.9),
    "crop_and_resize": CropCall((2, 3), samples_per_bin=2, extrapolation_value=-1.5),
    "crop_and_resize-plain": CropCall((3, 2)),
    "crop_and_resize-nearest": CropCall((3, 2), method="nearest", samples_per_bin=2, extrapolation_value=0.75),
    "crop_and_resize-max": CropCall((3, 2), mode="max", samples_per_bin=2, extrapolation_value=-0.5),
    "crop_and_resize-nearest_max": CropCall((2, 2), mode="max", method="nearest", samples_per_bin=3),
    "roi_align_rotated": RotatedCall((3, 2), 0.9, 2),
    "roi_align_rotated-adaptive": RotatedCall((3, 2), 0.9),
    "roi_align_rotated-legacy": RotatedCall((2, 3), 0.9, 2, aligned=False),
    "roi_align_rotated-mmcv": RotatedCall((3, 2), 0.9, 2, clockwise=True, angle_unit="radian"),
    "roi_align_rotated-radian": RotatedCall((3, 2), 0.9, aligned=False, clockwise=True, angle_unit="radian"),
    "multiscale_roi_align": MultiscaleCall((3, 2), sampling_ratio=2, aligned=True),
    "multiscale_roi_align-max": MultiscaleCall((3, 2), mode="max"),
    "multiscale_roi_align_rotated": MultiscaleRotatedCall((3, 2), sampling_ratio=2, aligned=True),
}
"""Variants of an operator are called ``<function>-<variant>``; its first row is the function itself."""
ON_ONE_MAP = {name: call for name, call in OPERATORS.items() if call.levels == 1}
FIRST = {name: call for name, call in OPERATORS.items() if "-" not in name}
"""One row of each function."""
RULES = tuple(dict.fromkeys(rule for call in FIRST.values() for rule in call.rules))
"""Every rule of the private operators."""

WITHOUT_BOX_DERIVATIVE = tuple(rule for call in FIRST.values() if call.box_order == 0 for rule in call.rules)

each_operator = pytest.mark.parametrize("call", ON_ONE_MAP.values(), ids=list(ON_ONE_MAP))
"""Every operator on one map, in its variants."""
each_function = pytest.mark.parametrize(
    "call", [FIRST[name] for name in FIRST if name in ON_ONE_MAP], ids=[name for name in FIRST if name in ON_ONE_MAP]
)


def smooth_boxes(
    count: int, shape: tuple[int, ...], call: RoIAlignCall, seed: int = 0, distance: float = 1e-3
) -> Tensor:
    """Random boxes over and around maps of ``shape`` near which ``call`` is differentiable.

    Every sample keeps ``distance`` (map pixels) from the borders of its cell, and the sizes from where the sample count
    or the legacy minimum changes.
    """
    images, _, height, width = shape
    random = np.random.default_rng(seed)
    params = reference.Params(call.output_size, call.spatial_scale, call.sampling_ratio, call.aligned)
    found: list[list[float]] = []
    while len(found) < count:
        x, y = random.uniform(-1.5, width - 1.0), random.uniform(-1.5, height - 1.0)
        corners = np.array([x, y, x + random.uniform(0.3, width), y + random.uniform(0.3, height)]) / call.spatial_scale
        row = np.array([len(found) % images, *corners])
        if reference.distance_to_kinks(row[None], height, width, params) > distance:
            found.append([float(value) for value in row])
    return torch.tensor(found, dtype=torch.float64)


LARGE_CORNERS = rows(
    (3.0, 5.0, 40.3, 37.0),
    (250.3, 220.1, 299.9, 299.0),
    (0.0, 170.5, 12.0, 180.0),
    (-40.0, -30.0, 20.0, 13.0),
    (100.2, 100.4, 100.9, 131.7),
    (20.0, 290.0, 50.0, 320.0),
    (130.0, 7.0, 110.0, 2.0),
    (400.0, 10.0, 420.0, 30.0),
    (-40.0, -30.0, 340.0, 330.0),
)


def large_boxes(call: OperatorCall, images: int = 2) -> Tensor:
    """Boxes on and over the borders of ``large_map()``; the largest only where it has no adaptive grid of samples."""
    samples = call.options.get("sampling_ratio", call.options.get("samples_per_bin", 0))
    return call.from_corners(spread(LARGE_CORNERS[: 9 if samples > 0 else 8], images), 300, 301)
