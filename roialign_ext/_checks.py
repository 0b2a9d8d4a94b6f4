"""Checks of the arguments of public functions: what the operators' schemas would refuse in words of their own.

The tests of the usual arguments stand in one function, since every call pays for them. Values, sizes and dtypes are
checked in C++, for callers of the operators too.
"""

import math
import operator
from typing import Any

import torch
from torch import Tensor

from ._environment import REBUILD

INDEX_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
LARGEST = 2**63 - 1  # of the schemas' ints
HAS_CUDA = torch._C._dispatch_has_kernel_for_dispatch_key("roialign_ext::_pool", "CUDA")


def as_integer(name: str, value: Any, wanted: str = "an int") -> Any:
    """What counts as an int: Python's and numpy's integers, tensors of one integer, sizes of a graph. No bool."""
    if isinstance(value, torch.SymInt):
        return value
    if type(value) is not int:
        if _is_bool(value):
            raise TypeError(f"{name}: expected {wanted}, got {value!r}")
        try:
            value = operator.index(value)
        except TypeError as error:
            raise TypeError(f"{name}: expected {wanted}, got {value!r}") from error
    if not -LARGEST <= value <= LARGEST:
        raise ValueError(f"{name}: expected {wanted} of at most 64 bits, got {value!r}")
    return value


def as_number(name: str, value: Any) -> Any:
    """What counts as a float: Python's and numpy's numbers, tensors of one number, sizes of a graph. No bool."""
    if type(value) is float or isinstance(value, (torch.SymFloat, torch.SymInt)):
        return value
    several = isinstance(value, Tensor) and value.numel() != 1
    if type(value) is not int and (not hasattr(value, "__float__") or several or _is_bool(value)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        return float(value)
    except (TypeError, OverflowError) as error:
        raise TypeError(f"{name}: expected a number, got {value!r}") from error


def as_pair(name: str, value: Any) -> Any:
    """A pair of numbers of bins, for which one number stands too."""
    wanted = "an int or a pair of ints"
    if isinstance(value, (list, tuple)):
        return [bins if type(bins) is int else as_integer(name, bins, wanted) for bins in value]
    number = as_integer(name, value, wanted)
    return [number, number]


def as_tensor_or_list(boxes: Any) -> Any:
    """A tuple of tensors is as good as a list."""
    return list(boxes) if isinstance(boxes, tuple) else boxes


def listed(tensors: Any) -> Any:
    """Where ``__torch_function__`` may be overridden: a list's elements, or the one tensor."""
    return tensors if isinstance(tensors, (list, tuple)) else (tensors,)


def check_call(
    input: Any,
    boxes: object,
    output_size: Any,
    spatial_scale: Any = 1.0,
    sampling_ratio: Any = -1,
    aligned: object = False,
    mode: object = "avg",
    columns: int = 5,
) -> tuple[Any, Any, Any]:
    """Types of the arguments that most operators share; boxes are rows of ``columns`` numbers.

    Returns output_size, spatial_scale and sampling_ratio as the operators' schemas want them.
    """
    if not isinstance(input, Tensor) or not (input.is_cpu or input.is_meta) or input.dim() != 4:
        check_map("input", input)
    if not isinstance(boxes, Tensor):
        _check_box_list(boxes, columns)
    output_size = [output_size, output_size] if type(output_size) is int else as_pair("output_size", output_size)
    if type(spatial_scale) is not float:
        spatial_scale = as_number("spatial_scale", spatial_scale)
    if type(sampling_ratio) is not int or not -LARGEST <= sampling_ratio <= LARGEST:
        sampling_ratio = as_integer("sampling_ratio", sampling_ratio)
    if aligned is not True and aligned is not False:
        check_flag("aligned", aligned)
    if not isinstance(mode, str):
        raise TypeError(f"mode: expected 'avg' or 'max', got {mode!r}")
    return output_size, spatial_scale, sampling_ratio


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


def check_levels(features: object, scales: object) -> list[Any]:
    """Feature maps and scales of the levels, whose numbers are compared in C++. Returns the scales."""
    if not isinstance(features, (list, tuple)):
        raise TypeError(
            f"features: expected a list of tensors [N, C, H, W], finest level first, got {type(features).__name__}"
        )
    if not features:
        raise ValueError("features: expected a list of 1 to 8 levels, got an empty list")
    for level, one in enumerate(features):
        check_map(f"features[{level}]", one)
    if not isinstance(scales, (list, tuple)):
        raise TypeError(f"scales: expected a list of numbers, one per level, got {scales!r}")
    return [as_number(f"scales[{level}]", scale) for level, scale in enumerate(scales)]


def check_crop(boxes: object, box_indices: object, method: object) -> None:
    """What only crop_and_resize takes, but for numbers."""
    if not isinstance(boxes, Tensor):
        raise TypeError(f"boxes: expected a Tensor[K, 4] of rows (y1, x1, y2, x2), got {type(boxes).__name__}")
    if not isinstance(box_indices, Tensor):
        raise TypeError(f"box_indices: expected a Tensor[K] of integers, got {type(box_indices).__name__}")
    if box_indices.dtype not in INDEX_DTYPES:
        raise TypeError(f"box_indices: expected a tensor of integers, got {box_indices.dtype}")
    check_text("method", method, "'bilinear' or 'nearest'")


def check_flag(name: str, value: object) -> None:
    """True or False, and no other truth."""
    if not isinstance(value, (bool, torch.SymBool)):
        raise TypeError(f"{name}: expected a bool, got {value!r}")


def check_text(name: str, value: object, wanted: str) -> None:
    """One of a few words."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected {wanted}, got {value!r}")


def check_size(name: str, value: Any) -> Any:
    """A size as a layer keeps it, an int or a pair of ints."""
    pair = as_pair(name, value)
    if len(pair) != 2 or not all(bins > 0 for bins in pair):
        raise ValueError(f"{name}: expected a positive int or two of them (height, width), got {value!r}")
    return tuple(pair) if isinstance(value, (list, tuple)) else pair[0]


def check_scale(name: str, value: Any) -> Any:
    """A scale as a layer keeps it; the type of the coordinates, which it has to fit, is known in the call alone."""
    scale = as_number(name, value)
    if not 0 < scale < math.inf:
        raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")
    return scale


def check_word(name: str, value: object, words: tuple[str, str]) -> None:
    """One of two words."""
    wanted = f"{words[0]!r} or {words[1]!r}"
    check_text(name, value, wanted)
    if value not in words:
        raise ValueError(f"{name}: expected {wanted}, got {value!r}")


def check_names(name: str, value: Any) -> list[str]:
    """A list of names, which one name is not: its letters would count as names."""
    if isinstance(value, str) or not all(isinstance(one, str) for one in value):
        raise TypeError(f"{name}: expected a list of names, got {value!r}")
    return list(value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def _check_box_list(boxes: object, columns: int) -> None:
    if not (isinstance(boxes, (list, tuple)) and all(isinstance(image_boxes, Tensor) for image_boxes in boxes)):
        raise TypeError(
            f"boxes: expected a Tensor[K, {columns}] or a list of Tensor[L, {columns - 1}], got {type(boxes).__name__}"
        )
