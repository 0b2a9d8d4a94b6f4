"""Boxes as the operators take them: rows (batch index, x1, y1, x2, y2) in image pixels."""

from typing import Union

import torch
from torch import Tensor


class BoxShapeError(ValueError, AssertionError):
    """Boxes of the wrong shape. Also an AssertionError, which is what torchvision raises in its place."""


def boxes_to_rows(boxes: Union[Tensor, list[Tensor]], images: int) -> Tensor:  # noqa: UP007 (TorchScript)
    """Checks boxes and joins a list of them, one ``Tensor[L, 4]`` per image, into one ``Tensor[K, 5]``.

    Half-precision boxes of a list come back as float32: bfloat16 cannot hold the batch index 257.
    """
    if isinstance(boxes, Tensor):
        # Tracing would record the sizes of its example; there the operator's own check has to do.
        tracing = torch.jit.is_tracing()  # type: ignore
        if not tracing and (boxes.dim() != 2 or boxes.size(1) != 5):
            raise BoxShapeError(
                "boxes: expected a Tensor[K, 5] of rows (batch index, x1, y1, x2, y2) or a list of Tensor[L, 4], "
                f"got a tensor of shape {list(boxes.shape)}"
            )
        return boxes
    if len(boxes) != images:
        raise ValueError(
            f"boxes: expected one tensor per image of input, which are {images}, got a list of {len(boxes)}"
        )
    for i, image_boxes in enumerate(boxes):
        if image_boxes.dim() != 2 or image_boxes.size(1) != 4:
            raise BoxShapeError(
                "boxes: expected a list of Tensor[L, 4] with rows (x1, y1, x2, y2), "
                f"got shape {list(image_boxes.shape)} at index {i}"
            )
        if not image_boxes.is_floating_point():
            raise TypeError(f"boxes: expected floating-point tensors, got {image_boxes.dtype} at index {i}")
    if len(boxes) == 0:
        return torch.zeros([0, 5])
    indices = [
        torch.full_like(image_boxes[:, :1], float(i), dtype=torch.float32) for i, image_boxes in enumerate(boxes)
    ]
    return torch.cat([torch.cat(indices), torch.cat(boxes)], dim=1)
