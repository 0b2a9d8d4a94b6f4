"""Does torch.export keep an operator as one node, for any number of boxes, that trains in the exported module?"""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.testing import assert_close

from roialign_ext import MultiScaleRoIAlign
from support.small_cases import (
    BY_FUNCTION,
    NAMED,
    SmallCase,
    close,
    each_function,
    each_mode,
    name_of,
    value_and_gradients,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # dynamo looks at it
]


class Head(nn.Module):
    def __init__(self, case: SmallCase) -> None:
        super().__init__()
        self.pool = case.module()

    def forward(self, *arguments: Any) -> Tensor:
        return 2.0 * self.pool(*arguments)  # type: ignore[no-any-return]


def exported(case: SmallCase) -> ExportedProgram:
    arguments = case.forward_arguments(*case.maps(), case.boxes(6))
    count = Dim("count", min=2, max=500)
    if not case.is_pyramid_by_name:
        maps = None if case.levels == 1 else [None] * case.levels
        shapes: tuple[Any, ...] = (maps, *({0: count} for _ in arguments[1:]))
    else:
        first = Dim("first", max=500)
        shapes = ({"0": None, "1": None}, [{0: first}, {0: Dim("second", max=500)}], [(None, None)] * 2)
    return export(Head(case), arguments, dynamic_shapes={"arguments": shapes})


@pytest.mark.parametrize("case", [*BY_FUNCTION, NAMED["roi_align-max"]], ids=name_of)
def test_export_with_a_dynamic_number_of_boxes(case: SmallCase) -> None:
    program = exported(case)
    targets = [str(node.target) for node in program.graph.nodes if "roialign_ext" in str(node.target)]
    assert targets == [f"roialign_ext.{case.function.__name__}.default"]
    for number in (4, 7, 10):
        close(value_and_gradients(program.module(), case, number), value_and_gradients(Head(case), case, number))


# torch 2.13 compares its own tree specifications in a way that it deprecates.
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*is deprecated:FutureWarning")
@each_function
def test_training_through_a_decomposed_module(case: SmallCase) -> None:
    program = exported(case).run_decompositions()
    close(value_and_gradients(program.module(), case, 4), value_and_gradients(Head(case), case, 4))


@each_mode
def test_saved_and_loaded(case: SmallCase) -> None:
    buffer = io.BytesIO()
    torch.export.save(exported(case), buffer)
    buffer.seek(0)
    arguments = case.forward_arguments(*case.maps(), case.boxes(4))
    close(torch.export.load(buffer).module()(*arguments), Head(case)(*arguments))


class Pyramid(nn.Module):
    def __init__(self, scales: list[float] | None) -> None:
        super().__init__()
        self.pool = MultiScaleRoIAlign(["0", "1"], 3, 2, scales=scales)

    def forward(self, fine: Tensor, coarse: Tensor, boxes: Tensor) -> Tensor:
        return self.pool({"0": fine, "1": coarse}, [boxes], [(64, 64)])  # type: ignore[no-any-return]


def test_pyramids_with_dynamic_sizes_need_scales() -> None:
    arguments = (torch.rand(1, 2, 16, 16), torch.rand(1, 2, 8, 8), torch.tensor([[1.0, 2, 30, 40], [0, 0, 9, 9]]))
    height = Dim("height", min=4, max=64)
    sizes = {"fine": {2: 2 * height}, "coarse": {2: height}, "boxes": {0: Dim("K", min=2, max=500)}}
    given = Pyramid([0.25, 0.125])
    program = export(given, arguments, dynamic_shapes=sizes)
    other = (torch.rand(1, 2, 24, 16), torch.rand(1, 2, 12, 8), torch.cat([arguments[2]] * 2))
    for case in (arguments, other):
        assert_close(program.module()(*case), given(*case))
    with pytest.raises(torch._dynamo.exc.UserError, match="Constraints violated"):
        export(Pyramid(None), arguments, dynamic_shapes=sizes)
