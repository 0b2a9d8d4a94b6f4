"""Do models of torchvision give the same with replaced layers: detections, losses, gradients, scripts?"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roialign_ext
from roialign_ext import replace_roi_layers
from support.detectors import IMAGES, POOLS, detector, pyramid, with_replaced_layers
from support.inputs import all_boxes, generator, random_tensor

SINGLE = torch.finfo(torch.float32).eps


@pytest.fixture(params=POOLS)
def models(torchvision: ModuleType, request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """A detector and a copy of it with its layers replaced."""
    return with_replaced_layers(torchvision, request.param)


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
