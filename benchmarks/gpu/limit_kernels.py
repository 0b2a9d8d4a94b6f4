"""Kernels that do one thing as fast as the device can, as limits for pooling."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

READS, BLOCK, WARPS = 50, 4096, 8
ADDITIONS, ADDED = 4, 1024
STEPS, SUMS = 1024, 8192


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _read(data, sums, count, repeats, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    program = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in range(repeats):
        for first in range(program * BLOCK, count, tl.num_programs(0) * BLOCK):
            # Bypasses the L1 cache, which could hold the share of a multiprocessor.
            total += tl.load(data + first + lanes, cache_modifier=".cg")
    tl.store(sums + program * BLOCK + lanes, total)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _add(sums, count, stride, repeats, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    # Neighbouring lanes are swapped, so that the compiler cannot merge consecutive addresses into one wide addition.
    lanes = tl.arange(0, BLOCK) ^ 1
    ones = tl.full((BLOCK,), 1.0, tl.float32)
    for turn in range(repeats):
        first = ((turn * tl.num_programs(0) + tl.program_id(0)) * BLOCK * stride) % count
        tl.atomic_add(sums + first + lanes * stride, ones, sem="relaxed")


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _multiply_add(sums, factor, steps, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.load(sums + place)
    for _ in range(steps):
        total = total * factor + factor
    tl.store(sums + place, total)


class CachedRead:
    """Reads about `size` bytes, in whole blocks per program, `READS` times; a call reads `bytes` bytes."""

    def __init__(self, size: int, multiprocessors: int, device: str) -> None:
        self._programs = 4 * multiprocessors
        blocks = max(1, size // (4 * BLOCK * self._programs))
        self.data = torch.randn(blocks * self._programs * BLOCK, device=device)
        self.sums = torch.empty(self._programs * BLOCK, device=device)
        self.bytes = 4 * READS * self.data.numel()

    def __call__(self) -> None:
        _read[(self._programs,)](self.data, self.sums, self.data.numel(), READS, BLOCK=BLOCK, num_warps=WARPS)


class Additions:
    """Atomic additions of 32 lanes to elements `stride` apart, all over `sums`; `sectors` of 32 bytes per call."""

    def __init__(self, sums: Tensor, stride: int) -> None:
        self._sums, self._stride = sums, stride
        self._programs = sums.numel() // (ADDED * stride)
        additions = self._programs * ADDED * ADDITIONS
        self.sectors = additions * stride / 8

    def __call__(self) -> None:
        arguments = (self._sums, self._sums.numel(), self._stride, ADDITIONS)
        _add[(self._programs,)](*arguments, BLOCK=ADDED, num_warps=WARPS)


class MultiplyAdds:
    """`count` multiply-adds of float32 in registers."""

    def __init__(self, multiprocessors: int, device: str) -> None:
        self._programs = 8 * multiprocessors
        self.sums = torch.randn(self._programs * SUMS, device=device)
        self.count = self.sums.numel() * STEPS

    def __call__(self) -> None:
        _multiply_add[(self._programs,)](self.sums, 0.5, STEPS, BLOCK=SUMS, num_warps=WARPS)
