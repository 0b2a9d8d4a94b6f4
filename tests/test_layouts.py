"""Strides are a matter of speed only: any layout gives the contiguous result, and a dense map is not copied."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conftest import (
    BOX_SETS,
    LAYOUTS,
    MODES,
    Call,
    all_boxes,
    assert_gradients_match_oracle,
    assert_matches_oracle,
    random_tensor,
    spread,
    with_layout,
)
from roialign_ext import roi_align, roi_pool

SHAPE = (2, 3, 7, 9)
FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ratio", [-1, 1, 2, 6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_forward(layout: str, ratio: int, dtype: torch.dtype) -> None:
    features = with_layout(random_tensor(*SHAPE, seed=1, dtype=dtype), layout)
    call = Call((3, 2), 0.9, ratio, True)
    out = assert_matches_oracle(call, features, all_boxes(2).to(dtype))
    contiguous = call(features.contiguous(), all_boxes(2).to(dtype))
    torch.testing.assert_close(out, contiguous, atol=1e-12 if dtype == torch.float64 else 1e-5, rtol=0)


# a map of one value per channel leaves the winner of the max mode to rounding
MODES_AND_LAYOUTS = [
    (mode, layout) for mode in MODES for layout in LAYOUTS if (mode, layout) != ("max", "expanded_pixels")
]


@pytest.mark.parametrize(("mode", "layout"), MODES_AND_LAYOUTS)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
def test_gradients(mode: str, layout: str, grad_layout: str) -> None:
    features = with_layout(random_tensor(*SHAPE, seed=1), layout)
    boxes = spread(torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"]]), 2)
    grad = with_layout(random_tensor(len(boxes), 3, 3, 2, seed=2), grad_layout)
    assert_gradients_match_oracle(Call((3, 2), 0.9, 2, True, mode), features, boxes, grad)


@pytest.mark.parametrize(("mode", "layout"), MODES_AND_LAYOUTS)
@pytest.mark.parametrize("channels", [33, 64])
def test_many_channels_in_float32(mode: str, layout: str, channels: int) -> None:
    features = with_layout(random_tensor(2, channels, 6, 5, seed=3, dtype=torch.float32), layout)
    boxes = spread(torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"]]), 2).float()
    grad = with_layout(random_tensor(len(boxes), channels, 2, 2, seed=4, dtype=torch.float32), layout)
    call = Call((2, 2), 0.7, 2, False, mode)
    assert_matches_oracle(call, features, boxes)
    assert_gradients_match_oracle(call, features, boxes, grad)


@pytest.mark.parametrize("mode", MODES)
def test_pixels_a_page_apart(mode: str) -> None:
    """4 KiB from pixel to pixel: such a map is packed, not read where it lies, and gives the bits of NCHW."""
    boxes = spread(torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"]]), 2).float()
    call = Call((2, 2), 0.7, 2, False, mode)
    values = random_tensor(2, 1024, 6, 5, seed=3, dtype=torch.float32)
    grad = random_tensor(len(boxes), 1024, 2, 2, seed=4, dtype=torch.float32)
    results = []
    for layout in FORMATS:
        leaves = values.contiguous(memory_format=layout).requires_grad_(), boxes.clone().requires_grad_()
        out = call(*leaves)
        results.append([out, *torch.autograd.grad(out, leaves, grad.contiguous(memory_format=layout))])
    for expected, actual in zip(*results, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("mode", MODES)
def test_gradient_without_strides(layout: torch.memory_format, mode: str) -> None:
    """``out.sum().backward()`` hands a gradient of one element with strides of 0."""
    features = random_tensor(*SHAPE, seed=1).contiguous(memory_format=layout).requires_grad_()
    boxes = all_boxes(2).requires_grad_()
    call = Call((3, 2), 0.9, 2, True, mode)
    out = call(features, boxes)
    expected = torch.autograd.grad(out, (features, boxes), torch.ones_like(out), retain_graph=True)
    out.sum().backward()
    assert features.grad is not None
    assert boxes.grad is not None
    torch.testing.assert_close(features.grad, expected[0], atol=1e-13, rtol=0)
    torch.testing.assert_close(boxes.grad, expected[1], atol=1e-12, rtol=0)


def wider_rows(boxes: Tensor) -> Tensor:
    storage = torch.full((len(boxes), 8), float("nan"), dtype=boxes.dtype)
    storage[:, 2:7] = boxes
    return storage[:, 2:7]


def every_other(boxes: Tensor) -> Tensor:
    storage = torch.full((2 * len(boxes) + 1, 10), float("nan"), dtype=boxes.dtype)
    storage[1::2, ::2] = boxes
    return storage[1::2, ::2]


@pytest.mark.parametrize("strided", [lambda b: b.t().contiguous().t(), wider_rows, every_other])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_boxes_of_any_stride(strided: Callable[[Tensor], Tensor], mode: str, dtype: torch.dtype) -> None:
    features = random_tensor(*SHAPE, seed=1, dtype=torch.float32)
    boxes = all_boxes(2).to(dtype)
    other = strided(boxes)
    assert not other.is_contiguous()
    assert torch.equal(other.nan_to_num(), boxes.nan_to_num())
    call = Call((3, 2), 0.9, 2, True, mode)
    results = []
    for variant in (boxes, other):
        leaves = features.clone().requires_grad_(), variant.detach().requires_grad_()
        out = call(*leaves)
        grad = random_tensor(*out.shape, seed=2, dtype=torch.float32)
        results.append([out, *torch.autograd.grad(out, leaves, grad)])
    for expected, actual in zip(*results, strict=True):
        assert torch.equal(actual, expected)


def test_expanded_box() -> None:
    features = random_tensor(*SHAPE, seed=1)
    box = BOX_SETS["inside"][:1]
    out = roi_align(features, box.expand(5, 5), 2)
    assert torch.equal(out, roi_align(features, box, 2).expand_as(out))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_memory_format_of_results(layout: torch.memory_format, mode: str, dtype: torch.dtype) -> None:
    """The output has the input's memory format, and so has the input gradient, whatever the output gradient has."""
    features = random_tensor(*SHAPE, seed=1, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    out = roi_align(features, spread(BOX_SETS["inside"], 2).float(), (3, 2), mode=mode)
    other = next(format for format in FORMATS if format != layout)
    assert out.is_contiguous(memory_format=layout)
    assert not out.is_contiguous(memory_format=other)
    for grad_format in FORMATS:
        grad = torch.ones_like(out).contiguous(memory_format=grad_format)
        (by_input,) = torch.autograd.grad(out, features, grad, retain_graph=True)
        assert by_input.is_contiguous(memory_format=layout)


def test_memory_format_of_a_cropped_map() -> None:
    features = random_tensor(2, 3, 9, 12, seed=1).contiguous(memory_format=torch.channels_last)[:, :, 1:-1, 2:-1]
    out = assert_matches_oracle(Call((3, 2), 0.9, 2, True), features, all_boxes(2))
    assert out.is_contiguous(memory_format=torch.channels_last)


def allocated_bytes(function: Callable[[], object]) -> int:
    """What tensors allocate while ``function`` runs, freed or not."""
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    return sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_no_copy_of_the_map(layout: torch.memory_format, mode: str, dtype: torch.dtype) -> None:
    """A few boxes on a map of 8 to 16 MB: no call allocates anything near a map, in any dtype, autocast included."""
    features = torch.ones(1, 64, 256, 256, dtype=dtype).contiguous(memory_format=layout)
    boxes = torch.tensor([[0.0, 3.0, 4.0, 60.0, 90.0], [0.0, 30.0, 40.0, 160.0, 190.0]])
    size = features.numel() * features.element_size()

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            roi_align(features, boxes, 7, 1.0, 2, True, mode)

    assert allocated_bytes(lambda: features.float() + 1) >= size  # the measurement sees such a copy
    assert allocated_bytes(run) < size // 8


@pytest.mark.parametrize("layout", FORMATS)
def test_backward_allocates_one_map(layout: torch.memory_format) -> None:
    features = torch.ones(1, 64, 128, 128).contiguous(memory_format=layout).requires_grad_()
    boxes = torch.tensor([[0.0, 3.0, 4.0, 60.0, 90.0]])
    out = roi_align(features, boxes, 7, 1.0, 2, True)
    size = features.numel() * 4

    def run() -> None:
        torch.autograd.grad(out, features, torch.ones_like(out), retain_graph=True)

    assert allocated_bytes(run) < size + size // 4


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(("dtype", "channels"), [(torch.float32, 70), (torch.float64, 19), (torch.bfloat16, 19)])
@pytest.mark.parametrize("operator", ["avg", "max", "roi_pool"])
def test_order_of_boxes_and_rows(layout: torch.memory_format, dtype: torch.dtype, channels: int, operator: str) -> None:
    """A large map is swept row by row, of a small one boxes are visited one by one: the same bits, winners too, among
    equal samples and NaN, whichever way round a box is and wherever it leaves the map."""

    def pool(features: Tensor, boxes: Tensor) -> Tensor:
        if operator == "roi_pool":
            return roi_pool(features, boxes, (3, 2))
        return roi_align(features, boxes, (3, 2), 1.0, 3, True, operator)

    numbers = torch.Generator().manual_seed(1)
    part = torch.randint(0, 3, (2, channels, 16, 18), generator=numbers).to(dtype)  # many equal samples
    part[0, 3, 5:9, 4:7] = torch.nan
    part[1, :4, 2:8, 8:13] = -torch.inf
    maps = torch.zeros(2, channels, 300, 310, dtype=dtype)
    maps[:, :, :16, :18] = part
    corners = torch.randint(-24, 14 * 8, (80, 4), generator=numbers) / 8  # crossing the upper and the left border
    boxes = torch.cat([torch.arange(80)[:, None] % 2, corners], 1)
    grad = random_tensor(80, channels, 3, 2, seed=2, dtype=dtype).contiguous(memory_format=layout)
    results = []
    for features in (part, maps):
        features = features.contiguous(memory_format=layout).requires_grad_()
        out = pool(features, boxes)
        (gradient,) = torch.autograd.grad(out, features, grad)
        results.append((out.detach(), gradient[:, :, :16, :18]))
    for of_part, of_maps in zip(*results, strict=True):
        torch.testing.assert_close(of_maps, of_part, rtol=0, atol=0, equal_nan=True)
    assert not gradient[:, :, 16:].any()
    assert not gradient[:, :, :, 18:].any()
