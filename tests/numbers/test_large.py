"""Are results, maps and gradients of more than 2^31 elements right, whose offsets do not fit 32 bits?

Off by default. ``ROIALIGN_EXT_LARGE=1 pytest tests/numbers/test_large.py`` runs them; they need about 10 GB of memory.
``-m large`` selects and ``-m "not large"`` leaves out these tests.
"""

from __future__ import annotations

import os

import pytest
import torch

from roialign_ext import roi_align
from support.inputs import random_tensor

pytestmark = [
    pytest.mark.large,
    pytest.mark.skipif(
        os.environ.get("ROIALIGN_EXT_LARGE") != "1", reason="set ROIALIGN_EXT_LARGE=1: needs about 10 GB"
    ),
]


def test_output_beyond_31_bits() -> None:
    """172,000 boxes x 256 channels x 7 x 7: the last rows are right, and the gradient counts every box."""
    count, channels = 172_000, 256
    features = random_tensor(2, channels, 8, 8, seed=1, dtype=torch.float16).requires_grad_()
    boxes = torch.tensor([0.0, 0.0, 0.0, 7.0, 7.0]).repeat(count, 1)
    boxes[-3:, 0] = 1.0
    out = roi_align(features, boxes, 7, 1.0, 1, True)
    assert out.numel() > 2**31
    expected = features.detach()[:, :, :7, :7]
    for k in (0, count // 2, count - 4):
        assert torch.equal(out[k], expected[0])
    for k in (count - 3, count - 1):
        assert torch.equal(out[k], expected[1])
    grad = torch.full((), 2.0**-10, dtype=torch.float16).expand(out.shape)
    (grad_input,) = torch.autograd.grad(out, features, grad)
    sums = torch.tensor([(count - 3) * 2.0**-10, 3 * 2.0**-10]).to(torch.float16)
    assert torch.equal(grad_input[:, :, :7, :7], sums[:, None, None, None].expand(2, channels, 7, 7))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_map_beyond_31_bits(layout: torch.memory_format) -> None:
    """A batch of maps with 2.2e9 elements: the last image is read, and its gradient written, at the right place."""
    images, channels, side = 33, 256, 512
    shape = (images, channels, side, side)
    features = torch.empty(shape, dtype=torch.float16, memory_format=layout).zero_()
    assert features.numel() > 2**31
    last = random_tensor(channels, 8, 8, seed=2, dtype=torch.float16)
    features[-1, :, -8:, -8:] = last
    features.requires_grad_()
    start, end = float(side - 8), float(side)
    boxes = torch.tensor([[images - 1.0, start, start, end, end], [0.0, start, start, end, end]])
    out = roi_align(features, boxes, 8, 1.0, 1, True)
    assert torch.equal(out[0], last)
    assert not bool(out[1].any())
    (grad_input,) = torch.autograd.grad(out, features, torch.ones_like(out))
    assert bool((grad_input[[0, -1], :, -8:, -8:] == 1).all())
    assert grad_input[:, 0].sum(dtype=torch.float64).item() == 2 * 64
    assert grad_input[-1].sum(dtype=torch.float64).item() == 64 * channels
