"""Average precision of the detections, and a picture of them beside the ground truth."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.ops import box_iou, masks_to_boxes

from coins_data import Scene

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

SHOWN_SCORE = 0.5  # the picture omits detections below this score (the average precision counts all)
UNMATCHED = (1.0, 1.0, 1.0, 1.0)  # colour of a detection that overlaps no object of the ground truth by half


@dataclass
class Found:
    """Detections of one detector: boxes [K, 4] in image pixels, masks [K, 1, H, W], scores [K]; its training losses."""

    title: str
    detections: dict[str, Tensor]
    losses: list[float]


def detect(model: MaskRCNN, scene: Scene) -> dict[str, Tensor]:
    """The detections of a trained detector in a scene, on the CPU."""
    model.eval()
    # Twice the size of the photograph, as in training, for every size of the part.
    model.transform.min_size = (2 * min(scene.image.shape[1:]),)
    model.transform.max_size = 2 * max(scene.image.shape[1:])
    with torch.no_grad():
        found: dict[str, Tensor] = model([scene.image.to(next(model.parameters()).device)])[0]
    return {name: tensor.cpu() for name, tensor in found.items()}


def annotation(index: int, mask: Tensor) -> dict[str, Any]:
    """One COCO annotation, its box drawn around the mask."""
    encoded = rle.encode(np.asfortranarray(mask.byte().numpy()))
    return {
        "id": index,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": encoded,
        "bbox": rle.toBbox(encoded).tolist(),
        "area": float(rle.area(encoded)),
    }


def average_precision(detections: dict[str, Tensor], scene: Scene) -> dict[str, float]:
    """COCO's AP over IoU 0.50:0.95 and at 0.50, for boxes and masks."""
    height, width = scene.image.shape[1:]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "height": height, "width": width}],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [annotation(i, mask) for i, mask in enumerate(scene.masks, start=1)],
    }
    boxes, masks = [], []
    for box, mask, score in zip(detections["boxes"], detections["masks"], detections["scores"], strict=True):
        x1, y1, x2, y2 = box.tolist()
        common = {"image_id": 1, "category_id": 1, "score": score.item()}
        boxes.append({**common, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        masks.append({**common, "segmentation": annotation(0, mask[0] > 0.5)["segmentation"]})

    result = {"box": 0.0, "box50": 0.0, "mask": 0.0, "mask50": 0.0}
    if not boxes:
        return result
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
        truth.createIndex()
        for kind, iou_type, entries in (("box", "bbox", boxes), ("mask", "segm", masks)):
            evaluation = COCOeval(truth, truth.loadRes(entries), iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            result[kind], result[f"{kind}50"] = map(float, evaluation.stats[:2])
    return result


def colours_of(boxes: Tensor, truth: Tensor) -> list[tuple[float, ...]]:
    """For each box the colour of the true object that it overlaps most, if by at least half."""
    palette = plt.get_cmap("tab20")
    colours: list[tuple[float, ...]] = []
    for overlaps in box_iou(boxes, truth):
        best = int(overlaps.argmax())
        # Ten dark colours, then ten light ones.
        colours.append(palette(2 * best % 20 + best // 10 % 2) if overlaps[best] >= 0.5 else UNMATCHED)
    return colours


def draw(axes: Axes, image: Tensor, boxes: Tensor, masks: Tensor, captions: list[str], truth: Tensor) -> None:
    """The photograph with its masks tinted and boxes (image pixels, 0 at the left edge of the first pixel) outlined."""
    height, width = image.shape[1:]
    axes.imshow(image[0], cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
    for box, mask, caption, colour in zip(boxes, masks, captions, colours_of(boxes, truth), strict=True):
        tint = np.zeros((height, width, 4))
        tint[mask.numpy() > 0.5] = (*colour[:3], 0.45)
        axes.imshow(tint, extent=(0, width, height, 0))
        x1, y1, x2, y2 = box.tolist()
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, linewidth=1.2))
        # Inside the box, and near the far edges of the frame at the box's far side, so that the frame cuts nothing off.
        x, ha = (x2 - 1, "right") if x1 > 0.95 * width else (x1 + 1, "left")
        y, va = (y2 - 1, "bottom") if y1 > 0.93 * height else (y1 + 1, "top")
        plate = {"pad": 0.8, "lw": 0, "fc": "#000a"}
        axes.text(x, y, caption, color="white", fontsize=6, ha=ha, va=va, bbox=plate)
    axes.axis("off")


def draw_losses(axes: Axes, runs: list[Found]) -> None:
    """The training loss of every step, on a logarithmic axis."""
    for run, style in zip(runs, ("-", "--"), strict=False):  # equal losses stay visible
        marker = "." if len(run.losses) < 20 else ""
        steps = range(1, len(run.losses) + 1)
        axes.semilogy(steps, run.losses, style, marker=marker, linewidth=0.8, label=run.title.split(",")[0])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="step", ylabel="training loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def save_picture(path: Path, scene: Scene, runs: list[Found]) -> None:
    """Ground truth, the detections of each run, and the losses, one below the other; each object has one colour."""
    truth = masks_to_boxes(scene.masks)
    truth = truth + truth.new_tensor([0.0, 0.0, 1.0, 1.0])  # to the far edge of the last pixel
    height, width = scene.image.shape[1:]
    shape = min(1.2, height / width)
    trained = any(run.losses for run in runs)
    panels = [8 * shape] * (1 + len(runs)) + [2.2] * trained
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8, sum(panels) + 0.5 * len(panels)), height_ratios=panels, layout="constrained"
    )
    draw(axes[0], scene.image, truth, scene.masks, [""] * len(truth), truth)
    axes[0].set_title(f"truth: {len(truth)} objects, held out from training", fontsize=10)
    for panel, run in zip(axes[1:], runs, strict=False):
        shown = run.detections["scores"] >= SHOWN_SCORE
        boxes, masks = run.detections["boxes"][shown], run.detections["masks"][shown, 0]
        draw(panel, scene.image, boxes, masks, [f"{score:.2f}" for score in run.detections["scores"][shown]], truth)
        panel.set_title(f"{run.title}: {len(boxes)} found", fontsize=10)
    if trained:
        draw_losses(axes[-1], runs)
    figure.savefig(path, dpi=130)
    plt.close(figure)
