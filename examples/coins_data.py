"""A photograph with masks of its objects, by default 24 coins, cut into two parts, and random views for training."""
# mypy: allow-untyped-calls

import contextlib
import io
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools.coco import COCO
from skimage import data
from torch import Tensor
from torchvision.ops import masks_to_boxes

ANNOTATIONS = Path(__file__).with_name("coins_annotations.json")
VIEW_SIZE = 152  # side of a training view in pixels: the height of the held-out part of the coins
OBJECT_SIZE = 48  # pixels, about the side of a coin; other photographs are scaled until their objects are as large
SMALLEST_PART = 200  # square pixels; objects with a smaller visible part at the edge of a view are not targets


class DataError(Exception):
    """The fault of a photograph or its annotations, in one sentence."""


@dataclass
class Scene:
    """A part of a photograph: image [1, H, W] from 0 to 1 and masks [objects, H, W] of zeros and ones, all float32."""

    image: Tensor
    masks: Tensor

    def to(self, device: torch.device) -> "Scene":
        return Scene(self.image.to(device), self.masks.to(device))


def photograph_and_boxes() -> tuple[Tensor, Tensor]:
    """The coins as one image [1, 1, H, W] from 0 to 1, and their boxes [24, 4] (x1, y1, x2, y2) in image pixels.

    Coordinate 0 is the left or upper edge of the first pixel, as ``aligned=True`` has it.
    """
    corners = torch.tensor([entry["bbox"] for entry in json.loads(ANNOTATIONS.read_text())["annotations"]])
    corners[:, 2:] += corners[:, :2]  # COCO has width and height
    return torch.from_numpy(data.coins())[None, None] / 255, corners


def load_scenes(photograph: Path | None, annotations: Path | None) -> tuple[Scene, Scene]:
    """The training part and the held-out part of the coins, or of another photograph with COCO annotations."""
    if photograph is None or annotations is None:
        masks = read_masks(ANNOTATIONS, None)
        return split(Scene(torch.from_numpy(data.coins())[None] / 255, masks))
    try:
        grey = np.array(Image.open(photograph).convert("L"))
    except OSError as error:
        raise DataError(f"{photograph} is no image that can be read: {error}") from None
    scene = Scene(torch.from_numpy(grey)[None] / 255, read_masks(annotations, photograph.name))
    if scene.image.shape[1:] != scene.masks.shape[1:]:
        sizes = ["{2} x {1}".format(*tensor.shape) for tensor in (scene.image, scene.masks)]
        raise DataError(f"{photograph} has {sizes[0]} pixels, but its annotations are for {sizes[1]}.")
    return split(as_large_as_coins(scene))


def read_masks(path: Path, name: str | None) -> Tensor:
    """The masks [objects, H, W] of one image of a COCO file: the only image, or the one of this name."""
    try:
        coco = COCO()
        coco.dataset = json.loads(path.read_text())
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
            coco.createIndex()
        images = list(coco.imgs.values())
        if len(images) > 1:
            images = [image for image in images if Path(image["file_name"]).name == name]
        if len(images) != 1:
            raise DataError(f"{path} has {len(images)} images with the file_name {name}: one is needed.")
        entries = [e for e in coco.imgToAnns[images[0]["id"]] if not e.get("iscrowd") and e.get("segmentation")]
        masks = [coco.annToMask(entry) for entry in entries]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} holds no annotations as COCO writes them: {error!r}") from None
    masks = [mask for mask in masks if mask.any()]
    if not masks:
        raise DataError(f"{path} has no masks (segmentation) for this image.")
    return torch.from_numpy(np.stack(masks)).float()


def as_large_as_coins(scene: Scene) -> Scene:
    """The scene scaled until the median side of its objects is OBJECT_SIZE, the size that the detector is made for."""
    boxes = masks_to_boxes(scene.masks)
    sides = ((boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)).sqrt()
    factor = OBJECT_SIZE / sides.median().item()
    size = [max(1, round(factor * length)) for length in scene.image.shape[1:]]
    return Scene(
        F.interpolate(scene.image[None], size, mode="bilinear", antialias=True)[0],
        F.interpolate(scene.masks[None], size, mode="nearest-exact")[0],
    )


def split(scene: Scene) -> tuple[Scene, Scene]:
    """The two sides of the row or column that cuts the fewest objects. Among several, the one nearest to the middle."""
    cuts = []
    for axis in (1, 2):
        shown = scene.masks.amax(3 - axis) > 0  # [objects, rows or columns]
        length = shown.shape[1]
        for position in range(math.ceil(length / 3), length * 2 // 3 + 1):
            both = shown[:, :position].any(1) & shown[:, position:].any(1)
            cuts.append((int(both.sum()), axis, abs(position - length / 2), position))
    if not cuts:
        raise DataError(f"a photograph of {tuple(scene.image.shape[1:])} pixels is too small to be cut in two.")
    _, axis, _, position = min(cuts)
    parts = []
    for start, stop in ((0, position), (position, scene.image.shape[axis])):
        image, masks = (t.narrow(axis, start, stop - start) for t in (scene.image, scene.masks))
        parts.append(Scene(image, masks[masks.sum((1, 2)) >= SMALLEST_PART]))
    if not all(len(part.masks) for part in parts):
        raise DataError("one part of the photograph is trained on and the other held out: each needs an object.")
    return parts[0], parts[1]


def random_view(scene: Scene, rng: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
    """A random square view of the scene, moved, rotated, scaled, mirrored and relit: (image, target) for a detector."""
    _, height, width = scene.image.shape
    scale = rng.uniform(0.75, 1.25)  # scene pixels per view pixel
    angle = rng.randrange(4) * math.pi / 2 + rng.uniform(-0.2, 0.2)
    mirror = rng.choice((-1, 1))
    # affine_grid maps view to scene; both coordinates run from -1 to 1, edge to edge.
    across, down = scale * VIEW_SIZE / width, scale * VIEW_SIZE / height
    x, y = rng.uniform(-1, 1) * max(0.2, 1 - across), rng.uniform(-1, 1) * max(0.2, 1 - down)
    cos, sin = math.cos(angle), math.sin(angle)
    view_to_scene = [[mirror * cos * across, -sin * across, x], [mirror * sin * down, cos * down, y]]
    theta = torch.tensor([view_to_scene], device=scene.image.device)
    grid = F.affine_grid(theta, [1, 1, VIEW_SIZE, VIEW_SIZE], align_corners=False)
    layers = torch.cat((scene.image, scene.masks))[None]
    # Repeated border pixels continue the background if no object touches the border; no coin does.
    view = F.grid_sample(layers, grid, padding_mode="border", align_corners=False)[0]

    contrast, brightness = rng.uniform(0.7, 1.3), rng.uniform(-0.15, 0.15)
    image = (contrast * (view[:1] - 0.5) + 0.5 + brightness).clamp(0, 1)
    masks = view[1:] > 0.5
    masks = masks[masks.sum(dim=(1, 2)) >= SMALLEST_PART]
    boxes = masks_to_boxes(masks)
    boxes = boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])  # to the far edge of the last pixel
    labels = torch.ones(len(masks), dtype=torch.int64, device=boxes.device)
    return image, {"boxes": boxes, "labels": labels, "masks": masks.to(torch.uint8)}
