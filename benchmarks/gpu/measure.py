"""Times on a GPU: `python -m benchmarks.gpu.measure limits|torchvision|ours --output FILE`.

Inputs rotate over several sets, so that no call finds its maps in the cache from the call before. Every workload has a
process of its own, which a hung kernel or a lost device ends and nothing else; the file is written after every cell,
and names the workloads that are not finished.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import results
from .contestants import KERNELS, LAYERS, Contestant
from .timing import microseconds, spin
from .workloads import DTYPES, WORKLOADS, Workload

SETS = 3
SECONDS_OF_A_WORKLOAD = 100
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
NCHW_GRADIENT = "channels_last, NCHW gradient"
"""Backward alone, where a box head flattens the result: the maps lie as they did, the gradient does not."""
CALLS = ("kernel", "layer", "graph")
TOLERANCE = 1e-3
"""Largest difference between the contestants' float32 results, of the largest value."""

Cell = dict[str, Any]


def random_maps(workload: Workload, dtype: torch.dtype, layout: torch.memory_format) -> list[Tensor]:
    return [
        torch.randn(workload.images, workload.channels, *plane, device="cuda", dtype=torch.float32)
        .to(dtype)
        .contiguous(memory_format=layout)
        .requires_grad_()
        for plane in workload.planes
    ]


def differences(workload: Workload) -> dict[str, float]:
    """How far this package's float32 results and gradients are from torchvision's, over the largest value."""
    rows, maps = workload.corners(), random_maps(workload, torch.float32, torch.contiguous_format)
    levels = workload.levels(rows)
    order = torch.cat([(levels == level).nonzero()[:, 0] for level in range(len(maps))]).cuda()
    contestant = KERNELS["ours"](workload)
    (own,) = contestant.pool(maps, contestant.prepare(rows, torch.float32))
    contestant = KERNELS["torchvision"](workload)
    other = torch.cat(contestant.pool(maps, contestant.prepare(rows, torch.float32)))
    grad = torch.randn_like(own)
    found = {"forward": float((own[order] - other).detach().abs().max() / other.detach().abs().max())}
    by_own = torch.autograd.grad(own, maps, grad)
    by_other = torch.autograd.grad(other, maps, grad[order])
    largest = max(float(one.abs().max()) for one in by_other)
    found["backward"] = max(float((a - b).abs().max()) for a, b in zip(by_own, by_other, strict=True)) / largest
    return found


def passes(contestant: Contestant, workload: Workload, dtype: torch.dtype, layout: str, queued: bool) -> Cell:
    """Forward and backward of one cell."""
    sets = []
    for i in range(SETS):
        maps = random_maps(workload, dtype, LAYOUTS[layout.split(",")[0]])
        sets.append((maps, contestant.prepare(workload.corners(i), dtype)))
    times = {}
    if layout != NCHW_GRADIENT:
        turn = cycle(sets)
        with torch.no_grad():
            times["forward"] = microseconds(lambda: contestant.pool(*next(turn)), queued)
    outs = [contestant.pool(*one) for one in sets]
    grads = [[torch.randn_like(one) for one in out] for out in outs]
    if layout == NCHW_GRADIENT:
        grads = [[one.contiguous() for one in grad] for grad in grads]
    step = cycle([(out, maps, grad) for out, (maps, _), grad in zip(outs, sets, grads, strict=True)])

    def backward() -> None:
        out, maps, grad = next(step)
        torch.autograd.grad(out, maps, grad, retain_graph=True)

    times["backward"] = microseconds(backward, queued)
    return times


def replays(contestant: Contestant, workload: Workload, dtype: torch.dtype, layout: str) -> Cell:
    """Replays of CUDA graphs of the forward pass, and of both."""
    maps = random_maps(workload, dtype, LAYOUTS[layout])
    boxes = contestant.prepare(workload.corners(), dtype)

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return contestant.pool(maps, boxes)

    def both() -> object:
        out = contestant.pool(maps, boxes)
        return torch.autograd.grad(out, maps, [torch.ones_like(one) for one in out])

    def replay(call: Callable[[], object]) -> dict[str, float]:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = call()
        times = microseconds(graph.replay)
        del kept
        return times

    return {"forward": replay(forward), "forward and backward": replay(both)}


def cells(who: str, workload: Workload, dtypes: list[str], calls: list[str]) -> Iterator[Cell]:
    """What names the cells of a workload."""
    for dtype in (dtype for dtype in workload.dtypes if dtype in dtypes):
        if who == "torchvision" and dtype == "bf16":
            continue  # it has no bfloat16 kernel
        for call in calls:
            if (call == "layer" and len(workload.strides) == 1) or (call == "graph" and not workload.graph):
                continue
            layouts = [*LAYOUTS, NCHW_GRADIENT] if who == "ours" and call == "kernel" else LAYOUTS
            for layout in layouts:
                yield {"workload": workload.key, "dtype": dtype, "layout": layout, "call": call}


def measure_cell(who: str, workload: Workload, dtype: str, layout: str, call: str) -> Cell:
    if call == "graph":
        return replays(KERNELS[who](workload), workload, DTYPES[dtype], layout)
    contestant = (LAYERS if call == "layer" else KERNELS)[who](workload)
    return passes(contestant, workload, DTYPES[dtype], layout, queued=call == "kernel")


def measure_workload(who: str, workload: Workload, dtypes: list[str], calls: list[str], path: Path) -> None:
    """Adds the cells of a workload to the file, and takes it off the list of those that are not finished."""
    found = json.loads(path.read_text())

    def add(cell: Cell) -> None:
        print(json.dumps(cell), flush=True)
        found["cells"].append(cell)
        results.write(path, found)

    if "environment" not in found:
        found["environment"] = results.environment()
    spin()
    found["clocks"][workload.key] = [results.clocks()]
    if who == "ours":
        difference = differences(workload)
        found.setdefault("differences", {})[workload.key] = difference
        results.write(path, found)
        if not all(value <= TOLERANCE for value in difference.values()):
            add({"workload": workload.key, "error": f"differs from torchvision: {difference}"})
            calls = []
    for cell in cells(who, workload, dtypes, calls):
        try:
            add({**cell, **measure_cell(who, workload, cell["dtype"], cell["layout"], cell["call"])})
        except (RuntimeError, ValueError) as error:
            add({**cell, "error": str(error).splitlines()[0]})
        torch.cuda.synchronize()  # raises where the error has cost the device, and ends this process
        torch.cuda.empty_cache()
    found["clocks"][workload.key].append(results.clocks())
    found["unfinished"].remove(workload.key)
    results.write(path, found)


def measure_all(who: str, workloads: list[str], dtypes: list[str], calls: list[str], path: Path) -> bool:
    """Whether every workload was finished."""
    results.write(path, {"unfinished": workloads, "clocks": {}, "cells": []})
    # A forked process needs no second import of torch; this one never touches the device.
    context = multiprocessing.get_context("fork")
    for workload in (workload for workload in WORKLOADS if workload.key in workloads):
        process = context.Process(target=measure_workload, args=(who, workload, dtypes, calls, path), daemon=True)
        process.start()
        process.join(SECONDS_OF_A_WORKLOAD)
        if process.exitcode is None:
            print(f"{workload.key}: ended after {SECONDS_OF_A_WORKLOAD} s", flush=True)
            process.kill()
            process.join()
        elif process.exitcode != 0:
            print(f"{workload.key}: its process ended with {process.exitcode}", flush=True)
    return not json.loads(path.read_text())["unfinished"]


def measure_limits(path: Path) -> None:
    """Bandwidths in GB/s: copy and fill of 1 GiB, and reading what lies in the second-level cache."""
    from .cached_read import CachedRead

    spin()
    large = torch.randn(1 << 28, device="cuda")
    other = torch.empty_like(large)
    size = large.numel() * 4
    # Half of the cache of an H200: 528 programs, 26 MB.
    read = CachedRead(programs=4 * torch.cuda.get_device_properties(0).multi_processor_count)
    found: dict[str, Any] = {"environment": results.environment(), "clocks": [results.clocks()], "limits": {}}
    for name, moved, call in (
        ("copy", 2 * size, lambda: other.copy_(large)),
        ("fill", size, lambda: other.fill_(1.5)),
        ("cached_read", read.bytes, read),
    ):
        found["limits"][name] = round(moved / microseconds(call)["us"] / 1e3, 1)
        print(name, found["limits"][name], "GB/s", flush=True)
        results.write(path, found)
    found["clocks"].append(results.clocks())
    results.write(path, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["limits", *KERNELS])
    parser.add_argument("--output", type=Path, required=True)
    keys = [workload.key for workload in WORKLOADS]
    parser.add_argument("--workloads", nargs="+", choices=keys, default=keys)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--calls", nargs="+", choices=CALLS, default=list(CALLS))
    arguments = parser.parse_args()
    if arguments.what == "limits":
        measure_limits(arguments.output)
    elif not measure_all(arguments.what, arguments.workloads, arguments.dtypes, arguments.calls, arguments.output):
        sys.exit("some workloads were not finished: the file names them")


if __name__ == "__main__":
    main()
