"""TorchScript (deprecated upstream, still deployed) and torch.fx."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from torch import Tensor, fx, nn
from torch.testing import assert_close

import roialign_ext
from roialign_ext import RoIAlign, roi_align
from support.small_case import RATIO, SCALE, SIZE, corners, features, rows

modes = pytest.mark.parametrize("mode", ["avg", "max"])


def layer(mode: str = "avg", output_size: int | tuple[int, int] = SIZE) -> RoIAlign:
    return RoIAlign(output_size, SCALE, RATIO, mode=mode)


@modes
@pytest.mark.parametrize("output_size", [3, SIZE])
def test_script(mode: str, output_size: int | tuple[int, int]) -> None:
    scripted = torch.jit.script(layer(mode, output_size))
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    as_list = [corners()[:2], corners()[2:]]
    for module in (scripted, loaded):
        for boxes in (rows(corners()), as_list):
            assert_close(module(features(), boxes), layer(mode, output_size)(features(), boxes))


def test_scripted_layer_trains() -> None:
    gradients = []
    for module in (torch.jit.script(layer()), layer()):
        x, boxes = features().requires_grad_(), rows(corners()).requires_grad_()
        gradients.append(torch.autograd.grad(module(x, boxes).square().sum(), (x, boxes)))
    assert_close(gradients[0], gradients[1])


def test_scripted_layer_checks_boxes() -> None:
    with pytest.raises(torch.jit.Error, match=r"expected a Tensor\[K, 5\]"):
        torch.jit.script(layer())(features(), corners())


@modes
def test_trace(mode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(layer(mode), (features(), rows(corners())))
    boxes = torch.cat([rows(corners())] * 2)
    assert_close(traced(features(1), boxes), layer(mode)(features(1), boxes))


class Model(nn.Module):
    """The operator as a module, as a function, and as a function reached through the package."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = layer()

    def forward(self, x: Tensor, boxes: Tensor | list[Tensor]) -> Tensor:
        by_function = roi_align(x, boxes, SIZE, SCALE, sampling_ratio=RATIO)
        by_name: Tensor = roialign_ext.roi_align(x + 1, boxes, SIZE, spatial_scale=SCALE, sampling_ratio=RATIO)
        return self.pool(x, boxes) + by_function + by_name  # type: ignore[no-any-return]


def test_fx_keeps_each_call_as_one_node() -> None:
    traced = fx.symbolic_trace(Model())
    calls = [node for node in traced.graph.nodes if node.op == "call_function" and node.target is roi_align]
    assert len(calls) == 3
    assert len(traced.graph.nodes) == 2 + 3 + 3 + 1  # inputs, calls, additions, output
    for boxes in (rows(corners()), [corners()[:2], corners()[2:]]):
        assert_close(traced(features(), boxes), Model()(features(), boxes))


def test_fx_retraces_its_own_code() -> None:
    retraced = fx.symbolic_trace(fx.symbolic_trace(Model()))
    assert_close(retraced(features(), rows(corners())), Model()(features(), rows(corners())))


def test_fx_sees_boxes_in_a_list() -> None:
    """Where only the list holds what is traced."""
    constant = features()

    def call(first: Tensor, second: Tensor) -> Tensor:
        return roi_align(constant, [first, second], SIZE, SCALE, RATIO)

    traced = fx.symbolic_trace(call)
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [roi_align]
    assert_close(traced(corners()[:2], corners()[2:]), call(corners()[:2], corners()[2:]))


def test_tensor_subclasses_see_the_call() -> None:
    seen = []

    class Recorder(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    out = roi_align(features().as_subclass(Recorder), rows(corners()), SIZE)
    assert seen[0] is roi_align
    assert_close(out.as_subclass(Tensor), roi_align(features(), rows(corners()), SIZE))
