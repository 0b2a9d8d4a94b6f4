"""Detectors of torchvision that are small enough for tests."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from roialign_ext import MultiScaleRoIAlign, replace_roi_layers
from support.inputs import generator, random_tensor


class Pyramid(nn.Module):
    """A small feature pyramid with the strides and names of torchvision's."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Conv2d(3 if stride == 4 else 8, 8, 5, stride=stride, padding=2) for stride in (4, 2, 2, 2)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = OrderedDict()
        for level, convolution in enumerate(self.levels):
            images = convolution(images).tanh()
            maps[str(level)] = images
        maps["pool"] = nn.functional.max_pool2d(images, 1, 2)
        return maps


def detector(torchvision: ModuleType, name: str, **layers: nn.Module) -> nn.Module:
    """A detector of torchvision with few channels, whose thresholds let untrained detections through."""
    detection = torchvision.models.detection
    faster, mask, keypoint = detection.faster_rcnn, detection.mask_rcnn, detection.keypoint_rcnn
    channels = Pyramid.out_channels
    arguments: dict[str, Any] = {
        "min_size": 128,
        "max_size": 192,
        "box_head": faster.TwoMLPHead(channels * 49, 32),
        "box_predictor": faster.FastRCNNPredictor(32, 3),
        "box_score_thresh": 0.0,
        "box_detections_per_img": 8,
        "rpn_post_nms_top_n_train": 60,
        "rpn_post_nms_top_n_test": 60,
        "box_batch_size_per_image": 32,
        **layers,
    }
    if name == "MaskRCNN":
        arguments["mask_head"] = mask.MaskRCNNHeads(channels, (8, 8), 1)
        arguments["mask_predictor"] = mask.MaskRCNNPredictor(8, 8, 3)
    if name == "KeypointRCNN":
        arguments["keypoint_head"] = keypoint.KeypointRCNNHeads(channels, (8, 8))
        arguments["keypoint_predictor"] = keypoint.KeypointRCNNPredictor(8, 4)
    torch.manual_seed(3)
    model: nn.Module = getattr(detection, name)(Pyramid(), **arguments)
    return model.double()


POOLS = {
    "FasterRCNN": ["roi_heads.box_roi_pool"],
    "MaskRCNN": ["roi_heads.box_roi_pool", "roi_heads.mask_roi_pool"],
    "KeypointRCNN": ["roi_heads.box_roi_pool", "roi_heads.keypoint_roi_pool"],
}
IMAGES = [random_tensor(3, 128, 160, seed=1), random_tensor(3, 100, 150, seed=2)]
"""Two images in float64."""


def with_replaced_layers(torchvision: ModuleType, name: str) -> tuple[nn.Module, nn.Module]:
    """A detector and a copy of it with its layers replaced."""
    model = detector(torchvision, name)
    replaced = copy.deepcopy(model)
    records = replace_roi_layers(replaced)
    assert [record.name for record in records] == POOLS[name]
    assert all(type(record.new_layer) is MultiScaleRoIAlign for record in records)
    return model, replaced


def pyramid() -> tuple[dict[str, Tensor], list[Tensor], list[tuple[int, int]]]:
    """Maps of strides 4 to 32, boxes that spread over all of them, and the sizes of the images."""
    features = OrderedDict(
        (str(level), random_tensor(2, 3, 64 >> level, 48 >> level, seed=level, dtype=torch.float32))
        for level in range(4)
    )
    corners = torch.rand(2, 40, 2, 2, generator=generator(5)).mul(torch.tensor([192.0, 256.0])).sort(dim=2).values
    return features, list(corners.flatten(2)), [(256, 192), (250, 180)]
