"""The operators beside ``roi_align``: both gradients are the definitions', in every dtype, layout and odd place."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from torch import Tensor

from conftest import (
    BOX_SETS,
    DTYPES,
    NAN,
    assert_gradients_match_oracle,
    assert_input_gradient_matches_oracle,
    assert_within_rounding,
    random_tensor,
    rows,
    spread,
)
from family import (
    FAMILY,
    WITH_BOX_GRADIENT,
    CropCall,
    Family,
    PrRoIPoolCall,
    RoIPoolCall,
    RoIWarpCall,
    RotatedCall,
    boxes_for,
    output_of,
    rotated_rows,
)
from roialign_ext import roi_align, roi_pool, roi_warp
from test_family_forward import FORMATS, large_boxes, large_map

FEATURES = random_tensor(2, 3, 7, 9, seed=3)


def assert_all_gradients_match_oracle(call: Family, features: Tensor, boxes: Tensor, grad: Tensor) -> list[Tensor]:
    """By the input, and by the boxes where the operator has such a gradient."""
    if isinstance(call, RoIPoolCall):
        return [assert_input_gradient_matches_oracle(call, features, boxes, grad)]
    return list(assert_gradients_match_oracle(call, features, boxes, grad))


Gradients = list[tuple[Tensor, Tensor]]


@cache
def case(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Gradients]:
    """Features, boxes of every kind, an output gradient; the oracle's gradients and the size of their terms."""
    call, features = FAMILY[name], FEATURES.to(dtype)
    boxes = boxes_for(call, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    grad = random_tensor(*output_of(call, features, boxes), seed=4, dtype=dtype)
    by_input = call.input_gradient(grad, features, boxes), call.input_terms(grad, features, boxes)
    if isinstance(call, RoIPoolCall):
        return features, boxes, grad, [by_input]
    by_boxes = call.box_gradient(grad, features, boxes), call.box_terms(grad, features, boxes)
    return features, boxes, grad, [by_input, by_boxes]


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
def test_matches_oracle(name: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Every set of boxes: clamped, rejected, mirrored, empty, huge, not finite, on borders, of the minimum size."""
    features, boxes, grad, expected = case(name, dtype)
    features = features.clone(memory_format=layout).requires_grad_()
    leaves = [features, boxes.clone().requires_grad_()][: len(expected)]
    out = FAMILY[name](features, leaves[1] if len(expected) == 2 else boxes)
    gradients = torch.autograd.grad(out, leaves, grad.contiguous(memory_format=layout))
    for actual, (exact, terms), leaf in zip(gradients, expected, leaves, strict=True):
        assert actual.dtype == leaf.dtype
        assert bool(actual.isfinite().all())
        assert_within_rounding(actual, exact, terms)
    assert gradients[0].is_contiguous(memory_format=layout)
    assert not bool(gradients[-1][:, 0].any()) or len(expected) == 1


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("channels", [1, 16, 33, 130])
@pytest.mark.parametrize("layout", FORMATS)
def test_every_channel_count(name: str, channels: int, layout: torch.memory_format) -> None:
    call = FAMILY[name]
    features = random_tensor(2, channels, 6, 5, seed=channels, dtype=torch.float32).contiguous(memory_format=layout)
    boxes = boxes_for(call, "inside", "crossing", dtype=torch.float32)
    grad = random_tensor(*output_of(call, features, boxes), seed=5, dtype=torch.float32)
    assert_all_gradients_match_oracle(call, features, boxes, grad.contiguous(memory_format=layout))


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("box_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pair_of_dtypes(name: str, dtype: torch.dtype, box_dtype: torch.dtype) -> None:
    call, features = FAMILY[name], FEATURES[:, :2].to(dtype)
    boxes = boxes_for(call, "inside", "crossing", dtype=box_dtype)
    grad = random_tensor(*output_of(call, features, boxes), seed=6, dtype=dtype)
    assert_all_gradients_match_oracle(call, features, boxes, grad)


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (6, 1), (2, 2), (3, 40)])
def test_map_sizes(name: str, height: int, width: int) -> None:
    features = random_tensor(2, 2, height, width, seed=9)
    boxes = boxes_for(FAMILY[name], "inside", "crossing", "tiny")
    grad = random_tensor(*output_of(FAMILY[name], features, boxes), seed=10)
    assert_all_gradients_match_oracle(FAMILY[name], features, boxes, grad)


@pytest.mark.parametrize(("name", "layout"), list(zip(FAMILY, itertools.cycle(FORMATS))))
def test_large_map(name: str, layout: torch.memory_format) -> None:
    """Maps beyond any cache block of a kernel."""
    call, channels = FAMILY[name], 70
    features = large_map(torch.float32, channels, layout, images=1).detach()
    boxes = large_boxes(call, images=1).float()
    some = [0, 1, channels // 2, channels - 1]  # the box gradient sums over channels: these alone have one
    grad = torch.zeros(output_of(call, features, boxes))
    grad[:, some] = random_tensor(len(boxes), len(some), *call.output_size, seed=9, dtype=torch.float32)
    leaves = [features.requires_grad_(), boxes.clone().requires_grad_()][: 1 if isinstance(call, RoIPoolCall) else 2]
    out = call(features, leaves[-1] if len(leaves) == 2 else boxes)
    gradients = torch.autograd.grad(out, leaves, grad)
    part, grad = features.detach()[:, some], grad[:, some]
    terms = call.input_terms(grad, part, boxes)
    assert_within_rounding(gradients[0][:, some], call.input_gradient(grad, part, boxes), terms)
    assert int(gradients[0].abs().sum((0, 2, 3)).count_nonzero()) == len(some)
    if len(leaves) == 2:
        assert_within_rounding(gradients[1], call.box_gradient(grad, part, boxes), call.box_terms(grad, part, boxes))


# --- the rules, by hand


def by_boxes(call: Family, box: Tensor, features: Tensor) -> list[float]:
    box = box.clone().requires_grad_()
    (result,) = torch.autograd.grad(call(features, box).sum(), box)
    values: list[float] = result[0].tolist()
    return values


RAMP = (torch.arange(8.0).double()[:, None] * 10 + torch.arange(8.0).double())[None, None]  # 10 y + x


def test_box_gradients_of_a_ramp() -> None:
    """Every output is 10 y + x at the centre of a bin: t = 1/4 or 3/4 along the box, twice each."""
    box = rows((2.6, 4.6, 7.4, 9.4))
    assert by_boxes(PrRoIPoolCall((2, 2), 0.5), box, RAMP) == pytest.approx([0, 1, 10, 1, 10])
    assert by_boxes(RoIWarpCall((2, 2), 0.5, sampling_ratio=2), box, RAMP) == pytest.approx([0, 1, 10, 1, 10])
    assert by_boxes(CropCall((2, 2)), rows((0.2, 0.3, 0.7, 0.9)), RAMP) == pytest.approx([0, 140, 14, 140, 14])
    assert by_boxes(CropCall((1, 1)), rows((0.2, 0.3, 0.7, 0.9)), RAMP) == pytest.approx([0, 35, 3.5, 35, 3.5])
    assert by_boxes(CropCall((2, 2), method="nearest"), rows((0.2, 0.3, 0.7, 0.9)), RAMP) == [0.0] * 5
    # about the centre: sizes do nothing to the sum, the centre moves all four, and so does the angle nothing
    turned = rotated_rows((7.1, 8.3, 4.1, 3.3, 20.0))
    assert by_boxes(RotatedCall((2, 2), 0.5, 1), turned, RAMP) == pytest.approx([0, 2, 20, 0, 0, 0], abs=1e-12)


def test_rotated_gradient_of_one_sample_off_the_centre() -> None:
    """One bin of 2 in the gradient only: at v = 0, u = 1 map pixel right of the centre, y = -u sin, x = u cos."""
    box = rotated_rows((4.5, 4.5, 4.0, 2.0, 30.0)).requires_grad_()
    out = RotatedCall((1, 2), 1.0, 1)(RAMP, box)
    assert out[0, 0, 0, 1].item() == pytest.approx(10 * (4 - 0.5) + 4 + 3**0.5 / 2)
    (grad,) = torch.autograd.grad(out[0, 0, 0, 1], box)
    by_angle = (10 * -(3**0.5) / 2 - 0.5) * torch.pi / 180
    assert grad[0].tolist() == pytest.approx([0, 1, 10, (10 * -0.5 + 3**0.5 / 2) / 4, 0, by_angle])


def test_minimum_size_passes_no_gradient_to_the_size() -> None:
    """A warped box without width is one pixel wide whatever its second corner does; a legacy rotated one likewise."""
    warp = RoIWarpCall((1, 1), sampling_ratio=1)
    assert by_boxes(warp, rows((2.2, 3.1, 2.4, 6.1)), RAMP) == pytest.approx([0, 1, 5, 0, 5])
    rotated = RotatedCall((1, 2), 1.0, 1, aligned=False)
    box = rotated_rows((3.3, 3.4, 0.5, 3.0, 0.0)).requires_grad_()
    (grad,) = torch.autograd.grad(rotated(RAMP, box)[0, 0, 0, 0], box)
    assert grad[0].tolist() == pytest.approx([0, 1, 10, 0, 0, 0.25 * 10 * torch.pi / 180])


def test_clamped_and_rejected_samples_pass_no_box_gradient() -> None:
    crop = CropCall((1, 1))
    assert by_boxes(crop, rows((0.25, -0.3, 0.35, 0.1)), RAMP) == [0.0] * 5  # x = -0.7: outside
    assert by_boxes(crop, rows((0.25, 0.9, 0.35, 1.2)), RAMP) == [0.0] * 5  # x = 7.35: outside
    rotated = RotatedCall((1, 1), 1.0, 1)
    assert by_boxes(rotated, rotated_rows((0.1, 3.7, 2.0, 2.0, 0.0)), RAMP)[1:3] == pytest.approx([0, 10])  # x = -0.4
    assert by_boxes(rotated, rotated_rows((-0.7, 3.7, 2.0, 2.0, 0.0)), RAMP) == [0.0] * 6  # x = -1.2
    prroi = PrRoIPoolCall((1, 1))
    assert by_boxes(prroi, rows((-5.0, 1.0, -1.0, 4.0)), torch.ones(1, 1, 8, 8).double()) == [0.0] * 5


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_warp_gradients_are_those_of_roi_align_at_the_rounded_box(mode: str) -> None:
    boxes = spread(torch.cat([BOX_SETS[name] for name in BOX_SETS if name != "not_finite"]), 2)
    rounded = boxes.clone()
    rounded[:, 1:] = torch.sign(boxes[:, 1:]) * torch.floor((boxes[:, 1:] * 0.5).abs() + 0.5)
    results = []
    for rows_, function, scale in ((boxes, roi_warp, 0.5), (rounded, roi_align, 1.0)):
        leaves = FEATURES.clone().requires_grad_(), rows_.clone().requires_grad_()
        arguments = (False, mode) if function is roi_align else (mode,)
        out = function(*leaves, (3, 2), scale, 2, *arguments)
        grad = random_tensor(*out.shape, seed=11)
        by_input, by_rows = torch.autograd.grad(out, leaves, grad)
        results.append((by_input, by_rows / scale))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


# --- roi_pool


def test_roi_pool_has_no_box_gradient_and_says_so() -> None:
    features, boxes = FEATURES.clone().requires_grad_(), boxes_for(RoIPoolCall(), "inside").requires_grad_()
    out = roi_pool(features, boxes, 2)
    with pytest.raises(NotImplementedError, match="roi_pool"):
        torch.autograd.grad(out.sum(), boxes, retain_graph=True)
    with pytest.raises(NotImplementedError, match="roi_pool"):
        out.sum().backward(retain_graph=True)
    with pytest.raises(NotImplementedError, match="roi_pool"):
        torch.autograd.grad(roi_pool(FEATURES, boxes, 2).sum(), boxes)
    (by_input,) = torch.autograd.grad(out.sum(), features)  # not asked for, not missed
    (expected,) = torch.autograd.grad(roi_pool(features, boxes.detach(), 2).sum(), features)
    assert torch.equal(by_input, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roi_pool_equals_torchvision(dtype: torch.dtype) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    features = random_tensor(2, 20, 7, 9, seed=2, dtype=dtype).requires_grad_()
    boxes = spread(torch.cat([BOX_SETS[name] for name in BOX_SETS if name != "not_finite"]), 2).to(dtype)
    grad = random_tensor(len(boxes), 20, 3, 2, seed=12, dtype=dtype)
    ours, theirs = (
        torch.autograd.grad(function(features, boxes, (3, 2), 0.37), features, grad)[0]
        for function in (roi_pool, ops.roi_pool)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-13 if dtype == torch.float64 else 1e-5, rtol=0)


@pytest.mark.parametrize("layout", FORMATS)
def test_first_of_equal_pixels_gets_the_gradient(layout: torch.memory_format) -> None:
    features = torch.full((1, 18, 4, 4), 2.0).contiguous(memory_format=layout).requires_grad_()
    out = roi_pool(features, torch.tensor([[0.0, 1.0, 1.0, 3.0, 3.0]]), 1)
    (by_input,) = torch.autograd.grad(out.sum(), features)
    assert by_input[0, 7].nonzero().tolist() == [[1, 1]]
    assert by_input.sum().item() == 18.0


# --- when and how often


@pytest.mark.parametrize("name", list(FAMILY))
def test_gradients_only_where_required(name: str) -> None:
    call = FAMILY[name]
    boxes = boxes_for(call, "inside", "crossing")
    features = FEATURES.clone().requires_grad_()
    (only_features,) = torch.autograd.grad(call(features, boxes).sum(), features)
    assert not call(FEATURES, boxes).requires_grad
    with torch.no_grad():
        assert not call(features, boxes).requires_grad
    if name in WITH_BOX_GRADIENT:
        leaf = boxes.clone().requires_grad_()
        (only_boxes,) = torch.autograd.grad(call(FEATURES, leaf).sum(), leaf)
        both = torch.autograd.grad(call(features, leaf).sum(), (features, leaf))
        assert torch.equal(both[0], only_features)
        assert torch.equal(both[1], only_boxes)


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize(
    ("shape", "count"), [((2, 3, 5, 6), 0), ((0, 3, 5, 6), 0), ((2, 0, 5, 6), 3), ((0, 0, 5, 6), 0)]
)
@pytest.mark.parametrize("layout", FORMATS)
def test_empty_results(name: str, shape: tuple[int, int, int, int], count: int, layout: torch.memory_format) -> None:
    call = FAMILY[name]
    for dtype in DTYPES:
        features = torch.ones(shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
        boxes = boxes_for(call, "inside")[:1].repeat(count, 1)
        boxes[:, 0] = 0.0
        boxes.requires_grad_(name in WITH_BOX_GRADIENT)
        out = call(features, boxes)
        assert out.shape == (count, shape[1], *call.output_size)
        assert out.dtype == dtype
        leaves = (features, boxes) if boxes.requires_grad else (features,)
        for gradient, leaf in zip(torch.autograd.grad(out.sum(), leaves), leaves, strict=True):
            assert torch.equal(gradient, torch.zeros_like(leaf))


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("size", [(0, 9), (7, 0), (0, 0)])
def test_map_without_pixels(name: str, size: tuple[int, int]) -> None:
    """There is nothing to pool."""
    call = FAMILY[name]
    features = torch.zeros(2, 3, *size, requires_grad=True)
    boxes = boxes_for(call, "inside", dtype=torch.float32).requires_grad_(name in WITH_BOX_GRADIENT)
    out = call(features, boxes)
    assert torch.equal(out, torch.full_like(out, getattr(call, "extrapolation_value", 0.0)))
    leaves = (features, boxes) if boxes.requires_grad else (features,)
    for gradient, leaf in zip(torch.autograd.grad(out.sum(), leaves), leaves, strict=True):
        assert torch.equal(gradient, torch.zeros_like(leaf))


@pytest.mark.parametrize("name", list(FAMILY))
def test_nan_in_the_output_gradient_reaches_only_what_was_used(name: str) -> None:
    call = FAMILY[name]
    boxes = boxes_for(call, "inside", "crossing", images=1)
    grad = random_tensor(*output_of(call, FEATURES, boxes), seed=13)
    grad[0] = NAN
    features = FEATURES.clone().requires_grad_()
    (by_input,) = torch.autograd.grad(call(features, boxes), features, grad)
    expected = call.input_gradient(grad, features, boxes)
    assert torch.equal(by_input.isnan(), expected.isnan())
    assert 0 < int(by_input.isnan().sum()) < by_input[0].numel()


@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", FORMATS)
def test_gradients_of_many_boxes_are_added_in_float32(
    name: str, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """The same box 3000 times: a sum in bfloat16 would stand still at 256, one in float16 at 2048."""
    call = FAMILY[name]
    features = FEATURES.to(dtype).contiguous(memory_format=layout)
    boxes = boxes_for(call, "inside", images=1, dtype=torch.float32)[:1]
    grad = torch.full(output_of(call, features, boxes), 1.0, dtype=dtype)
    expected = 3000 * call.input_gradient(grad, features, boxes)
    features.requires_grad_()
    (by_input,) = torch.autograd.grad(call(features, boxes.repeat(3000, 1)), features, grad.repeat(3000, 1, 1, 1))
    torch.testing.assert_close(by_input, expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=0)
