"""Checks of the operators' arguments: shapes, dtypes, devices and numbers.

csrc/checks.cpp checks the same before a kernel accesses memory, and has the same texts. The checks stand twice because
the stable ABI of torch has two gaps. It has no symbolic sizes, which shape functions need. It has no TypeError and no
NotImplementedError, so a kernel that refuses a call raises the error of this file (roialign_ext/_autograd.py).

Wrong shapes, devices and values raise ValueError, wrong dtypes TypeError, missing derivatives NotImplementedError. The
coordinates of boxes are data, which only kernels read. Empty tensors pass. A map without pixels (H or W is 0) passes
too: it rejects every sample, so its outputs are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._checks import MAX_LEVELS, check_dense, check_dtype
from ._form import NO_GRAD_BOXES

MAX_SAMPLES_OF_AXIS = torch.iinfo(torch.int32).max  # of a box
NAMES = (
    "roi_align_half_pixel",
    "roi_align_legacy",
    "roi_warp",
    "prroi_pool",
    "roi_pool",
    "crop_bilinear",
    "crop_nearest",
    "ps_roi_align",
    "ps_roi_pool",
    "rotated_half_pixel",
    "rotated_legacy",
    "rotated_half_pixel_radian",
    "rotated_legacy_radian",
)


# --- checks that the public operators use too


def check_tensor(name: str, tensor: Tensor) -> None:
    """A dense tensor of a floating-point type that kernels know."""
    check_dense(name, tensor)
    check_dtype(name, tensor)


def check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{name}: expected a tensor on {other.device} like {other_name}, got one on {tensor.device}")


def check_output_size(name: str, size: Sequence[Any]) -> None:
    """Two positive integers, each an int32."""
    if len(size) != 2 or not all(holds(bins > 0) for bins in size):
        raise ValueError(f"{name}: expected two positive integers (height, width), got {list(size)}")
    for bins in size:
        if isinstance(bins, int) and bins > MAX_SAMPLES_OF_AXIS:
            raise ValueError(f"{name}: expected at most {MAX_SAMPLES_OF_AXIS} along an axis, got {list(size)}")


def check_samples(name: str, per_bin: int, bins: Sequence[Any]) -> None:
    """Raises if ``bins * per_bin`` exceeds an int32. Symbolic numbers of bins are checked by the kernel."""
    for size in bins:
        known = size if isinstance(size, int) else 1
        if per_bin > 0 and per_bin > MAX_SAMPLES_OF_AXIS // known:
            raise ValueError(
                f"{name}: expected at most {MAX_SAMPLES_OF_AXIS} samples along an axis of a box, got {per_bin} in each "
                f"of {known} bins"
            )


def check_scale(name: str, scale: float, coordinates: torch.dtype) -> None:
    """A finite number above 0 in the type of the coordinates."""
    in_float64 = coordinates == torch.float64
    smallest = 0.0 if in_float64 else 2.0**-150  # which rounds to 0 as a float32
    if not smallest < scale <= torch.finfo(coordinates).max:
        read = "" if in_float64 else " in float32, as which coordinates are read"
        raise ValueError(f"{name}: expected a finite number above 0{read}, got {scale:g}")


def coordinate_type(features: Tensor, boxes: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (features.dtype, boxes.dtype) else torch.float32


def holds(condition: Any) -> bool:
    """True if the condition holds. A symbolic condition becomes a guard of the graph."""
    if isinstance(condition, torch.SymBool):
        from torch.fx.experimental.symbolic_shapes import expect_true  # which imports sympy

        return expect_true(condition)
    return bool(condition)


# --- single arguments of the private operators


def _has_shape(tensor: Tensor, *sizes: Any) -> bool:
    return tensor.dim() == len(sizes) and all(holds(a == b) for a, b in zip(tensor.shape, sizes, strict=True))


def _check_map(name: str, tensor: Tensor) -> None:
    check_dense(name, tensor)
    if tensor.dim() != 4:
        raise ValueError(f"{name}: expected a 4-D tensor [N, C, H, W], got shape {list(tensor.shape)}")
    check_dtype(name, tensor)


def _check_levels(levels: int, rule: str) -> None:
    if not 1 <= levels <= MAX_LEVELS:
        raise ValueError(f"features: expected 1 to {MAX_LEVELS} feature maps, got {levels}")
    if levels > 1 and rule.startswith(("crop", "ps_")):
        raise ValueError(f"features: expected one feature map, got {levels}")


def _check_maps(maps: Sequence[Tensor], rule: str) -> None:
    _check_levels(len(maps), rule)
    if len(maps) == 1:
        _check_map("input", maps[0])
        return
    for level, level_map in enumerate(maps):
        name = f"features[{level}]"
        _check_map(name, level_map)
        check_device(name, level_map, "features[0]", maps[0])
        if level_map.dtype != maps[0].dtype:
            raise TypeError(f"{name}: expected the dtype of features[0], {maps[0].dtype}, got {level_map.dtype}")
        if not all(holds(level_map.shape[axis] == maps[0].shape[axis]) for axis in (0, 1)):
            images, channels = maps[0].shape[:2]
            raise ValueError(
                f"{name}: expected the images and channels of features[0], [{images}, {channels}, H, W], got shape "
                f"{list(level_map.shape)}"
            )


def _check_boxes(boxes: Tensor, rule: str) -> None:
    check_dense("boxes", boxes)
    shape = "[K, 5] of rows (batch index, x1, y1, x2, y2)"
    if rule.startswith("rotated"):
        shape = "[K, 6] of rows (batch index, cx, cy, w, h, angle)"
    if boxes.dim() != 2 or not holds(boxes.shape[1] == int(shape[4])):
        raise ValueError(f"boxes: expected a tensor {shape}, got shape {list(boxes.shape)}")
    check_dtype("boxes", boxes)


def _check_direction(name: str, direction: Tensor | None, boxes: Tensor, rule: str) -> None:
    if direction is None:
        return
    if rule in NO_GRAD_BOXES:
        raise NotImplementedError(f"{rule} has no derivative with respect to the boxes: detach them")
    if not _has_shape(direction, *boxes.shape):
        raise ValueError(f"{name}: expected the shape of boxes, {list(boxes.shape)}, got shape {list(direction.shape)}")
    check_tensor(name, direction)
    check_device(name, direction, "boxes", boxes)


def _check_directions(u: Tensor | None, v: Tensor | None, boxes: Tensor, rule: str) -> None:
    if u is None and v is not None:
        raise ValueError("v: expected none where u is none, got a tensor")
    _check_direction("u", u, boxes, rule)
    _check_direction("v", v, boxes, rule)


def _check_output_shaped(name: str, tensor: Tensor, boxes: Tensor, *sizes: Any) -> None:
    """[K, *sizes], the shape of the output."""
    sizes = (boxes.shape[0], *sizes)
    if not _has_shape(tensor, *sizes):
        raise ValueError(f"{name}: expected the shape of the output, {list(sizes)}, got shape {list(tensor.shape)}")
    check_device(name, tensor, "boxes", boxes)


def _has_maximum(rule: str) -> bool:
    return not rule.startswith(("prroi", "rotated", "ps_"))


def _check_argmax(argmax: Tensor | None, boxes: Tensor, rule: str, *sizes: Any) -> None:
    if argmax is None:
        if rule == "roi_pool":
            raise ValueError(f'argmax: expected that of a maximum for rule "{rule}"')
        return
    if not _has_maximum(rule):
        raise ValueError(f'argmax: expected none for rule "{rule}", got a tensor')
    _check_output_shaped("argmax", argmax, boxes, *sizes)
    if argmax.dtype != torch.int32:
        raise TypeError(f"argmax: expected an int32 tensor, got {argmax.dtype}")


def _check_geometry(
    scales: Sequence[float], rule_args: Sequence[float] | None, sampling_ratio: int, rule: str, levels: int,
    images: Any, boxes: Tensor, coordinates: torch.dtype, output_size: Sequence[Any],
) -> None:  # fmt: skip
    if len(scales) != levels:
        raise ValueError(f"scales: expected one number per feature map, which are {levels}, got {len(scales)}")
    for level, scale in enumerate(scales):
        check_scale("spatial_scale" if levels == 1 else f"scales[{level}]", scale, coordinates)
    if sorted(scales, reverse=True) != list(scales):
        raise ValueError(
            "scales: expected 1 / stride of each level, from the finest level to the coarsest, none larger than the "
            f"one before, got [{', '.join(f'{scale:g}' for scale in scales)}]"
        )
    rule_args = rule_args or []
    if levels > 1 or rule.startswith("ps_") or rule_args:
        if len(rule_args) != 2:
            raise ValueError(
                f"rule_args: expected the two numbers canonical_scale and canonical_level, got {len(rule_args)}"
            )
        check_scale("canonical_scale", rule_args[0], coordinates)
        if not abs(rule_args[1]) <= torch.finfo(torch.float32).max:
            raise ValueError(f"canonical_level: expected a finite number, got {rule_args[1]:g}")
    if rule.startswith("crop") and sampling_ratio <= 0:
        raise ValueError(f"samples_per_bin: expected a positive number, got {sampling_ratio}")
    check_samples("samples_per_bin" if rule.startswith("crop") else "sampling_ratio", sampling_ratio, output_size)
    if rule.startswith("ps_"):
        _check_parts(rule_args, rule, images, boxes.shape[0], output_size)


def _check_parts(rule_args: Sequence[float], rule: str, images: Any, boxes: Any, output_size: Sequence[Any]) -> None:
    """Checks position-sensitive rules: an image of the operator is one bin of an image, a box one bin of a box."""
    if not all(1 <= bins <= MAX_SAMPLES_OF_AXIS and bins == int(bins) for bins in rule_args):
        numbers = ", ".join(f"{bins:g}" for bins in rule_args)
        raise ValueError(f'rule_args: expected the numbers of bins (PH, PW) of rule "{rule}", got [{numbers}]')
    count = int(rule_args[0]) * int(rule_args[1])
    if not holds(images % count == 0):
        raise ValueError(f"input: expected {count} for each image, one for each bin, got {images}")
    if not holds(boxes % count == 0):
        raise ValueError(f"boxes: expected {count} rows for each box, one for each bin, got {boxes}")
    if not all(holds(bins == 1) for bins in output_size):
        raise ValueError(f'output_size: expected [1, 1] for rule "{rule}", got {list(output_size)}')


def _check_name(rule: str) -> None:
    if rule not in NAMES:
        raise ValueError(f'rule: expected the name of a pooling rule, got "{rule}"')


# --- the private operators


def check_max_pool(
    input: Sequence[Tensor], boxes: Tensor, output_size: Sequence[Any], scales: Sequence[float],
    rule_args: Sequence[float] | None, sampling_ratio: int, rule: str,
) -> None:  # fmt: skip
    if rule in NAMES and not _has_maximum(rule):
        raise ValueError(f'rule: expected one that has a maximum, got "{rule}"')
    _check_common(input, boxes, output_size, scales, rule_args, sampling_ratio, rule)


def _check_common(
    input: Sequence[Tensor], boxes: Tensor, output_size: Sequence[Any], scales: Sequence[float],
    rule_args: Sequence[float] | None, sampling_ratio: int, rule: str,
) -> None:  # fmt: skip
    _check_name(rule)
    _check_maps(input, rule)
    _check_boxes(boxes, rule)
    check_device("boxes", boxes, "input", input[0])
    check_output_size("output_size", output_size)
    coordinates = coordinate_type(input[0], boxes)
    images = input[0].shape[0]
    _check_geometry(scales, rule_args, sampling_ratio, rule, len(input), images, boxes, coordinates, output_size)


def check_pool(
    input: Sequence[Tensor], boxes: Tensor, u: Tensor | None, v: Tensor | None, argmax: Tensor | None,
    output_size: Sequence[Any], scales: Sequence[float], rule_args: Sequence[float] | None, sampling_ratio: int,
    rule: str, extrapolation_value: float = 0.0,
) -> None:  # fmt: skip
    _check_common(input, boxes, output_size, scales, rule_args, sampling_ratio, rule)
    if extrapolation_value != 0 and not (rule.startswith("crop") and u is None and argmax is None):
        raise ValueError(f"extrapolation_value: expected 0 but for the value of a crop, got {extrapolation_value:g}")
    _check_directions(u, v, boxes, rule)
    _check_argmax(argmax, boxes, rule, input[0].shape[1], *output_size)


def check_pool_grad_input(
    grad: Tensor, boxes: Tensor, u: Tensor | None, v: Tensor | None, argmax: Tensor | None, input_size: Sequence[Any],
    channels_last: bool, scales: Sequence[float], rule_args: Sequence[float] | None, sampling_ratio: int, rule: str,
) -> None:  # fmt: skip
    _check_name(rule)
    if len(input_size) < 4 or len(input_size) % 2:
        raise ValueError(
            f"input_size: expected the integers (N, C, H, W), and H and W of each further level, got {list(input_size)}"
        )
    if not all(holds(size >= 0) for size in input_size):
        raise ValueError(f"input_size: expected no negative size, got {list(input_size)}")
    levels = len(input_size) // 2 - 1
    _check_levels(levels, rule)
    _check_map("grad", grad)
    _check_boxes(boxes, rule)
    bins = grad.shape[2:]
    _check_output_shaped("grad", grad, boxes, input_size[1], *bins)
    check_output_size("output_size", bins)
    _check_directions(u, v, boxes, rule)
    _check_argmax(argmax, boxes, rule, input_size[1], *bins)
    coordinates = coordinate_type(grad, boxes)
    _check_geometry(scales, rule_args, sampling_ratio, rule, levels, input_size[0], boxes, coordinates, bins)


def check_pool_grad_boxes(
    grad: Tensor, input: Sequence[Tensor], boxes: Tensor, v: Tensor | None, argmax: Tensor | None,
    scales: Sequence[float], rule_args: Sequence[float] | None, sampling_ratio: int, rule: str,
) -> None:  # fmt: skip
    _check_name(rule)
    if rule in NO_GRAD_BOXES:
        raise NotImplementedError(NO_GRAD_BOXES[rule])
    _check_map("grad", grad)
    _check_maps(input, rule)
    if grad.dtype != input[0].dtype:
        raise TypeError(f"grad: expected the dtype of input, {input[0].dtype}, got {grad.dtype}")
    _check_boxes(boxes, rule)
    check_device("boxes", boxes, "input", input[0])
    bins = grad.shape[2:]
    _check_output_shaped("grad", grad, boxes, input[0].shape[1], *bins)
    check_output_size("output_size", bins)
    _check_direction("v", v, boxes, rule)
    _check_argmax(argmax, boxes, rule, input[0].shape[1], *bins)
    coordinates = coordinate_type(grad, boxes)
    images = input[0].shape[0]
    _check_geometry(scales, rule_args, sampling_ratio, rule, len(input), images, boxes, coordinates, bins)


CHECKS: dict[str, Callable[..., None]] = {
    "_pool": check_pool,
    "_max_pool": check_max_pool,
    "_pool_grad_input": check_pool_grad_input,
    "_pool_grad_boxes": check_pool_grad_boxes,
}
