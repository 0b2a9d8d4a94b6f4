"""Which cases are measured, and the calls that make up each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .contestants import own_boxes, pooling
from .workloads import DTYPES, MAIN, SEED, WORKLOADS, Data, Workload

# forward: without autograd. backward: gradient of the features. box_backward: gradient of the boxes.
DIRECTIONS = ("forward", "backward", "box_backward")

# Workloads of the cases beside the main table (float32, mode avg), one axis at a time.
_MAX_MODE = ("A", "B", "C")
_BOX_GRADIENT = ("A", "B", "C", "D", "F")
_OTHER_DTYPES = ("A",)


@dataclasses.dataclass(frozen=True)
class Case:
    workload: str
    direction: str
    mode: str
    dtype: str
    layout: str

    @property
    def in_main_table(self) -> bool:
        return (
            self.workload in MAIN
            and self.direction != "box_backward"
            and self.mode == "avg"
            and self.dtype == "float32"
        )

    def title(self) -> str:
        return f"{self.workload} {self.direction} {self.mode} {self.dtype} {self.layout}"


def plan(workloads: Sequence[str], layouts: Sequence[str], extras: bool) -> Iterator[Case]:
    """The main table first, then the other operators, so that a run cut short by its time limit has them."""
    for workload in sorted(workloads, key=lambda key: key not in MAIN):
        mode = "max" if WORKLOADS[workload].operator == "roi_pool" else "avg"
        for direction in ("forward", "backward"):
            for layout in layouts:
                yield Case(workload, direction, mode, "float32", layout)
    if not extras:
        return
    for workload in (key for key in workloads if key in _BOX_GRADIENT):
        for layout in layouts:
            yield Case(workload, "box_backward", "avg", "float32", layout)
    for workload in (key for key in workloads if key in _MAX_MODE):
        for direction in ("forward", "backward"):
            for layout in layouts:
                yield Case(workload, direction, "max", "float32", layout)
    for workload in (key for key in workloads if key in _OTHER_DTYPES):
        for dtype in (dtype for dtype in DTYPES if dtype != "float32"):
            for direction in ("forward", "backward"):
                for layout in layouts:
                    yield Case(workload, direction, "avg", dtype, layout)


def bytes_moved(case: Case, workload: Workload) -> int:
    """Least memory traffic: the features (or their gradient) once and the output (or its gradient) once; the gradient
    of the boxes reads both."""
    return workload.elements_moved * DTYPES[case.dtype].itemsize


def _grad_output(output: Tensor) -> Tensor:
    """A fixed gradient in the output's own memory format, which is what a following layer would hand back."""
    generator = torch.Generator().manual_seed(SEED + 1)
    grad = torch.randn(output.shape, generator=generator).to(output.dtype)
    if output.is_contiguous():
        return grad
    return grad.contiguous(memory_format=torch.channels_last)


def prepare(name: str, case: Case, workload: Workload, data: Data) -> Callable[[], tuple[Tensor, ...]]:
    """The call to time. For a backward direction the forward runs here, and each call differentiates it again.

    Call it, and what it returns, under `torch.set_grad_enabled(case.direction != "forward")`."""
    data = Data(data.features, own_boxes(name, workload, data.boxes))
    pool = pooling(name, workload, case.mode)
    if case.direction == "forward":
        return lambda: (pool(data),)
    if case.direction == "backward":
        data = Data(tuple(feature.detach().requires_grad_() for feature in data.features), data.boxes)
        wanted = data.features
    else:
        data = Data(data.features, data.boxes.detach().requires_grad_())
        wanted = (data.boxes,)
    output = pool(data)
    grad = _grad_output(output.detach())
    return lambda: torch.autograd.grad(output, wanted, grad, retain_graph=True)
