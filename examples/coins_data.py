"""The photograph of 24 coins, their masks, and random views of them to train on."""
# mypy: allow-untyped-calls

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as rle
from skimage import data
from torch import Tensor
from torchvision.ops import masks_to_boxes

ANNOTATIONS = Path(__file__).with_name("coins_annotations.json")
SPLIT_ROW = 151  # two rows of coins lie above this row of pixels (training), two below (held out)
VIEW_SIZE = 152  # side of a training view in pixels: the height of the held-out part
SMALLEST_PART = 200  # square pixels; a coin that shows less than this at the edge of a view is not asked for


@dataclass
class Scene:
    """A part of the photograph: image [1, H, W] from 0 to 1 and masks [coins, H, W] of zeros and ones, all float32."""

    image: Tensor
    masks: Tensor


def load_scenes() -> tuple[Scene, Scene]:
    """The part to train on and the part held out."""
    image = torch.from_numpy(data.coins())[None] / 255
    annotations = json.loads(ANNOTATIONS.read_text())["annotations"]
    masks = torch.from_numpy(np.stack([rle.decode(entry["segmentation"]) for entry in annotations])).float()
    above = masks[:, SPLIT_ROW:].sum(dim=(1, 2)) == 0
    return (
        Scene(image[:, :SPLIT_ROW], masks[above, :SPLIT_ROW]),
        Scene(image[:, SPLIT_ROW:], masks[~above, SPLIT_ROW:]),
    )


def random_view(scene: Scene, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
    """A square view of the scene, moved, turned, scaled, mirrored, relit at random: (image, target) for a detector."""
    _, height, width = scene.image.shape
    scale = rng.uniform(0.75, 1.25)  # scene pixels per view pixel
    angle = rng.randrange(4) * math.pi / 2 + rng.uniform(-0.2, 0.2)
    mirror = rng.choice((-1, 1))
    # affine_grid maps view to scene, both measured from -1 to 1, edge to edge.
    across, down = scale * VIEW_SIZE / width, scale * VIEW_SIZE / height
    x, y = rng.uniform(-1, 1) * (1 - across), rng.uniform(-0.2, 0.2)
    cos, sin = math.cos(angle), math.sin(angle)
    view_to_scene = [[mirror * cos * across, -sin * across, x], [mirror * sin * down, cos * down, y]]
    grid = F.affine_grid(torch.tensor([view_to_scene]), [1, 1, VIEW_SIZE, VIEW_SIZE], align_corners=False)
    layers = torch.cat((scene.image, scene.masks))[None]
    # No coin touches the border of the scene, so repeating its border pixels continues the background.
    view = F.grid_sample(layers, grid, padding_mode="border", align_corners=False)[0]

    contrast, brightness = rng.uniform(0.7, 1.3), rng.uniform(-0.15, 0.15)
    image = (contrast * (view[:1] - 0.5) + 0.5 + brightness).clamp(0, 1)
    masks = view[1:] > 0.5
    masks = masks[masks.sum(dim=(1, 2)) >= SMALLEST_PART]
    boxes = masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])  # to the far edge of the last pixel
    labels = torch.ones(len(masks), dtype=torch.int64)
    return image, {"boxes": boxes, "labels": labels, "masks": masks.to(torch.uint8)}
