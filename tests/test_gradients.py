"""First derivatives by the input and by the boxes: finite differences, the oracle, and the rules at borders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from conftest import (
    BOX_SETS,
    MODES,
    Call,
    all_boxes,
    assert_gradients_match_oracle,
    random_tensor,
    rows,
    smooth_boxes,
    spread,
)
from roialign_ext import roi_align

FEATURES = random_tensor(2, 2, 5, 6, seed=1)
RATIOS = (-1, 0, 1, 2, 3, 4, 6)


def joined(image: Tensor, corners: Tensor) -> Tensor:
    """Box rows from a fixed image column and corners that may be perturbed."""
    return torch.cat([image[:, None], corners], 1)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradcheck(mode: str, aligned: bool, ratio: int, layout: torch.memory_format) -> None:
    """Numerical against analytical, reverse and forward mode, and a batch of output gradients at once."""
    call = Call((2, 3), 0.6, ratio, aligned, mode)
    boxes = smooth_boxes(4, tuple(FEATURES.shape), call, seed=2)
    features = FEATURES.clone(memory_format=layout).requires_grad_()
    corners = boxes[:, 1:].clone().requires_grad_()
    assert gradcheck(
        lambda f, c: call(f, joined(boxes[:, 0], c)),
        (features, corners),
        check_batched_grad=True,
        check_forward_ad=True,
        check_batched_forward_grad=True,
        nondet_tol=0.0,
    )


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_matches_oracle(aligned: bool, ratio: int, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Every set of boxes: clamped, rejected, mirrored, empty, huge, not finite, on borders, of the minimum size."""
    boxes = all_boxes(2).to(dtype)
    features = random_tensor(2, 3, 7, 9, seed=3, dtype=dtype).contiguous(memory_format=layout)
    grad = random_tensor(len(boxes), 3, 3, 2, seed=4, dtype=dtype).contiguous(memory_format=layout)
    by_input, by_boxes = assert_gradients_match_oracle(Call((3, 2), 0.9, ratio, aligned), features, boxes, grad)
    assert bool(by_input.isfinite().all())
    assert bool(by_boxes.isfinite().all())


@pytest.mark.parametrize("channels", [1, 15, 16, 33, 64, 130])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_channel_count(channels: int, mode: str, layout: torch.memory_format) -> None:
    features = random_tensor(2, channels, 6, 5, seed=channels, dtype=torch.float32).contiguous(memory_format=layout)
    boxes = spread(torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"]]), 2).float()
    grad = random_tensor(len(boxes), channels, 2, 3, seed=5, dtype=torch.float32).contiguous(memory_format=layout)
    assert_gradients_match_oracle(Call((2, 3), 0.7, 2, True, mode), features, boxes, grad)


@pytest.mark.parametrize("count", [1, 19, 150])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_box_counts(count: int, layout: torch.memory_format) -> None:
    features = random_tensor(3, 40, 8, 11, seed=6, dtype=torch.float32).contiguous(memory_format=layout)
    corners = random_tensor(count, 4, seed=7).mul(4.0).add(4.0)
    edges = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:].abs()], 1)
    boxes = torch.cat([torch.arange(count, dtype=torch.float64)[:, None] * 7 % 3, edges], 1).float()
    grad = random_tensor(count, 40, 2, 2, seed=8, dtype=torch.float32)
    assert_gradients_match_oracle(Call((2, 2), 1.0, 2, True), features, boxes, grad)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (6, 1), (2, 2), (3, 40)])
@pytest.mark.parametrize("mode", MODES)
def test_map_sizes(height: int, width: int, mode: str) -> None:
    features = random_tensor(2, 2, height, width, seed=9)
    boxes = spread(torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"], BOX_SETS["border"]]), 2)
    grad = random_tensor(len(boxes), 2, 3, 2, seed=10)
    for ratio in (-1, 2):
        assert_gradients_match_oracle(Call((3, 2), 1.0, ratio, True, mode), features, boxes, grad)


def box_gradient(box: Tensor, call: Call, features: Tensor) -> list[float]:
    box = box.clone().requires_grad_()
    (result,) = torch.autograd.grad(call(features, box).sum(), box)
    values: list[float] = result[0].tolist()
    return values


RAMP = torch.stack([torch.arange(8.0).double()[:, None] * 10 + torch.arange(8.0).double() * 1])[None]  # 10 y + x


def test_box_gradient_of_a_ramp() -> None:
    """Each of the four outputs is 10 y + x at one sample, t = 1/4 or 3/4: equation (15)."""
    box = rows((2.6, 4.6, 7.4, 9.4))
    assert box_gradient(box, Call((2, 2), 0.5, 1, True), RAMP) == pytest.approx([0, 1, 10, 1, 10])


def test_box_gradient_on_a_cell_border_is_the_forward_difference() -> None:
    features = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    features[0, 0, :, 2], features[0, 0, :, 3] = (
        1.0,
        5.0,
    )  # rows 0 0 1 5; the only sample at x = 2: left slope 1, right slope 4
    box = rows((2.0, 1.0, 3.0, 2.0))
    assert box_gradient(box, Call((1, 1), 1.0, 1, True), features) == pytest.approx([0, 2, 0, 2, 0])


def test_clamped_and_rejected_samples_pass_no_box_gradient() -> None:
    call = Call((1, 1), 1.0, 1, True)
    assert box_gradient(rows((-1.0, 2.2, 1.0, 4.2)), call, RAMP) == pytest.approx([0, 0, 5, 0, 5])  # x = -0.5, clamped
    assert box_gradient(rows((7.5, 2.2, 8.5, 4.2)), call, RAMP) == pytest.approx([0, 0, 5, 0, 5])  # x = 7.5, clamped
    assert box_gradient(rows((0.0, 2.2, 1.0, 4.2)), call, RAMP) == pytest.approx([0, 0, 5, 0, 5])  # x = 0, clamped
    assert box_gradient(rows((-3.0, 2.2, -1.0, 4.2)), call, RAMP) == [0, 0, 0, 0, 0]  # x = -2.5, rejected


def test_legacy_minimum_passes_no_gradient_to_the_size() -> None:
    """Width 0.4 becomes 1 and stays 1 while the box shrinks or grows a little: the second corner has no say."""
    assert box_gradient(rows((2.2, 3.1, 2.6, 6.1)), Call((1, 1), 1.0, 1), RAMP) == pytest.approx([0, 1, 5, 0, 5])
    assert box_gradient(rows((3.1, 2.2, 6.1, 2.6)), Call((1, 1), 1.0, 1), RAMP) == pytest.approx([0, 0.5, 10, 0.5, 0])


@pytest.mark.parametrize("mode", MODES)
def test_scale_enters_the_box_gradient(mode: str) -> None:
    small, large = rows((1.2, 1.4, 4.3, 5.7)), rows((4.8, 5.6, 17.2, 22.8))
    fine = box_gradient(small, Call((2, 2), 1.0, 2, False, mode), RAMP)
    coarse = box_gradient(large, Call((2, 2), 0.25, 2, False, mode), RAMP)
    assert coarse == pytest.approx([value / 4 for value in fine])


@pytest.mark.parametrize("mode", MODES)
def test_gradients_only_where_required(mode: str) -> None:
    boxes = spread(BOX_SETS["inside"], 2)
    call = Call((2, 2), 1.0, 2, True, mode)
    both_features, both_boxes = FEATURES.clone().requires_grad_(), boxes.clone().requires_grad_()
    call(both_features, both_boxes).sum().backward()
    only_features = FEATURES.clone().requires_grad_()
    call(only_features, boxes).sum().backward()
    only_boxes = boxes.clone().requires_grad_()
    call(FEATURES, only_boxes).sum().backward()
    for both, only in ((both_features.grad, only_features.grad), (both_boxes.grad, only_boxes.grad)):
        assert both is not None
        assert only is not None
        assert torch.equal(both, only)
    assert not call(FEATURES, boxes).requires_grad
    with torch.no_grad():
        assert not call(both_features, both_boxes).requires_grad


@pytest.mark.parametrize("mode", MODES)
def test_backward_twice_accumulates(mode: str) -> None:
    boxes = spread(BOX_SETS["crossing"], 2).requires_grad_()
    features = FEATURES.clone().requires_grad_()
    out = Call((2, 2), 1.0, 2, True, mode)(features, boxes)
    out.sum().backward(retain_graph=True)
    first = [tensor.grad.clone() for tensor in (features, boxes) if tensor.grad is not None]
    out.sum().backward()
    for once, tensor in zip(first, (features, boxes), strict=True):
        assert tensor.grad is not None
        assert torch.equal(tensor.grad, 2 * once)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_a_list_of_boxes(mode: str) -> None:
    boxes = spread(BOX_SETS["inside"], 2)
    boxes = boxes[boxes[:, 0].argsort(stable=True)].requires_grad_()
    parts = [boxes.detach()[boxes[:, 0] == image, 1:].clone().requires_grad_() for image in range(2)]
    features = FEATURES.clone().requires_grad_()
    call = Call((2, 2), 0.8, 2, True, mode)
    grad = random_tensor(3, 2, 2, 2, seed=11)
    expected = torch.autograd.grad(call(features, boxes), (features, boxes), grad)
    actual = torch.autograd.grad(call(features, parts), (features, *parts), grad)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(torch.cat(actual[1:]), expected[1][:, 1:])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("shape", "count"), [((2, 3, 5, 6), 0), ((0, 3, 5, 6), 0), ((2, 0, 5, 6), 3), ((0, 0, 5, 6), 0)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_empty_results(
    mode: str, shape: tuple[int, int, int, int], count: int, layout: torch.memory_format
) -> None:
    features = torch.ones(shape).contiguous(memory_format=layout).requires_grad_()
    boxes = torch.tensor([[0.0, 1.0, 1.0, 4.0, 4.0]]).repeat(count, 1).requires_grad_()
    out = roi_align(features, boxes, (2, 3), 1.0, 2, True, mode)
    assert out.shape == (count, shape[1], 2, 3)
    assert out.requires_grad
    by_input, by_boxes = torch.autograd.grad(out.sum(), (features, boxes), create_graph=True)
    assert torch.equal(by_input, torch.zeros(shape))
    assert torch.equal(by_boxes, torch.zeros(count, 5))
    if by_boxes.requires_grad:
        for second in torch.autograd.grad(by_boxes.sum(), (features, boxes), allow_unused=True):
            assert second is None or not bool(second.any())


@pytest.mark.parametrize("mode", MODES)
def test_nan_in_the_output_gradient_reaches_only_what_was_used(mode: str) -> None:
    """A tap of weight 0 takes no part in backward either: NaN times a weight of 0 is not added."""
    call = Call((2, 2), 1.0, 1, True, mode)
    features, boxes = random_tensor(1, 3, 7, 9, seed=12), torch.cat([rows((1.0, 1.0, 3.0, 3.0)), BOX_SETS["inside"]])
    grad = random_tensor(len(boxes), 3, 2, 2, seed=13)
    grad[0] = float("nan")
    features.requires_grad_()
    (by_input,) = torch.autograd.grad(call(features, boxes), features, grad)
    expected = call.input_gradient(grad, features, boxes)
    assert torch.equal(by_input.isnan(), expected.isnan())
    assert int(by_input.isnan().sum()) == 3 * 4


def test_a_gradient_step_moves_a_box_onto_its_object() -> None:
    """The box gradient is of use: ascent on the pooled value moves a box towards a bright blob."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    blob = torch.exp(-((x - 20.0) ** 2 + (y - 12.0) ** 2) / 60.0)[None, None]
    box = torch.tensor([[0.0, 8.0, 14.0, 18.0, 24.0]], requires_grad=True)
    for _ in range(200):
        (grad,) = torch.autograd.grad(roi_align(blob, box, 3, 1.0, 2, True).sum(), box)
        box = (box + 0.5 * torch.cat([grad[:, :1], grad[:, 1:].clamp(-0.5, 0.5)], 1)).detach().requires_grad_()
    centre = ((box[0, 1] + box[0, 3]) / 2).item(), ((box[0, 2] + box[0, 4]) / 2).item()
    assert centre == pytest.approx((20.5, 12.5), abs=0.5)
