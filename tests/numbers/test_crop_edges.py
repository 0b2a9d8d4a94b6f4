"""Does a crop end on the edges of its box, so that rounding moves no sample off a map on which the box ends?"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from roialign_ext import crop_and_resize
from support.inputs import DTYPES, generator, random_tensor
from support.operator_calls import CropCall
from support.tolerance import assert_gradients_match_oracle

FIRST = torch.tensor([0])
BOTH_WAYS = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])


@cache
def pairs_that_round_up(double: bool) -> list[tuple[int, int]]:
    """(length of the map, samples): of the sizes below 200, those whose rounded steps add up to more than the map."""
    real = np.float64 if double else np.float32
    return [
        (length, samples)
        for length in range(2, 200)
        for samples in range(2, 200)
        if real(samples - 1) * (real(length - 1) / real(samples - 1)) > length - 1
    ]


def test_last_row() -> None:
    """The one of a crop that was found to be lost."""
    out = crop_and_resize(torch.full((1, 1, 4, 4), 5.0), torch.tensor([[0.0, 0.0, 1.0, 1.0]]), FIRST, 22)
    torch.testing.assert_close(out, torch.full_like(out, 5.0))


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pair_of_sizes(dtype: torch.dtype, method: str) -> None:
    """Crops run along either axis and in either direction; all of the gradient reaches the map."""
    for length, samples in pairs_that_round_up(dtype == torch.float64)[:: 1 if dtype == torch.float32 else 7]:
        for shape, size in (((length, 1), (samples, 1)), ((1, length), (1, samples))):
            features = torch.full((1, 1, *shape), 5.0, dtype=dtype, requires_grad=True)
            out = crop_and_resize(features, BOTH_WAYS, FIRST.expand(2), size, method, -1.0)
            assert out.detach().sub(5).abs().max() < 1e-5, (length, samples)
            if samples % 8 == 0:
                (grad_input,) = torch.autograd.grad(out.double().sum(), features)
                assert grad_input.double().sum().item() == pytest.approx(out.numel(), rel=1e-2)
                ends = grad_input.double().flatten()[[0, -1]]
                assert ends.min() >= 1.99  # the outer samples of both boxes, and parts of others


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("per_bin", [2, 3])
@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_pooled_samples(method: str, per_bin: int, mode: str) -> None:
    """The last bin has all of its samples."""
    pairs = [(length, samples) for length, samples in pairs_that_round_up(False) if samples % per_bin == 0]
    assert len(pairs) > 100
    for length, samples in pairs[::5]:
        features, size = torch.full((1, 1, length, 1), 5.0), (samples // per_bin, 1)
        out = crop_and_resize(features, BOTH_WAYS, FIRST.expand(2), size, method, 99.0, per_bin, mode)
        assert out.sub(5).abs().max() < 1e-4, (length, samples)


def clipped_boxes(count: int) -> Tensor:
    """Boxes that begin or end on a border of the map, along both axes, some flipped."""
    boxes = torch.rand(count, 4, generator=generator(3))
    boxes[0::4, 2] = 1.0
    boxes[1::4, 3] = 1.0
    boxes[2::4, 0] = 1.0
    boxes[3::4, 1:] = torch.tensor([1.0, 0.0, 0.0])
    return boxes


@pytest.mark.parametrize("sizes", [(7, 38), (14, 50), (22, 100), (28, 25)])
def test_boxes_clipped_at_a_border(sizes: tuple[int, int]) -> None:
    size, length = sizes
    boxes, features = clipped_boxes(1000), torch.full((1, 1, length, length), 5.0, requires_grad=True)
    for method in ("bilinear", "nearest"):
        out = crop_and_resize(features, boxes, FIRST.expand(len(boxes)), size, method, -1.0)
        assert out.detach().sub(5).abs().max() < 1e-5
        (grad_input,) = torch.autograd.grad(out.sum(), features)
        assert grad_input.sum().item() == pytest.approx(out.numel(), rel=1e-5)


@pytest.mark.parametrize("samples_per_bin", [1, 2])
@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_gradients_at_the_edges(method: str, samples_per_bin: int) -> None:
    """A sample on the corner of the map has its pixel's gradient, and does not follow the box (17)."""
    call = CropCall((22, 10), samples_per_bin=samples_per_bin, method=method, extrapolation_value=2.0)
    features = random_tensor(1, 2, 4, 19, dtype=torch.float32)
    boxes = torch.cat([torch.zeros(6, 1), torch.cat([BOTH_WAYS, clipped_boxes(4)])], 1)
    assert_gradients_match_oracle(call, features, boxes, random_tensor(6, 2, 22, 10, seed=1, dtype=torch.float32))
