"""The measured cases and the calls of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from .contestants import own_boxes, pooling
from .workloads import DTYPES, MAIN, NCHW_GRADIENT, SEED, WORKLOADS, Data, Workload

# forward: without autograd. backward: gradient with respect to the features. grad_boxes: gradient with respect to the
# boxes. both, on a GPU only: forward and then backward, for a CUDA graph of both.
DIRECTIONS = ("forward", "backward", "grad_boxes")

# Workloads of the cases outside the main table, which is float32 and mode avg. They vary one setting at a time.
_MAX_MODE = ("A", "B", "C")
_GRAD_BOXES = ("A", "B", "C", "D", "F")
_OTHER_DTYPES = ("A",)


@dataclasses.dataclass(frozen=True)
class Case:
    workload: str
    direction: str
    mode: str
    dtype: str
    layout: str
    call: str = "layer"  # or "kernel", see contestants.py

    @property
    def in_main_table(self) -> bool:
        return (
            self.workload in MAIN and self.direction != "grad_boxes" and self.mode == "avg" and self.dtype == "float32"
        )

    def title(self) -> str:
        return f"{self.workload} {self.direction} {self.mode} {self.dtype} {self.layout}"


def plan(workloads: Sequence[str], layouts: Sequence[str], extras: bool) -> Iterator[Case]:
    """All cases. The main table comes first and the other operators next, because a time limit may end a run."""
    for workload in sorted(workloads, key=lambda key: key not in MAIN):
        mode = "max" if WORKLOADS[workload].operator == "roi_pool" else "avg"
        for direction in ("forward", "backward"):
            for layout in layouts:
                yield Case(workload, direction, mode, "float32", layout)
    if not extras:
        return
    for workload in (key for key in workloads if key in _GRAD_BOXES):
        for layout in layouts:
            yield Case(workload, "grad_boxes", "avg", "float32", layout)
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
    """Least memory traffic: the features (or their gradient) once and the output (or its gradient) once. The gradient
    with respect to the boxes reads both."""
    return workload.elements_moved * DTYPES[case.dtype].itemsize


def _grad_output(output: Tensor, layout: str) -> Tensor:
    """A fixed gradient in the output's own memory format, as a following layer would return it, unless the layout names
    another."""
    generator = torch.Generator(output.device).manual_seed(SEED + 1)
    grad = torch.randn(output.shape, generator=generator, device=output.device).to(output.dtype)
    if output.is_contiguous() or layout == NCHW_GRADIENT:
        return grad
    return grad.contiguous(memory_format=torch.channels_last)


def prepare(name: str, case: Case, workload: Workload, data: Data) -> Callable[[], tuple[Tensor, ...]]:
    """The call to time. For a backward direction the forward pass runs here, and each call differentiates it again.

    Call this function and the returned one under `torch.set_grad_enabled(case.direction != "forward")`."""
    features = data.features
    boxes = own_boxes(name, workload, data.boxes, features[0].dtype, case.call)
    pool = pooling(name, workload, case.mode, case.call)
    if case.direction == "forward":
        return lambda: pool(features, boxes)
    if case.direction == "grad_boxes":
        boxes = cast("Tensor", boxes).detach().requires_grad_()
        inputs: tuple[Tensor, ...] = (boxes,)
    else:
        features = tuple(feature.detach().requires_grad_() for feature in features)
        inputs = features
    outputs = pool(features, boxes)
    grads = [_grad_output(output.detach(), case.layout) for output in outputs]
    if case.direction == "both":
        return lambda: torch.autograd.grad(pool(features, boxes), inputs, grads)
    return lambda: torch.autograd.grad(outputs, inputs, grads, retain_graph=True)
