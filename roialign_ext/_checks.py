"""Checks of the arguments of public functions: what the operators' schemas would refuse in words of their own.

The tests of the usual arguments stand in one function, since every call pays for them. Values, sizes and dtypes are
checked in C++, for callers of the operators too.
"""

from typing import Any

import torch
from torch import Tensor

from ._environment import REBUILD

INTEGER = (int, torch.SymInt)
NUMBER = (float, int, torch.SymInt, torch.SymFloat)
INDEX_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
HAS_CUDA = torch._C._dispatch_has_kernel_for_dispatch_key("roialign_ext::_pool", "CUDA")


def as_pair(output_size: Any) -> Any:
    """One number of bins stands for both axes."""
    return (output_size, output_size) if isinstance(output_size, INTEGER) else output_size


def as_tensor_or_list(boxes: Any) -> Any:
    """A tuple of tensors is as good as a list."""
    return list(boxes) if isinstance(boxes, tuple) else boxes


def listed(tensors: Any) -> Any:
    """Where ``__torch_function__`` may be overridden: a list's elements, or the one tensor."""
    return tensors if isinstance(tensors, (list, tuple)) else (tensors,)


def check_call(
    input: Any,
    boxes: object,
    output_size: object,
    spatial_scale: object = 1.0,
    sampling_ratio: object = -1,
    mode: object = "avg",
    columns: int = 5,
) -> None:
    """Types of the arguments that most operators share; boxes are rows of ``columns`` numbers."""
    if not isinstance(input, Tensor) or not (input.is_cpu or input.is_meta) or input.dim() != 4:
        check_map("input", input)
    if not isinstance(boxes, Tensor):
        _check_box_list(boxes, columns)
    if not isinstance(output_size, INTEGER):
        _check_pair("output_size", output_size)
    if not isinstance(spatial_scale, NUMBER):
        raise TypeError(f"spatial_scale: expected a number, got {spatial_scale!r}")
    if not isinstance(sampling_ratio, INTEGER):
        raise TypeError(f"sampling_ratio: expected an int, got {sampling_ratio!r}")
    if not isinstance(mode, str):
        raise TypeError(f"mode: expected 'avg' or 'max', got {mode!r}")


def check_map(name: str, features: Any) -> None:
    """A feature map on a device that this build knows."""
    if not isinstance(features, Tensor):
        raise TypeError(f"{name}: expected a tensor [N, C, H, W], got {type(features).__name__}")
    if features.is_cuda and not HAS_CUDA:
        raise ValueError(
            f"{name}: this build of roialign_ext runs on cpu, without CUDA kernels, got a tensor on {features.device}: "
            f"rebuild it where nvcc is found with `FORCE_CUDA=1 {REBUILD}`, or move the tensor with .cpu()"
        )
    if not (features.is_cpu or features.is_cuda or features.is_meta):
        devices = "cpu and cuda" if HAS_CUDA else "cpu"
        raise ValueError(
            f"{name}: this build of roialign_ext runs on {devices}, got a tensor on {features.device}: "
            "move it there with .cpu()"
        )
    if features.dim() != 4:
        raise ValueError(f"{name}: expected a tensor [N, C, H, W], got shape {list(features.shape)}")


def check_levels(features: object, scales: object) -> None:
    """Feature maps and scales of the levels; their numbers are compared in C++."""
    if not isinstance(features, (list, tuple)):
        raise TypeError(
            f"features: expected a list of tensors [N, C, H, W], finest level first, got {type(features).__name__}"
        )
    if not features:
        raise ValueError("features: expected a list of 1 to 8 levels, got an empty list")
    for level, one in enumerate(features):
        check_map(f"features[{level}]", one)
    if not isinstance(scales, (list, tuple)) or not all(isinstance(scale, NUMBER) for scale in scales):
        raise TypeError(f"scales: expected a list of numbers, one per level, got {scales!r}")


def check_crop(
    boxes: object, box_indices: object, crop_size: object, method: object, extrapolation_value: object,
    samples_per_bin: object,
) -> None:  # fmt: skip
    """What only crop_and_resize takes."""
    if not isinstance(boxes, Tensor):
        raise TypeError(f"boxes: expected a Tensor[K, 4] of rows (y1, x1, y2, x2), got {type(boxes).__name__}")
    if not isinstance(box_indices, Tensor):
        raise TypeError(f"box_indices: expected a Tensor[K] of integers, got {type(box_indices).__name__}")
    if box_indices.dtype not in INDEX_DTYPES:
        raise TypeError(f"box_indices: expected a tensor of integers, got {box_indices.dtype}")
    if not isinstance(crop_size, INTEGER):
        _check_pair("crop_size", crop_size)
    check_text("method", method, "'bilinear' or 'nearest'")
    check_number("extrapolation_value", extrapolation_value)
    if not isinstance(samples_per_bin, INTEGER):
        raise TypeError(f"samples_per_bin: expected an int, got {samples_per_bin!r}")


def check_number(name: str, value: object) -> None:
    """A real number, symbolic or not."""
    if not isinstance(value, NUMBER):
        raise TypeError(f"{name}: expected a number, got {value!r}")


def check_text(name: str, value: object, wanted: str) -> None:
    """One of a few words."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected {wanted}, got {value!r}")


def _check_box_list(boxes: object, columns: int) -> None:
    if not (isinstance(boxes, (list, tuple)) and all(isinstance(image_boxes, Tensor) for image_boxes in boxes)):
        raise TypeError(
            f"boxes: expected a Tensor[K, {columns}] or a list of Tensor[L, {columns - 1}], got {type(boxes).__name__}"
        )


def _check_pair(name: str, value: object) -> None:
    if not (isinstance(value, (list, tuple)) and all(isinstance(bins, INTEGER) for bins in value)):
        raise TypeError(f"{name}: expected an int or a pair of ints, got {value!r}")
