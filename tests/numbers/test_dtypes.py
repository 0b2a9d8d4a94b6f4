"""Are results right for every pair of dtypes, with sums in float32 and one rounding to float16 or bfloat16?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from roialign_ext import roi_align
from support.inputs import (
    BOX_SETS,
    DTYPES,
    FORMATS,
    LOW_PRECISION,
    MODES,
    formatted,
    random_tensor,
    spread,
    xyxy,
)
from support.operator_calls import OperatorCall, RoIAlignCall
from support.operators import OPERATORS, each_operator
from support.tolerance import assert_gradients_match_oracle, assert_matches_oracle

SHAPE = (2, 19, 7, 9)


@each_operator
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("box_dtype", DTYPES)
def test_every_pair(call: OperatorCall, dtype: torch.dtype, box_dtype: torch.dtype) -> None:
    """Boxes are read as they are, in float32 or, where either is float64, in float64."""
    layout = FORMATS[(DTYPES.index(dtype) + DTYPES.index(box_dtype)) % 2]  # either with each type
    everything = call in (OPERATORS["roi_align"], OPERATORS["roi_align-max"])
    channels = 19 if everything or not call.chooses_samples else 2  # few enough that no lead is as small as rounding
    features = formatted(call.input_of(random_tensor(2, channels, 7, 9, seed=1, dtype=dtype)), layout)
    boxes = call.boxes(*(() if everything else ("inside", "crossing", "tiny")), dtype=box_dtype)
    out = assert_matches_oracle(call, features, boxes)
    grad = random_tensor(*out.shape, seed=2, dtype=dtype).contiguous(memory_format=layout)
    assert_gradients_match_oracle(call, features, boxes, grad)


@pytest.mark.parametrize("dtype", LOW_PRECISION)
@pytest.mark.parametrize("mode", MODES)
def test_coordinates_keep_float32_precision(dtype: torch.dtype, mode: str) -> None:
    """Boxes up to 4000 px: a bfloat16 coordinate would be off by up to 8 px there, a float16 one by 1 px."""
    features = random_tensor(1, 2, 8, 1010, seed=3, dtype=dtype)
    boxes = xyxy((3001.3, 2.2, 3017.9, 9.1), (4003.3, 4.7, 4021.6, 20.1), (1023.7, 0.3, 1400.1, 30.9)).float()
    assert_matches_oracle(RoIAlignCall((2, 3), 0.25, 2, True, mode), features, boxes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_index_beyond_257(dtype: torch.dtype) -> None:
    """bfloat16 cannot hold 257, float16 not 2049: the index column is read from the boxes as they are."""
    images = torch.arange(2060) % 251
    features = images.to(dtype)[:, None, None, None].expand(-1, 2, 3, 3)
    index = torch.tensor([300, 257, 258, 2049, 2051, 2059, 0])
    boxes = torch.cat([index[:, None].float(), torch.tensor([[0.0, 0.0, 2.0, 2.0]]).expand(7, 4)], 1)
    out = roi_align(features, boxes, 1, 1.0, 1, True)
    assert torch.equal(out[:, 0, 0, 0], images[index].to(dtype))


def test_float64_input_reads_float32_boxes_in_float64() -> None:
    """start + size in float32 loses what float64 keeps, although the box itself is float32."""
    features = random_tensor(1, 2, 7, 9, seed=4)
    boxes = BOX_SETS["inside"].float()
    call = RoIAlignCall((3, 2), 0.3, 3, True)
    out = assert_matches_oracle(call, features, boxes)
    assert torch.equal(out, call(features, boxes.double()))
    assert not torch.equal(out, call(features.float(), boxes).double())


@pytest.mark.parametrize("box_dtype", LOW_PRECISION)
def test_half_boxes_are_read_as_float32(box_dtype: torch.dtype) -> None:
    features = random_tensor(2, 3, 7, 9, seed=5, dtype=torch.float32)
    boxes = RoIAlignCall().boxes(dtype=box_dtype)
    assert torch.equal(roi_align(features, boxes, 2, 0.7, 2, True), roi_align(features, boxes.float(), 2, 0.7, 2, True))


@pytest.mark.parametrize("mode", MODES)
def test_inside_autocast(mode: str) -> None:
    """The output has the dtype of the features, autocast or not; the gradients have the dtypes of the leaves."""
    boxes = spread(BOX_SETS["inside"], 2).float()
    for dtype in DTYPES:
        features = random_tensor(*SHAPE, seed=6, dtype=dtype).requires_grad_()
        leaves = features, boxes.clone().requires_grad_()
        expected = roi_align(*leaves, 2, 1.0, 2, True, mode)
        with torch.autocast("cpu", torch.bfloat16):
            out = roi_align(*leaves, 2, 1.0, 2, True, mode)
        assert out.dtype == dtype
        assert torch.equal(out, expected)
        grad_input, grad_boxes = torch.autograd.grad(out.float().sum(), leaves)
        assert grad_input.dtype == dtype
        assert grad_boxes.dtype == torch.float32


def test_autocast_after_a_convolution() -> None:
    """The usual case: a convolution under autocast makes bfloat16 features, the boxes stay float32."""
    weight = random_tensor(4, 3, 3, 3, seed=7, dtype=torch.float32).requires_grad_()
    boxes = spread(BOX_SETS["inside"], 2).float()
    with torch.autocast("cpu", torch.bfloat16):
        features = torch.nn.functional.conv2d(random_tensor(2, 3, 9, 11, seed=8, dtype=torch.float32), weight)
        out = roi_align(features, boxes, 2)
    assert features.dtype == out.dtype == torch.bfloat16
    (grad,) = torch.autograd.grad(out.float().sum(), weight)
    assert grad.dtype == torch.float32
    assert bool(grad.any())


@pytest.mark.parametrize("dtype", LOW_PRECISION)
def test_at_most_twice_the_error_of_one_rounding(dtype: torch.dtype) -> None:
    """Over a whole result: its largest error against float64 is at most twice the largest error of rounding once."""
    features = random_tensor(1, 64, 40, 50, seed=9, dtype=dtype)
    boxes = xyxy((1.3, 2.2, 40.9, 33.1), (-5.0, 3.3, 17.1, 60.0)).float()
    call = RoIAlignCall((7, 7), 1.0, 2, True)
    exact = call.forward(features, boxes)

    def error(result: Tensor) -> float:
        return float((result.double() - exact).abs().max())

    assert error(call(features, boxes)) <= 2.0 * error(exact.to(dtype))
