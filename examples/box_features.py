"""One feature vector per box, from a backbone of torchvision or timm, and how alike the boxes are.

A backbone makes one map of the photograph; roi_align pools every box from it; the mean of a box's bins is its vector.

    python examples/box_features.py                                 # untrained: needs no download
    python examples/box_features.py --weights DEFAULT               # torchvision downloads weights of ImageNet
    python examples/box_features.py --backbone timm:convnext_tiny   # if timm is installed

Writes outputs/box_features.png: the cosine similarity of every two boxes.
"""
# mypy: allow-untyped-calls

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.models.feature_extraction import create_feature_extractor

from coins_data import photograph_and_boxes
from roialign_ext import roi_align

MEAN, DEVIATION = 0.45, 0.226  # of ImageNet's pixels, over all colours


def build_backbone(name: str, layer: str, weights: str | None) -> nn.Module:
    """A network from images to a list or dictionary whose last entry is the map."""
    model: nn.Module
    if name.startswith("timm:"):
        import timm

        model = timm.create_model(
            name.removeprefix("timm:"), pretrained=weights is not None, features_only=True, out_indices=[-2]
        )
        return model.eval()
    model = create_feature_extractor(torchvision.models.get_model(name, weights=weights), [layer])
    return model.eval()


def features_of_boxes(backbone: nn.Module, image: Tensor, boxes: list[Tensor]) -> Tensor:
    """One vector [K, C] for each box (x1, y1, x2, y2) in image pixels; ``boxes`` has one tensor per image."""
    maps = backbone((image - MEAN) / DEVIATION)
    features = list(maps.values())[-1] if isinstance(maps, dict) else maps[-1]
    stride = round(image.shape[3] / features.shape[3])  # image pixels per map pixel
    pooled = roi_align(features, boxes, 7, spatial_scale=1 / stride, sampling_ratio=2, aligned=True)  # [K, C, 7, 7]
    return pooled.mean((2, 3))


def draw(path: Path, image: Tensor, boxes: Tensor, similarity: Tensor) -> None:
    """Every box's most similar other box on the photograph, beside the matrix."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    photograph, matrix = figure.subplots(1, 2, width_ratios=(5, 4))
    height, width = image.shape[2:]
    photograph.imshow(image[0, 0].numpy(), cmap="gray", extent=(0, width, height, 0))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = (similarity - 2 * torch.eye(len(similarity))).argmax(1)
    for number, (x, y) in enumerate(centres.tolist()):
        photograph.text(x, y, str(number), color="white", ha="center", va="center", fontsize=8, backgroundcolor="#0008")
        dx, dy = (centres[nearest[number]] - centres[number]).tolist()
        photograph.arrow(x, y, dx * 0.9, dy * 0.9, color="tab:orange", head_width=5, length_includes_head=True)
    photograph.set_title("each coin's most similar coin", fontsize=9)
    photograph.axis("off")
    figure.colorbar(matrix.imshow(similarity.numpy()), ax=matrix)
    matrix.set_title("cosine similarity of the coins", fontsize=9)
    figure.savefig(path, dpi=100)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18", help="name in torchvision.models, or timm:NAME")
    parser.add_argument("--layer", default="layer3", help="of torchvision's model, whose output is the map")
    parser.add_argument("--weights", help="for example DEFAULT; left out: random weights, no download")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder for the picture")
    chosen = parser.parse_args(arguments)
    torch.manual_seed(0)

    image, boxes = photograph_and_boxes()
    with torch.no_grad():
        backbone = build_backbone(chosen.backbone, chosen.layer, chosen.weights)
        vectors = features_of_boxes(backbone, image.expand(-1, 3, -1, -1), [boxes])
    centred = normalize(vectors - vectors.mean(0), dim=1)
    similarity = centred @ centred.T
    chosen.outputs.mkdir(parents=True, exist_ok=True)
    draw(chosen.outputs / "box_features.png", image, boxes, similarity)
    print(
        f"{len(vectors)} boxes, {vectors.shape[1]} features each; similarity of different boxes from "
        f"{similarity.min():.2f} to {(similarity - 2 * torch.eye(len(boxes))).max():.2f}"
    )
    print(f"wrote {chosen.outputs / 'box_features.png'}")


if __name__ == "__main__":
    main()
