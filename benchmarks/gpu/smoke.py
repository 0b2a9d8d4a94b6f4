"""The first call of everything: `python -m benchmarks.gpu.smoke --results FILE [--only NAME...]`.

Every family of kernels, dtype and layout has its own process, so that a fault ends only that process. A call runs
forward and backward twice. Both runs must be bit-identical and agree with the CPU. The first calls that fail run again
under compute-sanitizer's memcheck.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..workloads import DTYPES, LAYOUTS
from .children import run, seconds_left
from .device import open_device
from .forked import first_line
from .logs import LogFile
from .store import Store

IMAGES, CHANNELS, PLANE, BOXES, BINS, SCALE = 2, 40, (50, 68), 40, 7, 0.25
AT_ONCE = 8
SECONDS_OF_A_CALL, SECONDS_OF_A_MEMCHECK, MEMCHECKS = 12.0, 20.0, 2
FINDINGS = 42
"""Exit status with which compute-sanitizer reports findings."""

Call = Callable[[Tensor, Tensor], Tensor]


def families() -> dict[str, Call]:
    """A call for each kind of kernel, with a map and boxes (image, x1, y1, x2, y2)."""
    import roialign_ext as ext

    def cropped(x: Tensor, boxes: Tensor) -> Tensor:
        height, width = (length / SCALE for length in PLANE)
        normalised = boxes[:, [2, 1, 4, 3]] / boxes.new_tensor([height, width, height, width])
        return ext.crop_and_resize(x, normalised, boxes[:, 0].to(torch.int32), BINS)

    def turned(x: Tensor, boxes: Tensor) -> Tensor:
        centre, size = (boxes[:, 1:3] + boxes[:, 3:]) / 2, boxes[:, 3:] - boxes[:, 1:3]
        angle = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)[:, None] * 9 - 180
        return ext.roi_align_rotated(x, torch.cat([boxes[:, :1], centre, size, angle], dim=1), BINS, SCALE, 2)

    def levels(x: Tensor, boxes: Tensor) -> Tensor:
        maps = [x, x[:, :, ::2, ::2]]
        return ext.multiscale_roi_align(maps, boxes, BINS, [SCALE, SCALE / 2], 2, canonical_scale=56, canonical_level=2)

    return {
        "roi_align": lambda x, boxes: ext.roi_align(x, boxes, BINS, SCALE, 2),
        "roi_align adaptive": lambda x, boxes: ext.roi_align(x, boxes, BINS, SCALE),
        "multiscale_roi_align": levels,
        "roi_align max": lambda x, boxes: ext.roi_align(x, boxes, BINS, SCALE, mode="max"),
        "roi_pool": lambda x, boxes: ext.roi_pool(x, boxes, BINS, SCALE),
        "prroi_pool": lambda x, boxes: ext.prroi_pool(x, boxes, BINS, SCALE),
        "roi_warp": lambda x, boxes: ext.roi_warp(x, boxes, BINS, SCALE),
        "crop_and_resize": cropped,
        "roi_align_rotated": turned,
    }


NAMES = tuple(
    f"{family} {dtype} {layout}"
    for dtype in DTYPES
    for layout in LAYOUTS
    for family in (
        "roi_align",
        "roi_align adaptive",
        "multiscale_roi_align",
        "roi_align max",
        "roi_pool",
        "prroi_pool",
        "roi_warp",
        "crop_and_resize",
        "roi_align_rotated",
    )
)


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A map, and boxes that all cover the same part of the images."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(IMAGES, CHANNELS, *PLANE, generator=generator).to(dtype)
    unit = torch.rand(BOXES, 4, generator=generator)
    low, size = 40 * unit[:, :2], 8 + 100 * unit[:, 2:]
    image = (torch.arange(BOXES) % IMAGES).float()
    return x, torch.cat([image[:, None], low, low + size], dim=1)


def passes(call: Call, x: Tensor, boxes: Tensor, by_boxes: bool) -> list[Tensor]:
    """The output and its gradients, on the CPU."""
    x, boxes = x.detach().requires_grad_(), boxes.detach().requires_grad_(by_boxes)
    out = call(x, boxes)
    grad = (torch.arange(out.numel(), device=out.device) % 257 - 128).to(out.dtype).view(out.shape) / 128
    gradients = torch.autograd.grad(out, [x, boxes] if by_boxes else [x], grad)
    return [tensor.detach().cpu() for tensor in (out, *gradients)]


def fault(name: str) -> str:
    """The fault of a call; empty if there is none."""
    family, dtype, layout = name.rsplit(" ", 2)
    device = open_device()
    call, by_boxes = families()[family], family != "roi_pool"
    x, boxes = inputs(DTYPES[dtype])
    there = x.to(device.name).contiguous(memory_format=LAYOUTS[layout]), boxes.to(device.name)
    found = passes(call, *there, by_boxes)
    again = passes(call, *there, by_boxes)
    device.synchronize()
    # A near tie may give another argmax, and with it the gradient of another pixel.
    allowed = 5e-2 if family in ("roi_align max", "roi_pool") else 1e-2
    for part, first, second, expected in zip(
        ("output", "grad_input", "grad_boxes"),
        found,
        again,
        passes(call, x, boxes, by_boxes),
        strict=False,
    ):
        if not torch.equal(first, second):
            return f"the {part} differs between two runs"
        far = float((first.double() - expected.double()).norm() / expected.double().norm())
        if not far <= (1e-2 if part == "output" else allowed):
            return f"the {part} is {far:.2g} of its norm from the CPU's"
    return ""


def work(name: str, results: Path) -> None:
    """One call in its own process, which exits with 1 if it recorded a fault."""
    started = time.monotonic()
    try:
        wrong = fault(name)
    except Exception as error:
        wrong = f"{type(error).__name__}: {first_line(error)}"
    state = "failed" if wrong else "passed"
    note(Store(results), name, state, wrong, time.monotonic() - started)
    sys.stdout.flush()
    os._exit(int(bool(wrong)))  # a lost device may hang in the cleanup of the process


def note(store: Store, name: str, state: str, why: str, seconds: float) -> None:
    print(f"{name}: {state}{f', {why}' if why else ''} ({seconds:.1f} s)", flush=True)
    store.append("smoke", {"name": name, "state": state, "why": why, "seconds": round(seconds, 2)})


@dataclass
class Running:
    name: str
    process: Any
    begun: float


def run_all(names: list[str], results: Path) -> list[str]:
    """Runs the calls side by side. Returns those that failed."""
    # Imports for every call, once before the forks (torch.autograd.grad imports the second). Neither touches a device,
    # which forked processes could not share.
    for module in ("roialign_ext", "torch.fx.experimental.symbolic_shapes"):
        importlib.import_module(module)
    store = Store(results)
    failed: list[str] = []
    waiting, running = list(names), list[Running]()
    while waiting or running:
        while waiting and len(running) < min(AT_ONCE, os.cpu_count() or 1):
            name = waiting.pop(0)
            process = get_context("fork").Process(target=work, args=(name, results), daemon=True)
            process.start()
            running.append(Running(name, process, time.monotonic()))
        for call in list(running):
            age, status = time.monotonic() - call.begun, call.process.exitcode
            if status is None and age < SECONDS_OF_A_CALL and seconds_left() > 0:
                continue
            running.remove(call)
            if status is None:
                call.process.kill()
                note(store, call.name, "timed out", "", age)
            elif status not in (0, 1):
                how = f"status {status}" if status > 0 else signal.Signals(-status).name
                note(store, call.name, "crashed", how, age)
            if status != 0:
                failed.append(call.name)
        time.sleep(0.005)
    return failed


def findings(lines: Iterator[str] | list[str]) -> list[str]:
    """The first finding of compute-sanitizer: the kind of error and its place."""
    messages = [re.sub(r"^=+\s*", "", line).strip() for line in lines if line.startswith("=====")]
    return [line for line in messages if line and "COMPUTE-SANITIZER" not in line][:4]


def memcheck(name: str, results: Path) -> None:
    """Repeats the call with every access to device memory checked."""
    seconds = min(SECONDS_OF_A_MEMCHECK, seconds_left() - 2)
    if seconds < 1:
        return
    log, lines = LogFile(f"memcheck {name}.txt".replace(" ", "_")), []

    def each(line: str) -> None:
        log(line)
        lines.append(line)

    tool = ["compute-sanitizer", "--tool", "memcheck", "--print-limit", "20", "--error-exitcode", str(FINDINGS)]
    again = [sys.executable, "-m", "benchmarks.gpu.smoke", "--results", str(results), "--once", name]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    status = run([*tool, *again], seconds, each, environment, grace=1.0)
    state = {None: "timed out", 0: "passed", FINDINGS: "found errors"}.get(status, f"status {status}")
    first = findings(lines)
    print(f"memcheck of {name}: {state}", *first, sep="\n  ", flush=True)
    Store(results).append("smoke", {"name": name, "state": state, "why": "; ".join(first), "tool": "memcheck"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", default=list(NAMES))
    parser.add_argument("--once", choices=NAMES, metavar="NAME", help="this call, in this process")
    options = parser.parse_args()
    if options.once:
        wrong = fault(options.once)
        print(wrong or "passed", flush=True)
        return int(bool(wrong))
    failed = run_all(options.only, options.results)
    print(f"{len(options.only) - len(failed)} of {len(options.only)} calls passed", flush=True)
    if shutil.which("compute-sanitizer"):
        for name in failed[:MEMCHECKS]:
            memcheck(name, options.results)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
