"""torchvision's Mask R-CNN with its pooling layers replaced, on a backbone small enough to train in a minute."""

from collections.abc import Callable

import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

import roialign_ext
from coins_data import VIEW_SIZE

LAYERS: dict[str, Callable[..., nn.Module]] = {
    "roialign_ext": roialign_ext.RoIAlign,
    "torchvision": torchvision.ops.RoIAlign,
}
CHANNELS = 64
STRIDE = 8  # image pixels per pixel of the feature map
BOX_BINS, MASK_BINS = 7, 14


class Pooler(nn.Module):
    """Pools from one map with a RoIAlign layer, for torchvision's heads, which pass a dictionary of feature maps."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        pooled: Tensor = self.layer(features["0"], proposals)
        return pooled


class Residual(nn.Module):
    """Two 3x3 convolutions added to their input. With dilation the last blocks see a whole coin."""

    def __init__(self, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv(CHANNELS, CHANNELS, dilation=dilation),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
            nn.GroupNorm(8, CHANNELS),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return (x + y).relu()


def conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False),
        nn.GroupNorm(8, outputs),
        nn.ReLU(inplace=True),
    ]


def build_backbone() -> nn.Module:
    backbone = nn.Sequential(
        *conv(1, 32, stride=2),
        *conv(32, CHANNELS, stride=2),
        Residual(),
        *conv(CHANNELS, CHANNELS, stride=2),
        Residual(),
        Residual(dilation=2),
        Residual(dilation=4),
    )
    backbone.out_channels = CHANNELS  # type: ignore[assignment]  # torchvision reads it there
    return backbone


def build_model(pooling: str) -> MaskRCNN:
    model = MaskRCNN(
        build_backbone(),
        # Twice the size of the photograph, for training views and for the held-out part.
        min_size=2 * VIEW_SIZE,
        max_size=10 * VIEW_SIZE,
        image_mean=[0.4],
        image_std=[0.2],
        rpn_anchor_generator=AnchorGenerator(sizes=((64, 96, 128),), aspect_ratios=((1.0,),)),
        rpn_head=RPNHead(CHANNELS, num_anchors=3),
        rpn_pre_nms_top_n_train=500,
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=100,
        box_head=TwoMLPHead(CHANNELS * BOX_BINS**2, 256),
        box_predictor=FastRCNNPredictor(256, num_classes=2),
        box_batch_size_per_image=64,
        mask_head=MaskRCNNHeads(CHANNELS, (CHANNELS, CHANNELS), dilation=1),
        mask_predictor=MaskRCNNPredictor(CHANNELS, CHANNELS, num_classes=2),
    )
    # The replacement, with the same arguments for both packages. (MaskRCNN's constructor takes only torchvision's.)
    layer, scale = LAYERS[pooling], 1 / STRIDE
    model.roi_heads.box_roi_pool = Pooler(layer(BOX_BINS, spatial_scale=scale, sampling_ratio=2, aligned=True))
    model.roi_heads.mask_roi_pool = Pooler(layer(MASK_BINS, spatial_scale=scale, sampling_ratio=2, aligned=True))
    return model
