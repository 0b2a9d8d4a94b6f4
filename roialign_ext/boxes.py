"""Boxes as the operators take them: rows (batch index, x1, y1, x2, y2) or (batch index, cx, cy, w, h, angle)."""

from typing import Union

import torch
from torch import Tensor


class BoxShapeError(ValueError, AssertionError):
    """Boxes of the wrong shape. Also an AssertionError, which is what torchvision raises in its place."""


def _no_boxes(boxes: Tensor, coordinates: int) -> str:
    """The value to pass instead of an empty tensor of another shape, such as ``torch.tensor([])``."""
    if boxes.numel() > 0:
        return ""
    return f": no boxes are torch.zeros(0, {coordinates}) in a list, torch.zeros(0, {coordinates + 1}) without one"


def _concatenated(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def join_boxes(
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007 (TorchScript)
    input: Tensor,
    coordinates: int = 4,
    names: str = "x1, y1, x2, y2",
) -> Tensor:
    """Checks boxes and joins a list of them, one ``Tensor[L, coordinates]`` per image, into one tensor.

    The result is ``[K, 1 + coordinates]``: the batch index and the coordinates, on the device of ``input``, the feature
    map ``[N, C, H, W]``. Error messages name the coordinates by ``names``. Half-precision boxes of a list become
    float32, because bfloat16 cannot hold the batch index 257.
    """
    # Tracing would record the sizes of its example; there the operator's own checks have to do.
    tracing = torch._C._get_tracing_state()  # torch.jit.is_tracing() without two function calls
    if isinstance(boxes, Tensor):
        if boxes.is_nested:  # sizes would raise an error of torch's
            raise ValueError("boxes: expected a dense tensor, got a nested one")
        if not tracing and (boxes.dim() != 2 or boxes.shape[1] != coordinates + 1):
            raise BoxShapeError(
                f"boxes: expected a Tensor[K, {coordinates + 1}] of rows (batch index, {names}) or a list of "
                f"Tensor[L, {coordinates}], got a tensor of shape {list(boxes.shape)}{_no_boxes(boxes, coordinates)}"
            )
        return boxes
    if not tracing and len(boxes) != input.size(0):
        raise ValueError(
            f"boxes: expected one tensor per image of input, which are {input.size(0)}, got a list of {len(boxes)}; "
            f"an image without boxes has torch.zeros(0, {coordinates})"
        )
    supported, device = [torch.float32, torch.float64, torch.float16, torch.bfloat16], input.device
    for i, image_boxes in enumerate(boxes):
        if image_boxes.dim() != 2 or (not tracing and image_boxes.size(1) != coordinates):
            raise BoxShapeError(
                f"boxes: expected a list of Tensor[L, {coordinates}] with rows ({names}), "
                f"got shape {list(image_boxes.shape)} at index {i}{_no_boxes(image_boxes, coordinates)}"
            )
        if image_boxes.dtype not in supported:
            whole = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
            advice = ": use boxes.float()" if image_boxes.dtype in whole else ""
            raise TypeError(
                "boxes: expected float16, bfloat16, float32 or float64 tensors, "
                f"got {image_boxes.dtype} at index {i}{advice}"
            )
        if image_boxes.device != device:
            raise ValueError(
                f"boxes: expected tensors on {device} like input, got one on {image_boxes.device} at index {i}"
            )
    if len(boxes) == 0:
        return torch.zeros([0, coordinates + 1], device=device)
    if tracing:  # a recorded arange would stay on the device of its example
        indices = [
            torch.full_like(image_boxes[:, :1], float(i), dtype=torch.float32) for i, image_boxes in enumerate(boxes)
        ]
    elif len(boxes) == 1:  # one launch in place of an arange and two views
        indices = [torch.zeros([boxes[0].size(0), 1], dtype=torch.float32, device=device)]
    else:  # views, so that any number of images takes two launches
        images = torch.arange(len(boxes), dtype=torch.float32, device=device).unbind()
        indices = [images[i].expand(image_boxes.size(0), 1) for i, image_boxes in enumerate(boxes)]
    return torch.cat([_concatenated(indices), _concatenated(boxes)], dim=1)


def check_normalised_boxes(boxes: Tensor, box_indices: Tensor) -> None:
    """Shapes of the boxes of crop_and_resize; the operator compares the numbers of both."""
    if boxes.is_nested:
        raise ValueError("boxes: expected a dense tensor, got a nested one")
    tracing = torch._C._get_tracing_state()
    if not tracing and (boxes.dim() != 2 or boxes.size(1) != 4):
        advice = ": no boxes are torch.zeros(0, 4)" if boxes.numel() == 0 else ""
        raise BoxShapeError(
            f"boxes: expected a Tensor[K, 4] of normalised rows (y1, x1, y2, x2), got shape {list(boxes.shape)}{advice}"
        )
    if box_indices.dim() != 1:
        raise ValueError(
            f"box_indices: expected a Tensor[K], one image index per box, got shape {list(box_indices.shape)}"
        )
