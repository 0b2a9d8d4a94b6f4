"""Do ``ps_roi_align`` and ``ps_roi_pool`` give each bin the numbers of its own channels?"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from roialign_ext import ps_roi_align, ps_roi_pool, roi_align
from support.inputs import FORMATS, all_boxes, random_tensor, spread
from support.operator_calls import PSRoIAlignCall, PSRoIPoolCall
from support.tolerance import assert_gradients_match_oracle, assert_matches_oracle

SIZE = (3, 2)
FEATURES = random_tensor(2, 18, 7, 9, seed=1)


def own_groups(pooled: Tensor) -> Tensor:
    """The channels of each bin that belong to its group: [K, C * P, PH, PW] -> [K, C, PH, PW]."""
    count, channels, *size = pooled.shape
    bins = size[0] * size[1]
    return pooled.reshape(count, channels // bins, bins, bins).diagonal(dim1=2, dim2=3).reshape(count, -1, *size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("ratio", [-1, 1, 2, 5])
@pytest.mark.parametrize("layout", FORMATS)
def test_equals_roi_align_of_all_channels(dtype: torch.dtype, ratio: int, layout: torch.memory_format) -> None:
    """Both give the same bits: positions and numbers of samples are those of the whole box, in adaptive grids too."""
    whole = torch.arange(1, 30).double() / 3  # bins of whole pixels, or a rounding beside them
    regular = torch.stack([torch.zeros(29).double(), whole / 7, whole / 11, whole / 7 + whole, whole / 11 + 3.0], 1)
    for boxes in (all_boxes(2), spread(regular, 2)):
        boxes = boxes.to(torch.float64 if dtype == torch.float64 else torch.float32)
        features = FEATURES.to(dtype).contiguous(memory_format=layout)
        expected = own_groups(roi_align(features, boxes, SIZE, 0.9, ratio, aligned=True))
        assert torch.equal(ps_roi_align(features, boxes, SIZE, 0.9, ratio), expected)


def test_derivatives_equal_those_of_roi_align() -> None:
    boxes = PSRoIAlignCall().boxes("inside", "crossing", "border")
    grad = random_tensor(len(boxes), 3, *SIZE, seed=2)
    results = []
    for pool in (
        lambda x, b: ps_roi_align(x, b, SIZE, 0.9, 2),
        lambda x, b: own_groups(roi_align(x, b, SIZE, 0.9, 2, aligned=True)),
    ):
        leaves = FEATURES.clone().requires_grad_(), boxes.clone().requires_grad_()
        firsts = torch.autograd.grad(pool(*leaves), leaves, grad, create_graph=True)
        seconds = torch.autograd.grad([first.square().sum() for first in firsts], leaves)
        results.append([*firsts, *seconds])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_of_bins_equal_torchvision(dtype: torch.dtype) -> None:
    """A map whose pixels are powers shows the first and the last cell of every bin."""
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    for bins in range(1, 15):
        features = torch.arange(70, dtype=dtype).square().reshape(1, 1, 1, 70).repeat(1, bins, 2, 1)
        boxes = torch.tensor([[0.0, 3.0, 0.0, 3.0 + cells, 1.0] for cells in range(1, 60)], dtype=dtype)
        expected = ops.ps_roi_pool(features, boxes, (1, bins))
        torch.testing.assert_close(ps_roi_pool(features, boxes, (1, bins)), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("output_size", [(1, 1), (1, 5), (7, 7), (2, 20)])
@pytest.mark.parametrize("channels", [1, 21])
def test_sizes(output_size: tuple[int, int], channels: int) -> None:
    features = random_tensor(2, channels * output_size[0] * output_size[1], 11, 13, seed=3)
    for call, layout in itertools.product((PSRoIAlignCall(output_size), PSRoIPoolCall(output_size)), FORMATS):
        boxes, wide = call.boxes("inside", "crossing", "tiny"), features.contiguous(memory_format=layout)
        out = assert_matches_oracle(call, wide, boxes)
        assert_gradients_match_oracle(call, wide, boxes, random_tensor(*out.shape, seed=4))


def test_large_bins_of_whole_pixels() -> None:
    """Every pixel has the same weight, however many there are: positions of samples would be off by roundings."""
    ramp = torch.arange(20001.0).reshape(1, 1, 1, 20001).repeat(1, 1, 2, 1).requires_grad_()
    out = ps_roi_pool(ramp, torch.tensor([[0.0, 1.0, 0.0, 19999.0, 1.0]]), 1)
    assert out.item() == pytest.approx(9999.5, rel=1e-5)
    (weights,) = torch.autograd.grad(out.sum(), ramp)
    assert torch.equal(weights[0, 0, 0, 1:19999], torch.full((19998,), 1.0) / 19998)
    assert int(weights.count_nonzero()) == 19998


@pytest.mark.parametrize("function", [ps_roi_align, ps_roi_pool])
def test_channels_that_the_bins_do_not_divide(function) -> None:  # type: ignore[no-untyped-def]
    boxes = PSRoIAlignCall().boxes("inside")
    for features in (FEATURES[:, :17], FEATURES[:, :17].to("meta"), FEATURES[:, :17].clone().requires_grad_()):
        on_device = boxes.to(features.device)
        with pytest.raises(ValueError, match=r"input: expected channels in groups of 6, .* 3 x 2 bins, got 17"):
            function(features, on_device, SIZE)


def test_no_derivative_of_pixels_by_the_boxes() -> None:
    boxes = PSRoIPoolCall().boxes("inside").requires_grad_()
    out = ps_roi_pool(FEATURES, boxes, SIZE)
    with pytest.raises(
        NotImplementedError, match=r"ps_roi_pool has no gradient with respect to the boxes.*or use ps_roi_align"
    ):
        out.sum().backward()
    with pytest.raises(NotImplementedError, match="ps_roi_pool has no derivative with respect to the boxes"):
        torch.func.jvp(lambda b: ps_roi_pool(FEATURES, b, SIZE), (boxes.detach(),), (torch.ones_like(boxes),))
