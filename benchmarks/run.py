"""Time every case and write the numbers as JSON: `python -m benchmarks.run`.

Each regime of allocation runs in its own process; all but the first measure only the main table.
`python -m benchmarks.report` converts the JSON to tables and a plot."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from . import agreement, overhead
from .cases import Case, bytes_moved, plan, prepare
from .contestants import NAMES, OURS, TORCHVISION, refusal
from .machine import ALLOCATION, Flusher, OtherLoad, describe, progress, set_allocation
from .timing import Measurement, interleave
from .workloads import LAYOUTS, MAIN, WORKLOADS, Data, Workload, make_data

RESULTS = Path(__file__).parent / "results"
_QUICK_SECONDS = 0.05


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="A..M")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, min(2, os.cpu_count() or 1)}))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--contestants", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--main-only", action="store_true", help="float32 averages only: no max, dtypes, grad_boxes")
    parser.add_argument(
        "--allocation", nargs="+", choices=ALLOCATION, default=list(ALLOCATION), help="see benchmarks/README.md"
    )
    parser.add_argument(
        "--cache", choices=("warm", "flushed"), default="warm", help="flushed: evict caches before each call"
    )
    parser.add_argument("--seconds", type=float, default=0.7, help="time for each contestant of a main case")
    parser.add_argument(
        "--max-minutes",
        type=float,
        default=15.0,
        help="for each regime: cases not begun by then are left out and named",
    )
    parser.add_argument(
        "--quick", action="store_true", help="under a minute: small problems, few samples, most threads only"
    )
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/cpu.json; a quick run has none")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds = min(options.seconds, _QUICK_SECONDS)
        options.threads = options.threads[-1:]
    elif options.output is None:
        options.output = RESULTS / "cpu.json"
    return options


def _line(measurements: dict[str, Measurement]) -> str:
    ours = measurements.get(OURS)
    parts = []
    for name, measured in measurements.items():
        ratio = f" ({measured.median_ms / ours.median_ms:.1f}x)" if ours and name != OURS else ""
        parts.append(f"{name} {measured.median_ms:.4g} ms{ratio}")
    return ", ".join(parts)


def _first_calls(
    case: Case, workload: Workload, data: Data, names: list[str]
) -> tuple[dict[str, Any], dict[str, float], dict[str, Any]]:
    """Prepare the contestants, compare their first results, and return the durations of these calls."""
    calls, seconds, results = {}, {}, {}
    for name in names:
        calls[name] = prepare(name, case, workload, data)
        start = time.perf_counter()
        results[name] = calls[name]()
        seconds[name] = time.perf_counter() - start
    if not agreement.same_layout(data, results):
        raise agreement.DisagreementError(f"{case.title()}: {OURS} did not keep the memory format of the features")
    return calls, seconds, agreement.check(case, workload, data, results)


def run_case(
    case: Case, workload: Workload, options: argparse.Namespace, flusher: Flusher | None
) -> list[dict[str, Any]]:
    """Measure one case with every number of threads."""
    refused = {name: refusal(name, workload, case.direction, case.mode, case.dtype) for name in options.contestants}
    names = [name for name, reason in refused.items() if reason is None]
    unsupported = {name: reason for name, reason in refused.items() if reason is not None}
    if not names:
        return []
    data = make_data(workload, case.dtype, case.layout)
    moved = bytes_moved(case, workload)
    seconds = options.seconds if case.in_main_table else options.seconds / 2
    entries = []
    torch.set_num_threads(options.threads[0])
    with torch.set_grad_enabled(case.direction != "forward"):
        calls, first_calls, guard = _first_calls(case, workload, data, names)
        for threads in options.threads:
            torch.set_num_threads(threads)
            measured = interleave(calls, seconds, first_calls, threads == options.threads[0], flusher)
            progress(f"    {threads} thread{'s' * (threads > 1)}: {_line(measured)}")
            entries.append(
                {
                    "workload": case.workload,
                    "direction": case.direction,
                    "mode": case.mode,
                    "dtype": case.dtype,
                    "layout": case.layout,
                    "threads": threads,
                    "allocation": options.allocation[0],
                    "bytes_moved": moved,
                    "agreement": guard,
                    "results": {
                        name: measurement.as_json() | {"gb_per_s": float(f"{moved / measurement.median_ms / 1e6:.4g}")}
                        for name, measurement in measured.items()
                    },
                    "unsupported": unsupported,
                }
            )
    return entries


def run_cases(options: argparse.Namespace, workloads: dict[str, Workload]) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure all cases within the time limit; the second list names the omitted ones."""
    cases = list(plan(options.workloads, options.layouts, extras=not options.main_only))
    flusher = Flusher() if options.cache == "flushed" else None
    start = time.monotonic()
    entries: list[dict[str, Any]] = []
    left_out: list[str] = []
    for number, case in enumerate(cases, start=1):
        elapsed = time.monotonic() - start
        if elapsed > 60 * options.max_minutes:
            left_out.append(case.title())
            continue
        progress(f"[{number}/{len(cases)}, {elapsed:.0f} s] {case.title()}")
        entries += run_case(case, workloads[case.workload], options, flusher)
    if left_out:
        progress(f"time limit reached, left out: {'; '.join(left_out)}")
    return entries, left_out


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one regime of allocation, the one of this process, and return its document."""
    (regime,) = options.allocation
    set_allocation(regime)
    workloads = {key: WORKLOADS[key].shrunk() if options.quick else WORKLOADS[key] for key in options.workloads}
    machine = describe(with_ours=OURS in options.contestants)
    progress(f"{machine['cpu']['model']}, {machine['cpu']['cores']} cores; {machine['software']}")
    progress(f"allocation {regime}: {ALLOCATION[regime]}")
    other_load = OtherLoad()
    started = time.time()
    entries, left_out = run_cases(options, workloads)
    names = [name for name in options.contestants if name in (OURS, TORCHVISION)]
    rounds = 1 if options.quick else overhead.ROUNDS
    call_overhead = [] if options.main_only else list(overhead.measure(names, rounds))
    others = other_load.share()
    if others is not None:
        progress(f"others took {100 * others:.0f} % of the processor during the run")
    return {
        "format": 2,
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "minutes": round((time.time() - started) / 60, 1),
        "quick": options.quick,
        "machine": machine,
        "other_load": {regime: others},
        "settings": {
            "allocation": {regime: ALLOCATION[regime]},
            "cache": options.cache,
            "seconds_per_contestant": options.seconds,
            "threads": options.threads,
            "grad_output": "in the memory format of the contestant's own output",
        },
        "workloads": {key: workload.describe() for key, workload in workloads.items()},
        "cases": entries,
        "left_out": left_out,
        "overhead": call_overhead,
    }


def measure_regimes(arguments: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """One document of several regimes, each measured in a fresh process."""
    main_alone = ["--main-only", "--workloads", *(key for key in options.workloads if key in MAIN)]
    documents: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for regime in options.allocation:
            file = Path(folder) / f"{regime}.json"
            command = [sys.executable, "-m", "benchmarks.run", *arguments, *(main_alone if documents else [])]
            subprocess.run([*command, "--allocation", regime, "--output", str(file)], check=True)
            documents.append(json.loads(file.read_text()))
    first, *others = documents
    for other in others:
        first["minutes"] = round(first["minutes"] + other["minutes"], 1)
        first["other_load"] |= other["other_load"]
        first["settings"]["allocation"] |= other["settings"]["allocation"]
        first["cases"] += other["cases"]
        first["left_out"] += other["left_out"]
    return first


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    several = len(options.allocation) > 1
    try:
        document = measure_regimes(arguments, options) if several else measure(options)
    except agreement.DisagreementError as error:
        progress(f"no timing, the results differ: {error}")
        return 1
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n")
        progress(f"written: {options.output}")
    if not several:
        _print_summary(document["cases"])
    return 0


def _print_summary(entries: list[dict[str, Any]]) -> None:
    """Print the geometric mean of the ratio to torchvision over the main cases, by direction and threads."""
    groups: dict[tuple[str, int], list[float]] = {}
    for entry in entries:
        results = entry["results"]
        in_main_table = entry["workload"] in MAIN and entry["mode"] == "avg" and entry["dtype"] == "float32"
        if in_main_table and {OURS, TORCHVISION} <= results.keys():
            ratio = results[TORCHVISION]["median_ms"] / results[OURS]["median_ms"]
            groups.setdefault((entry["direction"], entry["threads"]), []).append(math.log(ratio))
    for (direction, threads), logs in groups.items():
        mean = math.exp(sum(logs) / len(logs))
        plural = "s" * (threads > 1)
        print(f"{direction}, {threads} thread{plural}: {mean:.1f}x torchvision (geometric mean of {len(logs)} cases)")


if __name__ == "__main__":
    sys.exit(main())
