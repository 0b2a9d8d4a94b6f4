"""Are values refused that are of another type, or that the types of the kernels cannot hold?"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from roialign_ext import (
    CropAndResize,
    MultiScaleRoIAlign,
    PrRoIPool,
    RoIAlign,
    RoIAlignRotated,
    RoIPool,
    RoIWarp,
    crop_and_resize,
    multiscale_roi_align,
    roi_align,
    roi_align_rotated,
)
from support.arguments import FEATURES, SCALED, each_with_scale, pool
from support.inputs import random_tensor
from support.operator_calls import OperatorCall
from support.operators import FIRST, having

MAP = random_tensor(1, 2, 16, 16, seed=1, dtype=torch.float32)
BOXES = torch.tensor([[0.0, 1, 1, 9, 9]])
ROTATED = torch.tensor([[0.0, 5, 5, 4, 4, 30]])
CROPS, INDICES = torch.tensor([[0.1, 0.1, 0.8, 0.9]]), torch.zeros(1, dtype=torch.int64)
Make = Callable[..., Any]
each_ratio = having("sampling_ratio")


# --- what is no number


@pytest.mark.parametrize("flag", [True, False, torch.tensor(True)])
def test_a_bool_is_no_number(flag: Any) -> None:
    for size in (flag, (2, flag)):
        with pytest.raises(TypeError, match="output_size"):
            roi_align(MAP, BOXES, size)
        with pytest.raises(TypeError, match="crop_size"):
            crop_and_resize(MAP, CROPS, INDICES, size)
    for call in FIRST.values():
        for option in ("sampling_ratio", "samples_per_bin"):
            if option in call.options:
                with pytest.raises(TypeError, match=option):
                    pool(replace(call, **{option: flag}))
    for call in SCALED.values():
        with pytest.raises(TypeError, match=re.escape(call.scale_name)):
            pool(call.scaled(flag))
    for scale in (np.True_, torch.ones(2), np.ones(2), 10**400, 1j):
        with pytest.raises(TypeError, match="spatial_scale: expected a number"):
            roi_align(MAP, BOXES, 2, scale)  # type: ignore[arg-type]
    for size in (torch.tensor(2.0), np.float32(2), torch.ones(2, dtype=torch.int64), np.True_):
        with pytest.raises(TypeError, match="output_size"):
            roi_align(MAP, BOXES, size)


@pytest.mark.parametrize("value", [None, 2.5, "no", 1, torch.tensor(True)])
def test_only_a_bool_is_a_bool(value: Any) -> None:
    with pytest.raises(TypeError, match="aligned: expected a bool"):
        roi_align(MAP, BOXES, 2, aligned=value)
    with pytest.raises(TypeError, match="aligned: expected a bool"):
        multiscale_roi_align([MAP], BOXES, 2, [1.0], aligned=value)
    for name in ("aligned", "clockwise"):
        arguments: dict[str, Any] = {name: value}
        with pytest.raises(TypeError, match=f"{name}: expected a bool"):
            roi_align_rotated(MAP, ROTATED, 2, **arguments)


# --- numbers that the types cannot hold


@pytest.mark.parametrize("ratio", [2**31, 2**31 - 1, 2**62, 2**63 - 1])
@each_ratio
def test_more_samples_than_an_int32_counts(call: OperatorCall, ratio: int) -> None:
    with pytest.raises(ValueError, match=rf"sampling_ratio: expected at most 2147483647.*got {ratio}"):
        pool(replace(call, sampling_ratio=ratio))


@pytest.mark.parametrize("ratio", [2**31, 2**31 - 1, 2**62, 2**63 - 1])
def test_more_samples_than_an_int32_counts_in_the_private_operators(ratio: int) -> None:
    grad = torch.ones(1, 2, 3, 3)
    rule = ([1.0], [224.0, 4.0], ratio, "roi_align_legacy")
    with pytest.raises(ValueError, match="sampling_ratio"):
        torch.ops.roialign_ext._pool_grad_input(grad, BOXES, None, None, None, [1, 2, 16, 16], False, *rule)
    with pytest.raises(ValueError, match="sampling_ratio"):
        torch.ops.roialign_ext._pool_grad_boxes(grad, [MAP], BOXES, None, None, *rule)


@each_ratio
@pytest.mark.parametrize("ratio", [2**63, 2**100, -(2**63) - 1])
def test_ratios_of_more_than_64_bits(call: OperatorCall, ratio: int) -> None:
    with pytest.raises(ValueError, match=rf"sampling_ratio: expected an int of at most 64 bits, got {ratio}"):
        pool(replace(call, sampling_ratio=ratio))


@pytest.mark.parametrize("samples", [2**31 - 1, 2**31, 2**62, 2**63 - 1, 2**63])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_crops_of_more_samples_than_an_int32_counts(samples: int, mode: str, device: str) -> None:
    """The product with the size of the crop overflowed: another size, garbage, or a call that did not return."""
    tensors = [tensor.to(device) for tensor in (MAP, CROPS, INDICES)]
    with pytest.raises(ValueError, match=rf"samples_per_bin: expected .*got {samples}"):
        crop_and_resize(*tensors, 3, samples_per_bin=samples, mode=mode)


@pytest.mark.parametrize("size", [2**31, 2**62, (2, 2**62)])
def test_sizes_beyond_an_int32(size: Any) -> None:
    with pytest.raises(ValueError, match="output_size: expected at most 2147483647"):
        roi_align(MAP, BOXES, size)
    with pytest.raises(ValueError, match="crop_size: expected at most 2147483647"):
        crop_and_resize(MAP, CROPS, INDICES, size)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
@each_with_scale
def test_scales_that_float32_does_not_hold(call: OperatorCall, scale: float) -> None:
    """Such a scale would be 0 or infinite in the type of the coordinates, which is float64 beside float64 features."""
    argument, got = re.escape(call.scale_name), re.escape(str(scale))
    with pytest.raises(ValueError, match=rf"{argument}: expected .* above 0 in float32.*got {got}"):
        pool(call.scaled(scale))
    features = {call.input_name: call.input_of(FEATURES.double())}
    assert pool(call.scaled(scale), **features).shape == (3, 3, *call.output_size)


# --- boxes, and every other argument


WRONG_TYPES: list[tuple[str, dict[str, Any], str]] = [
    ("crop_and_resize", {"box_indices": torch.zeros(2)}, "box_indices: expected a tensor of integers"),
    ("crop_and_resize", {"box_indices": [0, 1]}, "box_indices: expected a Tensor"),
    ("crop_and_resize", {"boxes": [torch.zeros(2, 4)]}, r"boxes: expected a Tensor\[K, 4\]"),
    ("crop_and_resize", {"crop_size": 2.0}, "crop_size: expected an int or a pair"),
    ("crop_and_resize", {"method": 1}, "method: expected 'bilinear' or 'nearest'"),
    ("crop_and_resize", {"extrapolation_value": "0"}, "extrapolation_value: expected a number"),
    ("crop_and_resize", {"samples_per_bin": 1.5}, "samples_per_bin: expected an int"),
    ("roi_align_rotated", {"angle_unit": 360}, "angle_unit: expected 'degree' or 'radian'"),
    ("roi_align_rotated", {"boxes": "boxes"}, r"boxes: expected a Tensor\[K, 6\] or a list of Tensor\[L, 5\]"),
    ("prroi_pool", {"spatial_scale": "1"}, "spatial_scale: expected a number"),
    ("roi_pool", {"output_size": None}, "output_size: expected an int or a pair"),
    ("roi_warp", {"mode": None}, "mode: expected 'avg' or 'max'"),
    ("multiscale_roi_align", {"features": torch.zeros(2, 2, 4, 5)}, "features: expected a list of tensors"),
    ("multiscale_roi_align", {"features": [None]}, r"features\[0\]: expected a tensor"),
    ("multiscale_roi_align", {"scales": 1.0}, "scales: expected a list of numbers"),
    ("multiscale_roi_align", {"canonical_scale": "224"}, "canonical_scale: expected a number"),
]


@pytest.mark.parametrize(("name", "wrong", "message"), WRONG_TYPES)
def test_wrong_types(name: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        pool(FIRST[name], **wrong)


# --- layers check when they are made


BAD_LAYERS: list[tuple[Make, str, type[Exception]]] = [
    (lambda: RoIAlign(-3, 1.0, 2), "output_size", ValueError),
    (lambda: RoIAlign((1, 2, 3), 1.0, 2), "output_size", ValueError),  # type: ignore[arg-type]
    (lambda: RoIAlign(2.5, 1.0, 2), "output_size", TypeError),  # type: ignore[arg-type]
    (lambda: RoIAlign(2, "a", 2), "spatial_scale", TypeError),  # type: ignore[arg-type]
    (lambda: RoIAlign(2, 0.0, 2), "spatial_scale", ValueError),
    (lambda: RoIAlign(2, 1.0, None), "sampling_ratio", TypeError),  # type: ignore[arg-type]
    (lambda: RoIAlign(2, 1.0, 2, aligned=None), "aligned", TypeError),  # type: ignore[arg-type]
    (lambda: RoIAlign(2, 1.0, 2, mode="median"), "mode", ValueError),
    (lambda: RoIWarp(2, 1.0, 2, mode=1), "mode", TypeError),  # type: ignore[arg-type]
    (lambda: RoIPool(0, 1.0), "output_size", ValueError),
    (lambda: PrRoIPool(2, float("nan")), "spatial_scale", ValueError),
    (lambda: CropAndResize(0), "crop_size", ValueError),
    (lambda: CropAndResize(2, "cubic"), "method", ValueError),
    (lambda: CropAndResize(2, extrapolation_value="0"), "extrapolation_value", TypeError),  # type: ignore[arg-type]
    (lambda: CropAndResize(2, samples_per_bin=0), "samples_per_bin", ValueError),
    (lambda: RoIAlignRotated(2, 1.0, 2, clockwise=1), "clockwise", TypeError),  # type: ignore[arg-type]
    (lambda: RoIAlignRotated(2, 1.0, 2, angle_unit="degrees"), "angle_unit", ValueError),
    (lambda: MultiScaleRoIAlign("feat10", 2, 2), "featmap_names", TypeError),  # type: ignore[arg-type]
    (lambda: MultiScaleRoIAlign([0], 2, 2), "featmap_names", TypeError),  # type: ignore[list-item]
    (lambda: MultiScaleRoIAlign(["0"], 2, 2, scales=[0.0]), "scales", ValueError),
    (lambda: MultiScaleRoIAlign(["0"], 2, 2, canonical_scale=-1), "canonical_scale", ValueError),
]


@pytest.mark.parametrize(("make", "argument", "kind"), BAD_LAYERS)
def test_constructors(make: Make, argument: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=rf"^{argument}.*: expected"):
        make()
