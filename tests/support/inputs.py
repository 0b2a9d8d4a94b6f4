"""Inputs of the tests: numbers of a seed, maps of every layout, boxes of every kind."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from oracle import reference

if TYPE_CHECKING:
    from support.operator_calls import OperatorCall, RoIAlignCall

LOW_PRECISION = (torch.float16, torch.bfloat16)
DTYPES = (*LOW_PRECISION, torch.float32, torch.float64)
FORMATS = (torch.contiguous_format, torch.channels_last)
LAYOUTS = (
    "contiguous",
    "channels_last",
    "permuted",
    "sliced",
    "expanded_images",
    "expanded_channels",
    "expanded_pixels",
    "reversed",
)
MODES = ("avg", "max")


def as_array(tensor: Tensor) -> NDArray[np.float64]:
    """``tensor`` as a float64 array, exactly."""
    return np.asarray(tensor.detach().double().contiguous().numpy())


def generator(seed: int) -> torch.Generator:
    """A generator of its own for every use: no test depends on the order of the others."""
    return torch.Generator().manual_seed(seed)


def random_tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers that ``dtype`` holds exactly."""
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def with_layout(tensor: Tensor, layout: str) -> Tensor:
    """A tensor of the same shape and dtype, other strides; the expanded ones repeat image 0 or channel 0."""
    n, c, h, w = tensor.shape
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "permuted":
        return tensor.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    if layout == "sliced":
        storage = torch.full((n + 1, c + 2, h + 3, 2 * w + 1), float("nan"), dtype=tensor.dtype)
        view = storage[1:, 1:-1, 2:-1, 1::2]
        view.copy_(tensor)
        return view
    if layout == "expanded_images":
        return tensor[:1].contiguous().expand(n, c, h, w)
    if layout == "expanded_channels":
        return tensor[:, :1].contiguous().expand(n, c, h, w)
    if layout == "expanded_pixels":
        return tensor[:, :, :1, :1].contiguous().expand(n, c, h, w)
    if layout == "reversed":
        return tensor.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    raise ValueError(layout)


def finest(features: Any) -> Tensor:
    """The first map of a pyramid, or the only one."""
    first: Tensor = tree_leaves(features)[0]
    return first


def memory_format_of(features: Tensor) -> torch.memory_format:
    """channels_last of a map that has this format alone."""
    return next(
        (memory_format for memory_format in FORMATS if features.is_contiguous(memory_format=memory_format)),
        torch.contiguous_format,
    )


def formatted(features: Any, layout: torch.memory_format) -> Any:
    """A map, or every map of a pyramid, in this memory format."""
    return tree_map(lambda feature_map: feature_map.contiguous(memory_format=layout), features)


def requiring_grad(leaves: Any) -> list[Tensor]:
    """Those of the maps and boxes that require a gradient."""
    return [leaf for leaf in tree_leaves(leaves) if leaf.requires_grad]


def xyxy(*corners: tuple[float, float, float, float], image: int = 0) -> Tensor:
    """Boxes (image, x1, y1, x2, y2) of one image, float64."""
    return torch.tensor([[float(image), *corner] for corner in corners], dtype=torch.float64).reshape(-1, 5)


HEIGHT, WIDTH = 7, 9
SWAPPED = [0, 2, 1, 4, 3]
"""Boxes (image, y1, x1, y2, x2) from boxes (image, x1, y1, x2, y2), and the other way round."""
NAN, INF = float("nan"), float("inf")
BOX_SETS: dict[str, Tensor] = {
    "inside": xyxy((1.2, 0.7, 5.9, 4.1), (0.3, 2.2, 3.1, 6.4), (2.0, 1.0, 6.0, 5.0)),
    "crossing": xyxy((-3.7, -2.1, 4.4, 3.3), (5.1, 3.9, 14.2, 11.8), (-6.0, 2.5, 13.0, 3.5), (-0.9, -0.8, 0.4, 0.3)),
    "outside": xyxy((-30.0, 1.0, -20.0, 4.0), (1.0, 40.0, 4.0, 50.0), (100.0, 100.0, 101.0, 101.0)),
    "empty": xyxy((3.0, 2.0, 3.0, 2.0), (1.5, 1.5, 4.5, 1.5), (2.25, 0.75, 2.25, 3.75), (0.0, 0.0, 0.0, 0.0)),
    "reversed": xyxy((5.2, 4.3, 1.1, 0.4), (5.2, 0.4, 1.1, 4.3), (2.0, 3.0, -40.0, 2.5)),
    "border": xyxy((0.0, 0.0, 9.0, 7.0), (-1.0, -1.0, 10.0, 8.0), (8.0, 6.0, 9.0, 7.0), (-0.5, -0.5, 0.5, 0.5)),
    "tiny": xyxy((3.1, 2.9, 3.2, 3.0), (0.001, 0.001, 0.002, 0.002), (8.4, 6.4, 8.6, 6.6)),
    "large": xyxy((-300.3, -200.7, 411.9, 333.3), (3.3, -1e3, 4.4, 1e3)),
    "not_finite": xyxy(
        (NAN, 1.0, 3.0, 4.0), (1.0, NAN, 3.0, 4.0), (1.0, 1.0, NAN, 4.0), (1.0, 1.0, 3.0, NAN), (INF, 1.0, 3.0, 4.0),
        (-INF, 1.0, 3.0, 4.0), (1.0, 1.0, INF, 4.0), (1.0, -INF, 3.0, INF), (-INF, -INF, INF, INF), (NAN,) * 4,
    ),
}  # fmt: skip
"""Corners in map pixels (scale 1) around a map of ``HEIGHT`` rows and ``WIDTH`` columns; every box is of image 0."""


def spread(boxes: Tensor, images: int) -> Tensor:
    """``boxes`` dealt out over ``images`` images in an order that is not sorted."""
    result = boxes.clone()
    result[:, 0] = (torch.arange(len(boxes)) + 1).remainder(images)
    return result


def listed(boxes: Tensor, images: int = 2) -> list[Tensor]:
    """The coordinates of the boxes of every image."""
    return [boxes[boxes[:, 0] == image, 1:] for image in range(images)]


def joined(images: Tensor, corners: Tensor) -> Tensor:
    """Rows of a fixed image column and of coordinates that may be perturbed."""
    return torch.cat([images[:, None], corners], 1)


def all_boxes(images: int = 1) -> Tensor:
    """Every set of ``BOX_SETS``, one after the other."""
    return spread(torch.cat(list(BOX_SETS.values())), images)


CROP_BOX_SETS = {
    **{name: boxes[:, SWAPPED] / torch.tensor([1.0, HEIGHT - 1, WIDTH - 1, HEIGHT - 1, WIDTH - 1])
       for name, boxes in BOX_SETS.items()},
    "inside": xyxy((0.12, 0.23, 0.61, 0.74), (0.31, 0.03, 0.93, 0.37), (0.2, 0.25, 0.8, 0.9)),
    "unit": xyxy((0.0, 0.0, 1.0, 1.0), (1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.5, 0.5, 0.5, 0.5),
                 (1.0, 1.0, 1.0, 1.0), (0.25, 0.125, 0.75, 0.875)),
}  # fmt: skip
"""``BOX_SETS`` in units of the map, and boxes whose samples lie on pixel centres; boxes (image, y1, x1, y2, x2)."""


def rotated_boxes(*boxes: tuple[float, float, float, float, float], image: int = 0) -> Tensor:
    """Rows (image, cx, cy, w, h, angle) of one image, float64."""
    return torch.tensor([[float(image), *box] for box in boxes], dtype=torch.float64).reshape(-1, 6)


ROTATED_BOX_SETS: dict[str, Tensor] = {
    "inside": rotated_boxes((4.2, 3.4, 3.1, 2.3, 30.0), (4.4, 3.1, 2.2, 3.9, -75.0), (5.1, 3.7, 4.0, 1.3, 200.0)),
    "crossing": rotated_boxes((0.3, 0.4, 5.2, 4.1, 45.3), (8.9, 6.7, 6.3, 3.9, -120.1), (4.4, -0.7, 12.2, 3.3, 10.4)),
    "outside": rotated_boxes((-30.0, 2.0, 4.0, 4.0, 33.0), (4.0, 50.0, 3.0, 9.0, 80.0), (100.0, 100.0, 1.0, 1.0, 5.0)),
    "empty": rotated_boxes((3.2, 2.1, 0.0, 0.0, 15.0), (3.3, 3.1, 4.4, 0.0, 25.0), (2.9, 3.3, 0.0, 3.4, -25.0)),
    "upright": rotated_boxes((4.0, 3.0, 4.0, 4.0, 0.0), (4.3, 3.2, 3.7, 2.9, 90.0), (4.3, 3.2, 3.7, 2.9, 180.0),
                            (4.3, 3.2, 3.7, 2.9, -90.0), (4.3, 3.2, 3.7, 2.9, 360.0), (4.5, 3.5, 9.0, 7.0, 0.0)),
    "tiny": rotated_boxes((3.15, 2.95, 0.11, 0.12, 37.0), (0.0015, 0.0015, 0.001, 0.001, 61.0)),
    "large": rotated_boxes((4.4, 3.3, 712.2, 534.1, 20.0), (3.3, 2.2, 1.3, 2e3, 88.8), (300.3, 200.1, 900.3, 30., 33.)),
    "turned": rotated_boxes((4.2, 3.4, 3.1, 2.3, 1234.5), (4.2, 3.4, 3.1, 2.3, -98765.0), (4.2, 3.4, 3.1, 2.3, 1e-4)),
    "not_finite": rotated_boxes(
        (NAN, 1.0, 3.0, 4.0, 5.0), (1.0, NAN, 3.0, 4.0, 5.0), (1.0, 1.0, NAN, 4.0, 5.0), (1.0, 1.0, 3.0, NAN, 5.0),
        (1.0, 1.0, 3.0, 4.0, NAN), (INF, 1.0, 3.0, 4.0, 5.0), (1.0, -INF, 3.0, 4.0, 5.0), (1.0, 1.0, INF, 4.0, 5.0),
        (1.0, 1.0, 3.0, INF, 5.0), (1.0, 1.0, 3.0, 4.0, INF), (1.0, 1.0, 3.0, 4.0, -INF), (4.0, 3.0, INF, INF, 0.0),
    ),
}  # fmt: skip
"""Rotated boxes in map pixels (scale 1) around the same map; every box is of image 0."""


@lru_cache(maxsize=2)
def large_map(dtype: torch.dtype, channels: int, layout: torch.memory_format, images: int = 2) -> Tensor:
    """Images of 300 rows and 301 columns."""
    return random_tensor(images, channels, 300, 301, seed=8, dtype=dtype).contiguous(memory_format=layout)


def pyramid_boxes(count: int, seed: int = 13) -> Tensor:
    """Boxes of 8 to 200 px, on every one of the levels 1/4 to 1/32 if the canonical size is 40."""
    random = torch.rand(count, 4, generator=generator(seed), dtype=torch.float64)
    size = 8.0 * 25.0 ** random[:, 2:]
    corner = random[:, :2] * 140.0 - 20.0
    return torch.cat([torch.arange(count)[:, None].double() * 5 % 2, corner, corner + size], 1)


def smooth_boxes(
    count: int, shape: tuple[int, ...], call: RoIAlignCall, seed: int = 0, distance: float = 1e-3
) -> Tensor:
    """Random boxes over and around maps of ``shape`` near which ``call`` is differentiable.

    Every sample keeps ``distance`` (map pixels) from the borders of its cell, and the sizes from where the sample count
    or the legacy minimum changes.
    """
    images, _, height, width = shape
    random = np.random.default_rng(seed)
    params = reference.Params(call.output_size, call.spatial_scale, call.sampling_ratio, call.aligned)
    found: list[list[float]] = []
    while len(found) < count:
        x, y = random.uniform(-1.5, width - 1.0), random.uniform(-1.5, height - 1.0)
        corners = np.array([x, y, x + random.uniform(0.3, width), y + random.uniform(0.3, height)]) / call.spatial_scale
        row = np.array([len(found) % images, *corners])
        if reference.distance_to_kinks(row[None], height, width, params) > distance:
            found.append([float(value) for value in row])
    return torch.tensor(found, dtype=torch.float64)


def smooth_boxes_of(call: OperatorCall, count: int) -> Tensor:
    """Random boxes over and around a map of 9 x 9 pixels; none of their samples lies on the border of a cell."""
    random = np.random.default_rng(5)
    low, size = random.uniform(-1.0, 5.0, (count, 2)), random.uniform(1.5, 6.0, (count, 2))
    corners = torch.from_numpy(np.concatenate([np.arange(count)[:, None] % 2, low, low + size], 1))
    return call.from_corners(corners, 9, 9)


LARGE_CORNERS = xyxy(
    (3.0, 5.0, 40.3, 37.0),
    (250.3, 220.1, 299.9, 299.0),
    (0.0, 170.5, 12.0, 180.0),
    (-40.0, -30.0, 20.0, 13.0),
    (100.2, 100.4, 100.9, 131.7),
    (20.0, 290.0, 50.0, 320.0),
    (130.0, 7.0, 110.0, 2.0),
    (400.0, 10.0, 420.0, 30.0),
    (-40.0, -30.0, 340.0, 330.0),
)


def large_boxes(call: OperatorCall, images: int = 2) -> Tensor:
    """Boxes on and over the borders of ``large_map()``; the largest only where it has no adaptive grid of samples."""
    samples = call.options.get("sampling_ratio", call.options.get("samples_per_bin", 0))
    return call.from_corners(spread(LARGE_CORNERS[: 9 if samples > 0 else 8], images), 300, 301)
