"""Requests of the CUDA kernels to memory, counted on the CPU, within a budget.

The counter itself (``cuda_counts``) is checked with kernels of known counts: shim/counted_probes.cpp.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from support import cuda_shim
from support.cuda_counts import Counter, Launch

pytestmark = [pytest.mark.budgets, cuda_shim.needs_gcc()]
Probe = Callable[..., Launch]


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    """Runs the probe of that name on aligned memory."""
    counter = Counter(cuda_shim.build("counted_probes", "counted", [cuda_shim.SHIM / "counted_probes.cpp"]))
    memory = torch.zeros(3 * 4096 + 32)
    first = memory.data_ptr() + -memory.data_ptr() % 128
    pointers = [ctypes.c_void_p(first + 4 * 4096 * i) for i in range(3)]

    def run(name: str, blocks: int = 1, threads: int = 32, max_blocks: int = 1 << 40) -> Launch:
        call = lambda: counter.library.run_counted_probe(name.encode(), blocks, threads, *pointers)  # noqa: E731
        (launch,) = counter.launches(call, max_blocks)
        return launch

    yield run
    del memory


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Requests, bytes, sectors, lines of the maps.
        ("copy_4_bytes", (1, 128, 4, 1)),
        ("copy_8_bytes", (1, 256, 8, 2)),
        ("copy_16_bytes", (1, 512, 16, 4)),
        ("copy_packs", (1, 512, 16, 4)),
        ("read_halves", (1, 64, 2, 1)),
        ("read_every_eighth", (1, 128, 32, 8)),
        ("read_one_for_all", (1, 128, 1, 1)),
        ("read_across_sectors", (1, 128, 5, 2)),
        ("divergent_lanes", (2, 128, 8, 2)),
        ("unequal_trips", (3, 4 * 48, 12, 3)),
        ("unequal_trips_inside", (2 + 2 * 3, 2 * (128 + 4 * 48), 2 * (4 + 12), 2 * (1 + 3))),
        ("lanes_that_skip", (3, 4 * 80, 12, 3)),
        ("lanes_in_calls", (5, 4 * 80, 10, 5)),
    ],
)
def test_loads_of_features(probe: Probe, name: str, expected: tuple[int, ...]) -> None:
    """Probes of one warp."""
    loads = probe(name).requests("maps", write=False)
    assert (loads.requests, loads.bytes, loads.sectors, loads.lines) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("copy_4_bytes", (1, 32, 4, 1)), ("copy_8_bytes", (1, 32, 8, 2)), ("copy_packs", (1, 32, 16, 4))],
)
def test_stores(probe: Probe, name: str, expected: tuple[int, ...]) -> None:
    stores = probe(name).requests("bins", write=True)
    assert (stores.requests, stores.lanes, stores.sectors, stores.lines) == expected


@pytest.mark.parametrize(
    ("name", "stored", "loaded"),
    [
        # Requests and wavefronts.
        ("shared_1", (1, 1), (1, 1)),
        ("shared_2", (1, 2), (1, 2)),
        ("shared_31", (1, 1), (1, 1)),
        ("shared_32", (1, 32), (1, 32)),
        ("shared_one_for_all", (1, 1), (1, 1)),
        ("shared_8_bytes", (4, 4), (1, 2)),
        ("shared_16_bytes", (4, 4), (1, 4)),
        ("shared_16_bytes_for_all", (4, 4), (1, 1)),
    ],
)
def test_shared_memory(probe: Probe, name: str, stored: tuple[int, int], loaded: tuple[int, int]) -> None:
    launch = probe(name)
    for write, expected in ((True, stored), (False, loaded)):
        requests = launch.requests("shared", write=write)
        assert (requests.requests, requests.wavefronts) == expected
    assert launch.requests("maps", "tables", write=False).requests == 0


@pytest.mark.parametrize(("name", "requests"), [("loose_table", 2), ("tight_table", 1)])
def test_objects_of_known_alignment_are_read_at_once(probe: Probe, name: str, requests: int) -> None:
    reads = probe(name).requests("tables", write=False)
    assert (reads.requests, reads.bytes) == (requests, 256)


def test_meetings(probe: Probe) -> None:
    """Three warps have separate accesses."""
    launch = probe("meetings", threads=96)
    assert (launch.barriers, launch.votes, launch.shuffles, launch.syncs) == (3 * 2, 3, 3 * 3, 3)


def test_sectors_of_a_block_are_counted_once(probe: Probe) -> None:
    launch = probe("read_twice", blocks=3)
    assert launch.requests("maps", write=False).sectors == 3 * 16
    assert launch.distinct_sectors["maps"] == 3 * 8


def test_a_part_of_the_blocks_stands_for_all(probe: Probe) -> None:
    launch = probe("read_twice", blocks=1000, threads=64, max_blocks=7)
    assert (launch.blocks, launch.counted_blocks, launch.threads) == (1000, 7, 64)
    assert launch.requests("maps", write=False).requests == 8 * 1000
    assert launch.name == launch.kernel == "read_twice"


def test_lanes_of_an_incomplete_warp(probe: Probe) -> None:
    loads = probe("copy_4_bytes", threads=40).requests("maps", write=False)
    assert (loads.requests, loads.lanes, loads.sectors) == (2, 40, 5)


class Budget(NamedTuple):
    """The most sectors of 32 bytes per request that loads or stores features; per thousand outputs the most such
    requests, requests that read tables, and wavefronts of shared memory."""

    sectors_of_loads: float
    sectors_of_stores: float
    loads: float
    stores: float
    table_reads: float
    wavefronts: float


# Workloads A, B, D and E with fewer boxes, both layouts and passes together, by kernel and dtype: `python -m
# benchmarks.gpu.counts --small --blocks 40 --by-kernel` prints the figures.
BUDGETS = {
    "average_grad_input_channels_last bfloat16": Budget(8, 8, 27.81, 14.56, 13.1, 115.8),
    "average_grad_input_channels_last float32": Budget(16, 16, 27.81, 14.56, 13.1, 115.8),
    "average_grad_input_nchw bfloat16": Budget(8, 4.083, 27.81, 58.71, 13.1, 291),
    "average_grad_input_nchw float32": Budget(16, 4.166, 27.81, 58.71, 13.1, 291),
    "average_pool_channels_last bfloat16": Budget(16, 4, 17.9, 19.19, 0.4201, 93.48),
    "average_pool_channels_last float32": Budget(16, 6.361, 35.74, 21.48, 0.8442, 118.1),
    "average_pool_nchw bfloat16": Budget(3.021, 4.972, 297.7, 14.62, 3.953, 642.4),
    "average_pool_nchw float32": Budget(4.485, 7.664, 297.7, 17.36, 3.907, 668.7),
    "fill_tables bfloat16": Budget(0, 0, 0, 0, 0.32, 0.02107),
    "fill_tables float32": Budget(0, 0, 0, 0, 0.32, 0.02107),
    "transpose_channels bfloat16": Budget(16.12, 15.89, 3.452, 3.468, 0, 41.66),
    "transpose_channels float32": Budget(15.96, 15.89, 6.905, 6.937, 0, 55.58),
}
SLACK = 1.03
FIGURES = [field.replace("_", " ") for field in Budget._fields]


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, float]]:
    options = ["--small", "--by-kernel", "--blocks=40"]
    command = [sys.executable, "-m", "benchmarks.gpu.counts", *options]
    result = subprocess.run(command, cwd=cuda_shim.ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    figures: dict[str, dict[str, float]] = json.loads(result.stdout)
    return figures


@pytest.mark.skipif(not (cuda_shim.ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of this copy")
def test_requests_stay_within_the_budget(counted: dict[str, dict[str, float]]) -> None:
    """Every kernel that the workloads launch has a budget."""
    assert sorted(counted) == sorted(BUDGETS), "every kernel has a row, and no other"
    exceeded = [
        f"{kernel}: {amount:.4g} {figure}, the budget is {limit:.4g}"
        for kernel, budget in BUDGETS.items()
        for figure, limit in zip(FIGURES, budget, strict=True)
        if (amount := counted[kernel][figure]) > SLACK * limit
    ]
    assert not exceeded, "\n".join(exceeded)


@pytest.mark.skipif(not (cuda_shim.ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of this copy")
def test_tables_of_the_documentation_are_those_of_the_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(cuda_shim.ROOT)
    tables = importlib.import_module("benchmarks.gpu.count_tables")
    page = tmp_path / "performance.md"
    page.write_text(tables.PAGE.read_text())
    monkeypatch.setattr(tables, "PAGE", page)
    tables.main()
    assert page.read_text() == (cuda_shim.ROOT / "docs" / "performance.md").read_text()
