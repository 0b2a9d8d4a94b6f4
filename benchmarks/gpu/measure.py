"""Times of one contestant on a GPU: `python -m benchmarks.gpu.measure --results FILE --contestant NAME`.

Inputs rotate over several sets, so that no call finds its maps in the cache from the previous call. Every workload has
its own process. Before this package is timed on a workload, its results are compared with torchvision's; cases that
differ are not timed. Every cell is written to disk as soon as it is measured.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.fx.experimental.symbolic_shapes  # imported once for all processes; torch.autograd.grad needs it

from .. import agreement
from ..cases import Case, prepare
from ..contestants import OURS, TORCHVISION, refusal
from ..floors import least
from ..workloads import DTYPES, HALF_DTYPES, LAYOUTS, NCHW_GRADIENT, VARIATIONS, WORKLOADS, Data, Workload, make_data
from . import forked
from .device import SAMPLES, Cuda, open_device
from .store import Store

SETS = 3
ALL = WORKLOADS | VARIATIONS
# The most important workloads come first, because a run may be cut short. C takes longest with torchvision and answers
# no question of docs/performance.md.
GOALS = {OURS: ("A", "B", "D", "E", "A sorted", "C"), TORCHVISION: ("A", "B", "D", "E", "C")}
CALLS = ("kernel", "layer", "graph")
DIRECTIONS = {"kernel": ("forward", "backward"), "layer": ("forward", "backward"), "graph": ("forward", "both")}
PHASES = {OURS: "ours", TORCHVISION: "baseline"}
# torchvision has no kernels for bfloat16. The tables compare its float16 with this package's bfloat16.
HALF = {OURS: "bfloat16", TORCHVISION: "float16"}
SECONDS_OF_A_WORKLOAD = 25.0

Cell = dict[str, Any]


class Plan(NamedTuple):
    """The measured cases of a workload, and the kind of measurement."""

    contestant: str
    dtypes: Sequence[str]
    layouts: Sequence[str]
    calls: Sequence[str]
    samples: int = SAMPLES
    split: bool = True  # also the time of each kernel
    directions: Sequence[str] = ()  # by default those of the call

    def cases(self, workload: Workload) -> Iterator[Case]:
        mode = "max" if workload.operator == "roi_pool" else "avg"
        for call in self.calls:
            if call == "layer" and workload.operator != "multiscale_roi_align":
                continue
            for dtype in self.dtypes:
                for layout in self.layouts:
                    for direction in self.directions or DIRECTIONS[call]:
                        case = Case(workload.key, direction, mode, dtype, layout, call)
                        if layout == NCHW_GRADIENT and (direction != "backward" or self.contestant != OURS):
                            continue
                        if refusal(self.contestant, workload, direction, mode, dtype) is None:
                            yield case


def name(case: Case) -> Cell:
    """The fields that identify a cell."""
    return {key: getattr(case, key) for key in ("workload", "direction", "dtype", "layout", "call")}


def measure_case(device: Cuda, plan: Plan, case: Case, workload: Workload, sets: Iterable[Data]) -> Cell:
    with torch.set_grad_enabled(case.direction != "forward"):
        calls = [prepare(plan.contestant, case, workload, data) for data in sets]
        if case.call == "graph":
            calls = [device.captured(calls[0])]  # type: ignore[list-item]
        turn = cycle(calls)

        def call() -> object:
            return next(turn)()

        cell = {**name(case), **device.time(call, samples=plan.samples, queued=case.call != "layer")}
        if plan.split and case.call == "kernel":
            cell["kernels"] = device.split(call)
    if case.call == "kernel":
        cell["least"] = least(workload, case.direction, case.dtype, case.layout)._asdict()
    return cell


def measure_cases(device: Cuda, plan: Plan, workload: Workload, add: Callable[[Cell], None]) -> None:
    """Measures the cases one by one. A failed case is a cell with an error, unless the device is lost."""
    sets: list[Data] = []
    of: tuple[str, str] | None = None
    device.warm_up()
    for case in plan.cases(workload):
        if of != (case.dtype, case.layout):
            sets.clear()
            device.release()
            sets += [make_data(workload, case.dtype, case.layout, device.name, number) for number in range(SETS)]
            of = (case.dtype, case.layout)
        try:
            if plan.contestant == OURS:
                found = difference(case, workload, sets[0])
                add({**measure_case(device, plan, case, workload, sets), "relative_error": found})
            else:
                add(measure_case(device, plan, case, workload, sets))
        except (RuntimeError, ValueError, agreement.DisagreementError) as error:
            add({**name(case), "error": forked.first_line(error)})
            device.synchronize()  # raises if the device is lost, and ends this process


def difference(case: Case, workload: Workload, data: Data) -> float | None:
    """Difference between this package's result and torchvision's in float32; raises if it is too large."""
    direction = "forward" if case.direction == "forward" else "backward"
    case = replace(case, call="layer", direction=direction)
    names = [OURS] if case.dtype in HALF_DTYPES else [OURS, TORCHVISION]
    with torch.set_grad_enabled(direction != "forward"):
        results = {contestant: prepare(contestant, case, workload, data)() for contestant in names}
        errors = agreement.check(case, workload, data, results).get("relative_error", {})
    error: float | None = errors.get(OURS)
    return error


def line(cell: Cell) -> str:
    """One cell, for the log."""
    words = " ".join(
        str(cell[key]) for key in ("contestant", "workload", "direction", "dtype", "layout", "call") if key in cell
    )
    if "error" in cell:
        return f"{words}: {cell['error']}"
    parts = ", ".join(f"{kernel} {us}" for kernel, us in cell.get("kernels", {}).items())
    return f"{words}: {cell['us']} us ({cell['p25']} .. {cell['p75']}){': ' if parts else ''}{parts}"


def measure_workload(plan: Plan, workload: Workload, store: Store, phase: str) -> None:
    """The work of one process."""
    device = open_device()
    store.update(phase, device=device.describe())
    clocks = [device.clocks()]

    def add(cell: Cell) -> None:
        print(line(cell), flush=True)
        store.append(phase, cell)

    measure_cases(device, plan, workload, add)
    store.update(phase, **{f"clocks of {workload.key}": [*clocks, device.clocks()]})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--contestant", choices=[OURS, TORCHVISION], required=True)
    parser.add_argument("--phase", help="under which name results are written; by default ours or baseline")
    parser.add_argument("--workloads", nargs="+", choices=list(ALL), help="by default those of the goals")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), help="by default float32 and a half precision")
    parser.add_argument("--layouts", nargs="+", choices=[*LAYOUTS, NCHW_GRADIENT], default=list(LAYOUTS))
    parser.add_argument("--calls", nargs="+", choices=CALLS, default=["kernel"])
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--quick", action="store_true", help="small problems: shows that everything works")
    options = parser.parse_args()
    contestant, phase, store = options.contestant, options.phase or PHASES[options.contestant], Store(options.results)
    dtypes, workloads = options.dtypes or ["float32", HALF[contestant]], options.workloads or GOALS[contestant]
    plan = Plan(contestant, dtypes, options.layouts, options.calls, options.samples)
    unfinished = dict.fromkeys(workloads, "not begun")
    store.update(phase, contestant=contestant, quick=options.quick, unfinished=unfinished)
    if contestant == OURS:
        importlib.import_module("roialign_ext")  # once for all processes
    for key in workloads:
        workload = ALL[key].shrunk() if options.quick else ALL[key]
        how = forked.run(partial(measure_workload, plan, workload, store, phase), SECONDS_OF_A_WORKLOAD)
        unfinished.pop(key)
        if how:
            print(f"{key}: {how}", flush=True)
            unfinished[key] = how
        store.update(phase, unfinished=unfinished)
    if unfinished:
        print("not finished: " + "; ".join(f"{key}, {how}" for key, how in unfinished.items()), flush=True)
    return int(bool(unfinished))


if __name__ == "__main__":
    sys.exit(main())
