"""Replaces the RoI layers of torchvision, detectron2 and mmcv in a model by those of this package, and restores
torchvision's.

Layers are recognised by the path of their class. So none of these libraries is imported, except torchvision to restore
its layers. docs/migration.md lists the arguments and the differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from .modules import MultiScaleRoIAlign, PrRoIPool, PSRoIAlign, PSRoIPool, RoIAlign, RoIAlignRotated, RoIPool


@dataclass(frozen=True)
class LayerReplacement:
    """Outcome of :func:`replace_roi_layers` or :func:`restore_roi_layers` for one RoI layer; ``str()`` is one line."""

    name: str
    """Name of the layer in the model, as ``model.get_submodule`` takes it."""
    old_class: str
    """Path of the class found there."""
    new_layer: nn.Module | None
    """The layer that took its place; None if the old layer was left alone."""
    reason: str = ""
    """Why the layer was left alone; empty if it was replaced or restored."""

    def __str__(self) -> str:
        outcome = f"left alone: {self.reason}" if self.new_layer is None else f"-> {self.new_layer}"
        return f"{self.name or 'the model itself'}: {self.old_class} {outcome}"


class _LeftAloneError(Exception):
    """No layer of the other library is certain to give the same numbers. The message is the reason."""


def _roi_align(layer: Any) -> nn.Module:
    return RoIAlign(layer.output_size, layer.spatial_scale, layer.sampling_ratio, aligned=bool(layer.aligned))


def _roi_pool(layer: Any) -> nn.Module:
    return RoIPool(layer.output_size, layer.spatial_scale)


def _ps_roi_align(layer: Any) -> nn.Module:
    return PSRoIAlign(layer.output_size, layer.spatial_scale, layer.sampling_ratio)


def _ps_roi_pool(layer: Any) -> nn.Module:
    return PSRoIPool(layer.output_size, layer.spatial_scale)


def _torchvision_multiscale(layer: Any) -> nn.Module:
    # torchvision infers both in the first forward pass and keeps them. Before that they are None.
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
    # With use_torchvision the layer calls torchvision's operator, which always averages.
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
    raise _LeftAloneError("mmcv's RoIPool rounds no box and ends it one image pixel later, unlike any operator here")


def _prroi_pool(layer: Any) -> nn.Module:
    return PrRoIPool(layer.output_size, layer.spatial_scale)


_COUNTERPARTS: dict[str, Callable[[Any], nn.Module]] = {
    "torchvision.ops.poolers.MultiScaleRoIAlign": _torchvision_multiscale,
    "torchvision.ops.roi_align.RoIAlign": _roi_align,
    "torchvision.ops.roi_pool.RoIPool": _roi_pool,
    "torchvision.ops.ps_roi_align.PSRoIAlign": _ps_roi_align,
    "torchvision.ops.ps_roi_pool.PSRoIPool": _ps_roi_pool,
    "detectron2.layers.roi_align.ROIAlign": _roi_align,
    "detectron2.layers.roi_align_rotated.ROIAlignRotated": _detectron2_rotated,
    "mmcv.ops.roi_align.RoIAlign": _mmcv_roi_align,
    "mmcv.ops.roi_align_rotated.RoIAlignRotated": _mmcv_rotated,
    "mmcv.ops.roi_pool.RoIPool": _mmcv_roi_pool,
    "mmcv.ops.prroi_pool.PrRoIPool": _prroi_pool,
}
"""Class path -> function that makes the layer with the same numbers. It raises _LeftAloneError if there is none."""


def _restored_roi_align(layer: RoIAlign) -> nn.Module:
    from torchvision import ops

    _check_average(layer.mode)
    return ops.RoIAlign(layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned)  # type: ignore[no-any-return]


def _restored_roi_pool(layer: RoIPool) -> nn.Module:
    from torchvision import ops

    return ops.RoIPool(layer.output_size, layer.spatial_scale)  # type: ignore[no-any-return]


def _restored_ps_roi_align(layer: PSRoIAlign) -> nn.Module:
    from torchvision import ops

    return ops.PSRoIAlign(layer.output_size, layer.spatial_scale, layer.sampling_ratio)  # type: ignore[no-any-return]


def _restored_ps_roi_pool(layer: PSRoIPool) -> nn.Module:
    from torchvision import ops

    return ops.PSRoIPool(layer.output_size, layer.spatial_scale)  # type: ignore[no-any-return]


def _restored_multiscale(layer: MultiScaleRoIAlign) -> nn.Module:
    from torchvision import ops

    _check_average(layer.mode)
    if layer.aligned:
        raise _LeftAloneError("torchvision's MultiScaleRoIAlign has no argument aligned")
    # torchvision annotates these two as ints, and TorchScript enforces the annotation.
    canonical_scale, canonical_level = (
        int(number) if float(number).is_integer() else number
        for number in (layer.canonical_scale, layer.canonical_level)
    )
    restored = ops.MultiScaleRoIAlign(
        layer.featmap_names,
        layer.output_size,
        layer.sampling_ratio,
        canonical_scale=canonical_scale,
        canonical_level=canonical_level,
    )
    if layer.scales is not None:
        finest, coarsest = (math.trunc(-math.log2(scale)) for scale in (layer.scales[0], layer.scales[-1]))
        if coarsest - finest >= len(layer.scales):
            raise _LeftAloneError("torchvision returns zeros for boxes of the levels that its scales leave out")
        # Otherwise the first forward pass of torchvision's layer would infer both from sizes.
        restored.scales = list(layer.scales)
        restored.map_levels = ops.poolers.initLevelMapper(
            finest, coarsest, canonical_scale=canonical_scale, canonical_level=canonical_level
        )
    return restored  # type: ignore[no-any-return]


def _check_average(mode: str) -> None:
    if mode != "avg":
        raise _LeftAloneError(f"torchvision's layers have no mode {mode!r}")


def _not_restored(layer: nn.Module) -> nn.Module:
    raise _LeftAloneError("torchvision has no layer of this kind")


_ORIGINALS: dict[str, Callable[[Any], nn.Module]] = {
    "roialign_ext.modules.RoIAlign": _restored_roi_align,
    "roialign_ext.modules.RoIPool": _restored_roi_pool,
    "roialign_ext.modules.PSRoIAlign": _restored_ps_roi_align,
    "roialign_ext.modules.PSRoIPool": _restored_ps_roi_pool,
    "roialign_ext.modules.MultiScaleRoIAlign": _restored_multiscale,
    "roialign_ext.modules.PrRoIPool": _not_restored,
    "roialign_ext.modules.RoIWarp": _not_restored,
    "roialign_ext.modules.CropAndResize": _not_restored,
    "roialign_ext.modules.RoIAlignRotated": _not_restored,
    "roialign_ext.modules.MultiScaleRoIAlignRotated": _not_restored,
}
"""Class path -> function that makes torchvision's layer."""


def _class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _counterpart(layer: nn.Module, counterparts: Mapping[str, Callable[[Any], nn.Module]]) -> nn.Module | None:
    """The replacement of ``layer``, or None if it is not a RoI layer. Raises _LeftAloneError."""
    if counterparts is _COUNTERPARTS and isinstance(layer, MultiScaleRoIAlign):
        return None  # it may be a subclass of torchvision's layer, but needs no replacement
    path, *bases = (_class_path(cls) for cls in type(layer).__mro__)
    build = counterparts.get(path)
    if build is None:
        known = next((base for base in bases if base in counterparts), None)
        if known is not None:
            raise _LeftAloneError(f"it is a subclass of {known}, and what it changes is unknown")
        return None
    if "forward" in vars(layer):
        raise _LeftAloneError("its forward was replaced on the instance")
    try:
        new = build(layer)
    except AttributeError as error:
        raise _LeftAloneError(f"it is of a release with other attributes ({error})") from error
    # The new layer takes all that nn.Module itself stores: training flag, hooks with their handles, registrations.
    for name in vars(nn.Module()):
        vars(new)[name] = vars(layer)[name]
    return new


def replace_roi_layers(model: nn.Module) -> list[LayerReplacement]:
    """Replaces the RoI layers of torchvision, detectron2 and mmcv in ``model``, in place, by those of this package.

    The new layers give the same numbers up to rounding, and take and return the same shapes. docs/migration.md lists
    additions and differences. Hooks, the training flag and the sharing of one layer between several places are kept.
    Parameters, ``state_dict`` and everything else in the model stay as they are.

    A RoI layer is left alone if its replacement might give other numbers: an instance of a subclass, a layer of a
    release with other attributes, or a layer with a ``forward`` of its own. mmcv's ``RoIPool`` is left alone because it
    follows another definition.

    Layers are found as registered submodules, at any depth. Layers held in another way, such as in a list, and calls of
    functions such as ``torchvision.ops.roi_align`` are not found.

    Args:
        model: any module that contains RoI layers, in eager mode (layers inside a scripted module are not recognised).

    Returns:
        One record per place of a RoI layer, in the order of ``model.named_modules()``: the layer that replaced it, or
        the reason why it was left alone. Empty if there are no RoI layers.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: ``model`` is itself a RoI layer and cannot be replaced in place; the message shows the layer to use
            instead.
    """
    return _swap(model, _COUNTERPARTS, "roialign_ext")


def restore_roi_layers(model: nn.Module) -> list[LayerReplacement]:
    """Replaces the RoI layers of this package in ``model``, in place, by those of torchvision.

    This is the inverse of :func:`replace_roi_layers`, for tools that know only ``torchvision::roi_align``. Layers that
    replaced those of detectron2 or mmcv become torchvision's too, if these give the same numbers. ``scales`` of a
    ``MultiScaleRoIAlign`` become the ``scales`` and ``map_levels`` of torchvision's layer. Hooks, the training flag and
    the sharing of one layer between several places are kept. Parameters and ``state_dict`` do not change.

    A layer without a counterpart in torchvision is left alone:

    - ``PrRoIPool``, ``RoIWarp``, ``CropAndResize``, ``RoIAlignRotated`` and ``MultiScaleRoIAlignRotated``;
    - a layer of mode ``"max"``;
    - a ``MultiScaleRoIAlign`` with ``aligned=True``, or with ``scales`` that omit a level;
    - an instance of a subclass, or a layer with a ``forward`` of its own.

    Args:
        model: any module that contains RoI layers of this package, in eager mode.

    Returns:
        One record per place of such a layer, in the order of ``model.named_modules()``: torchvision's layer, or the
        reason why it was left alone. Empty if there are none.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: ``model`` is itself a RoI layer and cannot be replaced in place; the message shows the layer to use
            instead.
        ImportError: torchvision is not installed.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError as error:
        raise ImportError(f"restore_roi_layers puts back layers of torchvision, which is not there: {error}") from error
    return _swap(model, _ORIGINALS, "torchvision.ops")


def _swap(
    model: nn.Module, counterparts: Mapping[str, Callable[[Any], nn.Module]], library: str
) -> list[LayerReplacement]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    records: list[LayerReplacement] = []
    new_layers: dict[nn.Module, nn.Module] = {}
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        old_class = _class_path(type(layer))
        try:
            new = new_layers[layer] if layer in new_layers else _counterpart(layer, counterparts)
        except _LeftAloneError as reason:
            records.append(LayerReplacement(name, old_class, None, str(reason)))
            continue
        if new is None:
            continue
        if layer is model:
            raise ValueError(
                f"model: expected a module that contains RoI layers, got a {old_class} itself, which cannot be "
                f"replaced in place: use {library}.{new}"
            )
        new_layers[layer] = new
        records.append(LayerReplacement(name, old_class, new))
    # The model changes only after all new layers exist.
    for record in records:
        if record.new_layer is not None:
            parent, _, attribute = record.name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, record.new_layer)
    return records
