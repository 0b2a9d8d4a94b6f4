"""Each operator for the tests: its call as a function and as a layer, its oracle, its boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import roialign_ext as package
from oracle import reference, reference_multiscale, reference_prroi, reference_ps, reference_roi_pool, reference_rotated
from oracle.reference_sampled import CropParams, WarpParams
from support.inputs import (
    BOX_SETS,
    CROP_BOX_SETS,
    ROTATED_BOX_SETS,
    SWAPPED,
    as_array,
    finest,
    listed,
    memory_format_of,
    requiring_grad,
    spread,
)


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

    The fields are the arguments of the function after its size, in its order and with its defaults. ``features`` are
    the first argument of the function: a map, or the list of the maps of a pyramid. ``boxes`` are (image,
    coordinates) for every operator. Oracles return float64; ``*_terms`` bound the sums of the absolute values of their
    terms, for ``assert_within_rounding``.
    """

    function: ClassVar[Any]
    module: ClassVar[type[nn.Module]]
    oracle: ClassVar[ModuleType] = reference
    oracle_params: ClassVar[Any] = reference.Params
    rules: ClassVar[tuple[str, ...]]  # of the private operators
    box_sets: ClassVar[dict[str, Tensor]] = BOX_SETS
    box_format: ClassVar[str] = "XYXY"  # torchvision's name of it, empty if it has none
    box_order: ClassVar[int] = 3  # how often the boxes may be differentiated
    takes_lists: ClassVar[bool] = True  # of boxes
    has_mean: ClassVar[bool] = True
    input_name: ClassVar[str] = "input"
    size_name: ClassVar[str] = "output_size"

    output_size: tuple[int, int] = (2, 2)

    # --- the package

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments after the size."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "output_size"}

    def box_arguments(self, boxes: Any) -> dict[str, Any]:
        """The arguments of the function that stand for one tensor, or a list, of boxes."""
        return {"boxes": boxes}

    def arguments(self, features: Any, boxes: Any) -> dict[str, Any]:
        """All arguments of the function, in its order."""
        return {
            self.input_name: features, **self.box_arguments(boxes), self.size_name: self.output_size, **self.options
        }  # fmt: skip

    def __call__(self, features: Any, boxes: Any) -> Tensor:
        result: Tensor = self.function(**self.arguments(features, boxes))
        return result

    def layer_arguments(self) -> dict[str, Any]:
        """The arguments of the module's constructor, in its order."""
        return {self.size_name: self.output_size, **self.options}

    def layer_inputs(self, features: Any, boxes: Any) -> dict[str, Any]:
        """The arguments of the module's ``forward``, in its order."""
        return {self.input_name: features, "rois": boxes}

    def layer(self) -> nn.Module:
        return self.module(**self.layer_arguments())

    def scaled(self, scale: Any) -> OperatorCall:
        """The same at another scale, of the finest level if there are several; not of crops."""
        return replace(self, spatial_scale=scale)  # type: ignore[call-arg]

    @property
    def scale_name(self) -> str:
        """The argument that errors of a scale name."""
        return "spatial_scale"

    @property
    def levels(self) -> int:
        return 1

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

    def input_of(self, features: Tensor) -> Any:
        """The first argument of the function for as many channels of the output as the map ``features`` has."""
        return features

    def channels_of(self, channels: list[int]) -> list[int]:
        """The channels of the input that these of the output read."""
        return channels

    def output_shape(self, features: Any, boxes: Tensor) -> tuple[int, ...]:
        return (len(boxes), finest(features).shape[1] // self.groups, *self.output_size)

    def leaves(self, features: Any, boxes: Tensor) -> list[Any]:
        """Both detached; they require a gradient where the operator has one."""
        maps = tree_map(lambda feature_map: feature_map.detach().requires_grad_(), features)
        return [maps, boxes.detach().requires_grad_(self.box_order > 0)]

    def gradients(self, leaves: list[Any], grad: Tensor | None = None, **options: Any) -> list[Tensor]:
        """Gradients of the result (of its sum) with respect to the maps and boxes that require one."""
        out = self(*leaves)
        return list(torch.autograd.grad(out.sum() if grad is None else out, requiring_grad(leaves), grad, **options))

    # --- boxes

    def from_corners(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """Boxes as the operator reads them from boxes (image, x1, y1, x2, y2) in pixels of such a map."""
        return boxes

    @property
    def columns(self) -> int:
        """How many columns a row of boxes has."""
        return next(iter(self.box_sets.values())).shape[1]

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

    def grad_inputs(self, grad: Tensor, features: Any, boxes: Tensor) -> list[Tensor]:
        """``grad_input`` of every map."""
        return [self.grad_input(grad, features, boxes)]

    def forward_terms(self, features: Any, boxes: Tensor) -> Tensor:
        """The weights are not negative, so it is the result for ``|features|``."""
        return self.forward(tree_map(torch.abs, features), boxes)

    def inputs_terms(self, grad: Tensor, features: Any, boxes: Tensor) -> list[Tensor]:
        """``input_terms`` of every map."""
        return [self.input_terms(grad, features, boxes)]

    def input_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        return self.grad_input(grad.abs(), features, boxes)

    def box_terms(self, grad: Tensor, features: Tensor, boxes: Tensor) -> Tensor:
        """At most the sum of |G| over the outputs, times the largest step of the map, times the scale."""
        return (largest_sum(grad, features) * self.options.get("spatial_scale", 1.0)).expand(boxes.shape)

    def expected_gradients(self, grad: Tensor, features: Any, boxes: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Exact gradients and the size of their terms: of every map, and of the boxes where there is one."""
        arguments = grad, features, boxes
        expected = list(zip(self.grad_inputs(*arguments), self.inputs_terms(*arguments), strict=True))
        if self.box_order > 0:
            expected.append((self.grad_boxes(*arguments), self.box_terms(*arguments)))
        return expected

    def lead(self, features: Any, boxes: Tensor) -> float:
        """By how much the chosen samples are larger than the next ones, at least; infinite if none are chosen."""
        if not self.chooses_samples:
            return math.inf
        return reference.maximum(as_array(features), as_array(boxes), self.params(features, boxes)).margin


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

    def input_of(self, features: Tensor) -> Tensor:
        """No two groups are alike."""
        parts = [features.roll((p, 2 * p), (2, 3)) for p in range(self.groups)]
        return torch.stack(parts, 2).flatten(1, 2).contiguous(memory_format=memory_format_of(features))

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
    """``crop_and_resize``; its boxes and box indices together are boxes (image, y1, x1, y2, x2)."""

    function = staticmethod(package.crop_and_resize)
    module = package.CropAndResize
    rules = ("crop_bilinear", "crop_nearest")
    box_sets = CROP_BOX_SETS
    box_format = ""
    takes_lists = False
    size_name = "crop_size"

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

    def box_arguments(self, boxes: Tensor) -> dict[str, Any]:
        return {"boxes": boxes[:, 1:], "box_indices": boxes[:, 0].detach().long()}

    def layer_inputs(self, features: Tensor, boxes: Tensor) -> dict[str, Any]:
        return {self.input_name: features, **self.box_arguments(boxes)}

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

    def lead(self, features: Tensor, boxes: Tensor) -> float:
        return super().lead(features, boxes[:, SWAPPED])


@dataclass(frozen=True)
class RotatedCall(OperatorCall):
    """``roi_align_rotated``; boxes (image, cx, cy, w, h, angle)."""

    function = staticmethod(package.roi_align_rotated)
    module = package.RoIAlignRotated
    oracle = reference_rotated
    oracle_params = reference_rotated.Params
    rules = ("rotated_half_pixel", "rotated_legacy", "rotated_half_pixel_radian", "rotated_legacy_radian")
    box_sets = ROTATED_BOX_SETS
    box_format = "CXCYWHR"
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
        angle = 20.0 - (37.0 * torch.arange(boxes.shape[0], dtype=boxes.dtype)[:, None]).remainder(180.0)
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


class PyramidCall(OperatorCall):
    """Features are a list of maps, the finest first; ``on_one_map`` is the operator on that one."""

    oracle = reference_multiscale
    input_name = "features"

    on_one_map: Any
    scales: tuple[float, ...]
    canonical_scale: float
    canonical_level: float

    @property
    def rule(self) -> str:
        return str(self.on_one_map.rule)

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "scales": list(self.scales)}

    @property
    def levels(self) -> int:
        return len(self.scales)

    @property
    def scale_name(self) -> str:
        return "scales[0]"

    def scaled(self, scale: Any) -> OperatorCall:
        return replace(self, scales=(scale, *(scale * (other / self.scales[0]) for other in self.scales[1:])))

    def input_of(self, features: Tensor) -> list[Tensor]:
        """The map and its even pixels, at every level once more."""
        maps = [features[:, :, :: 2**level, :: 2**level] for level in range(self.levels)]
        return [
            features,
            *(feature_map.contiguous(memory_format=memory_format_of(features)) for feature_map in maps[1:]),
        ]

    @property
    def smooth(self) -> list[list[float]]:
        smooth: list[list[float]] = self.on_one_map.smooth
        return smooth

    def from_corners(self, boxes: Tensor, height: int, width: int) -> Tensor:
        moved: Tensor = self.on_one_map.from_corners(boxes, height, width)
        return moved

    def params(self, features: list[Tensor], boxes: Tensor) -> reference_multiscale.Params:
        return reference_multiscale.Params(
            self.on_one_map.params(features[0], boxes), self.scales, self.options.get("mode", "avg"),
            self.canonical_scale, self.canonical_level,
        )  # fmt: skip

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

    def inputs_terms(self, grad: Tensor, features: list[Tensor], boxes: Tensor) -> list[Tensor]:
        return self.grad_inputs(grad.abs(), features, boxes)

    def box_terms(self, grad: Tensor, features: list[Tensor], boxes: Tensor) -> Tensor:
        """As on one map, of the largest value of any level."""
        largest = max((float(level.detach().abs().max()) for level in features if level.numel()), default=0.0)
        terms: Tensor = self.on_one_map.box_terms(grad, torch.full_like(features[0], largest), boxes)
        return terms

    def levels_of(self, features: list[Tensor], boxes: Tensor) -> list[int]:
        return reference_multiscale.levels(as_array(boxes), self.params(features, boxes))

    def lead(self, features: list[Tensor], boxes: Tensor) -> float:
        leads = [
            self.on_one_map.scaled(self.scales[level]).lead(features[level], boxes[row : row + 1])
            for row, level in enumerate(self.levels_of(features, boxes))
        ]
        return min(leads, default=math.inf)


@dataclass(frozen=True)
class MultiscaleCall(PyramidCall):
    """``multiscale_roi_align``, whose module takes maps by name and boxes in lists as torchvision's does."""

    function = staticmethod(package.multiscale_roi_align)
    module = package.MultiScaleRoIAlign
    rules = RoIAlignCall.rules

    scales: tuple[float, ...] = (1.0, 0.5)
    sampling_ratio: int = -1
    aligned: bool = False
    mode: str = "avg"
    canonical_scale: float = 224.0
    canonical_level: float = 4.0

    @property
    def on_one_map(self) -> RoIAlignCall:
        return RoIAlignCall(self.output_size, self.scales[0], self.sampling_ratio, self.aligned, self.mode)

    def layer_arguments(self) -> dict[str, Any]:
        return {"featmap_names": [str(level) for level in range(self.levels)], **super().layer_arguments()}

    def layer_inputs(self, features: list[Tensor], boxes: Tensor | list[Tensor]) -> dict[str, Any]:
        """Rows are those of one image after the other."""
        images, _, height, width = features[0].shape
        return {
            "x": {str(level): feature_map for level, feature_map in enumerate(features)},
            "boxes": boxes if isinstance(boxes, list) else listed(boxes, images),
            "image_shapes": [(int(height / self.scales[0]), int(width / self.scales[0]))] * images,
        }


@dataclass(frozen=True)
class MultiscaleRotatedCall(PyramidCall):
    """``multiscale_roi_align_rotated``."""

    function = staticmethod(package.multiscale_roi_align_rotated)
    module = package.MultiScaleRoIAlignRotated
    rules = RotatedCall.rules
    box_sets = ROTATED_BOX_SETS
    box_format = RotatedCall.box_format
    box_order = 2

    scales: tuple[float, ...] = (1.0, 0.5)
    sampling_ratio: int = -1
    aligned: bool = True
    clockwise: bool = False
    angle_unit: str = "degree"
    canonical_scale: float = 224.0
    canonical_level: float = 4.0

    @property
    def on_one_map(self) -> RotatedCall:
        ratio, turn = self.sampling_ratio, (self.clockwise, self.angle_unit)
        return RotatedCall(self.output_size, self.scales[0], ratio, self.aligned, *turn)
