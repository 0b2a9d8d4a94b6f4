"""replace_roi_layers on models of torchvision, and on stand-ins with the class paths and attributes of the others.

And restore_roi_layers, which leads back to torchvision."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
    restore_roi_layers,
)
from support.detectors import detector
from support.inputs import all_boxes, generator, random_tensor

SINGLE = torch.finfo(torch.float32).eps

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


def test_restoring_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"^restore_roi_layers puts back layers of torchvision, which is not there: "):
        restore_roi_layers(nn.Sequential(RoIAlign(2, 0.5, 2)))


@pytest.fixture(scope="module")
def torchvision() -> ModuleType:
    found: ModuleType = pytest.importorskip("torchvision", reason="torchvision is not installed")
    pytest.importorskip("torchvision.models.detection", reason="torchvision is not installed")
    return found


POOLS = {
    "FasterRCNN": ["roi_heads.box_roi_pool"],
    "MaskRCNN": ["roi_heads.box_roi_pool", "roi_heads.mask_roi_pool"],
    "KeypointRCNN": ["roi_heads.box_roi_pool", "roi_heads.keypoint_roi_pool"],
}
IMAGES = [random_tensor(3, 128, 160, seed=1), random_tensor(3, 100, 150, seed=2)]


def targets() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[10.0, 12.0, 70.0, 60.0], [40.0, 5.0, 140.0, 95.0], [3.0, 50.0, 30.0, 90.0]]).double()
    masks = torch.zeros(3, 128, 160, dtype=torch.uint8)
    keypoints = torch.ones(3, 4, 3)  # torchvision takes them in float32 alone
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        masks[index, int(y1) : int(y2), int(x1) : int(x2)] = 1
        steps = torch.rand(4, 2, generator=generator(index))
        keypoints[index, :, 0] = x1 + steps[:, 0] * (x2 - x1)
        keypoints[index, :, 1] = y1 + steps[:, 1] * (y2 - y1)
    labels = torch.tensor([1, 2, 1])
    return [
        {"boxes": boxes, "labels": labels, "masks": masks[:, :height, :width], "keypoints": keypoints}
        for _, height, width in (image.shape for image in IMAGES)
    ]


@pytest.fixture(params=POOLS)
def models(torchvision: ModuleType, request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """A detector and a copy of it with its layers replaced."""
    model = detector(torchvision, request.param)
    replaced = copy.deepcopy(model)
    records = replace_roi_layers(replaced)
    assert [record.name for record in records] == POOLS[request.param]
    assert all(type(record.new_layer) is MultiScaleRoIAlign for record in records)
    return model, replaced


def test_torchvision_detections(models: tuple[nn.Module, nn.Module]) -> None:
    """In float64, where no near tie flips: what comes out differs by less than one rounding of float32."""
    with torch.no_grad():
        before, after = (model.eval()(IMAGES) for model in models)
    assert all(len(image["boxes"]) == 8 for image in before)
    torch.testing.assert_close(after, before, rtol=SINGLE, atol=SINGLE)


def test_torchvision_losses_and_gradients(models: tuple[nn.Module, nn.Module]) -> None:
    losses = []
    for model in models:
        torch.manual_seed(0)  # both draw the same sample of proposals
        losses.append(model.train()(IMAGES, targets()))
        sum(losses[-1].values()).backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=SINGLE, atol=SINGLE)
    before, after = ({name: parameter.grad for name, parameter in model.named_parameters()} for model in models)
    assert all(gradient is not None and bool(gradient.any()) for gradient in before.values())
    torch.testing.assert_close(after, before, rtol=SINGLE, atol=SINGLE)


def test_torchvision_after_a_forward(torchvision: ModuleType) -> None:
    """A model that has run keeps the scales that its first images led to."""
    model = detector(torchvision, "FasterRCNN").eval()
    with torch.no_grad():
        before = model(IMAGES)
        (record,) = replace_roi_layers(model)
        after = model(IMAGES)
    assert record.new_layer is not None
    assert record.new_layer.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    torch.testing.assert_close(after, before, rtol=SINGLE, atol=SINGLE)


@pytest.mark.filterwarnings("ignore:RCNN always returns")
def test_torchvision_scripted(models: tuple[nn.Module, nn.Module]) -> None:
    """A swapped detector can be scripted as before, with the numbers of the scripted original."""
    with torch.no_grad():
        before, after = (torch.jit.script(model.eval())(IMAGES)[1] for model in models)
    torch.testing.assert_close(after, before, rtol=SINGLE, atol=SINGLE)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *(("RoIAlign", ((3, 2), 0.5, ratio, aligned)) for ratio in (-1, 0, 2) for aligned in (False, True)),
        ("RoIAlign", (3, 0.5, 2)),
        ("RoIPool", ((3, 2), 0.5)),
        ("RoIPool", (3, 0.5)),
        ("PSRoIAlign", ((3, 2), 0.5, 2)),
    ],
)
@pytest.mark.parametrize("as_list", [False, True], ids=["rows", "list"])
def test_torchvision_layers(torchvision: ModuleType, name: str, arguments: tuple[Any, ...], as_list: bool) -> None:
    """In float32: output and grad_input within a few roundings of the largest term."""
    old = getattr(torchvision.ops, name)(*arguments)
    model = nn.Sequential(old)
    replace_roi_layers(model)
    features = random_tensor(2, 6, 7, 9, dtype=torch.float32).requires_grad_()
    rows = all_boxes(2).float()
    # torchvision has no result for a reversed box in an adaptive grid.
    rows = rows[rows.isfinite().all(1) & (rows[:, 3:] >= rows[:, 1:3]).all(1)]
    boxes = [rows[rows[:, 0] == image, 1:] for image in range(2)] if as_list else rows
    results = [layer(features, boxes) for layer in (old, model[0])]
    grad = random_tensor(*results[0].shape, dtype=torch.float32)
    gradients = [torch.autograd.grad(result, features, grad)[0] for result in results]
    for before, after in (results, gradients):
        scale = float(before.detach().abs().max())
        torch.testing.assert_close(after, before, rtol=0, atol=16 * SINGLE * scale)


def pyramid() -> tuple[dict[str, Tensor], list[Tensor], list[tuple[int, int]]]:
    """Maps of strides 4 to 32, boxes that spread over all of them, and the sizes of the images."""
    features = OrderedDict(
        (str(level), random_tensor(2, 3, 64 >> level, 48 >> level, seed=level, dtype=torch.float32))
        for level in range(4)
    )
    corners = torch.rand(2, 40, 2, 2, generator=generator(5)).mul(torch.tensor([192.0, 256.0])).sort(dim=2).values
    return features, list(corners.flatten(2)), [(256, 192), (250, 180)]


@pytest.mark.parametrize("names", [["0", "1", "2", "3"], ["2", "1"], ["2"]])
def test_torchvision_multiscale(torchvision: ModuleType, names: list[str]) -> None:
    old = torchvision.ops.MultiScaleRoIAlign(names, (3, 2), 2, canonical_scale=56)
    model = nn.Sequential(old)
    replace_roi_layers(model)
    arguments = pyramid()
    torch.testing.assert_close(model[0](*arguments), old(*arguments), rtol=0, atol=64 * SINGLE)


def test_torchvision_loses_boxes_where_a_level_is_left_out(torchvision: ModuleType) -> None:
    """The one difference in numbers: such boxes are zeros there, and pooled from the coarsest map here."""
    old = torchvision.ops.MultiScaleRoIAlign(["1", "3"], (3, 2), 2, canonical_scale=56)
    model = nn.Sequential(old)
    replace_roi_layers(model)
    features, boxes, sizes = pyramid()
    before, after = old(features, boxes, sizes), model[0](features, boxes, sizes)
    lost = old.map_levels(boxes) > 1
    assert bool(lost.any())
    assert not bool(lost.all())
    assert not bool(before[lost].any())
    torch.testing.assert_close(after[~lost], before[~lost], rtol=0, atol=64 * SINGLE)
    coarsest = roialign_ext.roi_align(features["3"], boxes, (3, 2), 1 / 32, 2)
    assert torch.equal(after[lost], coarsest[lost])


# --- restore_roi_layers


def test_a_detector_there_and_back(models: tuple[nn.Module, nn.Module]) -> None:
    original, model = models
    records = restore_roi_layers(model)
    assert [record.old_class for record in records] == ["roialign_ext.modules.MultiScaleRoIAlign"] * len(records)
    pools = [name for name, layer in original.named_modules() if type(layer).__name__ == "MultiScaleRoIAlign"]
    assert [record.name for record in records] == pools
    assert [type(layer) for layer in model.modules()] == [type(layer) for layer in original.modules()]
    with torch.no_grad():
        before, after = (one.eval()(IMAGES) for one in (original, model))
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
    assert {one: getattr(model[0], one) for one in attributes} == {one: getattr(old, one) for one in attributes}
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
