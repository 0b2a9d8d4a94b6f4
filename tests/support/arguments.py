"""Good arguments of every operator, some of which a test replaces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from support.inputs import MODES, random_tensor
from support.operator_calls import OperatorCall
from support.operators import FIRST

FEATURES = random_tensor(2, 3, 7, 9, seed=1, dtype=torch.float32)
BOXES = FIRST["roi_align"].boxes("inside", dtype=torch.float32)

LISTS = {name: call for name, call in FIRST.items() if call.takes_lists}
each_with_lists = pytest.mark.parametrize("call", LISTS.values(), ids=list(LISTS))
"""Every function that takes boxes in a list."""
SCALED = {name: call for name, call in FIRST.items() if call.options.keys() & {"spatial_scale", "scales"}}
each_with_scale = pytest.mark.parametrize("call", SCALED.values(), ids=list(SCALED))
"""Every function whose boxes are in image pixels."""


def good_boxes(call: OperatorCall) -> Tensor:
    """The argument ``boxes`` of the function."""
    boxes: Tensor = call.box_arguments(call.boxes("inside", dtype=torch.float32))["boxes"]
    return boxes


def pool(call: OperatorCall, **changes: Any) -> Tensor:
    """The function with good arguments but for these."""
    good = call.arguments(call.input_of(FEATURES), call.boxes("inside", dtype=torch.float32))
    result: Tensor = call.function(**{**good, **changes})
    return result


def with_map(call: OperatorCall, feature_map: Any) -> dict[str, Any]:
    """This map, the first one of a pyramid, as an argument for ``pool``."""
    maps = call.input_of(FEATURES)
    return {call.input_name: [feature_map, *maps[1:]] if isinstance(maps, list) else feature_map}


def map_of(call: OperatorCall) -> str:
    """The name of that map in errors, as a pattern."""
    return r"features\[0\]" if call.input_name == "features" else "input"


def modes_of(call: OperatorCall) -> list[dict[str, Any]]:
    """The argument ``mode`` with each of its values, if the function has it."""
    return [{"mode": mode} for mode in MODES] if "mode" in call.options else [{}]
