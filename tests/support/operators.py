"""The table of operators: every public operator, in variants that take ways of their own through the package.

A new operator is one class of ``operator_calls.py`` and one row of ``OPERATORS`` for each variant.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from support.inputs import MODES
from support.operator_calls import (
    CropCall,
    MultiscaleCall,
    MultiscaleRotatedCall,
    OperatorCall,
    PrRoIPoolCall,
    PSRoIAlignCall,
    PSRoIPoolCall,
    RoIAlignCall,
    RoIPoolCall,
    RoIWarpCall,
    RotatedCall,
)

LEVELS: dict[str, Any] = {"scales": (1.0, 0.5), "canonical_scale": 4.2, "canonical_level": 1.0}
"""Boxes of the tests are on both levels."""
OPERATORS: dict[str, OperatorCall] = {
    "roi_align": RoIAlignCall((3, 2), 0.9, 2, True),
    "roi_align-adaptive": RoIAlignCall((3, 2), 0.9, -1, True),
    "roi_align-legacy": RoIAlignCall((2, 3), 0.9, 2),
    "roi_align-legacy_adaptive": RoIAlignCall((3, 2), 0.9),
    "roi_align-max": RoIAlignCall((3, 2), 0.9, 2, True, "max"),
    "roi_align-max_legacy_adaptive": RoIAlignCall((3, 2), 0.9, mode="max"),
    "prroi_pool": PrRoIPoolCall((3, 2), 0.9),
    "roi_warp": RoIWarpCall((3, 2), 0.9, 2),
    "roi_warp-adaptive": RoIWarpCall((3, 2), 0.9),
    "roi_warp-max": RoIWarpCall((3, 2), 0.9, 2, "max"),
    "roi_warp-max_adaptive": RoIWarpCall((3, 2), 0.9, mode="max"),
    "roi_pool": RoIPoolCall((3, 2), 0.9),
    "ps_roi_align": PSRoIAlignCall((3, 2), 0.9, 2),
    "ps_roi_align-adaptive": PSRoIAlignCall((2, 3), 0.9),
    "ps_roi_pool": PSRoIPoolCall((3, 2), 0.9),
    "crop_and_resize": CropCall((2, 3), samples_per_bin=2, extrapolation_value=-1.5),
    "crop_and_resize-plain": CropCall((3, 2)),
    "crop_and_resize-nearest": CropCall((3, 2), method="nearest", samples_per_bin=2, extrapolation_value=0.75),
    "crop_and_resize-max": CropCall((3, 2), mode="max", samples_per_bin=2, extrapolation_value=-0.5),
    "crop_and_resize-nearest_max": CropCall((2, 2), mode="max", method="nearest", samples_per_bin=3),
    "roi_align_rotated": RotatedCall((3, 2), 0.9, 2),
    "roi_align_rotated-adaptive": RotatedCall((3, 2), 0.9),
    "roi_align_rotated-legacy": RotatedCall((2, 3), 0.9, 2, aligned=False),
    "roi_align_rotated-mmcv": RotatedCall((3, 2), 0.9, 2, clockwise=True, angle_unit="radian"),
    "roi_align_rotated-radian": RotatedCall((3, 2), 0.9, aligned=False, clockwise=True, angle_unit="radian"),
    "multiscale_roi_align": MultiscaleCall((3, 2), **LEVELS, sampling_ratio=2, aligned=True),
    "multiscale_roi_align-max": MultiscaleCall((3, 2), **LEVELS, mode="max"),
    "multiscale_roi_align_rotated": MultiscaleRotatedCall((3, 2), **LEVELS, sampling_ratio=2),
}
"""Variants of an operator are called ``<function>-<variant>``; its first row is the function itself."""
FIRST = {name: call for name, call in OPERATORS.items() if "-" not in name}
"""One row of each function."""
ON_ONE_MAP = {name: call for name, call in OPERATORS.items() if call.levels == 1}
RULES = tuple(dict.fromkeys(rule for call in FIRST.values() for rule in call.rules))
"""Every rule of the private operators."""
WITHOUT_BOX_DERIVATIVE = tuple(rule for call in FIRST.values() if call.box_order == 0 for rule in call.rules)

each_operator = pytest.mark.parametrize("call", OPERATORS.values(), ids=list(OPERATORS))
"""Every operator in its variants."""
each_function = pytest.mark.parametrize("call", FIRST.values(), ids=list(FIRST))


def having(option: str) -> pytest.MarkDecorator:
    """Every function that has this option."""
    found = {name: call for name, call in FIRST.items() if option in call.options}
    return pytest.mark.parametrize("call", found.values(), ids=list(found))


OPTIONS: dict[str, tuple[Any, ...]] = {
    "spatial_scale": (1.0, 1.0, 0.25, 0.3, 2.0),
    "scales": ((1.0, 0.5), (1.0, 0.25), (0.5, 0.25), (2.0,)),
    "sampling_ratio": (-1, 0, 1, 2, 3, 4),
    "aligned": (False, True),
    "mode": MODES,
    "clockwise": (False, True),
    "angle_unit": ("degree", "radian"),
    "method": ("bilinear", "nearest"),
    "extrapolation_value": (0.0, -1.5, 3.25),
    "samples_per_bin": (1, 2, 3),
    "canonical_scale": (3.0, 4.2),
    "canonical_level": (1.0, 0.0),
}
"""Values of the options from which tests draw calls."""


def variants(call: OperatorCall, **options: tuple[Any, ...]) -> list[OperatorCall]:
    """``call`` with every combination of these values for the options that it has."""
    names = [name for name in options if name in call.options]
    products = itertools.product(*(options[name] for name in names))
    return [replace(call, **dict(zip(names, values, strict=True))) for values in products]
