"""Warnings about boxes that are surely a mistake, if ROIALIGN_EXT_CHECK=1 was set before the import.

A call gives at most one warning of each kind. Such a call is legal and has a defined result, often 0 everywhere. The
warnings read values, so a call on CUDA waits for the device. There are no values to read while a program is compiled,
exported or traced, nor under transforms of torch.func.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._checks import DTYPES


class Format(NamedTuple):
    """The numbers of a box."""

    names: str
    has_batch_index: bool = True  # as the first number of a row, if boxes are one tensor


CORNERS = Format("x1, y1, x2, y2")
ROTATED = Format("cx, cy, w, h, angle")
NORMALISED = Format("y1, x1, y2, x2", has_batch_index=False)


enabled = os.environ.get("ROIALIGN_EXT_CHECK", "0") not in ("", "0")  # read once, because every call pays for a read


def warn_about_boxes(boxes: Any, maps: Sequence[Tensor], scales: Sequence[float], box_format: Format = CORNERS) -> None:
    """Warns on request about boxes that are reversed, wholly outside the maps, or all within the first map pixel.

    ``boxes`` and ``maps`` are arguments of a public function, ``scales`` the map pixels per image pixel of each map.
    Other checks raise for arguments of a wrong shape or type. Callers look at ``enabled`` first.
    """
    if torch.compiler.is_compiling():
        return
    pieces = boxes if isinstance(boxes, list) else [boxes]
    first = int(box_format.has_batch_index and not isinstance(boxes, list))  # the column after the batch index
    columns = first + box_format.names.count(",") + 1
    if _is_traced() or not all(_has_values(piece) and piece.shape[1:] == (columns,) for piece in pieces):
        return
    joined = torch.cat([piece.detach()[:, first:].to("cpu", torch.float64) for piece in pieces] or [torch.empty(0, 4)])
    if len(joined) == 0 or len(scales) != len(maps) or not all(level_map.dim() == 4 for level_map in maps):
        return
    lengths = [len(piece) for piece in pieces] if isinstance(boxes, list) else []
    for found, what, advice in _mistakes(joined, maps, scales, box_format):
        count = int(found.sum())
        if count > 0:
            box = int(found.nonzero()[0])
            numbers = ", ".join(f"{number:g}" for number in joined[box].tolist())
            warnings.warn(
                f"{_place(box, lengths)} {what}: ({box_format.names}) = ({numbers}), one of {count} such boxes among "
                f"{len(joined)}. {advice}",
                stacklevel=_frames_of_torch(),
            )


def _mistakes(
    boxes: Tensor, maps: Sequence[Tensor], scales: Sequence[float], box_format: Format
) -> list[tuple[Tensor, str, str]]:
    """The kinds of mistakes: a mask of the boxes that make it, its description, and what to pass instead."""
    # (W, H), in the order of (x, y)
    sizes = [(float(level_map.shape[3]), float(level_map.shape[2])) for level_map in maps]
    if box_format is NORMALISED:
        ends = boxes.reshape(-1, 2, 2)  # [K, corner, (y, x)]
        low, high = ends.amin(1), ends.amax(1)
        outside = ((high < 0) | (low > 1)).any(1)
        advice = "Pass shares of the map: y / (H - 1) and x / (W - 1) of coordinates in map pixels."
        return [(outside, "lies outside the map", advice)]
    if box_format is ROTATED:
        reach = boxes[:, 2:4].norm(dim=1, keepdim=True) / 2  # radius of the circle around the box
        low, high = boxes[:, :2] - reach, boxes[:, :2] + reach
    else:
        ends = boxes.reshape(-1, 2, 2)  # [K, corner, (x, y)]
        low, high = ends.amin(1), ends.amax(1)
    outside = torch.ones(len(boxes), dtype=torch.bool)
    for scale, size in zip(scales, sizes, strict=True):
        # No sample within a pixel of the map, for either value of `aligned`: (7) of docs/math.md.
        outside &= ((high * scale <= -1) | (low * scale >= torch.tensor(size, dtype=torch.float64) + 1)).any(1)
    finest = max(scales)
    in_first_pixel = bool(((low >= 0) & (high * finest <= 1)).all()) and bool((high > 0).any()) and max(sizes[0]) > 1
    given = f"spatial_scale {finest:g}" if len(scales) == 1 else f"scales {[float(f'{scale:g}') for scale in scales]}"
    height, width = maps[0].shape[2:]
    found = [
        (
            outside,
            f"lies outside the map of {height} x {width} pixels at {given}",
            "Pass boxes in image pixels, and map pixels per image pixel, 1 / stride, as the scale.",
        ),
        (
            torch.full((len(boxes),), in_first_pixel),
            f"lies, as all boxes do, within the first pixel of the map at {given}",
            "Pass boxes in image pixels: multiply normalised ones by the size of the image.",
        ),
    ]
    if box_format is CORNERS:
        reversed_corners = ((boxes[:, 2:] - boxes[:, :2]) < 0).any(1)
        advice = 'Pass corners: torchvision.ops.box_convert(boxes, "xywh", "xyxy") makes them from (x, y, w, h).'
        found.insert(0, (reversed_corners, "is reversed (x2 < x1 or y2 < y1)", advice))
    return found


def _has_values(tensor: Any) -> bool:
    """Whether the argument is a plain tensor of rows with data."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and not tensor.is_nested
        and tensor.layout == torch.strided
        and not tensor.is_meta
        and tensor.dtype in DTYPES
        and tensor.dim() == 2
    )


def _is_traced() -> bool:
    """Whether a trace, a mode or a transform of torch.func sees this call."""
    return (
        torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
    )


def _place(box: int, lengths: Sequence[int]) -> str:
    """The place of a box: the argument, the image if boxes are a list of tensors of these lengths, the row there."""
    for image, length in enumerate(lengths):
        if box < length:
            return f"boxes[{image}]: row {box}"
        box -= length
    return f"boxes: row {box}"


def _frames_of_torch() -> int:
    """The stacklevel of the first caller outside this package and torch."""
    frame, level = sys._getframe(1).f_back, 2
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(("roialign_ext.", "torch.")):
        frame, level = frame.f_back, level + 1
    return level
