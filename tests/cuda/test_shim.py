"""The host shim alone: its results, and the errors it reports, with small kernels (tests/cuda/shim/probes.cpp)."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable

import pytest

from support import cuda_shim

Probe = Callable[[str], tuple[list[float], str]]

RUN_PROBES = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.run_probe.restype = ctypes.c_char_p
for name in sys.argv[2:]:
    result = (ctypes.c_double * 2)()
    print(library.run_probe(name.encode(), result).decode() or list(result))
"""
CORRECT = ("block_sum", "warp_barrier", "ballots", "shuffles", "halves_apart", "shared_memory_asked_for")


@pytest.fixture(scope="module")
def probe() -> Probe:
    library = ctypes.CDLL(str(cuda_shim.build("probes", "plain", [cuda_shim.SHIM / "probes.cpp"])))
    library.run_probe.restype = ctypes.c_char_p

    def run(name: str) -> tuple[list[float], str]:
        result = (ctypes.c_double * 2)()
        message = library.run_probe(name.encode(), result).decode()
        return list(result), message

    return run


@pytest.mark.parametrize("seed", ["0", "1", "2"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("block_sum", [32640.0, 33640.0]),
        ("warp_barrier", [496.0, 0.0]),
        ("ballots", [1.0, 0.0]),
        ("shuffles", [32.0, 0.0]),
        ("halves_apart", [1.0, 2.0]),
        ("shared_memory_asked_for", [32.0, 0.0]),
    ],
)
def test_results(probe: Probe, monkeypatch: pytest.MonkeyPatch, name: str, expected: list[float], seed: str) -> None:
    monkeypatch.setenv("SHIM_SEED", seed)
    assert probe(name) == (expected, "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("divergent_barriers", "divergent barriers: probes.cpp:"),
        ("barrier_after_return", "threads returned"),
        ("barrier_in_one_warp", "deadlock: thread 0 waits in __syncthreads"),
        ("lanes_in_different_collectives", "__ballot_sync at probes.cpp"),
        ("lane_returned", "lane 7 of the mask has returned"),
        ("lane_outside_mask", "reads from a lane outside the mask"),
        ("not_in_own_mask", "is not in its own mask"),
        ("no_such_lane", "the block has no lane 20"),
        ("too_many_threads", "invalid launch: block (1025, 1, 1)"),
        ("empty_grid", "invalid launch: grid (0, 1, 1)"),
        ("grid_too_high", "invalid launch: grid (1, 65536, 1)"),
        ("shared_memory_not_asked_for", "50000 bytes of shared memory"),
        ("too_much_shared_memory", "240000 bytes of shared memory"),
    ],
)
def test_errors(probe: Probe, name: str, words: str) -> None:
    _, message = probe(name)
    assert message.startswith("shim: ")
    assert words in message
    assert probe("block_sum") == ([32640.0, 33640.0], "")  # the next launch works


@pytest.mark.parametrize(("name", "blocks"), [("too_many_blocks", 2**31), ("too_many_blocks_for_32_bits", 2**32 + 1)])
def test_too_many_blocks(probe: Probe, name: str, blocks: int) -> None:
    """The launcher reports the error and launches nothing more; zero blocks are no error."""
    assert probe(name) == ([0.0, 0.0], f"ballots: {blocks} blocks are more than a launch can have")
    assert probe("no_blocks") == ([32.0, 0.0], "")


def test_unset_shared_memory_is_nan(probe: Probe) -> None:
    assert math.isnan(probe("unset_shared_memory")[0][0])


def test_seeds_change_the_order_of_blocks(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    last = set()
    for seed in range(8):
        monkeypatch.setenv("SHIM_SEED", str(seed))
        last.add(probe("two_blocks_write_one_element")[0][0])
    assert last == {0.0, 1.0}


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("asan", "shared_overrun", "AddressSanitizer: heap-buffer-overflow"),
        ("tsan", "missing_barrier", "ThreadSanitizer: data race"),
        ("tsan", "missing_warp_barrier", "ThreadSanitizer: data race"),
        ("tsan", "two_blocks_write_one_element", "ThreadSanitizer: data race"),
    ],
)
def test_sanitizers(kind: str, name: str, words: str) -> None:
    library = cuda_shim.build("probes", kind, [cuda_shim.SHIM / "probes.cpp"])
    clean = cuda_shim.sanitized_python(kind, "-c", RUN_PROBES, str(library), *CORRECT, *CORRECT)
    assert clean.returncode == 0, clean.stderr
    assert len(re.findall(r"\[", clean.stdout)) == 2 * len(CORRECT)
    result = cuda_shim.sanitized_python(kind, "-c", RUN_PROBES, str(library), name)
    assert result.returncode != 0
    assert words in result.stderr
