"""RoIAlign of volumes and along time, made from roi_align: two functions to copy, checked against the definition.

python examples/pool_volumes.py           # seconds; prints the largest differences
"""
# mypy: allow-untyped-calls

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from definition import roi_align_by_definition
from roialign_ext import roi_align


def pool_time(input: Tensor, segments: Tensor, bins: int, scale: float = 1.0, sampling_ratio: int = -1) -> Tensor:
    """RoIAlign of sequences [N, C, T]: rows (sequence, start, end) in ``segments`` give [K, C, bins].

    ``scale`` is steps of the sequence per unit of time. A sequence is a map of height 1, and a segment is a box around
    its only row. All samples of the box read that row.
    """
    index, start, end = segments.unbind(1)
    # spatial_scale would scale the height as well.
    boxes = torch.stack([index, start * scale, torch.zeros_like(start), end * scale, torch.ones_like(end)], dim=1)
    return roi_align(input[:, :, None], boxes, (1, bins), sampling_ratio=sampling_ratio, aligned=True)[:, :, 0]


def pool_volumes(
    input: Tensor, boxes: Tensor, bins: tuple[int, int, int], scale: float = 1.0, sampling_ratio: int = -1
) -> Tensor:
    """RoIAlign of volumes [N, C, D, H, W]: rows (volume, x1, y1, z1, x2, y2, z2) give [K, C, *bins].

    The samples of a box form a grid, so their mean is the mean over each plane and then along depth. The first call
    pools every plane, with depth as channels. The second call pools along depth.
    """
    channels, depth = input.shape[1:3]
    planes = roi_align(input.flatten(1, 2), boxes[:, [0, 1, 2, 4, 5]], bins[1:], scale, sampling_ratio, aligned=True)
    columns = planes.unflatten(1, (channels, depth)).permute(0, 1, 3, 4, 2).flatten(1, 3)  # [K, C * PH * PW, D]
    numbers = torch.arange(len(boxes), dtype=boxes.dtype, device=boxes.device)
    segments = torch.stack([numbers, boxes[:, 3], boxes[:, 6]], dim=1)
    pooled = pool_time(columns, segments, bins[0], scale, sampling_ratio)
    result: Tensor = pooled.unflatten(1, (channels, *bins[1:])).permute(0, 1, 4, 2, 3)
    return result


def random_rows(count: int, images: int, lengths: Sequence[float]) -> Tensor:
    """Boxes that start on the map and may end beyond it: an image, the starts and the ends along each axis."""
    limits = torch.tensor(lengths, dtype=torch.float64)
    starts = torch.rand(count, len(lengths), dtype=torch.float64) * limits * 0.7
    ends = starts + torch.rand(count, len(lengths), dtype=torch.float64) * limits * 0.7 + 0.5
    return torch.cat([torch.arange(count, dtype=torch.float64)[:, None] % images, starts, ends], dim=1)


def check_time(count: int, ratio: int) -> float:
    """Largest difference of ``pool_time`` from the definition."""
    sequences, scale = torch.rand(2, 3, 40, dtype=torch.float64), 0.25
    segments = random_rows(count, 2, [40 / scale])
    pooled = pool_time(sequences, segments, 5, scale, ratio)
    worst = 0.0
    for row, result in zip(segments.tolist(), pooled, strict=True):
        index, start, end = int(row[0]), row[1] * scale, row[2] * scale
        for values, found in zip(sequences[index], result, strict=True):
            expected = roi_align_by_definition(values.numpy(), [(start, end)], [5], ratio)
            worst = max(worst, abs(found.numpy() - expected).max())
    return worst


def check_volumes(count: int, ratio: int) -> float:
    """Largest difference of ``pool_volumes`` from the definition."""
    volumes, scale, bins = torch.rand(2, 2, 6, 8, 10, dtype=torch.float64), 0.5, (2, 3, 2)
    boxes = random_rows(count, 2, [10 / scale, 8 / scale, 6 / scale])
    pooled = pool_volumes(volumes, boxes, bins, scale, ratio)
    worst = 0.0
    for row, result in zip(boxes.tolist(), pooled, strict=True):
        index, (x1, y1, z1, x2, y2, z2) = int(row[0]), (scale * coordinate for coordinate in row[1:])
        for values, found in zip(volumes[index], result, strict=True):
            expected = roi_align_by_definition(values.numpy(), [(z1, z2), (y1, y2), (x1, x2)], bins, ratio)
            worst = max(worst, abs(found.numpy() - expected).max())
    return worst


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=20, help="how many random ones to check")
    chosen = parser.parse_args(arguments)
    torch.manual_seed(0)
    for ratio in (2, -1):
        samples = f"{ratio} samples" if ratio > 0 else "adaptive samples"
        print(f"along time, {samples}: largest difference {check_time(chosen.boxes, ratio):.1e}")
        print(f"volumes, {samples}: largest difference {check_volumes(chosen.boxes, ratio):.1e}")


if __name__ == "__main__":
    main()
