"""Swaps the RoI layers of torchvision, detectron2 and mmcv in a model for those of this package.

Layers are recognised by the path of their class, so none of these libraries is imported. Which argument becomes which,
and what differs, is in docs/migration.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from .modules import MultiScaleRoIAlign, PrRoIPool, RoIAlign, RoIAlignRotated, RoIPool


@dataclass(frozen=True)
class LayerReplacement:
    """What :func:`replace_roi_layers` did about one RoI layer; ``str()`` says it in one line."""

    name: str
    """Where the layer is in the model, as ``model.get_submodule`` takes it."""
    old_class: str
    """Path of the class that was found there."""
    new_layer: nn.Module | None
    """The layer that is there now; None if the old one was left alone."""
    reason: str = ""
    """Why the layer was left alone; empty if it was replaced."""

    def __str__(self) -> str:
        outcome = f"left alone: {self.reason}" if self.new_layer is None else f"-> {self.new_layer}"
        return f"{self.name or 'the model itself'}: {self.old_class} {outcome}"


class _LeftAloneError(Exception):
    """A layer whose numbers this package cannot promise to repeat; the message is the reason."""


def _roi_align(layer: Any) -> nn.Module:
    return RoIAlign(layer.output_size, layer.spatial_scale, layer.sampling_ratio, aligned=bool(layer.aligned))


def _roi_pool(layer: Any) -> nn.Module:
    return RoIPool(layer.output_size, layer.spatial_scale)


def _torchvision_multiscale(layer: Any) -> nn.Module:
    # Both are None until the first forward, which infers them for all that follow.
    scales, mapper = layer.scales, layer.map_levels
    if scales is None or mapper is None:
        scales = None
    elif (mapper.s0, mapper.lvl0, mapper.eps) != (layer.canonical_scale, layer.canonical_level, 1e-6):
        raise _LeftAloneError("its map_levels was not made from its canonical_scale and canonical_level")
    return MultiScaleRoIAlign(
        layer.featmap_names,
        layer.output_size,
        layer.sampling_ratio,
        canonical_scale=layer.canonical_scale,
        canonical_level=layer.canonical_level,
        scales=scales,
    )


def _detectron2_rotated(layer: Any) -> nn.Module:
    return RoIAlignRotated(layer.output_size, layer.spatial_scale, layer.sampling_ratio)


def _mmcv_roi_align(layer: Any) -> nn.Module:
    # torchvision's operator, which this layer may be told to use, has no mode: it averages.
    mode = "avg" if layer.use_torchvision else layer.pool_mode
    if mode not in ("avg", "max"):
        raise _LeftAloneError(f"its pool_mode is {mode!r}, neither 'avg' nor 'max'")
    return RoIAlign(
        layer.output_size, layer.spatial_scale, layer.sampling_ratio, aligned=bool(layer.aligned), mode=mode
    )


def _mmcv_rotated(layer: Any) -> nn.Module:
    return RoIAlignRotated(
        layer.output_size,
        layer.spatial_scale,
        layer.sampling_ratio,
        aligned=bool(layer.aligned),
        clockwise=bool(layer.clockwise),
        angle_unit="radian",
    )


def _mmcv_roi_pool(layer: Any) -> nn.Module:
    raise _LeftAloneError("mmcv's RoIPool rounds no box and ends it one image pixel later, as no operator here does")


def _prroi_pool(layer: Any) -> nn.Module:
    return PrRoIPool(layer.output_size, layer.spatial_scale)


_COUNTERPARTS: dict[str, Callable[[Any], nn.Module]] = {
    "torchvision.ops.poolers.MultiScaleRoIAlign": _torchvision_multiscale,
    "torchvision.ops.roi_align.RoIAlign": _roi_align,
    "torchvision.ops.roi_pool.RoIPool": _roi_pool,
    "detectron2.layers.roi_align.ROIAlign": _roi_align,
    "detectron2.layers.roi_align_rotated.ROIAlignRotated": _detectron2_rotated,
    "mmcv.ops.roi_align.RoIAlign": _mmcv_roi_align,
    "mmcv.ops.roi_align_rotated.RoIAlignRotated": _mmcv_rotated,
    "mmcv.ops.roi_pool.RoIPool": _mmcv_roi_pool,
    "mmcv.ops.prroi_pool.PrRoIPool": _prroi_pool,
}
"""Class path -> what builds the layer that computes the same; it raises _LeftAloneError where there is none."""


def _class_path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _counterpart(layer: nn.Module) -> nn.Module | None:
    """The layer to put in the place of ``layer``, None if it is no RoI layer; raises _LeftAloneError."""
    if isinstance(layer, MultiScaleRoIAlign):  # a subclass of torchvision's where that is imported
        return None
    path, *bases = (_class_path(kind) for kind in type(layer).__mro__)
    build = _COUNTERPARTS.get(path)
    if build is None:
        known = next((base for base in bases if base in _COUNTERPARTS), None)
        if known is not None:
            raise _LeftAloneError(f"it is a subclass of {known}, and what it changes is unknown")
        return None
    if "forward" in vars(layer):
        raise _LeftAloneError("its forward was replaced on the instance")
    try:
        new = build(layer)
    except AttributeError as error:
        raise _LeftAloneError(f"it is of a release with other attributes ({error})") from error
    # All that nn.Module itself keeps is handed over: training flag, hooks with their handles, what was registered.
    for name in vars(nn.Module()):
        vars(new)[name] = vars(layer)[name]
    return new


def replace_roi_layers(model: nn.Module) -> list[LayerReplacement]:
    """Swaps the RoI layers of torchvision, detectron2 and mmcv in ``model``, in place, for those of this package.

    The new layers compute the same numbers up to rounding, and take and return the same shapes; what they do beyond or
    otherwise is listed in docs/migration.md. Hooks, the training flag and the sharing of one layer between several
    places are kept, parameters and ``state_dict`` are not touched. Everything that is not a RoI layer stays as it is,
    and so does a RoI layer whose numbers are not certain to be repeated: of a subclass, of a release with other
    attributes, with a ``forward`` of its own, and mmcv's RoIPool, which follows another definition.

    Layers are found as registered submodules, at any depth. One that the model holds otherwise, say in a list, and
    calls of functions such as ``torchvision.ops.roi_align`` are not found.

    Args:
        model: any module that contains RoI layers, in eager mode (layers inside a scripted module are not recognised).

    Returns:
        One record per place of a RoI layer, in the order of ``model.named_modules()``: what was replaced by what, and
        what was left alone and why. Empty if there are no RoI layers.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: ``model`` is itself a RoI layer, so that there is no place in it where another could be put; the
            message shows the layer to use instead.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    records: list[LayerReplacement] = []
    new_layers: dict[nn.Module, nn.Module] = {}
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        old_class = _class_path(type(layer))
        try:
            new = new_layers[layer] if layer in new_layers else _counterpart(layer)
        except _LeftAloneError as reason:
            records.append(LayerReplacement(name, old_class, None, str(reason)))
            continue
        if new is None:
            continue
        if layer is model:
            raise ValueError(
                f"model: expected a module that contains RoI layers, got a {old_class} itself, which cannot be "
                f"replaced in place: use roialign_ext.{new}"
            )
        new_layers[layer] = new
        records.append(LayerReplacement(name, old_class, new))
    # Nothing is touched before all new layers exist.
    for record in records:
        if record.new_layer is not None:
            parent, _, attribute = record.name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, record.new_layer)
    return records
