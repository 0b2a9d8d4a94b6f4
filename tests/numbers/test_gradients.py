"""Are first derivatives right, by finite differences, by the oracles, and by hand at borders?"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._pytree import tree_leaves, tree_map

from roialign_ext import roi_align, roi_pool
from support.inputs import (
    BOX_SETS,
    DTYPES,
    FORMATS,
    MODES,
    NAN,
    all_boxes,
    formatted,
    joined,
    large_boxes,
    large_map,
    listed,
    random_tensor,
    requiring_grad,
    rotated_boxes,
    smooth_boxes,
    xyxy,
)
from support.operator_calls import (
    CropCall,
    OperatorCall,
    PrRoIPoolCall,
    RoIAlignCall,
    RoIPoolCall,
    RoIWarpCall,
    RotatedCall,
)
from support.operators import ON_ONE_MAP, OPERATORS, each_operator
from support.tolerance import assert_are_gradients, assert_gradients_match_oracle

FEATURES = random_tensor(2, 3, 7, 9, seed=3)
RATIOS = (-1, 0, 1, 2, 3, 4, 6)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("ratio", "layout"), [(-1, FORMATS[0]), (1, FORMATS[1]), (2, FORMATS[0]), (2, FORMATS[1])])
def test_gradcheck(mode: str, aligned: bool, ratio: int, layout: torch.memory_format) -> None:
    """Numerical against analytical, reverse and forward mode, and a batch of output gradients at once."""
    call = RoIAlignCall((2, 3), 0.6, ratio, aligned, mode)
    features = random_tensor(2, 2, 5, 6, seed=1)
    boxes = smooth_boxes(4, tuple(features.shape), call, seed=2)
    corners = boxes[:, 1:].clone().requires_grad_()
    assert gradcheck(
        lambda f, c: call(f, joined(boxes[:, 0], c)),
        (features.to(memory_format=layout).requires_grad_(), corners),
        check_batched_grad=True,
        check_forward_ad=True,
        check_batched_forward_grad=True,
        nondet_tol=0.0,
    )


@cache
def backward_case(call: OperatorCall, dtype: torch.dtype) -> tuple[Any, Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Features, boxes of every kind, an output gradient; the oracle's gradients and the size of their terms."""
    boxes = call.boxes(dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    features = call.input_of(FEATURES.to(dtype))
    grad = random_tensor(*call.output_shape(features, boxes), seed=4, dtype=dtype)
    return features, boxes, grad, call.expected_gradients(grad, features, boxes)


@each_operator
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
def test_matches_oracle(call: OperatorCall, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Every set of boxes: clamped, rejected, mirrored, empty, huge, not finite, on borders, of the minimum size."""
    features, boxes, grad, expected = backward_case(call, dtype)
    leaves = call.leaves(formatted(features, layout), boxes)
    gradients = call.gradients(leaves, grad.contiguous(memory_format=layout))
    assert_are_gradients(gradients, expected, features, boxes)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert all(gradient.is_contiguous(memory_format=layout) for gradient in gradients[: call.levels])


@pytest.mark.parametrize(("aligned", "mode"), list(itertools.product([False, True], MODES)))
@pytest.mark.parametrize("ratio", RATIOS)
def test_every_ratio(aligned: bool, mode: str, ratio: int) -> None:
    call = RoIAlignCall((3, 2), 0.9, ratio, aligned, mode)
    for dtype, layout in zip((torch.float64, torch.float32), FORMATS, strict=True):
        if mode == "max" and dtype == torch.float32:
            continue  # rounding decides which sample is the largest
        boxes, features = all_boxes(2).to(dtype), FEATURES.to(dtype).contiguous(memory_format=layout)
        grad = random_tensor(len(boxes), 3, 3, 2, seed=4, dtype=dtype).contiguous(memory_format=layout)
        assert_gradients_match_oracle(call, features, boxes, grad)


@each_operator
@pytest.mark.parametrize("channels", [1, 15, 16, 33, 64, 130])
def test_every_channel_count(call: OperatorCall, channels: int) -> None:
    features = call.input_of(random_tensor(2, channels, 6, 5, seed=channels, dtype=torch.float32))
    boxes = call.boxes("inside", "crossing", dtype=torch.float32)
    grad = random_tensor(*call.output_shape(features, boxes), seed=5, dtype=torch.float32)
    expected = call.expected_gradients(grad, features, boxes)
    for layout in FORMATS:
        leaves = call.leaves(formatted(features, layout), boxes)
        assert_are_gradients(call.gradients(leaves, grad.contiguous(memory_format=layout)), expected, features, boxes)


@each_operator
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (6, 1), (2, 2), (3, 40)])
def test_map_sizes(call: OperatorCall, height: int, width: int) -> None:
    features = call.input_of(random_tensor(2, 2, height, width, seed=9))
    boxes = call.boxes("inside", "crossing", "tiny")
    grad = random_tensor(*call.output_shape(features, boxes), seed=10)
    assert_gradients_match_oracle(call, features, boxes, grad)


@pytest.mark.parametrize("count", [1, 19, 150])
@pytest.mark.parametrize("layout", FORMATS)
def test_box_counts(count: int, layout: torch.memory_format) -> None:
    features = random_tensor(3, 40, 8, 11, seed=6, dtype=torch.float32).contiguous(memory_format=layout)
    corners = random_tensor(count, 4, seed=7).mul(4.0).add(4.0)
    edges = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:].abs()], 1)
    boxes = torch.cat([torch.arange(count, dtype=torch.float64)[:, None] * 7 % 3, edges], 1).float()
    grad = random_tensor(count, 40, 2, 2, seed=8, dtype=torch.float32)
    assert_gradients_match_oracle(RoIAlignCall((2, 2), 1.0, 2, True), features, boxes, grad)


@pytest.mark.parametrize(
    ("name", "dtype", "channels", "layout"),
    [
        *((name, torch.float32, 70, layout) for name, layout in zip(ON_ONE_MAP, itertools.cycle(FORMATS))),
        *(("roi_align", *large) for large in itertools.product([torch.float32], [5, 64], FORMATS)),
        *(("roi_align", *large) for large in itertools.product([torch.float64], [32], FORMATS)),
        *(("roi_align", *large) for large in itertools.product([torch.bfloat16], [70], FORMATS)),
    ],
)
def test_large_map(name: str, dtype: torch.dtype, channels: int, layout: torch.memory_format) -> None:
    """Maps beyond any cache block of a kernel."""
    call = OPERATORS[name]
    features = large_map(dtype, channels - channels % call.groups, layout, images=1)
    boxes = large_boxes(call, images=1).to(torch.float64 if dtype == torch.float64 else torch.float32)
    channels = features.shape[1] // call.groups
    some = [0, 1, channels // 2, channels - 1]  # grad_boxes sums over channels: only these have a gradient
    grad = torch.zeros(call.output_shape(features, boxes), dtype=dtype)
    grad[:, some] = random_tensor(len(boxes), len(some), *call.output_size, seed=9, dtype=dtype)
    grad_input, *by_boxes = call.gradients(call.leaves(features, boxes), grad)
    read = call.channels_of(some)
    part, grad = features[:, read], grad[:, some]
    assert_are_gradients([grad_input[:, read], *by_boxes], call.expected_gradients(grad, part, boxes), part, boxes)
    assert int(grad_input.abs().sum((0, 2, 3)).count_nonzero()) == len(read)


# --- the rules, by hand


def by_boxes(call: OperatorCall, box: Tensor, features: Tensor) -> list[float]:
    box = box.clone().requires_grad_()
    (result,) = torch.autograd.grad(call(features, box).sum(), box)
    values: list[float] = result[0].tolist()
    return values


RAMP = (torch.arange(8.0).double()[:, None] * 10 + torch.arange(8.0).double())[None, None]  # 10 y + x


def test_grad_boxes_on_a_cell_border_is_the_forward_difference() -> None:
    features = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    features[0, 0, :, 2], features[0, 0, :, 3] = (
        1.0,
        5.0,
    )  # rows 0 0 1 5; the only sample at x = 2: left slope 1, right slope 4
    box = xyxy((2.0, 1.0, 3.0, 2.0))
    assert by_boxes(RoIAlignCall((1, 1), 1.0, 1, True), box, features) == pytest.approx([0, 2, 0, 2, 0])


def test_grad_boxes_of_a_ramp() -> None:
    """Equation (15). Every output is 10 y + x at the centre of a bin: t = 1/4 or 3/4 along the box, twice each."""
    box = xyxy((2.6, 4.6, 7.4, 9.4))
    assert by_boxes(RoIAlignCall((2, 2), 0.5, 1, True), box, RAMP) == pytest.approx([0, 1, 10, 1, 10])
    assert by_boxes(PrRoIPoolCall((2, 2), 0.5), box, RAMP) == pytest.approx([0, 1, 10, 1, 10])
    assert by_boxes(RoIWarpCall((2, 2), 0.5, 2), box, RAMP) == pytest.approx([0, 1, 10, 1, 10])
    assert by_boxes(CropCall((2, 2)), xyxy((0.2, 0.3, 0.7, 0.9)), RAMP) == pytest.approx([0, 140, 14, 140, 14])
    assert by_boxes(CropCall((1, 1)), xyxy((0.2, 0.3, 0.7, 0.9)), RAMP) == pytest.approx([0, 35, 3.5, 35, 3.5])
    assert by_boxes(CropCall((2, 2), method="nearest"), xyxy((0.2, 0.3, 0.7, 0.9)), RAMP) == [0.0] * 5
    # about the centre: sizes do nothing to the sum, the centre moves all four, and so does the angle nothing
    turned = rotated_boxes((7.1, 8.3, 4.1, 3.3, 20.0))
    assert by_boxes(RotatedCall((2, 2), 0.5, 1), turned, RAMP) == pytest.approx([0, 2, 20, 0, 0, 0], abs=1e-12)


def test_rotated_gradient_of_one_sample_off_the_centre() -> None:
    """One bin of 2 in the gradient only: at v = 0, u = 1 map pixel right of the centre, y = -u sin, x = u cos."""
    box = rotated_boxes((4.5, 4.5, 4.0, 2.0, 30.0)).requires_grad_()
    out = RotatedCall((1, 2), 1.0, 1)(RAMP, box)
    assert out[0, 0, 0, 1].item() == pytest.approx(10 * (4 - 0.5) + 4 + 3**0.5 / 2)
    (grad,) = torch.autograd.grad(out[0, 0, 0, 1], box)
    by_angle = (10 * -(3**0.5) / 2 - 0.5) * torch.pi / 180
    assert grad[0].tolist() == pytest.approx([0, 1, 10, (10 * -0.5 + 3**0.5 / 2) / 4, 0, by_angle])


def test_minimum_size_passes_no_gradient_to_the_size() -> None:
    """The second corner of a warped box without width, or of a legacy one below 1, has no effect."""
    for box, expected in (((2.2, 3.1, 2.6, 6.1), [0, 1, 5, 0, 5]), ((3.1, 2.2, 6.1, 2.6), [0, 0.5, 10, 0.5, 0])):
        assert by_boxes(RoIAlignCall((1, 1), 1.0, 1), xyxy(box), RAMP) == pytest.approx(expected)
    warp = RoIWarpCall((1, 1), 1.0, 1)
    assert by_boxes(warp, xyxy((2.2, 3.1, 2.4, 6.1)), RAMP) == pytest.approx([0, 1, 5, 0, 5])
    rotated = RotatedCall((1, 2), 1.0, 1, aligned=False)
    box = rotated_boxes((3.3, 3.4, 0.5, 3.0, 0.0)).requires_grad_()
    (grad,) = torch.autograd.grad(rotated(RAMP, box)[0, 0, 0, 0], box)
    assert grad[0].tolist() == pytest.approx([0, 1, 10, 0, 0, 0.25 * 10 * torch.pi / 180])


def test_clamped_and_rejected_samples_pass_no_grad_boxes() -> None:
    for x in ((-1.0, 1.0), (7.5, 8.5), (0.0, 1.0)):  # clamped
        box = xyxy((x[0], 2.2, x[1], 4.2))
        assert by_boxes(RoIAlignCall((1, 1), 1.0, 1, True), box, RAMP) == pytest.approx([0, 0, 5, 0, 5])
    assert by_boxes(RoIAlignCall((1, 1), 1.0, 1, True), xyxy((-3.0, 2.2, -1.0, 4.2)), RAMP) == [0.0] * 5  # x = -2.5
    crop = CropCall((1, 1))
    assert by_boxes(crop, xyxy((0.25, -0.3, 0.35, 0.1)), RAMP) == [0.0] * 5  # x = -0.7: outside
    assert by_boxes(crop, xyxy((0.25, 0.9, 0.35, 1.2)), RAMP) == [0.0] * 5  # x = 7.35: outside
    rotated = RotatedCall((1, 1), 1.0, 1)
    assert by_boxes(rotated, rotated_boxes((0.1, 3.7, 2.0, 2.0, 0.0)), RAMP)[1:3] == pytest.approx([0, 10])  # x = -0.4
    assert by_boxes(rotated, rotated_boxes((-0.7, 3.7, 2.0, 2.0, 0.0)), RAMP) == [0.0] * 6  # x = -1.2
    prroi = PrRoIPoolCall((1, 1))
    assert by_boxes(prroi, xyxy((-5.0, 1.0, -1.0, 4.0)), torch.ones(1, 1, 8, 8).double()) == [0.0] * 5


@pytest.mark.parametrize("mode", MODES)
def test_scale_enters_the_grad_boxes(mode: str) -> None:
    small, large = xyxy((1.2, 1.4, 4.3, 5.7)), xyxy((4.8, 5.6, 17.2, 22.8))
    fine = by_boxes(RoIAlignCall((2, 2), 1.0, 2, False, mode), small, RAMP)
    coarse = by_boxes(RoIAlignCall((2, 2), 0.25, 2, False, mode), large, RAMP)
    assert coarse == pytest.approx([value / 4 for value in fine])


def test_roi_pool_has_no_grad_boxes_and_says_so() -> None:
    features, boxes = FEATURES.clone().requires_grad_(), RoIPoolCall().boxes("inside").requires_grad_()
    out = roi_pool(features, boxes, 2)
    with pytest.raises(NotImplementedError, match="roi_pool"):
        torch.autograd.grad(out.sum(), boxes, retain_graph=True)
    with pytest.raises(NotImplementedError, match="roi_pool"):
        out.sum().backward(retain_graph=True)
    with pytest.raises(NotImplementedError, match="roi_pool"):
        torch.autograd.grad(roi_pool(FEATURES, boxes, 2).sum(), boxes)
    (grad_input,) = torch.autograd.grad(out.sum(), features)  # not asked for, not missed
    (expected,) = torch.autograd.grad(roi_pool(features, boxes.detach(), 2).sum(), features)
    assert torch.equal(grad_input, expected)


@pytest.mark.parametrize("layout", FORMATS)
def test_first_of_equal_pixels_gets_the_gradient(layout: torch.memory_format) -> None:
    features = torch.full((1, 18, 4, 4), 2.0).contiguous(memory_format=layout).requires_grad_()
    out = roi_pool(features, torch.tensor([[0.0, 1.0, 1.0, 3.0, 3.0]]), 1)
    (grad_input,) = torch.autograd.grad(out.sum(), features)
    assert grad_input[0, 7].nonzero().tolist() == [[1, 1]]
    assert grad_input.sum().item() == 18.0


# --- when and how often


@each_operator
def test_gradients_only_where_required(call: OperatorCall) -> None:
    """The gradient of each map alone, and of the boxes alone, is that of all together."""
    boxes, plain = call.boxes("inside", "crossing"), call.input_of(FEATURES)
    features, leaf = call.leaves(plain, boxes)
    assert not call(plain, boxes).requires_grad
    with torch.no_grad():
        assert not call(features, boxes).requires_grad
    alone = []
    for leaf_map in tree_leaves(features):
        others_detached = tree_map(lambda level: level if level is leaf_map else level.detach(), features)  # noqa: B023
        alone += call.gradients([others_detached, boxes])
    alone += call.gradients([plain, leaf]) if leaf.requires_grad else []
    for together, only in zip(call.gradients([features, leaf]), alone, strict=True):
        assert torch.equal(together, only)


@each_operator
def test_backward_twice_accumulates(call: OperatorCall) -> None:
    leaves = call.leaves(call.input_of(FEATURES), call.boxes("crossing"))
    out = call(*leaves)
    out.sum().backward(retain_graph=True)
    inputs = requiring_grad(leaves)
    first = [leaf.grad.clone() for leaf in inputs if leaf.grad is not None]
    out.sum().backward()
    for once, leaf in zip(first, inputs, strict=True):
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, 2 * once)


@pytest.mark.parametrize("name", [name for name, call in OPERATORS.items() if call.takes_lists])
def test_gradients_of_a_list_of_boxes(name: str) -> None:
    call = OPERATORS[name]
    boxes = call.boxes("inside", "crossing")
    boxes = boxes[boxes[:, 0].argsort(stable=True)]
    features = call.input_of(FEATURES)
    leaves = call.leaves(features, boxes)
    parts = [part.requires_grad_(leaves[1].requires_grad) for part in listed(boxes)]
    grad = random_tensor(*call.output_shape(features, boxes), seed=11)
    expected = call.gradients(leaves, grad)
    actual = call.gradients([leaves[0], parts], grad)
    for by_map, exact in zip(actual[: call.levels], expected, strict=False):
        assert torch.equal(by_map, exact)
    if parts[0].requires_grad:
        assert torch.equal(torch.cat(actual[call.levels :]), expected[-1][:, 1:])


@each_operator
@pytest.mark.parametrize(
    ("shape", "count"), [((2, 3, 5, 6), 0), ((0, 3, 5, 6), 0), ((2, 0, 5, 6), 3), ((0, 0, 5, 6), 0)]
)
def test_empty_results(call: OperatorCall, shape: tuple[int, int, int, int], count: int) -> None:
    """Gradients of them, of the first and of the second order."""
    for dtype, layout in itertools.product(DTYPES, FORMATS):
        boxes = call.boxes("inside")[:1].repeat(count, 1)
        boxes[:, 0] = 0.0
        leaves = call.leaves(formatted(call.input_of(torch.ones(shape, dtype=dtype)), layout), boxes)
        out = call(*leaves)
        assert out.shape == (count, shape[1], *call.output_size)
        assert out.dtype == dtype
        inputs = requiring_grad(leaves)
        gradients = torch.autograd.grad(out.sum(), inputs, create_graph=True)
        for gradient, leaf in zip(gradients, inputs, strict=True):
            assert torch.equal(gradient, torch.zeros_like(leaf))
        if gradients[-1].requires_grad:
            for second in torch.autograd.grad(gradients[-1].sum(), inputs, allow_unused=True):
                assert second is None or not bool(second.any())


@each_operator
@pytest.mark.parametrize("size", [(0, 9), (7, 0), (0, 0)])
def test_map_without_pixels(call: OperatorCall, size: tuple[int, int]) -> None:
    """There is nothing to pool."""
    leaves = call.leaves(call.input_of(torch.zeros(2, 3, *size)), call.boxes("inside", dtype=torch.float32))
    out = call(*leaves)
    assert torch.equal(out, torch.full_like(out, call.outside))
    for gradient, leaf in zip(call.gradients(leaves), requiring_grad(leaves), strict=True):
        assert torch.equal(gradient, torch.zeros_like(leaf))


@each_operator
def test_nan_in_the_output_gradient_reaches_only_what_was_used(call: OperatorCall) -> None:
    boxes, features = call.boxes("inside", "crossing", images=1), call.input_of(FEATURES)
    grad = random_tensor(*call.output_shape(features, boxes), seed=13)
    grad[0] = NAN
    grad_inputs = call.gradients([call.leaves(features, boxes)[0], boxes], grad)
    for by_map, expected in zip(grad_inputs, call.grad_inputs(grad, features, boxes), strict=True):
        assert torch.equal(by_map.isnan(), expected.isnan())
    assert 0 < int(grad_inputs[0].isnan().sum()) < grad_inputs[0][0].numel()


@pytest.mark.parametrize("mode", MODES)
def test_nan_times_a_weight_of_zero_is_not_added(mode: str) -> None:
    """A tap of weight 0 takes no part in backward either."""
    call, features = RoIAlignCall((2, 2), 1.0, 1, True, mode), random_tensor(1, 3, 7, 9, seed=12)
    boxes = torch.cat([xyxy((1.0, 1.0, 3.0, 3.0)), BOX_SETS["inside"]])
    grad = random_tensor(len(boxes), 3, 2, 2, seed=13)
    grad[0] = NAN
    (grad_input,) = call.gradients([features.requires_grad_(), boxes], grad)
    assert torch.equal(grad_input.isnan(), call.grad_input(grad, features, boxes).isnan())
    assert int(grad_input.isnan().sum()) == 3 * 4


@each_operator
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", FORMATS)
def test_gradients_of_many_boxes_are_added_in_float32(
    call: OperatorCall, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """The same box 3000 times: a sum in bfloat16 would stand still at 256, one in float16 at 2048."""
    features = formatted(call.input_of(FEATURES.to(dtype)), layout)
    boxes = call.boxes("inside", images=1, dtype=torch.float32)[:1]
    grad = torch.full(call.output_shape(features, boxes), 1.0, dtype=dtype)
    grad_inputs = call.gradients([call.leaves(features, boxes)[0], boxes.repeat(3000, 1)], grad.repeat(3000, 1, 1, 1))
    for by_map, expected in zip(grad_inputs, call.grad_inputs(grad, features, boxes), strict=True):
        torch.testing.assert_close(by_map, (3000 * expected).to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_a_gradient_step_moves_a_box_onto_its_object() -> None:
    """grad_boxes is of use: ascent on the pooled value moves a box towards a bright blob."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    blob = torch.exp(-((x - 20.0) ** 2 + (y - 12.0) ** 2) / 60.0)[None, None]
    box = torch.tensor([[0.0, 8.0, 14.0, 18.0, 24.0]], requires_grad=True)
    for _ in range(200):
        (grad,) = torch.autograd.grad(roi_align(blob, box, 3, 1.0, 2, True).sum(), box)
        box = (box + 0.5 * torch.cat([grad[:, :1], grad[:, 1:].clamp(-0.5, 0.5)], 1)).detach().requires_grad_()
    centre = ((box[0, 1] + box[0, 3]) / 2).item(), ((box[0, 2] + box[0, 4]) / 2).item()
    assert centre == pytest.approx((20.5, 12.5), abs=0.5)
