"""Does mode max take the largest sample, 0 for samples off the map, and the first of equal ones?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from oracle import reference
from roialign_ext import roi_align
from support.inputs import BOX_SETS, LAYOUTS, all_boxes, as_array, random_tensor, spread, with_layout, xyxy
from support.operator_calls import RoIAlignCall
from support.tolerance import assert_gradients_match_oracle, assert_matches_oracle

FEATURES = random_tensor(2, 3, 7, 9, seed=1)
RATIOS = (-1, 0, 1, 2, 3, 4, 6)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_matches_oracle(aligned: bool, ratio: int, dtype: torch.dtype, layout: torch.memory_format) -> None:
    features = FEATURES.to(dtype).contiguous(memory_format=layout)
    assert_matches_oracle(RoIAlignCall((3, 2), 1.0, ratio, aligned, "max"), features, all_boxes(2).to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    features = with_layout(random_tensor(2, 17, 7, 9, seed=2, dtype=torch.float32), layout)
    boxes = spread(torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"]]), 2).float()
    assert_matches_oracle(RoIAlignCall((2, 3), 0.9, -1, True, "max"), features, boxes)


@pytest.mark.parametrize("ratio", [-1, 1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted"])
def test_gradients_match_oracle(ratio: int, aligned: bool, layout: str) -> None:
    call = RoIAlignCall((3, 2), 0.8, ratio, aligned, "max")
    boxes = all_boxes(2)
    grad = with_layout(random_tensor(len(boxes), 3, 3, 2, seed=3), layout)
    assert_gradients_match_oracle(call, with_layout(FEATURES, layout), boxes, grad)


def gradient(features: Tensor, box: Tensor, call: RoIAlignCall) -> tuple[Tensor, Tensor]:
    features = features.clone().requires_grad_()
    out = call(features, box)
    (result,) = torch.autograd.grad(out.sum(), features)
    return out.detach(), result


def test_first_of_equal_samples_wins() -> None:
    """Four samples at the centres of four pixels of the same value: the gradient goes to the first, rows outermost."""
    call = RoIAlignCall((1, 1), 1.0, 2, True, "max")
    box = xyxy((0.0, 0.0, 2.0, 2.0))
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for layout in (torch.contiguous_format, torch.channels_last):
            features = torch.full((1, 2, 3, 3), 4.0, dtype=dtype).contiguous(memory_format=layout)
            features[0, 1, 0, 0] = 1.0
            out, grad_input = gradient(features, box.float(), call)
            assert out.flatten().tolist() == [4.0, 4.0]
            assert grad_input[0, 0].nonzero().tolist() == [[0, 0]]
            assert grad_input[0, 1].nonzero().tolist() == [[0, 1]]


def test_rejected_samples_take_part_as_zero() -> None:
    """A negative map: inside, the maximum is negative; across the border it is the 0 of a rejected sample."""
    features = -1.0 - torch.rand(1, 2, 6, 6, dtype=torch.float64)
    call = RoIAlignCall((1, 1), 1.0, 4, True, "max")
    out, grad_input = gradient(features, xyxy((-6.0, 1.0, 4.0, 5.0)), call)
    assert out.flatten().tolist() == [0.0, 0.0]
    assert not bool(grad_input.any())
    out, grad_input = gradient(features, xyxy((1.0, 1.0, 4.0, 5.0)), call)
    assert bool((out < 0).all())
    assert grad_input.sum().item() == pytest.approx(2.0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_zero_inside_and_rejected_tie(mirrored: bool) -> None:
    """Values 0 inside, 0 from rejected samples: the first in the order of the samples wins."""
    features = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    call = RoIAlignCall((1, 1), 1.0, 2, True, "max")
    box = xyxy((-8.0, 0.0, 2.0, 2.0)) if not mirrored else xyxy((2.0, 0.0, 10.0, 2.0))
    out, grad_input = gradient(features, box, call)
    assert out.item() == 0.0
    assert grad_input.sum().item() == (1.0 if mirrored else 0.0)


def test_empty_grid_is_zero() -> None:
    features = -torch.ones(1, 2, 6, 6, dtype=torch.float64)
    boxes = xyxy((4.0, 3.0, 1.0, 5.0), (2.0, 2.0, 2.0, 2.0)).requires_grad_()
    features.requires_grad_()
    out = roi_align(features, boxes, 2, 1.0, -1, True, "max")
    assert not bool(out.any())
    for grad in torch.autograd.grad(out.sum(), (features, boxes)):
        assert not bool(grad.any())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("position", [(1, 1), (2, 2), (1, 2)])
def test_nan_pixel_reaches_the_outputs_that_use_it(layout: torch.memory_format, position: tuple[int, int]) -> None:
    features = random_tensor(1, 20, 7, 9, seed=4, dtype=torch.float32)
    features[0, :, position[0], position[1]] = float("nan")
    boxes = torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"], BOX_SETS["border"]]).float()
    for ratio in (1, 2, 3):
        out = assert_matches_oracle(
            RoIAlignCall((3, 3), 1.0, ratio, True, "max"), features.contiguous(memory_format=layout), boxes
        )
        assert bool(out.isnan().any())
        assert not bool(out.isnan().all())


def test_infinite_pixels() -> None:
    features = random_tensor(1, 3, 7, 9, seed=5)
    features[0, 0, 2, 2], features[0, 1, 2, 2] = float("inf"), float("-inf")
    features[0, 2] = float("-inf")
    assert_matches_oracle(RoIAlignCall((3, 3), 1.0, 2, True, "max"), features, BOX_SETS["inside"])
    _, grad_input = gradient(features, BOX_SETS["inside"][:1], RoIAlignCall((1, 1), 1.0, 2, True, "max"))
    assert grad_input[0, 2].sum().item() == pytest.approx(1.0)  # the first sample wins, as among other equal ones


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 1, 2, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [3, 18])  # fewer than a vector has lanes, and more
def test_the_argmax_is_a_place_among_the_inside_samples(
    aligned: bool, ratio: int, layout: torch.memory_format, channels: int
) -> None:
    """Row and column, 16 bits each."""
    boxes = all_boxes(2)
    rule = "roi_align_half_pixel" if aligned else "roi_align_legacy"
    features = random_tensor(2, channels, 7, 9, seed=1).contiguous(memory_format=layout)
    values, argmax = torch.ops.roialign_ext._max_pool([features], boxes, [3, 2], [0.8], [224.0, 4.0], ratio, rule)
    assert argmax.dtype == torch.int32
    assert argmax.shape == values.shape
    assert argmax.is_contiguous(memory_format=layout)
    assert values.is_contiguous(memory_format=layout)
    params = reference.Params((3, 2), 0.8, ratio, aligned)
    result = reference.maximum(as_array(features), as_array(boxes), params)
    expected = torch.full_like(argmax, -1)
    for element, (_, y, x) in result.argmax.items():
        k, _, py, px = element
        _, x1, y1, x2, y2 = boxes[k].tolist()
        ys = reference.sample_axis(y1, y2, 3, 7, params).bins[py]
        xs = reference.sample_axis(x1, x2, 2, 9, params).bins[px]
        place_y = [sample.index for sample in ys].index(y.index)
        place_x = [sample.index for sample in xs].index(x.index)
        expected[element] = (place_y << 16) + place_x
    assert torch.equal(argmax, expected)


def test_as_many_samples_as_an_argmax_can_name() -> None:
    """The last one of 65535 samples along x wins; with one more the call raises."""
    features = torch.arange(4, dtype=torch.float64).reshape(1, 1, 1, 4).requires_grad_()
    boxes = torch.tensor([[0.0, 0.0, -1e6, 3.0, 1e6]], dtype=torch.float64)  # one row of samples on the map
    out = roi_align(features, boxes, 1, 1.0, 65535, False, "max")
    position = 65534.5 * 3 / 65535
    assert out.item() == pytest.approx(position, rel=1e-12)
    (grad_input,) = torch.autograd.grad(out.sum(), features)
    assert grad_input[0, 0, 0, 2:].tolist() == pytest.approx([3 - position, position - 2], rel=1e-6)
    with pytest.raises(ValueError, match="mode 'max': at most 65535 samples of a bin may fall on the map"):
        roi_align(features, boxes, 1, 1.0, 65536, False, "max")


def test_with_the_argmax_fixed_the_form_is_linear() -> None:
    """``_pool`` with the argmax is the max itself at the tensors that made it, and linear in the input."""
    boxes, other = all_boxes(2), random_tensor(2, 3, 7, 9, seed=6)
    arguments = ([3, 2], [0.8], [224.0, 4.0], 2, "roi_align_half_pixel")
    values, argmax = torch.ops.roialign_ext._max_pool([FEATURES], boxes, *arguments)
    pool = torch.ops.roialign_ext._pool
    at_argmax = pool([FEATURES], boxes, None, None, argmax, *arguments)
    torch.testing.assert_close(at_argmax, values, atol=1e-13, rtol=0)
    both = pool([2.0 * FEATURES - other], boxes, None, None, argmax, *arguments)
    torch.testing.assert_close(
        both, 2.0 * values - pool([other], boxes, None, None, argmax, *arguments), atol=1e-12, rtol=0
    )


def test_one_sample_per_bin_is_the_average() -> None:
    boxes = all_boxes(2)
    average = roi_align(FEATURES, boxes, 3, 1.0, 1, True)
    torch.testing.assert_close(roi_align(FEATURES, boxes, 3, 1.0, 1, True, "max"), average, atol=1e-13, rtol=0)
