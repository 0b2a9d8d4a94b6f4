"""Does a call leave memory behind that nothing can free?"""

from __future__ import annotations

import ctypes
import gc
import itertools
from collections.abc import Callable

import pytest
import torch

from support.small_cases import SIZE, SmallCase, each_case, each_function

CALLS, ROUNDS = 40, 3
PER_CALL = 16  # bytes; the smallest block of malloc, which one that is lost in each call would exceed


class Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


def bytes_in_use() -> int:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo
    return int(mallinfo2().uordblks)


def left_behind(call: Callable[[], object]) -> float:
    """Bytes per call: the least of several rounds, because caches may grow in one of them."""
    used = []
    for _ in range(ROUNDS + 1):
        gc.collect()
        used.append(bytes_in_use())
        for _ in range(CALLS):
            call()
    gc.collect()
    used.append(bytes_in_use())
    return min(after - before for before, after in itertools.pairwise(used)) / CALLS


pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc 2.33 and newer count the bytes in use"
)


@pytest.fixture(scope="module", autouse=True)
def nothing_of_other_tests() -> None:
    """Leaves what other tests keep out of the collections, which would take longer than the calls."""
    gc.collect()
    gc.freeze()


def test_counter_sees_a_lost_string() -> None:
    kept: list[bytearray] = []
    assert left_behind(lambda: kept.append(bytearray(10_000))) > 9_000


@each_function
def test_calls_and_derivatives(case: SmallCase) -> None:
    leaves = case.leaves(2)
    inputs = [leaf for leaf in leaves if leaf.requires_grad]

    def step() -> None:
        value = case(*leaves)
        first = torch.autograd.grad(value.square().sum(), inputs, create_graph=True)
        if any(result.requires_grad for result in first):
            torch.autograd.grad(sum(result.square().sum() for result in first), inputs, allow_unused=True)

    assert left_behind(step) < PER_CALL


@each_case
def test_calls_without_gradients(case: SmallCase) -> None:
    leaves = case.leaves(2)

    def call() -> None:
        with torch.inference_mode():
            case(*leaves)

    assert left_behind(call) < PER_CALL


@each_function
def test_refused_calls(case: SmallCase) -> None:
    *maps, boxes = case.leaves(2)
    features, (*rows, images) = case.features(*maps), case.box_arguments(boxes.detach())
    images = images.clone()
    images[0] = 7  # no such image: the first column of rows, or the indices of crops

    def call() -> None:
        with pytest.raises(IndexError):
            case.function(features, *rows, images, SIZE, **case.options)

    assert left_behind(call) < PER_CALL
