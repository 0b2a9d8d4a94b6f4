"""The public operators as modules: each is the function of the same meaning, with the arguments that do not change.

The annotations are in the form that TorchScript reads.
"""

import math
from typing import Optional, Union

import torch.fx
from torch import Tensor, nn

from ._typing import BroadcastingList2
from .functional import (
    crop_and_resize,
    multiscale_roi_align,
    prroi_pool,
    roi_align,
    roi_align_rotated,
    roi_pool,
    roi_warp,
)


class RoIAlign(nn.Module):
    """:func:`roialign_ext.roi_align` as a layer; arguments as there."""

    def __init__(
        self,
        output_size: BroadcastingList2[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.mode = mode

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """``input``: ``[N, C, H, W]``; ``rois``: ``Tensor[K, 5]`` or a list of ``Tensor[L, 4]``, in image pixels."""
        return roi_align(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned, self.mode
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, mode={self.mode!r}"
        )


class PrRoIPool(nn.Module):
    """:func:`roialign_ext.prroi_pool` as a layer; arguments as there."""

    def __init__(self, output_size: BroadcastingList2[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """``input``: ``[N, C, H, W]``; ``rois``: ``Tensor[K, 5]`` or a list of ``Tensor[L, 4]``, in image pixels."""
        return prroi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


class RoIWarp(nn.Module):
    """:func:`roialign_ext.roi_warp` as a layer; arguments as there."""

    def __init__(
        self, output_size: BroadcastingList2[int], spatial_scale: float, sampling_ratio: int, mode: str = "avg"
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.mode = mode

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """``input``: ``[N, C, H, W]``; ``rois``: ``Tensor[K, 5]`` or a list of ``Tensor[L, 4]``, in image pixels."""
        return roi_warp(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.mode)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, mode={self.mode!r}"
        )


class RoIPool(nn.Module):
    """:func:`roialign_ext.roi_pool` as a layer; arguments as there."""

    def __init__(self, output_size: BroadcastingList2[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """``input``: ``[N, C, H, W]``; ``rois``: ``Tensor[K, 5]`` or a list of ``Tensor[L, 4]``, in image pixels."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


class CropAndResize(nn.Module):
    """:func:`roialign_ext.crop_and_resize` as a layer; arguments as there."""

    def __init__(
        self,
        crop_size: BroadcastingList2[int],
        method: str = "bilinear",
        extrapolation_value: float = 0.0,
        samples_per_bin: int = 1,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        self.crop_size = crop_size
        self.method = method
        self.extrapolation_value = float(extrapolation_value)
        self.samples_per_bin = samples_per_bin
        self.mode = mode

    def forward(self, input: Tensor, boxes: Tensor, box_indices: Tensor) -> Tensor:
        """``input``: ``[N, C, H, W]``; ``boxes``: ``Tensor[K, 4]``, normalised; ``box_indices``: ``Tensor[K]``."""
        return crop_and_resize(
            input,
            boxes,
            box_indices,
            self.crop_size,
            self.method,
            self.extrapolation_value,
            self.samples_per_bin,
            self.mode,
        )

    def extra_repr(self) -> str:
        return (
            f"crop_size={self.crop_size}, method={self.method!r}, extrapolation_value={self.extrapolation_value}, "
            f"samples_per_bin={self.samples_per_bin}, mode={self.mode!r}"
        )


class RoIAlignRotated(nn.Module):
    """:func:`roialign_ext.roi_align_rotated` as a layer; arguments as there."""

    def __init__(
        self,
        output_size: BroadcastingList2[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
        clockwise: bool = False,
        angle_unit: str = "degree",
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.clockwise = clockwise
        self.angle_unit = angle_unit

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """``input``: ``[N, C, H, W]``; ``rois``: ``Tensor[K, 6]`` or a list of ``Tensor[L, 5]``, in image pixels."""
        return roi_align_rotated(
            input,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
            self.clockwise,
            self.angle_unit,
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, clockwise={self.clockwise}, "
            f"angle_unit={self.angle_unit!r}"
        )


@torch.fx.wrap
def _select(x: dict[str, Tensor], featmap_names: list[str]) -> list[Tensor]:
    """The maps with these names, in the order of the dictionary."""
    features: list[Tensor] = []
    for name, level in x.items():
        if name in featmap_names:
            features.append(level)
    if len(features) == 0:
        raise ValueError(f"x: expected feature maps named {featmap_names}, got {list(x.keys())}")
    return features


@torch.fx.wrap
def infer_scales(features: list[Tensor], image_shapes: list[tuple[int, int]]) -> list[float]:
    """Map pixels per image pixel of each level: the power of two nearest to map height / largest image height."""
    if len(image_shapes) == 0:
        raise ValueError("image_shapes: expected one (height, width) per image, got an empty list")
    height = 0
    for shape in image_shapes:
        height = max(height, shape[0])
    # TorchScript knows no math.log2
    return [2.0 ** round(math.log(level.size(2) / height) / math.log(2.0)) for level in features]


class MultiScaleRoIAlign(nn.Module):
    """:func:`roialign_ext.multiscale_roi_align` as the pooling layer of a detector with a feature pyramid.

    Arguments and results are those of ``torchvision.ops.MultiScaleRoIAlign``, and the last three.

    Args:
        featmap_names: names of the maps to pool from. They are taken in the order of the dictionary that
            :meth:`forward` is given, finest level first; other names are passed over.
        output_size: bins ``(PH, PW)`` of a box, or one number for both.
        sampling_ratio: samples per bin along each axis; if not positive, as many as the bin is map pixels long,
            rounded up.
        canonical_scale: side, in image pixels, of a square box that belongs to level ``canonical_level``.
        canonical_level: that level; level ``k`` has the scale ``2 ** -k``.
        scales: map pixels per image pixel of each level. By default each call infers them from sizes: the power of two
            nearest to the ratio of the map's height and the largest height among the images.
        aligned: as in :func:`roialign_ext.roi_align`.
        mode: as in :func:`roialign_ext.roi_align`.
    """

    scales: Optional[list[float]]  # noqa: UP045

    def __init__(
        self,
        featmap_names: list[str],
        output_size: BroadcastingList2[int],
        sampling_ratio: int,
        *,
        canonical_scale: float = 224,
        canonical_level: float = 4,
        scales: Optional[list[float]] = None,  # noqa: UP045
        aligned: bool = False,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        self.featmap_names = featmap_names
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = float(canonical_scale)
        self.canonical_level = float(canonical_level)
        self.scales = None if scales is None else [float(scale) for scale in scales]
        self.aligned = aligned
        self.mode = mode

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pools the boxes of all images.

        Args:
            x: feature maps ``[N, C, H_l, W_l]`` by name, finest level first.
            boxes: one ``Tensor[L, 4]`` of rows ``(x1, y1, x2, y2)`` per image, in image pixels.
            image_shapes: ``(height, width)`` of every image before it was padded to the batch, in image pixels.

        Returns:
            ``[K, C, PH, PW]``, K boxes of all images in their order.
        """
        features = _select(x, self.featmap_names)
        scales = self.scales
        if scales is None:
            scales = infer_scales(features, image_shapes)
        return multiscale_roi_align(
            features,
            boxes,
            self.output_size,
            scales,
            self.sampling_ratio,
            self.aligned,
            self.mode,
            self.canonical_scale,
            self.canonical_level,
        )

    def extra_repr(self) -> str:
        return (
            f"featmap_names={self.featmap_names}, output_size={self.output_size}, "
            f"sampling_ratio={self.sampling_ratio}, canonical_scale={self.canonical_scale:g}, "
            f"canonical_level={self.canonical_level:g}, scales={self.scales}, aligned={self.aligned}, "
            f"mode={self.mode!r}"
        )
