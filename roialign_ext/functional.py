"""The public operators as functions."""

from typing import Any, Union

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from ._typing import BroadcastingList2
from .boxes import boxes_to_rows


# The annotations are in the form that TorchScript reads.
def roi_align(
    input: Tensor,
    boxes: Union[Tensor, list[Tensor]],  # noqa: UP007
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    mode: str = "avg",
) -> Tensor:
    """Pools a feature map over boxes by the mean or the maximum of bilinear samples: RoIAlign.

    Each box is cut into ``output_size`` bins, each bin into a grid of samples, each sample interpolates the four
    pixels around it. Arguments, defaults and numbers of mode ``"avg"`` are those of ``torchvision.ops.roi_align``.

    Args:
        input: features ``[N, C, H, W]`` in any strides; float16, bfloat16, float32 or float64.
        boxes: ``Tensor[K, 5]`` of rows ``(batch index, x1, y1, x2, y2)``, or a list with one ``Tensor[L, 4]`` of rows
            ``(x1, y1, x2, y2)`` per image. Coordinates are in image pixels and are read as float32 (as float64 where
            they or ``input`` are float64), whatever the dtype of ``input`` is.
        output_size: bins ``(PH, PW)`` of a box, or one number for both.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each axis; if not positive, as many as the bin is map pixels long,
            rounded up.
        aligned: ``True`` puts pixel centres at half-integers, as a shift of boxes by half a map pixel. ``False`` is
            the older convention, without shift and with boxes at least one map pixel long.
        mode: ``"avg"``, the mean of the samples, or ``"max"``, the largest of them.

    Returns:
        ``[K, C, PH, PW]`` in the dtype and memory format of ``input``. Differentiable in ``input`` and ``boxes``, any
        number of times. Samples outside the map by more than one pixel count as 0.

    Raises:
        BoxShapeError: boxes of the wrong shape (a ValueError and an AssertionError).
        ValueError: any other shape or value that the arguments above do not allow.
        TypeError: a dtype that they do not allow.
        IndexError: a batch index that is not a whole number in ``[0, N)``; the message names the row.

    Source: He et al., "Mask R-CNN", 2017; equations in docs/math.md.
    """
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        listed = boxes if isinstance(boxes, (list, tuple)) else (boxes,)
        if has_torch_function_variadic(input, *listed):
            return handle_torch_function(
                roi_align, (input, *listed), input, boxes, output_size, spatial_scale, sampling_ratio, aligned, mode
            )
        _check_types(input, boxes, output_size, spatial_scale, sampling_ratio, mode)
        output_size = as_pair(output_size)
        boxes = as_tensor_or_list(boxes)
    rows = boxes_to_rows(boxes, input.size(0))
    return torch.ops.roialign_ext.roi_align(input, rows, output_size, spatial_scale, sampling_ratio, aligned, mode)  # type: ignore[no-any-return]


INTEGER = (int, torch.SymInt)


def as_pair(output_size: Any) -> Any:
    """One number of bins stands for both axes."""
    return (output_size, output_size) if isinstance(output_size, INTEGER) else output_size


def as_tensor_or_list(boxes: Any) -> Any:
    """A tuple of tensors is as good as a list."""
    return list(boxes) if isinstance(boxes, tuple) else boxes


def _check_types(
    input: object, boxes: object, output_size: object, spatial_scale: object, sampling_ratio: object, mode: object
) -> None:
    """What the operator's schema would refuse in words of its own, or with another class of exception."""
    if not isinstance(input, Tensor):
        raise TypeError(f"input: expected a tensor [N, C, H, W], got {type(input).__name__}")
    if not (input.is_cpu or input.is_meta):
        raise ValueError(
            f"input: this build of roialign_ext runs on cpu, got a tensor on {input.device}: move it there with .cpu()"
        )
    if input.dim() != 4:
        raise ValueError(f"input: expected a tensor [N, C, H, W], got shape {list(input.shape)}")
    if not isinstance(boxes, Tensor) and not (
        isinstance(boxes, (list, tuple)) and all(isinstance(image_boxes, Tensor) for image_boxes in boxes)
    ):
        raise TypeError(f"boxes: expected a Tensor[K, 5] or a list of Tensor[L, 4], got {type(boxes).__name__}")
    if not isinstance(output_size, INTEGER) and not (
        isinstance(output_size, (list, tuple)) and all(isinstance(bins, INTEGER) for bins in output_size)
    ):
        raise TypeError(f"output_size: expected an int or a pair of ints, got {output_size!r}")
    if not isinstance(spatial_scale, (float, *INTEGER, torch.SymFloat)):
        raise TypeError(f"spatial_scale: expected a number, got {spatial_scale!r}")
    if not isinstance(sampling_ratio, INTEGER):
        raise TypeError(f"sampling_ratio: expected an int, got {sampling_ratio!r}")
    if not isinstance(mode, str):
        raise TypeError(f"mode: expected 'avg' or 'max', got {mode!r}")
