"""Times on a GPU: `python -m benchmarks.gpu.measure limits|torchvision|ours|once --output FILE`.

Times are medians over samples between two CUDA events. Inputs rotate over several sets, so that no call finds its
maps in the cache from the call before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .workloads import DTYPES, LAYOUTS, WORKLOADS, Workload

SETS = 3
SAMPLES, WARM_UP = 30, 5
SECONDS_PER_CELL = 2.0
CANONICAL = (224.0, 4.0)

Pool = Callable[[list[Tensor], Tensor], Tensor]


def microseconds(call: Callable[[], object]) -> dict[str, float]:
    """Time of one call on the device: median, quartiles and the number of samples."""
    for _ in range(WARM_UP):
        call()
    torch.cuda.synchronize()
    samples: list[float] = []
    started = time.perf_counter()
    while len(samples) < SAMPLES and (len(samples) < 3 or time.perf_counter() - started < SECONDS_PER_CELL):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        # Work in front keeps the launch of the call itself out of its time.
        torch.cuda._sleep(200_000)  # type: ignore[no-untyped-call]
        begin.record()
        call()
        end.record()
        end.synchronize()
        samples.append(1e3 * begin.elapsed_time(end))
    low, median, high = statistics.quantiles(samples, n=4)
    return {"us": round(median, 2), "p25": round(low, 2), "p75": round(high, 2), "samples": len(samples)}


def ours(workload: Workload) -> Pool:
    """This package: one launch for every level."""
    from roialign_ext import multiscale_roi_align, roi_align

    scales = [1.0 / stride for stride in workload.strides]
    if len(scales) == 1:
        return lambda maps, rows: roi_align(maps[0], rows, workload.bins, scales[0], workload.ratio)
    return lambda maps, rows: multiscale_roi_align(
        maps, rows, workload.bins, scales, workload.ratio, canonical_scale=CANONICAL[0], canonical_level=CANONICAL[1]
    )


def torchvision(workload: Workload) -> Pool:
    """torchvision's kernel, and its MultiScaleRoIAlign where there are levels."""
    from torchvision.ops import MultiScaleRoIAlign, roi_align

    from .workloads import IMAGE

    scales = [1.0 / stride for stride in workload.strides]
    if len(scales) == 1:
        return lambda maps, rows: roi_align(maps[0], rows, workload.bins, scales[0], workload.ratio)
    names = [str(level) for level in range(len(scales))]
    layer = MultiScaleRoIAlign(names, workload.bins, workload.ratio)

    def pool(maps: list[Tensor], rows: Tensor) -> Tensor:
        boxes = [rows[image :: workload.images, 1:] for image in range(workload.images)]
        result: Tensor = layer(dict(zip(names, maps, strict=True)), boxes, [IMAGE] * workload.images)
        return result

    return pool


def in_spatial_order(rows: Tensor) -> Tensor:
    """The boxes by image, then by squares of 64 pixels that their corners lie in."""
    squares = (rows[:, 1:3] / 64).floor()
    return rows[(rows[:, 0] * 1e6 + squares[:, 1] * 1e3 + squares[:, 0]).argsort(stable=True)]


def inputs(
    workload: Workload, dtype: torch.dtype, layout: torch.memory_format, sorted_boxes: bool = False
) -> list[tuple[list[Tensor], Tensor]]:
    """Several sets of maps and boxes on the GPU."""
    sets = []
    for i in range(SETS):
        maps = [
            torch.randn(workload.images, workload.channels, *plane, device="cuda")
            .to(dtype)
            .contiguous(memory_format=layout)
            .requires_grad_()
            for plane in workload.planes
        ]
        rows = workload.corners(i)
        sets.append((maps, (in_spatial_order(rows) if sorted_boxes else rows).cuda()))
    return sets


def cells(
    pool_of: Callable[[Workload], Pool], workloads: list[str], dtypes: list[str], sorted_boxes: bool
) -> Iterator[dict[str, Any]]:
    """Forward and backward of every workload, dtype and layout."""
    for workload in (workload for workload in WORKLOADS if workload.key in workloads):
        pool = pool_of(workload)
        for dtype in dtypes:
            for layout, memory_format in LAYOUTS.items():
                cell = {"workload": workload.key, "dtype": dtype, "layout": layout}
                try:
                    sets = inputs(workload, DTYPES[dtype], memory_format, sorted_boxes)
                    # torchvision wants boxes of the features' dtype.
                    sets = [(maps, rows.to(maps[0].dtype) if pool_of is torchvision else rows) for maps, rows in sets]
                    turn = cycle(sets)

                    def forward(turn: Any = turn, pool: Pool = pool) -> Tensor:
                        return pool(*next(turn))

                    with torch.no_grad():
                        times = {"forward": microseconds(forward)}
                    graphs = [(pool(maps, rows), maps) for maps, rows in sets]
                    grads = [torch.randn_like(out) for out, _ in graphs]
                    step = cycle(zip(graphs, grads, strict=True))

                    def backward(step: Any = step) -> None:
                        (out, maps), grad = next(step)
                        torch.autograd.grad(out, maps, grad, retain_graph=True, allow_unused=True)

                    yield {**cell, **times, "backward": microseconds(backward)}
                except (RuntimeError, ValueError) as error:
                    yield {**cell, "error": str(error).splitlines()[0]}
                torch.cuda.empty_cache()


def limits() -> dict[str, float]:
    """Bandwidths in GB/s: copy and fill of 1 GiB, and reading what lies in the second-level cache."""
    large = torch.empty(1 << 28, device="cuda")
    other = torch.empty_like(large)
    small = torch.ones(6 << 20, device="cuda")  # 24 MiB
    size = large.numel() * 4
    return {
        "copy": 2 * size / microseconds(lambda: other.copy_(large))["us"] / 1e3,
        "fill": size / microseconds(large.zero_)["us"] / 1e3,
        "cached_read": small.numel() * 4 / microseconds(small.sum)["us"] / 1e3,
    }


def environment() -> dict[str, str]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "multiprocessors": str(properties.multi_processor_count),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["limits", "torchvision", "ours", "once"])
    parser.add_argument("--output", type=Path, required=True)
    keys = [workload.key for workload in WORKLOADS]
    parser.add_argument("--workloads", nargs="+", choices=keys, default=keys)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--sorted-boxes", action="store_true", help="boxes in spatial order, not in a random one")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"environment": environment()}
    if arguments.what == "limits":
        result["limits"] = limits()
    elif arguments.what == "once":
        workload = WORKLOADS[0]
        for dtype in ("f32", "bf16"):
            for layout in LAYOUTS.values():
                maps, rows = inputs(workload, DTYPES[dtype], layout)[0]
                out = ours(workload)(maps, rows)
                torch.autograd.grad(out, maps, torch.randn_like(out))
        torch.cuda.synchronize()
    else:
        pool_of = ours if arguments.what == "ours" else torchvision
        # torchvision has no bfloat16 kernel.
        dtypes = [dtype for dtype in arguments.dtypes if pool_of is ours or dtype != "bf16"]
        result["cells"] = []
        for cell in cells(pool_of, arguments.workloads, dtypes, arguments.sorted_boxes):
            print(json.dumps(cell), flush=True)
            result["cells"].append(cell)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
