"""A kernel that reads a buffer of the size of the second-level cache again and again, in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

REPEATS = 50
BLOCK = 4096


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _read(data, sums, count, repeats, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    program = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in range(repeats):
        for first in range(program * BLOCK, count, tl.num_programs(0) * BLOCK):
            # Past the first-level cache, which would keep a multiprocessor's share.
            total += tl.load(data + first + lanes, cache_modifier=".cg")
    tl.store(sums + program * BLOCK + lanes, total)


class CachedRead:
    """Reads three blocks for each program, `REPEATS` times; `bytes` is what a call reads."""

    def __init__(self, programs: int) -> None:
        self._data = torch.randn(3 * programs * BLOCK, device="cuda")
        self._sums = torch.empty(programs * BLOCK, device="cuda")
        self._programs = programs
        self.bytes = 4 * REPEATS * self._data.numel()

    def __call__(self) -> Tensor:
        _read[(self._programs,)](self._data, self._sums, self._data.numel(), REPEATS, BLOCK=BLOCK, num_warps=8)
        return self._sums
