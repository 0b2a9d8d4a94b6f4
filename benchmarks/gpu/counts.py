"""Counts requests to memory without a GPU: `python -m benchmarks.gpu.counts A B D E --json FILE`.

The kernels are compiled for the CPU (tests/cuda/shim) and run on a part of the blocks of each workload, spread over all
of them; counts are scaled to all blocks. `--lines KERNEL` also lists the requests by line of that kernel.
`python -m benchmarks.gpu.count_tables` writes the tables of docs/performance.md from the counts in results/.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..markdown import table
from ..workloads import DTYPES, LAYOUTS, SEED, WORKLOADS, Workload, make_boxes

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

from support import cuda_shim  # noqa: E402
from support.cuda_counts import Counter, Launch  # noqa: E402

FEATURES = ("maps", "bins")
SECTOR = 32
CANONICAL = [224.0, 4.0]
# Counted blocks per launch. Forward, a block has one box, and boxes differ more than tiles of a map.
BLOCKS = {"forward": 500, "backward": 300}
# Files whose kernels these calls never launch, by the begin of their names.
OTHERS = ("argmax_", "average_grad_boxes", "axis_samples", "enqueue", "max_pool", "rotated_")


@dataclass(frozen=True)
class Case:
    workload: str
    direction: str
    dtype: str
    layout: str


def cases(workloads: Sequence[str], directions: Sequence[str], dtypes: Sequence[str]) -> Iterator[Case]:
    for workload in workloads:
        for direction in directions:
            for dtype in dtypes:
                for layout in ("channels_last", "NCHW"):
                    yield Case(workload, direction, dtype, layout)


def small(workload: Workload) -> Workload:
    """Fewer boxes: channels decide which kernels are launched."""
    return replace(workload, boxes=workload.boxes // 4)


def call(operators: Any, case: Case, workload: Workload) -> None:
    """One call of the private operator. Values of the features are arbitrary: requests depend on the boxes alone."""
    boxes = make_boxes(workload, torch.Generator().manual_seed(SEED))
    rule = [[1 / stride for stride in workload.strides], CANONICAL, workload.sampling_ratio, "roi_align_legacy"]
    sizes = [size for plane in workload.maps for size in plane]
    dtype, memory_format = DTYPES[case.dtype], LAYOUTS[case.layout]
    if case.direction == "forward":
        maps = [
            torch.empty((workload.images, workload.channels, height, width), dtype=dtype, memory_format=memory_format)
            for height, width in workload.maps
        ]
        operators._pool(maps, boxes, None, None, None, [workload.output_size] * 2, *rule, 0.0)
    else:
        grad = torch.empty(workload.output_shape, dtype=dtype, memory_format=memory_format)
        channels_last = case.layout == "channels_last"
        input_size = [workload.images, workload.channels, *sizes]
        operators._pool_grad_input(grad, boxes, None, None, None, input_size, channels_last, *rule)


def figures(launch: Launch) -> dict[str, Any]:
    """Counts of one launch, for JSON."""

    def of(spaces: Sequence[str], write: bool, *fields: str) -> dict[str, int]:
        requests = launch.requests(*spaces, write=write)
        return {field: round(getattr(requests, field)) for field in ("requests", *fields)}

    return {
        "kernel": launch.kernel,
        "blocks": launch.blocks,
        "counted_blocks": launch.counted_blocks,
        "threads": launch.threads,
        "loads": of(FEATURES, False, "bytes", "sectors", "lines"),
        "stores": of(FEATURES, True, "bytes", "sectors", "lines"),
        "table_reads": of(["tables"], False, "bytes", "sectors"),
        "shared_loads": of(["shared"], False, "wavefronts"),
        "shared_stores": of(["shared"], True, "wavefronts"),
        **{name: round(getattr(launch, name)) for name in ("barriers", "syncs", "votes", "shuffles")},
        "cache_bytes": round(SECTOR * sum(launch.distinct_sectors[space] for space in FEATURES)),
    }


def title(case: Case) -> str:
    return f"{case.workload} {case.direction} {case.dtype} {case.layout}"


def count(counter: Counter, operators: Any, case: Case, workload: Workload, blocks: int) -> list[Launch]:
    launches: list[Launch] = counter.launches(lambda: call(operators, case, workload), blocks)
    return launches


def by_kernel(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Counts of each kernel and dtype over all calls that launch the kernel: sectors per request that loads or stores
    features; requests and wavefronts per thousand outputs."""
    sums: dict[str, Counts[str]] = {}
    for cell in cells:
        for launch in cell["launches"]:
            own = sums.setdefault(f"{launch['kernel'].split('<')[0]} {cell['case']['dtype']}", Counts())
            own["thousands"] += cell["outputs"] / 1000
            for kind in ("loads", "stores"):
                own[kind] += launch[kind]["requests"]
                own[f"sectors of {kind}"] += launch[kind]["sectors"]
            own["table reads"] += launch["table_reads"]["requests"]
            for kind in ("shared_loads", "shared_stores"):
                own["wavefronts"] += launch[kind]["wavefronts"]
    result = {}
    for name, own in sorted(sums.items()):
        result[name] = {kind: own[kind] / own["thousands"] for kind in ("loads", "stores", "table reads", "wavefronts")}
        for kind in ("loads", "stores"):
            result[name][f"sectors of {kind}"] = own[f"sectors of {kind}"] / own[kind] if own[kind] else 0.0
    return result


def per(amount: float, of: float) -> str:
    return f"{amount / of:.1f}" if of else "-"


def markdown(cells: list[dict[str, Any]]) -> str:
    header = ["case", "kernel", "loads, M", "bytes", "sectors", "lines", "stores, M", "sectors", "table reads, M",
              "shared loads, M", "wavefronts", "shared stores, M", "wavefronts", "barriers, k", "syncs, k", "votes, k",
              "shuffles, k", "cache, MB"]  # fmt: skip
    rows = []
    for cell in cells:
        for launch in cell["launches"]:
            loads, stores = launch["loads"], launch["stores"]
            row = [title(Case(**cell["case"])), launch["kernel"], f"{loads['requests'] / 1e6:.2f}"]
            row += [per(loads[name], loads["requests"]) for name in ("bytes", "sectors", "lines")]
            row += [f"{stores['requests'] / 1e6:.2f}", per(stores["sectors"], stores["requests"])]
            row += [f"{launch['table_reads']['requests'] / 1e6:.2f}"]
            for shared in (launch["shared_loads"], launch["shared_stores"]):
                row += [f"{shared['requests'] / 1e6:.2f}", per(shared["wavefronts"], shared["requests"])]
            row += [f"{launch[name] / 1e3:.0f}" for name in ("barriers", "syncs", "votes", "shuffles")]
            rows.append([*row, f"{launch['cache_bytes'] / 1e6:.0f}"])
    return table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=["A", "B", "D", "E"])
    parser.add_argument("--directions", nargs="+", default=["forward", "backward"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--layouts", nargs="+", default=["channels_last", "NCHW"])
    parser.add_argument(
        "--blocks", type=int, help="that are counted of each launch, by default 500 forward and 300 backward"
    )
    parser.add_argument("--small", action="store_true", help="a quarter of the boxes, as the tests do")
    parser.add_argument("--lines", metavar="KERNEL", help="list the lines of this kernel")
    parser.add_argument("--by-kernel", action="store_true", help="print what the tests hold against their budget")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    options = parser.parse_args()
    kernels = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    counted = [path for path in kernels if not path.stem.startswith(OTHERS)]
    others = [cuda_shim.GLUE, *(path for path in kernels if path.stem.startswith(OTHERS))]
    library = cuda_shim.build("kernels", "counted", counted, others)
    counter, operators = Counter(library), cuda_shim.load_operators(library)
    cells = []
    for case in cases(options.workloads, options.directions, options.dtypes):
        if case.layout not in options.layouts:
            continue
        workload = small(WORKLOADS[case.workload]) if options.small else WORKLOADS[case.workload]
        launches = count(counter, operators, case, workload, options.blocks or BLOCKS[case.direction])
        outputs = math.prod(workload.output_shape)
        cells.append({"case": vars(case), "outputs": outputs, "launches": [figures(launch) for launch in launches]})
        print(title(case), file=sys.stderr, flush=True)
        for launch in launches:
            if options.lines == launch.name:
                print(lines(counter, launch))
    if options.by_kernel:
        print(json.dumps(by_kernel(cells), indent=1))
        return
    if options.json:
        options.json.write_text("[\n" + ",\n".join(map(json.dumps, cells)) + "\n]\n")
    print(markdown(cells))


def lines(counter: Counter, launch: Launch) -> str:
    """Requests by line of the kernel."""
    rows = []
    for line, site in counter.lines(launch):
        requests = site["requests"]
        rows.append([line, site["space"], "store" if site["write"] else "load", site["bytes"],
                     f"{requests * launch.scale / 1e6:.3f}", per(site["lanes"], requests),
                     per(site["sectors"] + site["wavefronts"], requests)])  # fmt: skip
    return table(["line", "space", "", "bytes of a lane", "requests, M", "lanes", "sectors or wavefronts"], rows)


if __name__ == "__main__":
    main()
