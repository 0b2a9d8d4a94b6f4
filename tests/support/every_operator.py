"""All public operators in one module, for programs that are saved: their results side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import roialign_ext

FEATURES = torch.arange(64.0).reshape(1, 1, 8, 8)


def boxes_of(count: int) -> Tensor:
    """Rows (image, x1, y1, x2, y2) on a map of 8 x 8 pixels; the first two are those of examples/cpp."""
    first = [[0.0, 2.0, 2.0, 6.0, 6.0], [0.0, 1.0, 0.0, 7.5, 3.0]]
    others = [[0.0, 0.3 * i % 3, 0.7 * i % 3, 4.1 + 0.2 * i % 3, 3.9 + 0.5 * i % 4] for i in range(2, count)]
    return torch.tensor([*first, *others][:count]).reshape(-1, 5)


class EveryOperator(nn.Module):
    """Every function and mode, results ``[results, K, C, 2, 2]``, times a weight that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        rotated = torch.cat([boxes, boxes[:, 4:]], 1)
        corners = boxes[:, 1:].flip(1) / 8.0
        images = boxes[:, 0].long()
        # For the operators without a gradient with respect to the boxes. torch.export drops boxes.detach().
        whole = boxes.long().float()
        pyramid = [features, features[:, :, ::2, ::2]]
        scales = [1.0, 0.5]
        results = [
            roialign_ext.roi_align(features, boxes, 2, 1.0, 2, True),
            roialign_ext.roi_align(features, boxes, 2, 1.0, -1, False),
            roialign_ext.roi_align(features, boxes, 2, 1.0, 2, True, "max"),
            roialign_ext.roi_warp(features, boxes, 2, 1.0, 2),
            roialign_ext.roi_warp(features, boxes, 2, 1.0, 2, "max"),
            roialign_ext.prroi_pool(features, boxes, 2),
            roialign_ext.roi_pool(features, whole, 2),
            roialign_ext.ps_roi_align(features.expand(-1, 4, -1, -1), boxes, 2, 1.0, 2),
            roialign_ext.ps_roi_pool(features.expand(-1, 4, -1, -1), whole, 2),
            roialign_ext.roi_align_rotated(features, rotated, 2, 1.0, 2, True, True),
            roialign_ext.roi_align_rotated(features, rotated, 2, 1.0, 0, False, False, "radian"),
            roialign_ext.crop_and_resize(features, corners, images, 2),
            roialign_ext.crop_and_resize(features, corners, images, 2, "nearest", 0.5),
            roialign_ext.crop_and_resize(features, corners, images, 2, samples_per_bin=2, mode="max"),
            roialign_ext.multiscale_roi_align(pyramid, boxes, 2, scales, 2),
            roialign_ext.multiscale_roi_align(pyramid, boxes, 2, scales, 2, True, "max"),
            roialign_ext.multiscale_roi_align_rotated(pyramid, rotated, 2, scales, 2),
        ]
        return self.weight * torch.stack(results)
