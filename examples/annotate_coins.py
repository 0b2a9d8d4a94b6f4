"""Makes coins_annotations.json: segments the photograph, keeps coin-like regions, writes COCO-style masks.

The result was checked by eye on the overlay outputs/coins_annotations.png, which this script writes, and committed as
data. The demo reads the committed file and does not run this script. To repeat: `python examples/annotate_coins.py`.
"""
# mypy: allow-untyped-calls

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle
from skimage import data, filters, measure, morphology, segmentation

ANNOTATIONS = Path(__file__).with_name("coins_annotations.json")
OVERLAY = Path("outputs/coins_annotations.png")
SMALLEST_COIN = 500  # square pixels; the coins measure 1100 to 3130


def segment(photo: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Labels 1..24 for the coins, 0 for the background. The threshold is local, because the light is uneven."""
    bright = photo > filters.threshold_local(photo, block_size=121)
    solid = np.zeros_like(bright)
    for region in measure.regionprops(measure.label(morphology.closing(bright, morphology.disk(2)))):
        solid[region.slice] |= region.image_filled
    smooth = morphology.opening(solid, morphology.disk(6))
    blobs = measure.label(segmentation.clear_border(smooth))
    coins = [region.label for region in measure.regionprops(blobs) if region.area >= SMALLEST_COIN]
    labels: NDArray[np.int64] = segmentation.relabel_sequential(np.where(np.isin(blobs, coins), blobs, 0))[0]
    return labels


def annotation(index: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "id": index,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": rle.toBbox(encoded).tolist(),
        "area": int(rle.area(encoded)),
        "segmentation": {"size": list(mask.shape), "counts": encoded["counts"].decode()},
    }


def main() -> None:
    photo = data.coins()
    labels = segment(photo)
    annotations = [annotation(i, labels == i) for i in range(1, labels.max() + 1)]
    image = {"id": 1, "file_name": "skimage.data.coins()", "height": photo.shape[0], "width": photo.shape[1]}
    head = {"images": [image], "categories": [{"id": 1, "name": "coin"}]}
    lines = ",\n".join(json.dumps(a) for a in annotations)
    ANNOTATIONS.write_text(f'{json.dumps(head)[:-1]},\n"annotations": [\n{lines}\n]}}\n')

    OVERLAY.parent.mkdir(exist_ok=True)
    enlarged, enlarged_labels = (np.kron(a, np.ones((4, 4), dtype=a.dtype)) for a in (photo, labels))
    overlay = segmentation.mark_boundaries(enlarged, enlarged_labels, color=(1, 0.2, 0), mode="inner")
    plt.imsave(OVERLAY, overlay)
    print(f"{len(annotations)} coins -> {ANNOTATIONS}; look at {OVERLAY}")


if __name__ == "__main__":
    main()
