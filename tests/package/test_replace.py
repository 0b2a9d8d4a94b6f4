"""Does replace_roi_layers give each layer of another library the one that equals it, and leave the others alone?

The layers are stand-ins with the class paths and attributes of the libraries.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import roialign_ext
from roialign_ext import (
    LayerReplacement,
    MultiScaleRoIAlign,
    PrRoIPool,
    PSRoIAlign,
    PSRoIPool,
    RoIAlign,
    RoIAlignRotated,
    RoIPool,
    replace_roi_layers,
)
from support.inputs import all_boxes, random_tensor

# What the constructors of the libraries keep, under the names of their own attributes.
ROI_ALIGN_PATHS = ("torchvision.ops.roi_align.RoIAlign", "detectron2.layers.roi_align.ROIAlign")
D2_ROTATED = "detectron2.layers.roi_align_rotated.ROIAlignRotated"
MMCV_ROI_ALIGN = "mmcv.ops.roi_align.RoIAlign"
MMCV_ROTATED = "mmcv.ops.roi_align_rotated.RoIAlignRotated"
MMCV_ROI_POOL = "mmcv.ops.roi_pool.RoIPool"
MMCV_PRROI_POOL = "mmcv.ops.prroi_pool.PrRoIPool"
SHAPE = {"output_size": (3, 2), "spatial_scale": 0.5}
MMCV_ATTRIBUTES = {**SHAPE, "sampling_ratio": 0, "pool_mode": "avg", "aligned": True, "use_torchvision": False}


def stand_in(path: str, **attributes: Any) -> nn.Module:
    """A layer whose class has the path of a library's, with the attributes of that library's constructor."""
    module, _, name = path.rpartition(".")
    kind = type(name, (nn.Module,), {"__module__": module})
    layer: nn.Module = kind()
    for attribute, value in attributes.items():
        setattr(layer, attribute, value)
    return layer


def d2_roi_align(**changes: Any) -> nn.Module:
    return stand_in(ROI_ALIGN_PATHS[1], **{**SHAPE, "sampling_ratio": 0, "aligned": True, **changes})


def only_record(model: nn.Module) -> LayerReplacement:
    (record,) = replace_roi_layers(model)
    return record


MAPPINGS: list[tuple[str, dict[str, Any], type[nn.Module], dict[str, Any]]] = [
    (path, {**SHAPE, "sampling_ratio": ratio, "aligned": aligned}, RoIAlign, {"mode": "avg"})
    for path in ROI_ALIGN_PATHS
    for ratio, aligned in ((2, False), (0, True), (-1, True))
]
MAPPINGS += [
    ("torchvision.ops.roi_pool.RoIPool", SHAPE, RoIPool, {}),
    ("torchvision.ops.ps_roi_align.PSRoIAlign", {**SHAPE, "sampling_ratio": 2}, PSRoIAlign, {}),
    ("torchvision.ops.ps_roi_pool.PSRoIPool", SHAPE, PSRoIPool, {}),
    (
        D2_ROTATED,
        {**SHAPE, "sampling_ratio": 2},
        RoIAlignRotated,
        {"aligned": True, "clockwise": False, "angle_unit": "degree"},
    ),
    (MMCV_ROI_ALIGN, MMCV_ATTRIBUTES, RoIAlign, {"mode": "avg"}),
    (MMCV_ROI_ALIGN, {**MMCV_ATTRIBUTES, "pool_mode": "max"}, RoIAlign, {"mode": "max"}),
    (MMCV_ROI_ALIGN, {**MMCV_ATTRIBUTES, "pool_mode": "max", "use_torchvision": True}, RoIAlign, {"mode": "avg"}),
    *(
        (
            MMCV_ROTATED,
            {**SHAPE, "sampling_ratio": 0, "aligned": aligned, "clockwise": clockwise},
            RoIAlignRotated,
            {"angle_unit": "radian"},
        )
        for aligned, clockwise in ((True, False), (False, True))
    ),
    (MMCV_PRROI_POOL, SHAPE, PrRoIPool, {}),
]


@pytest.mark.parametrize(("path", "attributes", "kind", "more"), MAPPINGS)
def test_arguments(path: str, attributes: dict[str, Any], kind: type[nn.Module], more: dict[str, Any]) -> None:
    """Every attribute of the old layer that the new one has too keeps its value."""
    model = nn.ModuleDict({"pool": stand_in(path, **attributes)})
    record = only_record(model)
    assert type(record.new_layer) is kind
    assert model["pool"] is record.new_layer
    assert (record.name, record.old_class, record.reason) == ("pool", path, "")
    kept = {name: value for name, value in attributes.items() if name not in ("pool_mode", "use_torchvision")}
    assert {name: getattr(record.new_layer, name) for name in kept} == kept
    assert {name: getattr(record.new_layer, name) for name in more} == more


def test_multiscale_arguments() -> None:
    path = "torchvision.ops.poolers.MultiScaleRoIAlign"
    attributes: dict[str, Any] = {
        "featmap_names": ["a", "c"],
        "output_size": (3, 2),
        "sampling_ratio": 1,
        "scales": None,
        "map_levels": None,
        "canonical_scale": 112,
        "canonical_level": 3,
    }
    model = nn.Sequential(stand_in(path, **attributes))
    layer = only_record(model).new_layer
    assert isinstance(layer, MultiScaleRoIAlign)
    kept = {name: value for name, value in attributes.items() if name != "map_levels"}
    assert {name: getattr(layer, name) for name in kept} == kept
    assert (layer.aligned, layer.mode) == (False, "avg")


@pytest.mark.parametrize("clockwise", [False, True])
def test_mmcv_angles_are_radians_the_way_it_says(clockwise: bool) -> None:
    model = nn.Sequential(
        stand_in(MMCV_ROTATED, **SHAPE, sampling_ratio=2, aligned=True, clockwise=clockwise),
        stand_in(D2_ROTATED, **SHAPE, sampling_ratio=2),
    )
    replace_roi_layers(model)
    features = random_tensor(1, 2, 9, 11)
    degrees = torch.tensor([[0.0, 9.0, 8.0, 7.0, 5.0, 30.0]], dtype=torch.float64)
    radians = degrees.clone()
    radians[:, 5] = (-1 if clockwise else 1) * torch.pi / 6
    torch.testing.assert_close(model[0](features, radians), model[1](features, degrees))


@pytest.mark.parametrize("path", [*ROI_ALIGN_PATHS, MMCV_ROI_ALIGN])
def test_forward_takes_the_same_names(path: str) -> None:
    model = nn.Sequential(stand_in(path, **{**MMCV_ATTRIBUTES, "sampling_ratio": 2}))
    replace_roi_layers(model)
    features, boxes = random_tensor(2, 3, 7, 9), all_boxes(2)
    expected = roialign_ext.roi_align(features, boxes, (3, 2), 0.5, 2, aligned=True)
    assert torch.equal(model[0](input=features, rois=boxes), expected)
    assert torch.equal(model[0](features, boxes), expected)


class Mine(nn.Module):
    """No RoI layer, although its name could be one's."""


Mine.__qualname__ = "RoIAlign"


def test_everything_else_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Mine(), d2_roi_align(), nn.Sequential(nn.ReLU()))
    before = dict(model.named_modules())
    parameters = copy.deepcopy(model.state_dict())
    assert only_record(model).name == "2"
    after = dict(model.named_modules())
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] is not after[name]] == ["2"]
    torch.testing.assert_close(model.state_dict(), parameters, rtol=0, atol=0)
    assert replace_roi_layers(nn.Sequential(nn.Conv2d(3, 4, 1))) == []


def test_a_second_time_finds_nothing() -> None:
    model = nn.Sequential(d2_roi_align())
    replace_roi_layers(model)
    assert replace_roi_layers(model) == []


def test_layers_inside_other_poolers() -> None:
    """detectron2's ROIPooler keeps one layer per level; the pooler stays, the layers are swapped."""
    pooler = stand_in("detectron2.modeling.poolers.ROIPooler", output_size=(7, 7), canonical_level=4)
    scales = (0.25, 0.125)
    pooler.level_poolers = nn.ModuleList(d2_roi_align(spatial_scale=scale) for scale in scales)
    model = nn.ModuleDict({"head": nn.ModuleDict({"pooler": pooler})})
    records = replace_roi_layers(model)
    assert model.get_submodule("head.pooler") is pooler
    assert [record.name for record in records] == ["head.pooler.level_poolers.0", "head.pooler.level_poolers.1"]
    assert [layer.spatial_scale for layer in pooler.level_poolers] == list(scales)
    assert all(type(layer) is RoIAlign for layer in pooler.level_poolers)


def test_shared_layers_stay_shared() -> None:
    layer = d2_roi_align()
    shared = nn.Sequential(layer)
    model = nn.ModuleDict({"a": nn.ModuleList([layer, layer]), "b": layer, "c": shared, "d": shared})
    records = replace_roi_layers(model)
    assert [record.name for record in records] == ["a.0", "a.1", "b", "c.0", "d.0"]
    assert len({id(record.new_layer) for record in records}) == 1
    assert all(model.get_submodule(record.name) is records[0].new_layer for record in records)
    assert len({id(module) for module in model.modules() if isinstance(module, RoIAlign)}) == 1


def test_hooks_and_their_handles_move_along() -> None:
    layer = d2_roi_align()
    seen: list[str] = []
    handles = [
        layer.register_forward_pre_hook(lambda module, args: seen.append(f"before {type(module).__name__}")),
        layer.register_forward_hook(
            lambda module, args, kwargs, result: seen.append(f"after {sorted(kwargs)}"), with_kwargs=True
        ),
        layer.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append("backward")),
    ]
    model = nn.Sequential(layer)
    replace_roi_layers(model)
    features = random_tensor(1, 1, 7, 9).requires_grad_()
    boxes = all_boxes()[:2]
    model[0](features, rois=boxes).sum().backward()
    assert seen == ["before RoIAlign", "after ['rois']", "backward"]
    for handle in handles:
        handle.remove()
    model[0](features, rois=boxes).sum().backward()
    assert len(seen) == 3


@pytest.mark.parametrize("training", [False, True])
def test_training_flag(training: bool) -> None:
    model = nn.Sequential(d2_roi_align().train(training))
    replace_roi_layers(model)
    assert model[0].training is training
    model.train(not training)
    assert model[0].training is not training


def test_a_replaced_model_can_be_copied() -> None:
    model = nn.Sequential(d2_roi_align())
    replace_roi_layers(model)
    features, boxes = random_tensor(1, 2, 7, 9), all_boxes()
    twin = copy.deepcopy(model)
    assert torch.equal(twin[0](features, boxes), model[0](features, boxes))


def subclass(path: str) -> nn.Module:
    base = stand_in(path, **MMCV_ATTRIBUTES)
    layer: nn.Module = type("Derived", (type(base),), {"__module__": "project.layers"})()
    return layer


def with_forward_of_its_own() -> nn.Module:
    layer = d2_roi_align()
    layer.forward = lambda input, rois: rois  # type: ignore[method-assign]
    return layer


def with_mapper(**changes: Any) -> nn.Module:
    class Mapper:
        s0, lvl0, eps = 224, 4, 1e-6

    mapper = Mapper()
    vars(mapper).update(changes)
    return stand_in(
        "torchvision.ops.poolers.MultiScaleRoIAlign",
        featmap_names=["0"],
        output_size=(7, 7),
        sampling_ratio=2,
        scales=[0.25],
        map_levels=mapper,
        canonical_scale=224,
        canonical_level=4,
    )


@pytest.mark.parametrize(
    ("make", "old_class", "words"),
    [
        (lambda: subclass(MMCV_ROI_ALIGN), "project.layers.Derived", f"a subclass of {MMCV_ROI_ALIGN}"),
        (lambda: stand_in(MMCV_ROI_POOL, **SHAPE), MMCV_ROI_POOL, "rounds no box"),
        (lambda: stand_in(MMCV_ROTATED, out_h=7, out_w=7, sample_num=2), MMCV_ROTATED, "no attribute 'output_size'"),
        (
            lambda: stand_in(MMCV_ROI_ALIGN, **{**MMCV_ATTRIBUTES, "pool_mode": "sum"}),
            MMCV_ROI_ALIGN,
            "pool_mode is 'sum'",
        ),
        (with_forward_of_its_own, ROI_ALIGN_PATHS[1], "forward was replaced on the instance"),
        (lambda: with_mapper(eps=1e-8), "torchvision.ops.poolers.MultiScaleRoIAlign", "map_levels was not made"),
    ],
    ids=["subclass", "mmcv RoIPool", "older release", "unknown mode", "patched", "own level mapper"],
)
def test_left_alone_and_said_why(make: Callable[[], nn.Module], old_class: str, words: str) -> None:
    layer = make()
    model = nn.Sequential(nn.Sequential(layer))
    record = only_record(model)
    assert model[0][0] is layer
    assert record.new_layer is None
    assert (record.name, record.old_class) == ("0.0", old_class)
    assert words in record.reason
    assert str(record) == f"0.0: {old_class} left alone: {record.reason}"


def test_inferred_scales_are_kept() -> None:
    layer = only_record(nn.Sequential(with_mapper())).new_layer
    assert isinstance(layer, MultiScaleRoIAlign)
    assert layer.scales == [0.25]


def test_a_record_reads_as_a_line() -> None:
    record = only_record(nn.ModuleDict({"pool": d2_roi_align()}))
    assert str(record) == f"pool: detectron2.layers.roi_align.ROIAlign -> {record.new_layer!r}"
    assert "output_size=(3, 2)" in str(record)
    assert "aligned=True" in str(record)


def test_the_model_itself_cannot_be_replaced() -> None:
    with pytest.raises(
        ValueError, match=r"^model: .*ROIAlign itself.* use roialign_ext\.RoIAlign\(output_size=\(3, 2\)"
    ):
        replace_roi_layers(d2_roi_align())


def test_the_model_must_be_a_module() -> None:
    with pytest.raises(TypeError, match=r"^model: expected a torch\.nn\.Module, got list"):
        replace_roi_layers([d2_roi_align()])  # type: ignore[arg-type]


def test_no_library_is_imported() -> None:
    code = (
        "import sys, torch, roialign_ext\n"
        "roialign_ext.replace_roi_layers(torch.nn.Sequential(torch.nn.ReLU()))\n"
        "assert not {'torchvision', 'detectron2', 'mmcv', 'torch.onnx', 'onnx', 'onnxscript'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
