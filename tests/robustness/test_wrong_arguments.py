"""Does any value of an argument work, or raise an error of this package that names the argument?"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import roialign_ext
from roialign_ext import BoxShapeError
from support.inputs import INF, NAN, random_tensor
from support.operator_calls import OperatorCall
from support.operators import FIRST, each_function

pytestmark = pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors:UserWarning",
    "ignore:Sparse CSR tensor support:UserWarning",
    "ignore:.*quantiz:UserWarning",
    "ignore:.*quantiz:DeprecationWarning",
)

MAP = random_tensor(2, 3, 8, 8, seed=1, dtype=torch.float32)
ROWS = torch.tensor([[0.0, 1, 1, 5, 6], [1, 0, 2, 7, 7]])
LISTED = [ROWS[:1, 1:], ROWS[1:, 1:]]

ZOO: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "str": lambda: "a",
    "empty str": lambda: "",
    "bytes": lambda: b"ab",
    "bool": lambda: True,
    "float": lambda: 2.5,
    "nan": lambda: NAN,
    "inf": lambda: INF,
    "zero": lambda: 0,
    "negative": lambda: -3,
    "huge": lambda: 10**400,
    "64 bits": lambda: 2**63,
    "complex": lambda: 1j,
    "fraction": lambda: Fraction(1, 2),
    "empty list": list,
    "list": lambda: [1, 2, 3],
    "pair": lambda: (2.0, 0.5),
    "list of None": lambda: [None, None],
    "list of lists": lambda: [[0.0, 1, 1, 4, 4]],
    "list of str": lambda: ["0", "1"],
    "list of arrays": lambda: [np.zeros((1, 4))] * 2,
    "dict": lambda: {"a": 1},
    "dict of None": lambda: {"0": None, "1": MAP},
    "set": lambda: {1, 2},
    "object": object,
    "type": lambda: torch.Tensor,
    "function": lambda: len,
    "generator": lambda: (boxes for boxes in LISTED),
    "array": lambda: np.zeros((2, 5)),
    "array of one": lambda: np.ones(1),
    "0-d array": lambda: np.array(2.0),
    "numpy float": lambda: np.float32(0.5),
    "numpy bool": lambda: np.True_,
    "module": nn.Identity,
    "dtype": lambda: torch.float32,
    "device": lambda: torch.device("cpu"),
    "0-d tensor": lambda: torch.tensor(0.5),
    "empty tensor": lambda: torch.tensor([]),
    "vector": lambda: torch.ones(3),
    "ints": lambda: torch.ones(2, 5, dtype=torch.int64),
    "list of ints": lambda: [torch.ones(1, 4, dtype=torch.int64)] * 2,
    "bools": lambda: torch.ones(2, 5, dtype=torch.bool),
    "complex tensor": lambda: torch.ones(2, 5, dtype=torch.complex64),
    "float8": lambda: torch.ones(2, 5).to(torch.float8_e4m3fn),
    "meta": lambda: ROWS.to("meta"),
    "0-d meta": lambda: torch.ones((), device="meta"),
    "0-d meta int": lambda: torch.ones((), dtype=torch.int64, device="meta"),
    "meta map": lambda: MAP.to("meta"),
    "list of meta": lambda: [boxes.to("meta") for boxes in LISTED],
    "sparse": ROWS.to_sparse,
    "sparse map": MAP.to_sparse,
    "0-d sparse": lambda: torch.tensor(2.0).to_sparse(),
    "csr": ROWS.to_sparse_csr,
    "list of sparse": lambda: [boxes.to_sparse() for boxes in LISTED],
    "mkldnn": MAP.to_mkldnn,
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)]),
    "ragged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=torch.jagged),
    "list of nested": lambda: [torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])] * 2,
    "quantized": lambda: torch.quantize_per_tensor(ROWS, 0.1, 0, torch.quint8),
    "quantized map": lambda: torch.quantize_per_tensor(MAP, 0.1, 0, torch.quint8),
    "list of quantized": lambda: [torch.quantize_per_tensor(boxes, 0.1, 0, torch.quint8) for boxes in LISTED],
    "empty map": lambda: MAP[:, :, :0],
    "int map": lambda: MAP.int(),
    "list of maps": lambda: [MAP, MAP],
    "dict of ints": lambda: {"0": MAP.int(), "1": MAP},
    "dict of dtypes": lambda: {"0": MAP, "1": MAP.double()},
    "dict of sparse": lambda: {"0": MAP.to_sparse(), "1": MAP},
    "dict of images": lambda: {"0": MAP, "1": MAP[:1]},
    "shapes of 0": lambda: [(0, 16), (0, 0)],
    "shapes of None": lambda: [(None, 16)],
}


def complaints(call: Callable[..., Any], good: dict[str, Any]) -> list[str]:
    """Wrong values of every argument whose error is of another kind or does not name the argument."""
    found = []
    for name in good:
        for title, make in ZOO.items():
            try:
                result = call(**{**good, name: make()})
            except (TypeError, ValueError, IndexError, BoxShapeError) as error:
                # What a layer calls rois is boxes in every error.
                if re.search(rf"\b{'boxes' if name == 'rois' else name}\b", str(error).partition(", got")[0]) is None:
                    found.append(f"{name} = {title}: {type(error).__name__}: {error}")
            except Exception as error:
                found.append(f"{name} = {title}: {type(error).__name__}: {str(error)[:200]}")
            else:
                assert isinstance(result, (torch.Tensor, nn.Module))
    return found


def good_arguments(call: OperatorCall) -> tuple[Any, Tensor]:
    """Features and boxes that a module or function takes."""
    return call.input_of(MAP), call.from_corners(ROWS.double(), *MAP.shape[2:]).float()


@each_function
def test_functions(call: OperatorCall) -> None:
    arguments = call.arguments(*good_arguments(call))
    assert call.function(**arguments).dim() == 4
    assert complaints(call.function, arguments) == []


@each_function
def test_layers(call: OperatorCall) -> None:
    arguments, inputs = call.layer_arguments(), call.layer_inputs(*good_arguments(call))
    if "image_shapes" in inputs:
        arguments["scales"] = None  # the image shapes say them
    assert call.module(**arguments)(**inputs).dim() == 4
    assert complaints(call.module, arguments) == []
    assert complaints(lambda **given: call.module(**arguments)(**given), inputs) == []


def test_autograd_function() -> None:
    def call(**arguments: Any) -> torch.Tensor:
        return roialign_ext.RoIAlignFunction.apply(*arguments.values())

    assert complaints(call, FIRST["roi_align"].arguments(MAP, ROWS)) == []


def test_replacement() -> None:
    assert complaints(lambda model: roialign_ext.replace_roi_layers(model) or MAP, {"model": nn.Identity()}) == []


def test_pictures() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from roialign_ext import viz

    measured = {"shifts": [0.0, 0.5], "size": 7.0, "bins": 3, "sampling_ratio": 2}
    assert complaints(partial(viz.position_error, "roi_align"), measured) == []
    assert complaints(partial(viz.value_error, "roi_align"), {**measured, "deviation": 2.0}) == []
    drawn = {
        "input": MAP[0, 0], "box": (1, 1, 5, 6), "output_size": 2, "spatial_scale": 1.0, "sampling_ratio": 2,
        "operators": ("roi_align",),
    }  # fmt: skip
    assert complaints(lambda **arguments: viz.draw_box(**arguments) and MAP, drawn) == []
