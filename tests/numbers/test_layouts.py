"""Does any layout give the numbers of the contiguous one, without a copy of a dense map?"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from roialign_ext import roi_align, roi_pool
from support.inputs import (
    BOX_SETS,
    DTYPES,
    FORMATS,
    LAYOUTS,
    MODES,
    all_boxes,
    finest,
    formatted,
    random_tensor,
    requiring_grad,
    spread,
    with_layout,
)
from support.operator_calls import OperatorCall, RoIAlignCall
from support.operators import OPERATORS, each_operator
from support.tolerance import assert_are_gradients, assert_matches_oracle, assert_within_rounding

SHAPE = (2, 3, 7, 9)
# A map of one value per channel leaves the argmax of interpolated samples to rounding.
NAMES_AND_LAYOUTS = [
    (name, layout)
    for name, call in OPERATORS.items()
    for layout in LAYOUTS
    if layout != "expanded_pixels" or not call.chooses_samples
]


def values_of(layout: str) -> str:
    """The layouts with the same values have the same name."""
    return layout if layout.startswith("expanded") else "contiguous"


def arguments_and_grad(
    call: OperatorCall, dtype: torch.dtype, channels: int, layout: str, grad_layout: str
) -> tuple[Any, Tensor, Tensor]:
    """Features, boxes and the gradient of the output."""
    maps = call.input_of(random_tensor(2, channels, 7, 9, seed=1, dtype=dtype))
    features = tree_map(lambda feature_map: with_layout(feature_map, layout), maps)
    boxes = call.boxes("inside", "crossing", dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    shape = call.output_shape(features, boxes)
    return features, boxes, with_layout(random_tensor(*shape, seed=2, dtype=dtype), grad_layout)


@cache
def expected_of(
    call: OperatorCall, dtype: torch.dtype, channels: int, layout: str, grad_layout: str
) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, Tensor]]]:
    features, boxes, grad = arguments_and_grad(call, dtype, channels, layout, grad_layout)
    forward = call.forward(features, boxes), call.forward_terms(features, boxes)
    return forward, call.expected_gradients(grad, features, boxes)


def assert_layouts_change_nothing(
    call: OperatorCall, dtype: torch.dtype, channels: int, layout: str, grad_layout: str
) -> None:
    features, boxes, grad = arguments_and_grad(call, dtype, channels, layout, grad_layout)
    forward, gradients = expected_of(call, dtype, channels, values_of(layout), values_of(grad_layout))
    leaves = call.leaves(features, boxes)
    out = call(*leaves)
    assert out.dtype == dtype
    assert_within_rounding(out, *forward)
    actual = list(torch.autograd.grad(out, requiring_grad(leaves), grad))
    assert_are_gradients(actual, gradients, features, boxes)


@pytest.mark.parametrize(("name", "layout"), NAMES_AND_LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_layout(name: str, layout: str, dtype: torch.dtype) -> None:
    assert_layouts_change_nothing(OPERATORS[name], dtype, 19, layout, layout)


@each_operator
@pytest.mark.parametrize("grad_layout", LAYOUTS)
def test_layouts_of_the_output_gradient(call: OperatorCall, grad_layout: str) -> None:
    """Expanded ones too, which ``out.sum().backward()`` and means over channels hand back."""
    assert_layouts_change_nothing(call, torch.float64, 3, "channels_last", grad_layout)


ROI_ALIGN = [pair for pair in NAMES_AND_LAYOUTS if pair[0] in ("roi_align", "roi_align-max")]


@pytest.mark.parametrize(("name", "layout"), ROI_ALIGN)
def test_every_pair_of_layouts(name: str, layout: str) -> None:
    for grad_layout in LAYOUTS:
        assert_layouts_change_nothing(OPERATORS[name], torch.float64, 3, layout, grad_layout)


@pytest.mark.parametrize(("name", "layout"), ROI_ALIGN)
@pytest.mark.parametrize("channels", [33, 64])
def test_many_channels(name: str, layout: str, channels: int) -> None:
    assert_layouts_change_nothing(OPERATORS[name], torch.float32, channels, layout, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ratio", [-1, 1, 2, 6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_contiguous_result(layout: str, ratio: int, dtype: torch.dtype) -> None:
    """Boxes of every kind."""
    features = with_layout(random_tensor(*SHAPE, seed=1, dtype=dtype), layout)
    call, boxes = RoIAlignCall((3, 2), 0.9, ratio, True), all_boxes(2).to(dtype)
    expected = call(features.contiguous(), boxes)
    torch.testing.assert_close(call(features, boxes), expected, atol=1e-12 if dtype == torch.float64 else 1e-5, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_pixels_a_page_apart(mode: str) -> None:
    """4 KiB from pixel to pixel: such a map is packed, not read where it lies, and gives the bits of NCHW."""
    boxes = spread(torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"]]), 2).float()
    call = RoIAlignCall((2, 2), 0.7, 2, False, mode)
    values = random_tensor(2, 1024, 6, 5, seed=3, dtype=torch.float32)
    grad = random_tensor(len(boxes), 1024, 2, 2, seed=4, dtype=torch.float32)
    results = []
    for layout in FORMATS:
        leaves = values.contiguous(memory_format=layout).requires_grad_(), boxes.clone().requires_grad_()
        out = call(*leaves)
        results.append([out, *torch.autograd.grad(out, leaves, grad.contiguous(memory_format=layout))])
    for expected, actual in zip(*results, strict=True):
        assert torch.equal(actual, expected)


@each_operator
@pytest.mark.parametrize("layout", FORMATS)
def test_gradient_without_strides(call: OperatorCall, layout: torch.memory_format) -> None:
    """``out.sum().backward()`` hands a gradient of one element with strides of 0."""
    leaves = call.leaves(formatted(call.input_of(random_tensor(*SHAPE, seed=1)), layout), call.boxes())
    expected = call.gradients(leaves, torch.ones(call.output_shape(*leaves), dtype=torch.float64))
    for actual, exact in zip(call.gradients(leaves), expected, strict=True):
        torch.testing.assert_close(actual, exact, atol=1e-12, rtol=1e-12)


def transposed(boxes: Tensor) -> Tensor:
    return boxes.t().contiguous().t()


def wider_rows(boxes: Tensor) -> Tensor:
    return torch.nn.functional.pad(boxes, (2, 1), value=float("nan"))[:, 2:-1]


def every_other(boxes: Tensor) -> Tensor:
    storage = torch.full((2 * len(boxes) + 1, 2 * boxes.shape[1]), float("nan"), dtype=boxes.dtype)
    storage[1::2, ::2] = boxes
    return storage[1::2, ::2]


@each_operator
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_boxes_of_any_stride(call: OperatorCall, dtype: torch.dtype) -> None:
    features, boxes = call.input_of(random_tensor(*SHAPE, seed=1, dtype=torch.float32)), call.boxes(dtype=dtype)
    grad = random_tensor(*call.output_shape(features, boxes), seed=2, dtype=torch.float32)

    def results(variant: Tensor) -> list[Tensor]:
        leaves = call.leaves(features, variant)
        return [call(*leaves).detach(), *call.gradients(leaves, grad)]

    expected = results(boxes)
    for strided in (transposed, wider_rows, every_other):
        other = strided(boxes)
        assert not other.is_contiguous()
        assert torch.equal(other.nan_to_num(), boxes.nan_to_num())
        for actual, exact in zip(results(other), expected, strict=True):
            assert torch.equal(actual, exact)


def test_expanded_box() -> None:
    features = random_tensor(*SHAPE, seed=1)
    box = BOX_SETS["inside"][:1]
    out = roi_align(features, box.expand(5, 5), 2)
    assert torch.equal(out, roi_align(features, box, 2).expand_as(out))


@each_operator
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
def test_memory_format_of_results(call: OperatorCall, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """The output has the input's memory format, and so has grad_input, whatever the output gradient has."""
    plain, boxes = call.input_of(random_tensor(*SHAPE, seed=1, dtype=dtype)), call.boxes("inside", dtype=torch.float32)
    features = call.leaves(formatted(plain, layout), boxes)[0]
    out = call(features, boxes)
    other = next(format for format in FORMATS if format != layout)
    assert out.is_contiguous(memory_format=layout)
    assert not out.is_contiguous(memory_format=other)
    for grad_format in FORMATS:
        grad = torch.ones_like(out).contiguous(memory_format=grad_format)
        for by_map in torch.autograd.grad(out, tree_leaves(features), grad, retain_graph=True):
            assert by_map.is_contiguous(memory_format=layout)


def test_memory_format_of_a_cropped_map() -> None:
    features = random_tensor(2, 3, 9, 12, seed=1).contiguous(memory_format=torch.channels_last)[:, :, 1:-1, 2:-1]
    out = assert_matches_oracle(RoIAlignCall((3, 2), 0.9, 2, True), features, all_boxes(2))
    assert out.is_contiguous(memory_format=torch.channels_last)


def allocated_bytes(function: Callable[[], object]) -> int:
    """Bytes that tensors allocate while ``function`` runs, freed or not."""
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    return sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())


# Position-sensitive operators copy maps into groups of channels.
READ_IN_PLACE = [
    name for name, call in OPERATORS.items() if call.groups == 1 and ("-" not in name or name.endswith("-max"))
]


@pytest.mark.parametrize("name", READ_IN_PLACE)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_no_copy_of_the_map(name: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
    """A few boxes on a map of 8 to 16 MB: no call allocates anything near a map, in any dtype, autocast included."""
    call = OPERATORS[name]
    features = formatted(call.input_of(torch.ones(1, 64, 256, 256, dtype=dtype)), layout)
    boxes = call.boxes("inside", images=1, dtype=torch.float32)[:2]
    size = finest(features).nbytes

    def run() -> None:
        call(features, boxes)
        with torch.autocast("cpu", torch.bfloat16):
            call(features, boxes)

    assert allocated_bytes(run) < size // 8


def test_a_copy_of_the_map_would_be_seen() -> None:
    features = torch.ones(1, 64, 256, 256)
    assert allocated_bytes(lambda: features.double() + 1) >= features.numel() * 4


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
    """A large map is swept row by row, a small one is visited box by box: both give the same bits, of the argmax too.

    There are equal samples and NaN, boxes in either direction, and boxes that leave the map on any side.
    """

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
