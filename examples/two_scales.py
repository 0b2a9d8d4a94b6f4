"""A map with another scale along each axis: spatial_scale is one number, so the boxes are scaled instead.

The axes of a map may have different scales: networks for text and for sound keep more columns than rows, and an image
may have been resized to a square. Autograd includes the scaling, so gradients are with respect to boxes in image
pixels.

    python examples/two_scales.py             # seconds; prints the largest differences
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from definition import roi_align_by_definition
from roialign_ext import roi_align

SCALES = (1 / 4, 1 / 16)  # map pixels per image pixel, along x and y
BINS, RATIO = (3, 4), 2


def roi_align_two_scales(
    input: Tensor,
    boxes: list[Tensor],
    output_size: tuple[int, int],
    scales: tuple[float, float],
    sampling_ratio: int = -1,
) -> Tensor:
    """``roi_align`` of boxes (x1, y1, x2, y2) in image pixels, with map pixels per image pixel along x and y.

    ``aligned=True`` shifts the boxes by half a map pixel after they are scaled, along both axes.
    """
    scaled = [image_boxes * image_boxes.new_tensor([*scales, *scales]) for image_boxes in boxes]
    return roi_align(input, scaled, output_size, sampling_ratio=sampling_ratio, aligned=True)


def expected(features: Tensor, box: list[float]) -> NDArray[Any]:
    """All channels of one box by the definition."""
    x1, y1, x2, y2 = (coordinate * scale for coordinate, scale in zip(box, SCALES * 2, strict=True))
    spans = [(y1, y2), (x1, x2)]
    return np.stack([roi_align_by_definition(channel.numpy(), spans, BINS, RATIO) for channel in features[0]])


def slope(features: Tensor, box: list[float], coordinate: int, step: float = 1e-5) -> float:
    """Derivative of the sum of the definition's results by one coordinate of the box: a central difference."""
    sums = []
    for sign in (1, -1):
        moved = list(box)
        moved[coordinate] += sign * step
        sums.append(expected(features, moved).sum())
    return float(sums[0] - sums[1]) / (2 * step)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=10, help="how many random ones to check")
    chosen = parser.parse_args(arguments)
    torch.manual_seed(0)

    height, width = 128, 256  # of the image
    features = torch.rand(1, 2, round(height * SCALES[1]), round(width * SCALES[0]), dtype=torch.float64)
    starts = torch.rand(chosen.boxes, 2, dtype=torch.float64) * torch.tensor([width * 0.6, height * 0.6])
    sizes = torch.rand(chosen.boxes, 2, dtype=torch.float64) * torch.tensor([width * 0.4, height * 0.4]) + 8
    boxes = torch.cat([starts, starts + sizes], dim=1).requires_grad_()
    pooled = roi_align_two_scales(features, [boxes], BINS, SCALES, RATIO)
    (gradient,) = torch.autograd.grad(pooled.sum(), boxes)

    corners = boxes.tolist()
    values = [
        abs(found.detach().numpy() - expected(features, box)).max() for found, box in zip(pooled, corners, strict=True)
    ]
    slopes = torch.tensor([[slope(features, box, i) for i in range(4)] for box in corners], dtype=torch.float64)
    print(f"map {list(features.shape)} of an image of {width} x {height} pixels, {chosen.boxes} boxes")
    print(f"pooled values: largest difference from the definition {max(values):.1e}")
    print(
        f"gradients per image pixel: largest difference from central differences {(gradient - slopes).abs().max():.1e}"
    )


if __name__ == "__main__":
    main()
