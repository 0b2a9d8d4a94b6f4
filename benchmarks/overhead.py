"""Overhead of a call: microseconds of tiny calls, `python -m benchmarks.overhead`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor

from .contestants import OURS, TORCHVISION
from .machine import describe, progress
from .workloads import WORKLOADS, make_data

# Short turns: other processes and the processor's frequency then slow both libraries alike.
ROUNDS = 25
_SECONDS = 0.02

Call = Callable[[], object]
Operator = Callable[..., Any]


def _one_bin(device: str) -> tuple[Tensor, Tensor, int, float]:
    """The smallest workload: one box, one channel, one bin of one sample."""
    features, boxes = torch.randn(1, 1, 4, 4), torch.tensor([[0.0, 0.5, 0.5, 2.5, 2.5]])
    return features.to(device), boxes.to(device), 1, 1.0


def _tiny(device: str) -> tuple[Tensor, Tensor, int, float]:
    workload = WORKLOADS["F"]
    data = make_data(workload, "float32", "NCHW", device)
    return data.features[0], data.boxes, workload.output_size, 1 / workload.strides[0]


def _library(name: str) -> tuple[Operator, Operator, Operator]:
    """roi_align, RoIAlign and the dispatcher's operator of a library."""
    if name == TORCHVISION:
        return torchvision.ops.roi_align, torchvision.ops.RoIAlign, torch.ops.torchvision.roi_align
    import roialign_ext

    return roialign_ext.roi_align, roialign_ext.RoIAlign, torch.ops.roialign_ext.roi_align


def _calls(name: str, features: Tensor, boxes: Tensor, size: int, scale: float) -> dict[str, tuple[bool, Call]]:
    """The timed calls, and whether gradients are enabled for each."""
    roi_align, module_type, operator = _library(name)
    # torchvision's operator takes the output's height and width apart.
    sizes: tuple[Any, ...] = (scale, size, size, 2, False) if name == TORCHVISION else ((size, size), scale, 2, False)
    module = module_type(size, scale, 2)
    leaf = features.detach().requires_grad_()
    box_list = [boxes[:, 1:].contiguous()]
    grad = torch.ones_like(roi_align(features, boxes, size, scale, 2))

    def forward_backward() -> object:
        return torch.autograd.grad(roi_align(leaf, boxes, size, scale, 2), leaf, grad)

    return {
        "dispatcher operator, no_grad": (False, lambda: operator(features, boxes, *sizes)),
        "roi_align, no_grad": (False, lambda: roi_align(features, boxes, size, scale, 2)),
        "roi_align, list of boxes, no_grad": (False, lambda: roi_align(features, box_list, size, scale, 2)),
        "RoIAlign module, no_grad": (False, lambda: module(features, boxes)),
        "roi_align, input requires grad": (True, lambda: roi_align(leaf, boxes, size, scale, 2)),
        "roi_align, forward and backward": (True, forward_backward),
    }


def _microseconds(call: Call, grad_enabled: bool, seconds: float) -> float:
    from torch.utils.benchmark import Timer  # queries devices, which a forking process must not do (gpu/__init__.py)

    with torch.set_grad_enabled(grad_enabled):
        return float(Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=seconds).median * 1e6)


def measure(
    names: list[str], rounds: int = ROUNDS, seconds: float = _SECONDS, device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """Median over rounds in which the libraries take turns, on one thread. On a device other than the CPU, calls follow
    each other without synchronization, so the slower of processor and device counts."""
    torch.set_num_threads(1)
    for problem, (features, boxes, size, scale) in (("one bin", _one_bin(device)), ("tiny (F)", _tiny(device))):
        calls = {name: _calls(name, features, boxes, size, scale) for name in names}
        for what in calls[names[0]] if names else ():
            taken: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(rounds):
                for name in names:
                    grad_enabled, call = calls[name][what]
                    taken[name].append(_microseconds(call, grad_enabled, seconds))
            medians = {name: round(statistics.median(values), 2) for name, values in taken.items()}
            progress(f"overhead, {problem}, {what}: {', '.join(f'{name} {us} us' for name, us in medians.items())}")
            yield {"problem": problem, "call": what, "microseconds": medians, "rounds": rounds}


if __name__ == "__main__":
    print(json.dumps({"machine": describe(with_ours=True), "overhead": list(measure([OURS, TORCHVISION]))}, indent=1))
    sys.exit(0)
