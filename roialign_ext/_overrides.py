"""Tensor subclasses: calls with several of them, and the formats of torchvision's boxes.

These functions run only if an argument overrides ``__torch_function__``, so other calls do not pay for them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

_BOUNDING_BOXES = "torchvision.tv_tensors._bounding_boxes.BoundingBoxes"


def call_override(function: Callable[..., Tensor], tensors: Sequence[Any], *arguments: Any) -> Tensor:
    """The result of the first override that accepts the call, otherwise the result for plain tensors.

    A subclass commonly returns NotImplemented for a call with a type that it does not know. An image and boxes of two
    such types are still valid as plain tensors.
    """
    try:
        return handle_torch_function(function, tensors, *arguments)
    except TypeError as error:
        # torch raises with this message if every override returned NotImplemented. An enabled mode decides alone.
        nobody = f"no implementation found for '{function.__module__}.{function.__name__}'"
        if torch._C._is_torch_function_mode_enabled() or not str(error).startswith(nobody):
            raise
    with torch._C.DisableTorchFunctionSubclass():
        return function(*(_plain(argument) for argument in arguments))


def _plain(argument: Any) -> Any:
    """A tensor, or the tensors of a list, without their subclass: torch.compile sees it even under the guard above."""
    if isinstance(argument, Tensor):
        return argument.as_subclass(Tensor)
    return [_plain(element) for element in argument] if isinstance(argument, (list, tuple)) else argument


def check_corners(boxes: Sequence[Any]) -> None:
    """Raises if BoundingBoxes of torchvision among ``boxes`` do not hold corners."""
    for image_boxes in boxes:
        if (found := _format(image_boxes)) not in (None, "XYXY"):
            raise ValueError(
                "boxes: expected (x1, y1, x2, y2), which is the format XYXY, got BoundingBoxes of the format "
                f"{found}: torchvision.transforms.v2.ConvertBoundingBoxFormat converts upright ones"
            )


def check_rotated(boxes: Sequence[Any], clockwise: object, angle_unit: object) -> None:
    """Raises if BoundingBoxes among ``boxes`` do not match: torchvision's angles are in degrees, counter-clockwise."""
    for image_boxes in boxes:
        found = _format(image_boxes)
        if found not in (None, "CXCYWHR"):
            raise ValueError(
                f"boxes: expected (cx, cy, w, h, angle), which is the format CXCYWHR, got BoundingBoxes of the format "
                f"{found}"
            )
        if found is not None and (clockwise is not False or angle_unit != "degree"):
            raise ValueError(
                "boxes: BoundingBoxes of the format CXCYWHR have counter-clockwise angles in degrees, expected "
                f"clockwise=False and angle_unit='degree', got {clockwise!r} and {angle_unit!r}"
            )


def check_plain(boxes: object) -> None:
    """Raises for BoundingBoxes, whose numbers are pixels in every format."""
    if (found := _format(boxes)) is not None:
        raise ValueError(
            "boxes: expected a plain tensor of normalised rows (y1, x1, y2, x2), got BoundingBoxes of the format "
            f"{found}, in pixels"
        )


def _format(boxes: object) -> str | None:
    """The format of BoundingBoxes, or None for anything else. The path of the class tells, without an import."""
    for cls in type(boxes).__mro__:
        if f"{cls.__module__}.{cls.__qualname__}" == _BOUNDING_BOXES:
            return str(getattr(boxes, "format").value)  # noqa: B009 (Tensor has no such attribute)
    return None
