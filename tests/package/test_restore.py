"""Does restore_roi_layers lead back to torchvision, and say which layers it leaves?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import roialign_ext
from roialign_ext import (
    MultiScaleRoIAlign,
    PrRoIPool,
    RoIAlign,
    RoIAlignRotated,
    replace_roi_layers,
    restore_roi_layers,
)
from support.detectors import IMAGES, POOLS, pyramid, with_replaced_layers

SINGLE = torch.finfo(torch.float32).eps


@pytest.fixture(params=POOLS)
def models(torchvision: ModuleType, request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """A detector and a copy of it with its layers replaced."""
    return with_replaced_layers(torchvision, request.param)


def test_restoring_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"^restore_roi_layers puts back layers of torchvision, which is not there: "):
        restore_roi_layers(nn.Sequential(RoIAlign(2, 0.5, 2)))


def test_a_detector_there_and_back(models: tuple[nn.Module, nn.Module]) -> None:
    original, model = models
    records = restore_roi_layers(model)
    assert [record.old_class for record in records] == ["roialign_ext.modules.MultiScaleRoIAlign"] * len(records)
    pools = [name for name, layer in original.named_modules() if type(layer).__name__ == "MultiScaleRoIAlign"]
    assert [record.name for record in records] == pools
    assert [type(layer) for layer in model.modules()] == [type(layer) for layer in original.modules()]
    with torch.no_grad():
        before, after = (network.eval()(IMAGES) for network in (original, model))
        torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert repr(model) == repr(original)


@pytest.mark.parametrize(
    ("name", "arguments", "attributes"),
    [
        ("RoIAlign", ((3, 2), 0.5, 0, True), ("output_size", "spatial_scale", "sampling_ratio", "aligned")),
        ("RoIPool", (3, 0.25), ("output_size", "spatial_scale")),
        ("PSRoIAlign", (3, 0.25, 2), ("output_size", "spatial_scale", "sampling_ratio")),
        ("PSRoIPool", (3, 0.25), ("output_size", "spatial_scale")),
        (
            "MultiScaleRoIAlign",
            (["0", "2"], 3, 2),
            ("featmap_names", "output_size", "sampling_ratio", "canonical_scale", "canonical_level", "scales"),
        ),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_layers_there_and_back(
    torchvision: ModuleType, name: str, arguments: tuple[Any, ...], attributes: tuple[str, ...], training: bool
) -> None:
    """Shared, with a hook, in or out of training."""
    old = getattr(torchvision.ops, name)(*arguments).train(training)
    seen: list[nn.Module] = []
    old.register_forward_hook(lambda module, args, result: seen.append(module))
    model = nn.Sequential(old, old)
    replace_roi_layers(model)
    records = restore_roi_layers(model)
    assert [record.name for record in records] == ["0", "1"]
    assert type(model[0]) is type(old)
    assert model[0] is model[1] is records[0].new_layer
    assert model[0].training is training
    assert {name: getattr(model[0], name) for name in attributes} == {name: getattr(old, name) for name in attributes}
    features, boxes, sizes = pyramid()
    single = features["0"].repeat(1, 6, 1, 1)  # a multiple of the bins
    call: tuple[Any, ...] = (features, boxes, sizes) if name == "MultiScaleRoIAlign" else (single, boxes)
    assert torch.equal(model[0](*call), old(*call))
    assert seen == [model[0], old]
    assert restore_roi_layers(model) == []


@pytest.mark.parametrize("scales", [[1 / 4, 1 / 8, 1 / 16, 1 / 32], [0.23, 0.13, 0.0627, 0.04]], ids=str)
def test_scales_are_those_of_a_layer_that_has_run(torchvision: ModuleType, scales: list[float]) -> None:
    ours = MultiScaleRoIAlign(["0", "1", "2", "3"], (3, 2), 2, scales=scales, canonical_scale=56, canonical_level=4.0)
    model = nn.Sequential(ours)
    restore_roi_layers(model)
    features, boxes, sizes = pyramid()
    torch.testing.assert_close(model[0](features, boxes, sizes), ours(features, boxes, sizes), rtol=0, atol=64 * SINGLE)
    assert model[0].scales == scales
    torch.jit.script(model[0])
    (record,) = replace_roi_layers(model)
    assert (record.reason, model[0].scales) == ("", scales)


class OfAProject(RoIAlign):
    """A subclass."""


def patched() -> nn.Module:
    layer = RoIAlign(3, 0.5, 2)
    layer.forward = lambda input, rois: rois  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RoIAlign(3, 0.5, 2, mode="max"), "torchvision's layers have no mode 'max'"),
        (lambda: MultiScaleRoIAlign(["0"], 3, 2, mode="max"), "torchvision's layers have no mode 'max'"),
        (lambda: MultiScaleRoIAlign(["0"], 3, 2, aligned=True), "has no argument aligned"),
        (lambda: MultiScaleRoIAlign(["0", "1"], 3, 2, scales=[0.5, 0.125]), "zeros for boxes of the levels"),
        (lambda: PrRoIPool(3, 0.5), "torchvision has no layer of this kind"),
        (lambda: roialign_ext.RoIWarp(3, 0.5, 2), "torchvision has no layer of this kind"),
        (lambda: roialign_ext.CropAndResize(3), "torchvision has no layer of this kind"),
        (lambda: RoIAlignRotated(3, 0.5, 2), "torchvision has no layer of this kind"),
        (lambda: OfAProject(3, 0.5, 2), "a subclass of roialign_ext.modules.RoIAlign"),
        (patched, "forward was replaced on the instance"),
    ],
)
def test_not_restored_and_said_why(torchvision: ModuleType, make: Callable[[], nn.Module], words: str) -> None:
    layer = make()
    model = nn.Sequential(layer, nn.ReLU())
    (record,) = restore_roi_layers(model)
    assert model[0] is layer
    assert (record.name, record.new_layer) == ("0", None)
    assert words in record.reason


def test_errors_of_restoring(torchvision: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"use torchvision\.ops\.RoIAlign\(output_size=3"):
        restore_roi_layers(RoIAlign(3, 0.5, 2))
    with pytest.raises(TypeError, match=r"^model: expected a torch\.nn\.Module, got list"):
        restore_roi_layers([])  # type: ignore[arg-type]
