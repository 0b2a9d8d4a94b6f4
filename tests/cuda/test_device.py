"""The operators on a GPU: the cases of the host shim, and properties that only a device has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import deterministic
from torch.utils._pytree import tree_map

import roialign_ext
from roialign_ext import _checks
from support.cuda_cases import CASES, MANY_BLOCKS, PYRAMID, Case, Operators, assert_agree, calculations, same_bits
from support.inputs import DTYPES, FORMATS, generator, random_tensor, requiring_grad
from support.operator_calls import OperatorCall
from support.operators import FIRST, OPERATORS

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and _checks.HAS_CUDA), reason="needs a GPU and a build with CUDA kernels"
)
CUDA = Operators(torch.ops.roialign_ext, "cuda")
HEIGHT, WIDTH = 50, 68
ADAPTIVE = ("roi_align-legacy_adaptive", "roi_align-max_legacy_adaptive")
# A position-sensitive operator reads as many channels for each channel of its result as it has bins.
CALLS = {
    name: replace(call, output_size=(3, 3) if call.groups > 1 else (7, 7))
    for name, call in OPERATORS.items()
    if name in FIRST or name in ADAPTIVE
}
ROI_ALIGN = CALLS["roi_align"]
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


def overlapping_corners(count: int = 300, images: int = 2) -> Tensor:
    """Boxes (image, x1, y1, x2, y2) of 2 to 40 pixels of the map, around one part of it, on both levels."""
    unit = torch.rand(count, 4, generator=generator(3))
    low, size = 10 * unit[:, :2], 2 * 20 ** unit[:, 2:]
    image = (torch.arange(count) % images).float()
    return torch.cat([image[:, None], low, low + size], dim=1)


def boxes_of(call: OperatorCall, corners: Tensor) -> Tensor:
    """Boxes of the operator, on the device, from boxes (image, x1, y1, x2, y2) in pixels of the map."""
    return call.from_corners(corners, HEIGHT, WIDTH).cuda()


def steps(count: int, like: Tensor) -> Tensor:
    """Numbers from -1 to 1 that every dtype represents exactly, the same on every device."""
    return torch.arange(count, dtype=torch.int32, device=like.device).remainder(257).sub(128).to(like.dtype) / 128


def features(
    call: OperatorCall, dtype: torch.dtype = torch.float32, channels: int = 66, channels_last: bool = False
) -> Any:
    """The first argument of the operator, a map or a pyramid with about that many channels, on the device."""
    feature_map = random_tensor(2, channels // call.groups, HEIGHT, WIDTH, dtype=dtype)
    maps = call.input_of(feature_map.contiguous(memory_format=FORMATS[channels_last]))
    return tree_map(lambda feature_map: feature_map.cuda(), maps)


def forward_and_backward(call: OperatorCall, maps: Any, boxes: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients w.r.t. maps and boxes that the operator has, for a fixed output gradient."""
    leaves = call.leaves(maps, boxes)
    out = call(*leaves)
    grad = steps(out.numel(), out).view(out.shape)
    return out.detach(), *torch.autograd.grad(out, requiring_grad(leaves), grad)


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fills new tensors with NaN and the largest integers."""
    monkeypatch.setattr(deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("case", CASES + MANY_BLOCKS, ids=str)
def test_kernels_agree_with_the_cpu(case: Case) -> None:
    for calculation in calculations(case):
        result = calculation.run(CUDA)
        assert_agree(case, calculation, result)
        assert same_bits(calculation.run(CUDA), result), calculation.name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_call
@pytest.mark.parametrize("channels_last", [False, True])
def test_public_operators_agree_with_the_cpu(call: OperatorCall, dtype: torch.dtype, channels_last: bool) -> None:
    maps, boxes = features(call, dtype, channels_last=channels_last), boxes_of(call, overlapping_corners(40))
    on_cuda = forward_and_backward(call, maps, boxes)
    maps, boxes = tree_map(lambda feature_map: feature_map.cpu(), maps), boxes.cpu()
    on_cpu = forward_and_backward(call, maps, boxes)
    wide = forward_and_backward(call, tree_map(lambda feature_map: feature_map.double(), maps), boxes)
    for actual, expected, exact in zip(on_cuda, on_cpu, wide, strict=True):
        assert (actual.dtype, actual.stride()) == (expected.dtype, expected.stride())
        scale = float(exact.abs().max())
        # Both within the rounding of the result and of float32 coordinates.
        tolerance = max(4 * torch.finfo(dtype).eps, 2e-4 if dtype != torch.float64 else 1e-11) * scale
        if call.chooses_samples or not call.has_mean:
            # Near ties may give another argmax, and then another pixel's gradient.
            far = (actual.cpu().double() - expected.double()).abs() > tolerance
            assert far.double().mean() < 1e-3
        else:
            torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=tolerance)


@each_call
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_backward_is_deterministic(call: OperatorCall, dtype: torch.dtype) -> None:
    """Fifty runs are bit-equal; use_deterministic_algorithms changes nothing."""
    maps, boxes = features(call, dtype), boxes_of(call, overlapping_corners())
    first = forward_and_backward(call, maps, boxes)
    for _ in range(50):
        assert same_bits(forward_and_backward(call, maps, boxes), first)
    torch.use_deterministic_algorithms(True)
    try:
        assert same_bits(forward_and_backward(call, maps, boxes), first)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@each_call
def test_nothing_waits_for_the_device(call: OperatorCall) -> None:
    maps, boxes = features(call), boxes_of(call, overlapping_corners())
    boxes[0, 0] = 7.0  # nor does an invalid batch index wait
    forward_and_backward(call, maps, boxes)
    before = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        out, *gradients = forward_and_backward(call, maps, boxes)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert out[0].isnan().all()
    assert not out[1:].isnan().any()
    assert not any(bool(gradient.isnan().any()) for gradient in gradients)


@each_call
def test_graphs_replay_with_other_boxes(call: OperatorCall) -> None:
    maps, corners = features(call), overlapping_corners()
    other = boxes_of(call, corners.flip(0) + torch.tensor([0.0, 0.75, 0.25, 0.5, 1.25]))
    boxes = boxes_of(call, corners)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        forward_and_backward(call, maps, boxes)
    torch.cuda.current_stream().wait_stream(side)
    graph, static = torch.cuda.CUDAGraph(), boxes.clone()
    with torch.cuda.graph(graph):
        captured = forward_and_backward(call, maps, static)
    for replayed in (boxes, other):
        static.copy_(replayed)
        graph.replay()
        torch.cuda.synchronize()
        assert same_bits(captured, forward_and_backward(call, maps, replayed))


def test_calls_run_on_the_current_stream() -> None:
    """On a side stream, after a slow kernel that writes the features."""
    boxes, source = boxes_of(ROI_ALIGN, overlapping_corners()), features(ROI_ALIGN)
    expected = forward_and_backward(ROI_ALIGN, source, boxes)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        x = torch.zeros_like(source)
        torch.cuda._sleep(50_000_000)
        x.copy_(source)
        result = forward_and_backward(ROI_ALIGN, x, boxes)
    side.synchronize()
    assert same_bits(result, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_calls_run_on_the_device_of_their_tensors() -> None:
    x, boxes = features(ROI_ALIGN), boxes_of(ROI_ALIGN, overlapping_corners())
    expected = forward_and_backward(ROI_ALIGN, x, boxes)
    with torch.cuda.device(0):
        result = forward_and_backward(ROI_ALIGN, x.to("cuda:1"), boxes.to("cuda:1"))
    assert all(tensor.device.index == 1 for tensor in result)
    assert same_bits(tuple(tensor.cpu() for tensor in result), tuple(tensor.cpu() for tensor in expected))


@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (0, 3, 7, 9), (2, 0, 7, 9), (2, 3, 0, 9)])
def test_empty_inputs(shape: tuple[int, ...]) -> None:
    for count in {0, 3} if shape[0] > 0 else {0}:
        x = torch.zeros(shape, device="cuda", requires_grad=True)
        boxes = torch.zeros(count, 5, device="cuda", requires_grad=True)
        out = roialign_ext.roi_align(x, boxes, 2)
        assert out.shape == (count, shape[1], 2, 2)
        assert not out.any()
        by_x, by_boxes = torch.autograd.grad(out.sum(), [x, boxes])
        # The three boxes are empty. Their minimum size gives them bins on the first pixels of a non-empty map.
        assert bool(by_x.any()) == (out.numel() > 0 and x.numel() > 0)
        assert not by_boxes.any()


def test_checks_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    x, boxes = features(ROI_ALIGN), boxes_of(ROI_ALIGN, overlapping_corners(3))
    boxes[1, 0] = 2.0
    monkeypatch.setenv("ROIALIGN_EXT_CHECK", "1")
    with pytest.raises(IndexError, match=r"batch index in row 1 must be a whole number in \[0, 2\), got 2"):
        roialign_ext.roi_align(x, boxes, 7, 0.25)
    assert os.environ["ROIALIGN_EXT_CHECK"] == "1"


def test_devices_may_not_be_mixed() -> None:
    x, boxes = features(ROI_ALIGN), overlapping_corners(3)
    with pytest.raises(ValueError, match=r"boxes: expected a tensor on cuda:0 like input, got one on cpu"):
        roialign_ext.roi_align(x, boxes, 7)
    with pytest.raises(ValueError, match=r"boxes: expected a tensor on cpu like input, got one on cuda:0"):
        roialign_ext.roi_align(x.cpu(), boxes.cuda(), 7)


def test_float64_derivatives_are_right() -> None:
    """gradcheck and gradgradcheck w.r.t. features and corners; a step of the batch index would name no image."""
    x = random_tensor(1, 2, 6, 7).cuda().requires_grad_()
    corners = torch.tensor([[1.13, 0.71, 4.87, 4.41]], dtype=torch.float64, device="cuda", requires_grad=True)

    def call(x: Tensor, corners: Tensor) -> Tensor:
        boxes = torch.cat([corners.new_zeros(len(corners), 1), corners], dim=1)
        return roialign_ext.roi_align(x, boxes, 2, 1.0, 2, aligned=True)

    assert torch.autograd.gradcheck(call, (x, corners))
    assert torch.autograd.gradgradcheck(call, (x, corners))


def test_memory_of_a_call() -> None:
    """A forward and backward pass need little beyond their results."""
    x, boxes = features(ROI_ALIGN, channels=256).requires_grad_(), boxes_of(ROI_ALIGN, overlapping_corners(1000))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = ROI_ALIGN(x, boxes)
    (grad,) = torch.autograd.grad(out, x, torch.ones_like(out))
    results = (out.numel() * 2 + grad.numel()) * 4  # the output's gradient too
    assert torch.cuda.max_memory_allocated() - before <= 1.25 * results


def test_an_allocation_that_fails() -> None:
    """torch's kind of exception and words, forward and backward; the next call works."""
    x, boxes = torch.ones(1, 4096, 2, 2, device="cuda"), torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]], device="cuda")
    with pytest.raises(
        torch.OutOfMemoryError, match=r"(?s)CUDA out of memory\. .*Float tensor of shape \[1, 4096, 40000, 40"
    ):
        roialign_ext.roi_align(x, boxes, 40000)
    spread = x[:, :1, :1, :1].requires_grad_().expand(-1, -1, 2**20, 2**20)
    out = roialign_ext.roi_align(spread, boxes, 2, 1.0, 2)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"(?s)CUDA out of memory\. .*Float tensor of shape \[1, 1, 1048576, 10"
    ):
        torch.autograd.grad(out.sum(), spread)
    assert (roialign_ext.roi_align(x, boxes, 2, 1.0, 2) == 1).all()


@pytest.mark.large
def test_outputs_beyond_two_to_the_31st() -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 24 << 30:
        pytest.skip("needs 24 GB of free memory")
    channels, bins = 1024, 64
    count = 2**31 // (channels * bins * bins) + 2
    x = torch.zeros(1, channels, 4, 4, dtype=torch.float16, device="cuda", requires_grad=True)
    with torch.no_grad():
        x += torch.arange(channels, device="cuda").view(1, -1, 1, 1).remainder(64)
    boxes = torch.tensor([[0.0, 0.5, 0.5, 2.5, 2.5]], device="cuda").repeat(count, 1)
    out = roialign_ext.roi_align(x, boxes, bins, 1.0, 1)
    assert out.numel() > 2**31
    channel_values = torch.arange(channels, device="cuda", dtype=torch.float16).remainder(64)
    assert torch.equal(out[-1], channel_values.view(-1, 1, 1).expand(channels, bins, bins))
    # Sums that float16 can hold. The 64 samples of an axis lie evenly on [0.5, 2.5].
    scale = 2.0**-6
    (grad,) = torch.autograd.grad(out, x, torch.full_like(out, scale))
    weights = torch.tensor([4.0, 28.0, 28.0, 4.0], device="cuda")
    expected = (scale * count * torch.outer(weights, weights)).expand(x.shape)
    torch.testing.assert_close(grad.float(), expected, rtol=2.0**-10, atol=0)


@pytest.mark.parametrize("levels", [1, len(PYRAMID)])
def test_compiled_calls(levels: int) -> None:
    maps = [random_tensor(2, 8, *plane, dtype=torch.float32).cuda() for plane in PYRAMID[:levels]]
    boxes = overlapping_corners(30).cuda()

    def call(maps: list[Tensor], boxes: Tensor) -> Tensor:
        scales = [2.0**-level for level in range(levels)]
        return roialign_ext.multiscale_roi_align(maps, boxes, 3, scales, 2, canonical_scale=4.0, canonical_level=1)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert same_bits((compiled(maps, boxes),), (call(maps, boxes),))
