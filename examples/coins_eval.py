"""Average precision of the detections, and a picture of them beside the truth."""

import contextlib
import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from coins_data import Scene

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

SHOWN_SCORE = 0.5  # detections below this score are left out of the picture (the average precision counts all)


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
        "categories": [{"id": 1, "name": "coin"}],
        "annotations": [annotation(i, mask) for i, mask in enumerate(scene.masks, start=1)],
    }
    boxes, masks = [], []
    for box, mask, score in zip(detections["boxes"], detections["masks"], detections["scores"], strict=True):
        x1, y1, x2, y2 = box.tolist()
        common = {"image_id": 1, "category_id": 1, "score": score.item()}
        boxes.append({**common, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        masks.append({**common, "segmentation": annotation(0, mask[0] > 0.5)["segmentation"]})

    result = {"box_ap": 0.0, "box_ap50": 0.0, "mask_ap": 0.0, "mask_ap50": 0.0}
    if not boxes:
        return result
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step it takes
        truth.createIndex()
        for kind, iou_type, entries in (("box", "bbox", boxes), ("mask", "segm", masks)):
            evaluation = COCOeval(truth, truth.loadRes(entries), iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            result[f"{kind}_ap"], result[f"{kind}_ap50"] = map(float, evaluation.stats[:2])
    return result


def draw(axes: Axes, image: Tensor, boxes: Tensor, masks: Tensor, captions: list[str], title: str) -> None:
    """The photograph with its masks tinted and boxes (image pixels, 0 at the left edge of the first pixel) outlined."""
    height, width = image.shape[1:]
    axes.imshow(image[0], cmap="gray", extent=(0, width, height, 0))
    colours = plt.get_cmap("tab20")
    for i, (box, mask, caption) in enumerate(zip(boxes, masks, captions, strict=True)):
        colour = colours(2 * i % 20)
        tint = np.zeros((height, width, 4))
        tint[mask.numpy() > 0.5] = (*colour[:3], 0.45)
        axes.imshow(tint, extent=(0, width, height, 0))
        x1, y1, x2, y2 = box.tolist()
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, linewidth=1.2))
        axes.text(x1, y1 - 2, caption, color="white", fontsize=7)
    axes.set_title(title, fontsize=10)
    axes.axis("off")


def save_picture(path: Path, scene: Scene, detections: dict[str, Tensor], losses: list[float], title: str) -> None:
    """Truth, detections and the loss curve, one below the other."""
    shown = detections["scores"] >= SHOWN_SCORE
    scores = detections["scores"][shown].tolist()
    true_boxes = [annotation(0, mask)["bbox"] for mask in scene.masks]
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(8, 9), height_ratios=(3, 3, 2), layout="constrained")
    corners = Tensor([(x, y, x + w, y + h) for x, y, w, h in true_boxes])
    draw(top, scene.image, corners, scene.masks, [""] * len(corners), f"truth: {len(corners)} held-out coins")
    draw(
        middle,
        scene.image,
        detections["boxes"][shown],
        detections["masks"][shown, 0],
        [f"{score:.2f}" for score in scores],
        title,
    )
    bottom.semilogy(losses, linewidth=0.8)
    bottom.set(xlabel="step", ylabel="training loss")
    bottom.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    plt.close(figure)
