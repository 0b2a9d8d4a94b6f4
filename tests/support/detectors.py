"""Detectors of torchvision that are small enough for tests."""

from __future__ import annotations

from collections import OrderedDict
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


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
