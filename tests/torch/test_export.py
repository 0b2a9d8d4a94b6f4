"""torch.export: one node of the public operator, any number of boxes, and training through the exported module."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.testing import assert_close

from roialign_ext import MultiScaleRoIAlign, RoIAlign
from support.small_case import RATIO, SCALE, SIZE, corners, features, rows


class Head(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.pool = RoIAlign(SIZE, SCALE, RATIO, mode=mode)

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        return 2 * self.pool(x, boxes)  # type: ignore[no-any-return]


def exported(mode: str) -> ExportedProgram:
    return export(
        Head(mode), (features(), rows(corners())), dynamic_shapes={"x": None, "boxes": {0: Dim("K", min=2, max=500)}}
    )


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_export_with_a_dynamic_number_of_boxes(mode: str) -> None:
    program = exported(mode)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert "roialign_ext.roi_align.default" in targets
    boxes = torch.cat([rows(corners())] * 3)
    for count in (2, 7, 9):
        assert_close(program.module()(features(), boxes[:count]), Head(mode)(features(), boxes[:count]))


# torch 2.13 compares its own tree specifications in a way that it deprecates.
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*is deprecated:FutureWarning")
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("decomposed", [False, True])
def test_training_through_the_exported_module(mode: str, decomposed: bool) -> None:
    program = exported(mode)
    if decomposed:
        program = program.run_decompositions()
    gradients = []
    for module in (program.module(), Head(mode)):
        x, boxes = features().requires_grad_(), rows(corners()).requires_grad_()
        gradients.append(torch.autograd.grad(module(x, boxes).square().sum(), (x, boxes)))
    assert gradients[0][0].abs().sum() > 0
    assert_close(gradients[0], gradients[1])


def test_saved_and_loaded() -> None:
    buffer = io.BytesIO()
    torch.export.save(exported("avg"), buffer)
    buffer.seek(0)
    arguments = (features(), rows(corners()))
    assert_close(torch.export.load(buffer).module()(*arguments), Head("avg")(*arguments))


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
