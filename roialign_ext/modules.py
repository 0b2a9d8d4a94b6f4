"""The public operators as modules: each is the function of the same meaning, with the arguments that do not change.

Constructors refuse what the functions would refuse, with the same errors, as far as it can be known without tensors.
The annotations are in the form that TorchScript reads.
"""

import sys
import warnings
from typing import Any, Optional, Union

import torch.fx
from torch import Tensor, nn

from ._checks import (
    as_integer,
    as_number,
    as_pair,
    check_finite,
    check_flag,
    check_image_shapes,
    check_named_maps,
    check_names,
    check_scale,
    check_scales,
    check_size,
    check_spatial_scale,
    check_word,
)
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


def _beyond(**arguments: tuple[Any, Any]) -> str:
    """What torchvision's layer does not show, in its manner, where the value differs from the default."""
    return "".join(f", {name}={value!r}" for name, (value, default) in arguments.items() if value != default)


class RoIAlign(nn.Module):
    """:func:`roialign_ext.roi_align` as a layer.

    Arguments, results and errors as there, but that ``spatial_scale`` and ``sampling_ratio`` have no default and
    the boxes are called ``rois`` (errors say ``boxes``). The constructor checks its arguments like the function.
    """

    def __init__(
        self,
        output_size: BroadcastingList2[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        self.output_size = check_size("output_size", output_size)
        self.spatial_scale = check_spatial_scale(spatial_scale)
        self.sampling_ratio = as_integer("sampling_ratio", sampling_ratio)
        check_flag("aligned", aligned)
        self.aligned = aligned
        check_word("mode", mode, ("avg", "max"))
        self.mode = mode

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """``input``: ``[N, C, H, W]``; ``rois``: ``Tensor[K, 5]`` or a list of ``Tensor[L, 4]``, in image pixels.

        Floating-point tensors, and a result ``[K, C, PH, PW]`` in the dtype of ``input``, as the function has it.
        """
        return roi_align(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned, self.mode
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}{_beyond(mode=(self.mode, 'avg'))}"
        )


class PrRoIPool(nn.Module):
    """:func:`roialign_ext.prroi_pool` as a layer.

    Arguments, results and errors as there, but that ``spatial_scale`` has no default and
    the boxes are called ``rois`` (errors say ``boxes``). The constructor checks its arguments like the function.
    """

    def __init__(self, output_size: BroadcastingList2[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = check_size("output_size", output_size)
        self.spatial_scale = check_spatial_scale(spatial_scale)

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """``input``: ``[N, C, H, W]``; ``rois``: ``Tensor[K, 5]`` or a list of ``Tensor[L, 4]``, in image pixels.

        Floating-point tensors, and a result ``[K, C, PH, PW]`` in the dtype of ``input``, as the function has it.
        """
        return prroi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


class RoIWarp(nn.Module):
    """:func:`roialign_ext.roi_warp` as a layer.

    Arguments, results and errors as there, but that ``spatial_scale`` and ``sampling_ratio`` have no default and
    the boxes are called ``rois`` (errors say ``boxes``). The constructor checks its arguments like the function.
    """

    def __init__(
        self, output_size: BroadcastingList2[int], spatial_scale: float, sampling_ratio: int, mode: str = "avg"
    ) -> None:
        super().__init__()
        self.output_size = check_size("output_size", output_size)
        self.spatial_scale = check_spatial_scale(spatial_scale)
        self.sampling_ratio = as_integer("sampling_ratio", sampling_ratio)
        check_word("mode", mode, ("avg", "max"))
        self.mode = mode

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """``input``: ``[N, C, H, W]``; ``rois``: ``Tensor[K, 5]`` or a list of ``Tensor[L, 4]``, in image pixels.

        Floating-point tensors, and a result ``[K, C, PH, PW]`` in the dtype of ``input``, as the function has it.
        """
        return roi_warp(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.mode)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}{_beyond(mode=(self.mode, 'avg'))}"
        )


class RoIPool(nn.Module):
    """:func:`roialign_ext.roi_pool` as a layer.

    Arguments, results and errors as there, but that ``spatial_scale`` has no default and
    the boxes are called ``rois`` (errors say ``boxes``). The constructor checks its arguments like the function.
    """

    def __init__(self, output_size: BroadcastingList2[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = check_size("output_size", output_size)
        self.spatial_scale = check_spatial_scale(spatial_scale)

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """``input``: ``[N, C, H, W]``; ``rois``: ``Tensor[K, 5]`` or a list of ``Tensor[L, 4]``, in image pixels.

        Floating-point tensors, and a result ``[K, C, PH, PW]`` in the dtype of ``input``, as the function has it.
        """
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


class CropAndResize(nn.Module):
    """:func:`roialign_ext.crop_and_resize` as a layer.

    Arguments, results and errors as there. The constructor checks its arguments like the function.
    """

    def __init__(
        self,
        crop_size: BroadcastingList2[int],
        method: str = "bilinear",
        extrapolation_value: float = 0.0,
        samples_per_bin: int = 1,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        self.crop_size = check_size("crop_size", crop_size)
        check_word("method", method, ("bilinear", "nearest"))
        self.method = method
        self.extrapolation_value = as_number("extrapolation_value", extrapolation_value)
        self.samples_per_bin = as_integer("samples_per_bin", samples_per_bin)
        if self.samples_per_bin < 1:
            raise ValueError(f"samples_per_bin: expected a positive number, got {samples_per_bin}")
        check_word("mode", mode, ("avg", "max"))
        self.mode = mode

    def forward(self, input: Tensor, boxes: Tensor, box_indices: Tensor) -> Tensor:
        """``input``: ``[N, C, H, W]``; ``boxes``: ``Tensor[K, 4]``, normalised; ``box_indices``: ``Tensor[K]``.

        Floating-point tensors but for the indices, which are integers, and a result ``[K, C, PH, PW]`` in the dtype of
        ``input``, as the function has it.
        """
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
    """:func:`roialign_ext.roi_align_rotated` as a layer.

    Arguments, results and errors as there, but that ``spatial_scale`` and ``sampling_ratio`` have no default and
    the boxes are called ``rois`` (errors say ``boxes``). The constructor checks its arguments like the function.
    """

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
        self.output_size = check_size("output_size", output_size)
        self.spatial_scale = check_spatial_scale(spatial_scale, columns=6)
        self.sampling_ratio = as_integer("sampling_ratio", sampling_ratio)
        check_flag("aligned", aligned)
        self.aligned = aligned
        check_flag("clockwise", clockwise)
        self.clockwise = clockwise
        check_word("angle_unit", angle_unit, ("degree", "radian"))
        self.angle_unit = angle_unit

    def forward(self, input: Tensor, rois: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
        """``input``: ``[N, C, H, W]``; ``rois``: ``Tensor[K, 6]`` or a list of ``Tensor[L, 5]``, in image pixels.

        Floating-point tensors, and a result ``[K, C, PH, PW]`` in the dtype of ``input``, as the function has it.
        """
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
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        check_named_maps("x", x, featmap_names)
    features: list[Tensor] = []
    for name, level in x.items():
        if name in featmap_names:
            features.append(level)
    if len(features) == 0:
        raise ValueError(f"x: expected feature maps named {featmap_names}, got {list(x.keys())}")
    return features


def _exponent(pixels: int, of: int) -> int:
    """Of the power of two nearest to a ratio, by comparisons, which a compiled graph keeps as conditions."""
    exponent = 0
    while 2 * pixels * pixels < of * of:
        pixels, exponent = 2 * pixels, exponent - 1
    while pixels * pixels > 2 * of * of:
        of, exponent = 2 * of, exponent + 1
    return exponent


def _poor_guess(finest: Tensor, scale: float, height: int, width: int) -> str:
    """Why the inferred scale of the finest level may be wrong; empty where nothing speaks against it.

    Padding enlarges all levels by the same share, and the finest is rounded least. Up to a tenth more than a power of
    two is padding to a multiple of 32, of images from 310 pixels on.
    """
    by_height, by_width = finest.size(2) / height / scale, finest.size(3) / width / scale
    why = ""
    if _exponent(finest.size(2), height) != _exponent(finest.size(3), width):
        why = "the two axes suggest different powers of two"
    elif min(by_height, by_width) > 1.1 or max(by_height, by_width) < 1 / 1.1:
        why = "the ratio is far from a power of two"
    if why == "":
        return why
    return (
        f"MultiScaleRoIAlign: the scale of level 0 is taken for {scale}, from a map of {finest.size(2)} x "
        f"{finest.size(3)} pixels and images of up to {height} x {width}, but {why}. Give the layer scales=, "
        "1 / stride of each level, to say it for certain"
    )


@torch.fx.wrap
def infer_scales(features: list[Tensor], image_shapes: list[tuple[int, int]], warned: list[bool]) -> list[float]:
    """Map pixels per image pixel of each level: the power of two nearest to the ratio of map and largest image.

    It is the smaller ratio of the two axes, since padding, which ``image_shapes`` do not know, makes ratios larger. A
    guess that may be wrong warns where ``warned`` is empty, and is noted there.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        check_image_shapes("image_shapes", image_shapes)
    if len(image_shapes) == 0:
        raise ValueError("image_shapes: expected one (height, width) per image, got an empty list")
    height, width = 0, 0
    for shape in image_shapes:
        height, width = max(height, shape[0]), max(width, shape[1])
    if height < 1 or width < 1:
        raise ValueError(f"image_shapes: expected heights and widths above 0 to infer scales from, got {image_shapes}")
    for i, level in enumerate(features):
        if level.size(2) < 1 or level.size(3) < 1:
            raise ValueError(
                f"x: expected maps of a height and width above 0 to infer scales from, got shape {list(level.shape)} "
                f"at level {i}"
            )
    scales = [2.0 ** min(_exponent(level.size(2), height), _exponent(level.size(3), width)) for level in features]
    quiet = len(warned) > 0
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        # The comparisons would become conditions of a compiled graph.
        quiet = quiet or torch.compiler.is_compiling()
    if not quiet:
        doubt = _poor_guess(features[0], scales[0], height, width)
        if doubt != "":
            warned.append(True)
            warnings.warn(doubt, stacklevel=2)
    return scales


class _AwaitsTorchvision(nn.Module):
    """The base of :class:`MultiScaleRoIAlign` until torchvision's own layer can be its base.

    torchvision's detectors refuse a pooler that is no instance of torchvision's class. That class may be imported after
    the layer was made, or never, and is not to be imported from here. But ``isinstance`` asks an object of another type
    for its ``__class__``: the first time it does so with torchvision's class there, that class takes the place of this
    one among the bases. From then on the layer is a subclass like any other, and nothing of this is left.
    """

    @property
    def __class__(self) -> Any:
        theirs = getattr(sys.modules.get("torchvision.ops.poolers"), "MultiScaleRoIAlign", None)
        if theirs is None:
            return type(self)
        MultiScaleRoIAlign.__bases__ = (theirs,)
        # The isinstance under way does not look at the bases again where it gets the type that it knows.
        return type(type(self).__name__, (type(self),), {"__module__": type(self).__module__})

    @__class__.setter
    def __class__(self, value: type) -> None:  # torch.nn.utils.parametrize and FSDP assign one
        object.__dict__["__class__"].__set__(self, value)


class MultiScaleRoIAlign(_AwaitsTorchvision):
    """:func:`roialign_ext.multiscale_roi_align` as the pooling layer of a detector with a feature pyramid.

    Arguments and results are those of ``torchvision.ops.MultiScaleRoIAlign``, and the last three. torchvision's
    detectors take it: where torchvision is imported, it is an instance of that class.

    Args:
        featmap_names: names of the maps to pool from. They are taken in the order of the dictionary that
            :meth:`forward` is given, finest level first. Maps with other names are passed over; so is a name that no
            map has, as long as one of them has a map.
        output_size: bins ``(PH, PW)`` of a box, or one number for both.
        sampling_ratio: samples per bin along each axis, at most 2**31 - 1 in all bins together; if not positive, as
            many as the bin is map pixels long, rounded up.
        canonical_scale: side, in image pixels, of a square box that belongs to level ``canonical_level``.
        canonical_level: that level; level ``k`` has the scale ``2 ** -k``.
        scales: map pixels per image pixel of each level, 1 / stride. By default each call infers them from sizes: the
            power of two nearest to the ratio of the map's size and the largest size among the images, along the axis
            where the ratio is smaller, because padding makes it larger. A layer warns once, but not in a compiled
            graph, where the axes suggest different powers or the ratio is far from one, as for a stride of 14. Give
            them for ``torch.export`` with dynamic H or W: an inferred one fixes the sizes of the graph ("Constraints
            violated").
        aligned: as in :func:`roialign_ext.roi_align`.
        mode: as in :func:`roialign_ext.roi_align`.

    Raises:
        TypeError: on construction or in a call, arguments of other types.
        ValueError: on construction or in a call, values, shapes and levels that the arguments do not allow; no map with
            one of the names; sizes of 0 from which no scale can be inferred.
        BoxShapeError, IndexError: in a call, as in :func:`roialign_ext.multiscale_roi_align`.

    Source: as of :func:`roialign_ext.multiscale_roi_align`.
    """

    scales: Optional[list[float]]  # noqa: UP045
    _warned: list[bool]

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
        nn.Module.__init__(self)  # not that of torchvision's layer, where it is the base
        self.featmap_names = check_names("featmap_names", featmap_names)
        self.output_size = tuple(as_pair("output_size", check_size("output_size", output_size)))
        self.sampling_ratio = as_integer("sampling_ratio", sampling_ratio)
        self.canonical_scale = check_scale("canonical_scale", canonical_scale)
        self.canonical_level = check_finite("canonical_level", canonical_level)
        self.scales = None if scales is None else check_scales("scales", scales)
        self._warned = []
        check_flag("aligned", aligned)
        self.aligned = aligned
        check_word("mode", mode, ("avg", "max"))
        self.mode = mode

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pools the boxes of all images.

        Args:
            x: feature maps ``[N, C, H_l, W_l]`` by name, finest level first; of one dtype, float16, bfloat16, float32
                or float64. Under autocast too: levels of several dtypes have to be cast to one.
            boxes: one ``Tensor[L, 4]`` of rows ``(x1, y1, x2, y2)`` per image, in image pixels.
            image_shapes: ``(height, width)`` of every image before it was padded to the batch, in image pixels.

        Returns:
            ``[K, C, PH, PW]`` in the dtype of the maps, K boxes of all images in their order.
        """
        features = _select(x, self.featmap_names)
        scales = self.scales
        if scales is None:
            scales = infer_scales(features, image_shapes, self._warned)
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

    def __repr__(self) -> str:
        # Spelled out, since torchvision's own class, which may come to stand in between, has one too.
        beyond = _beyond(
            canonical_scale=(self.canonical_scale, 224),
            canonical_level=(self.canonical_level, 4),
            scales=(self.scales, None),
            aligned=(self.aligned, False),
            mode=(self.mode, "avg"),
        )
        return (
            f"{type(self).__name__}(featmap_names={self.featmap_names}, output_size={self.output_size}, "
            f"sampling_ratio={self.sampling_ratio}{beyond})"
        )
