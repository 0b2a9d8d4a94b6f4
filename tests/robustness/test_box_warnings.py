"""Does ROIALIGN_EXT_CHECK=1 report the boxes that are a mistake, in the right words, and change nothing else?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from roialign_ext import (
    CropAndResize,
    MultiScaleRoIAlign,
    RoIAlign,
    _box_warnings,
    crop_and_resize,
    multiscale_roi_align,
    roi_align,
    roi_align_rotated,
)
from support.children import Program, run_all
from support.inputs import random_tensor, xyxy
from support.operator_calls import OperatorCall
from support.operators import each_function

MAP = random_tensor(2, 3, 20, 30, seed=1, dtype=torch.float32)
INSIDE = xyxy((10.0, 12.0, 60.0, 90.0), (3.0, 5.0, 110.0, 70.0)).float()
REVERSED = xyxy((10.0, 12.0, 60.0, 70.0), (60.0, 70.0, 50.0, 75.0), (60.0, 70.0, 65.0, 50.0)).float()
FAR = xyxy((10.0, 12.0, 60.0, 90.0), (130.0, 12.0, 160.0, 90.0)).float()
UNIT = xyxy((0.1, 0.2, 0.5, 0.9), (0.0, 0.0, 1.0, 1.0)).float()
SCALE = 0.25
TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_box_warnings, "enabled", True)


def messages(function: Callable[..., object], *arguments: object, **keywords: object) -> list[str]:
    """The warnings about boxes, each of which has to point to a caller outside of the package and torch."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments, **keywords)
    about_boxes = [warning for warning in caught if str(warning.message).startswith("boxes")]
    assert all(
        warning.category is UserWarning and Path(warning.filename).is_relative_to(TESTS) for warning in about_boxes
    )
    return [str(warning.message) for warning in about_boxes]


def test_words(checked: None) -> None:
    assert messages(roi_align, MAP, REVERSED, 2, SCALE) == [
        "boxes: row 1 is reversed (x2 < x1 or y2 < y1): (x1, y1, x2, y2) = (60, 70, 50, 75), one of 2 such boxes among "
        '3. Pass corners: torchvision.ops.box_convert(boxes, "xywh", "xyxy") makes them from (x, y, w, h).'
    ]
    assert messages(roi_align, MAP, FAR, 2, SCALE) == [
        "boxes: row 1 lies outside the map of 20 x 30 pixels at spatial_scale 0.25: (x1, y1, x2, y2) = (130, 12, 160, "
        "90), one of 1 such boxes among 2. Pass boxes in image pixels, and map pixels per image pixel, 1 / stride, as "
        "the scale."
    ]
    assert messages(roi_align, MAP, UNIT, 2, SCALE) == [
        "boxes: row 0 lies, as all boxes do, within the first pixel of the map at spatial_scale 0.25: (x1, y1, x2, y2) "
        "= (0.1, 0.2, 0.5, 0.9), one of 2 such boxes among 2. Pass boxes in image pixels: multiply normalised ones by "
        "the size of the image."
    ]


def test_a_list_names_the_image(checked: None) -> None:
    (message,) = messages(roi_align, MAP, [INSIDE[:, 1:], REVERSED[:, 1:]], 2, SCALE)
    assert message.startswith("boxes[1]: row 1 is reversed")
    (message,) = messages(roi_align, MAP, (torch.zeros(0, 4), FAR[:, 1:]), 2, SCALE)
    assert message.startswith("boxes[1]: row 1 lies outside")


def test_one_warning_of_each_kind(checked: None) -> None:
    found = messages(roi_align, MAP, torch.cat([REVERSED, FAR, FAR, REVERSED]), 2, SCALE)
    assert [message.split(" (")[0].split(" of ")[0] for message in found] == [
        "boxes: row 1 is reversed",
        "boxes: row 4 lies outside the map",
    ]


@each_function
def test_every_operator_looks_at_its_boxes(call: OperatorCall, checked: None) -> None:
    features = call.input_of(MAP.double())
    far = call.from_corners(torch.tensor([[0.0, 500.0, 500.0, 540.0, 530.0]]).double(), 20, 30)
    near = call.from_corners(torch.tensor([[0.0, 3.0, 4.0, 12.0, 11.0]]).double(), 20, 30)
    (message,) = messages(call, features, far)
    assert "row 0 lies outside the map" in message
    assert messages(call, features, near) == []


def test_edges_of_the_map(checked: None) -> None:
    """A box is outside where no sample can be within a pixel of the map, whatever ``aligned`` is."""
    touching = xyxy((-9.0, 3.0, -3.9, 8.0), (123.9, 3.0, 150.0, 8.0), (3.0, 83.9, 8.0, 90.0)).float()
    beside = xyxy((-9.0, 3.0, -4.0, 8.0), (124.0, 3.0, 150.0, 8.0), (3.0, 84.0, 8.0, 90.0)).float()
    for aligned in (False, True):
        assert messages(roi_align, MAP, torch.cat([INSIDE, touching]), 2, SCALE, 2, aligned) == []
        (message,) = messages(roi_align, MAP, torch.cat([INSIDE, beside]), 2, SCALE, 2, aligned)
        assert "row 2 lies outside" in message
        assert "one of 3 such boxes among 5" in message
        with pytest.warns(UserWarning, match="row 0 lies outside"):
            assert roi_align(MAP, beside, 2, SCALE, 2, aligned).abs().max() == 0


def test_boxes_that_are_no_mistake(checked: None) -> None:
    small = xyxy((40.1, 40.2, 40.4, 40.5)).float()  # within one pixel, but not the first
    across = xyxy((-100.0, -100.0, 300.0, 300.0)).float()
    odd = torch.tensor([[0.0, float("nan"), 1.0, 2.0, 3.0], [0.0, 1.0, 1.0, float("inf"), 30.0]])
    for boxes in (INSIDE, small, across, odd, torch.zeros(1, 5), torch.zeros(0, 5), [torch.zeros(0, 4)] * 2):
        assert messages(roi_align, MAP, boxes, 2, SCALE) == []
    assert messages(roi_align, MAP[:, :, :1, :1], UNIT, 2, SCALE) == []


def test_pyramids(checked: None) -> None:
    """A box is outside where it is outside every level; the finest level has the first pixel."""
    levels, scales = [MAP, MAP[..., ::2, ::2]], [0.25, 0.125]
    beside_the_finer = xyxy((3.0, 3.0, 30.0, 30.0), (125.0, 3.0, 127.0, 30.0)).float()
    assert messages(multiscale_roi_align, levels, beside_the_finer, 2, scales) == []
    (message,) = messages(multiscale_roi_align, levels, UNIT, 2, scales)
    assert "within the first pixel of the map at scales [0.25, 0.125]" in message
    layer = MultiScaleRoIAlign(["0", "1"], 2, 2)
    (message,) = messages(
        layer, dict(zip("01", levels, strict=True)), [UNIT[:, 1:], INSIDE[:0, 1:]], [(80, 120), (80, 120)]
    )
    assert message.startswith("boxes[0]: row 0 lies, as all boxes do")


def test_rotated_boxes(checked: None) -> None:
    """The circle around a rotated box counts, so that no angle makes a difference."""
    boxes = torch.tensor([[0.0, 130.0, 40.0, 16.0, 1.0, 0.0], [0.0, 130.0, 40.0, 10.0, 1.0, 0.0]])
    (message,) = messages(roi_align_rotated, MAP, boxes, 2, SCALE)
    assert "row 1 lies outside" in message
    assert "(cx, cy, w, h, angle) = (130, 40, 10, 1, 0)" in message


def test_crops(checked: None) -> None:
    """Normalised boxes may be reversed, which flips the crop, and small; pixels are the mistake."""
    index = torch.zeros(1, dtype=torch.int64)
    for box in ([0.9, 0.8, 0.1, 0.2], [0.01, 0.01, 0.02, 0.02], [-0.5, -0.5, 1.5, 1.5], [1.0, 0.0, 2.0, 1.0]):
        assert messages(crop_and_resize, MAP, torch.tensor([box]), index, 2) == []
    (message,) = messages(CropAndResize(2), MAP, torch.tensor([[3.0, 5.0, 11.0, 20.0]]), index)
    assert "row 0 lies outside the map: (y1, x1, y2, x2) = (3, 5, 11, 20)" in message
    assert message.endswith("Pass shares of the map: y / (H - 1) and x / (W - 1) of coordinates in map pixels.")


def test_the_variable_is_read_by_the_import() -> None:
    program = (
        "import torch, roialign_ext\n"
        "roialign_ext.roi_align(torch.rand(1, 1, 8, 8), [torch.tensor([[5.0, 5.0, 2.0, 3.0]])], 2, sampling_ratio=2)\n"
    )
    values = {"": False, "0": False, "1": True}
    programs = [Program(program, variables={"ROIALIGN_EXT_CHECK": value}) for value in values]
    for done, warns in zip(run_all(programs), values.values(), strict=True):
        assert done.returncode == 0, done.stderr
        assert ("<string>:2: UserWarning: boxes[0]: row 0 is reversed" in done.stderr) == warns


def test_silent_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_box_warnings, "enabled", False)
    assert messages(roi_align, MAP, torch.cat([REVERSED, FAR]), 2, SCALE) == []


def test_results_and_gradients_stay(checked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> tuple[Tensor, ...]:
        leaves = MAP.clone().requires_grad_(), torch.cat([REVERSED, FAR]).requires_grad_()
        pooled = roi_align(*leaves, 2, SCALE, 2)
        return pooled, *torch.autograd.grad(pooled.square().sum(), leaves)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with_check = run()
    monkeypatch.setattr(_box_warnings, "enabled", False)
    assert_close(with_check, run(), atol=0, rtol=0)


def test_wrong_arguments_raise_as_without(checked: None) -> None:
    with pytest.raises(ValueError, match=r"boxes: expected a Tensor\[K, 5\]"):
        roi_align(MAP, REVERSED[:, 1:], 2, SCALE)
    with pytest.raises(TypeError, match="boxes: expected float16"):
        roi_align(MAP, [REVERSED[:, 1:].int()] * 2, 2, SCALE)
    with pytest.raises(ValueError, match="scales: expected one number per feature map"):
        multiscale_roi_align([MAP, MAP], FAR, 2, [])


def test_the_caller_is_named_through_layers(checked: None) -> None:
    layer = nn.Sequential(RoIAlign(2, SCALE, 2))[0]
    assert len(messages(layer, MAP, FAR)) == 1
    assert len(messages(checkpoint, layer, MAP, FAR, use_reentrant=False)) == 1


def test_compiled_graphs_stay_whole_and_silent(checked: None) -> None:
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(roi_align, fullgraph=True, backend=counter)
    assert messages(compiled, MAP, FAR, 2, SCALE) == []
    assert counter.frame_count == 1


def test_recorded_calls_are_silent(checked: None) -> None:
    """Scripts, traces, exported programs and transforms have no values, or those of an example."""
    layer = RoIAlign(2, SCALE, 2)
    assert messages(torch.jit.script(layer), MAP, FAR) == []
    assert messages(torch.jit.trace, layer, (MAP, FAR), check_trace=False) == []
    assert messages(torch.export.export, layer, (MAP, FAR), strict=False) == []
    assert messages(torch.func.vmap(lambda image: roi_align(image, FAR, 2, SCALE)), MAP[:, None]) == []
    assert messages(layer, MAP.to("meta"), FAR.to("meta")) == []
