"""One pass of each kernel over the box head, for a profiler: `python -m benchmarks.gpu.once`."""

from __future__ import annotations

import torch

from .contestants import KERNELS
from .measure import LAYOUTS, random_maps
from .workloads import DTYPES, WORKLOADS


def main() -> None:
    workload = WORKLOADS[0]
    for who, dtype, layout in (
        *(("ours", dtype, layout) for dtype in ("f32", "bf16") for layout in LAYOUTS),
        ("torchvision", "f32", "NCHW"),
    ):
        contestant = KERNELS[who](workload)
        maps = random_maps(workload, DTYPES[dtype], LAYOUTS[layout])
        out = contestant.pool(maps, contestant.prepare(workload.corners(), DTYPES[dtype]))
        torch.autograd.grad(out, maps, [torch.randn_like(one) for one in out])
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
