"""Tensor subclasses: who answers a call with several of them, and what torchvision's boxes say of themselves.

Looked at only where some argument overrides ``__torch_function__``: other calls do not pay for it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

_BOUNDING_BOXES = "torchvision.tv_tensors._bounding_boxes.BoundingBoxes"


def call_override(function: Callable[..., Tensor], tensors: Sequence[Any], *arguments: Any) -> Tensor:
    """The answer of the first override among ``tensors`` that has one; where none has, that for plain tensors.

    A subclass commonly declines to answer beside a type that it does not know. Two such types in one call, an image and
    its boxes, say nothing against the numbers in them.
    """
    try:
        return handle_torch_function(function, tensors, *arguments)
    except TypeError as error:
        # How torch says that every override returned NotImplemented; where a mode did too, it has the last word.
        nobody = f"no implementation found for '{function.__module__}.{function.__name__}'"
        if torch._C._is_torch_function_mode_enabled() or not str(error).startswith(nobody):
            raise
    with torch._C.DisableTorchFunctionSubclass():
        return function(*(_plain(argument) for argument in arguments))


def _plain(argument: Any) -> Any:
    """Tensors without their subclass, alone or in a list: torch.compile looks at types under the line above too."""
    if isinstance(argument, Tensor):
        return argument.as_subclass(Tensor)
    return [_plain(one) for one in argument] if isinstance(argument, (list, tuple)) else argument


def check_corners(boxes: Sequence[Any]) -> None:
    """What torchvision's BoundingBoxes hold are corners, if there are any among ``boxes``."""
    for one in boxes:
        if (found := _format(one)) not in (None, "XYXY"):
            raise ValueError(
                "boxes: expected (x1, y1, x2, y2), which is the format XYXY, got BoundingBoxes of the format "
                f"{found}: torchvision.transforms.v2.ConvertBoundingBoxFormat converts upright ones"
            )


def check_rotated(boxes: Sequence[Any], clockwise: object, angle_unit: object) -> None:
    """The same of rotated boxes, whose angle torchvision counts in degrees, counter-clockwise."""
    for one in boxes:
        found = _format(one)
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
    """No BoundingBoxes, whose numbers are pixels in every format."""
    if (found := _format(boxes)) is not None:
        raise ValueError(
            "boxes: expected a plain tensor of normalised rows (y1, x1, y2, x2), got BoundingBoxes of the format "
            f"{found}, in pixels"
        )


def _format(boxes: object) -> str | None:
    """The format of BoundingBoxes, None for anything else; their class is known by its path, without an import."""
    for kind in type(boxes).__mro__:
        if f"{kind.__module__}.{kind.__qualname__}" == _BOUNDING_BOXES:
            return str(getattr(boxes, "format").value)  # noqa: B009 (an attribute that Tensor has not)
    return None
