"""Does the rule for the memory of large results choose as it should, and does no choice change a result?"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import re
import sys
from pathlib import Path

import pytest
import torch

from roialign_ext import _C, roi_align
from support.children import Program, run_all

MIB = 1 << 20
CHOICES = ("touched", "populated", "huge")
PAGE = mmap.PAGESIZE
TORCH = tuple(map(int, torch.__version__.split(".")[:2]))

# Free blocks of 2^0 .. 2^10 pages; those of 2^9 count once as huge pages, those of 2^10 twice.
PLENTY = "Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3\n"
PLENTY += "Node 0, zone   Normal    862    278    115    102     70     45     37     27      9     50     80\n"
FRAGMENTED = "Node 0, zone   Normal  90862  90278  90115  90102  90070  90045  90037  90027  90009      1      0\n"
OTHER_NODE = "Node 1, zone   Normal  90862  90278  90115  90102  90070  90045  90037  90027  90009      1      0\n"


@pytest.mark.parametrize(
    ("mib", "enabled", "defrag", "buddyinfo", "choice"),
    [
        (7, "madvise", "never", PLENTY, "touched"),  # allocators keep such blocks
        (8, "madvise", "never", PLENTY, "populated"),  # the heap may hold it: advice would cover other memory later
        (31, "madvise", "never", PLENTY, "populated"),
        (32, "madvise", "never", FRAGMENTED, "huge"),  # nobody waits
        (32, "madvise", "defer", FRAGMENTED, "huge"),
        (32, "madvise", "madvise", PLENTY, "huge"),
        (32, "madvise", "defer+madvise", PLENTY, "huge"),
        (32, "madvise", "always", PLENTY, "huge"),
        (32, "madvise", "madvise", FRAGMENTED, "populated"),
        (32, "madvise", "madvise", PLENTY + OTHER_NODE, "populated"),  # threads may run on either node
        (108, "madvise", "madvise", PLENTY, "huge"),  # four times 54 of 217 free ones
        (110, "madvise", "madvise", PLENTY, "populated"),
        (32, "madvise", "madvise", "", "populated"),
        (32, "madvise", "madvise", "no such file", "populated"),
        (32, "always", "always", PLENTY, "populated"),  # huge pages come unasked
        (32, "never", "never", PLENTY, "populated"),
        (32, "", "", "", "populated"),
    ],
)
def test_rule(mib: int, enabled: str, defrag: str, buddyinfo: str, choice: str) -> None:
    assert _C.choose_pages(mib * MIB, enabled, defrag, buddyinfo, False) == choice
    assert _C.choose_pages(mib * MIB, enabled, defrag, buddyinfo, True) == choice.replace("huge", "populated")


def test_a_stall_is_longer_than_small_pages_take() -> None:
    """One thread gets about 2.9 MiB of them in a millisecond."""
    assert not _C.is_stall(400 * MIB, 139_000_000)
    assert _C.is_stall(400 * MIB, 141_000_000)


def test_one_stall_alone_decides_nothing() -> None:
    assert _C.try_huge_pages("101001") == "111111"


def test_after_two_stalls_results_wait_longer_each_time() -> None:
    tried = "11" + "0" * 4 + "11" + "0" * 8 + "11" + "0" * 16 + "1"
    assert _C.try_huge_pages("1" * len(tried)) == tried


def test_a_result_without_a_stall_after_the_wait_goes_on() -> None:
    assert _C.try_huge_pages("1" * 6 + "0" * 9) == "11" + "0" * 4 + "1" * 9


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def resident_pages(address: int, length: int) -> list[bool]:
    pages = (ctypes.c_ubyte * (length // PAGE))()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), pages) == 0
    return [flags & 1 == 1 for flags in pages]


def wants_huge_pages(address: int) -> bool:
    """Whether the mapping around an address has been advised to."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError(f"no mapping holds {address:#x}")


def advise(memory: mmap.mmap, advice: int) -> bool:
    libc = ctypes.CDLL(None)
    return int(libc.madvise(ctypes.c_void_p(address_of(memory)), ctypes.c_size_t(len(memory)), advice)) == 0


def anonymous_memory(length: int) -> mmap.mmap:
    return mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_POPULATE_WRITE = 14, 15, 23


@pytest.mark.parametrize("choice", CHOICES)
def test_supplies_the_whole_pages_inside_a_block(choice: str) -> None:
    length = 16 * MIB
    memory = anonymous_memory(length)
    if choice != "huge":
        advise(memory, MADV_NOHUGEPAGE)  # where huge pages come unasked, they would reach beyond the block
    start = address_of(memory)
    middle = 5 * MIB + 17
    memory[middle] = 7  # its page is there already
    before = resident_pages(start, length)
    begin, end = 3 * PAGE + 100, length - 2 * PAGE - 100
    _C.supply_pages(start + begin, end - begin, choice)
    assert memory[middle] == 7
    after, whole = resident_pages(start, length), range(4, length // PAGE - 3)
    if choice == "touched" or not advise(anonymous_memory(PAGE), MADV_POPULATE_WRITE):
        assert after == before
    elif choice == "populated":
        assert [page for page, there in enumerate(after) if there] == list(whole)
    else:
        assert all(after[page] for page in whole)
    advised = choice == "huge" and advise(anonymous_memory(PAGE), MADV_HUGEPAGE)
    assert [wants_huge_pages(start + place) for place in (begin, middle, end)] == [False, advised, False]


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("length", [0, 1, PAGE, 3 * PAGE])
def test_refusals_of_the_kernel_are_harmless(choice: str, length: int) -> None:
    """Memory that nobody may write, and none at all."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    read_only = libc.mmap(None, ctypes.c_size_t(4 * PAGE), mmap.PROT_READ, flags, -1, ctypes.c_long(0))
    _C.supply_pages(read_only + 5, length, choice)
    assert ctypes.string_at(read_only, 4 * PAGE) == bytes(4 * PAGE)
    _C.supply_pages(PAGE, length, choice)


def test_an_allocation_that_fails_names_the_result() -> None:
    """After torch's own words, which the stable ABI tells from torch 2.13 on."""
    words = "DefaultCPUAllocator: " if TORCH >= (2, 13) else "out of memory."
    result = "(a Float tensor of shape [1, 2, 1048576, 1048576] on cpu)"
    with pytest.raises(RuntimeError, match=f"{words}.* {re.escape(result)}$"):
        roi_align(torch.zeros(1, 2, 3, 3), torch.zeros(1, 5), 2**20)


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="ROIALIGN_EXT_PAGES must be touched, populated or huge, but is sometimes"):
        _C.supply_pages(0, 0, "sometimes")


def large_results(threads: int) -> dict[str, torch.Tensor]:
    """Outputs, maxima with their argmax, and gradients of 8 MiB and more, in both layouts and in half precision."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(700, 2, generator=generator) * 150
    size = torch.rand(700, 2, generator=generator) * 40
    boxes = torch.cat([torch.zeros(700, 1), corner, corner + size], dim=1)
    results = {}
    for name, dtype, layout, mode in (
        ("NCHW", torch.float32, torch.contiguous_format, "avg"),
        ("channels_last", torch.float32, torch.channels_last, "avg"),
        ("float64", torch.float64, torch.channels_last, "avg"),
        ("max", torch.float32, torch.channels_last, "max"),
    ):
        features = torch.randn(1, 64, 200, 200, generator=generator, dtype=dtype).contiguous(memory_format=layout)
        features.requires_grad_()
        out = roi_align(features, boxes.to(dtype), 7, sampling_ratio=2, mode=mode)
        results[name] = out.detach()
        (results[f"{name} gradient"],) = torch.autograd.grad(out.square().sum(), features)
    return results


def digest(results: dict[str, torch.Tensor]) -> str:
    sha = hashlib.sha256()
    for tensor in results.values():
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


CHILD = """
import os, sys, test_result_memory as test
try:
    test.large_results(1)
except ValueError as error:
    assert "ROIALIGN_EXT_PAGES must be touched, populated or huge, but is sometimes" in str(error), error
else:
    raise AssertionError("an unknown choice passed")
os.environ["ROIALIGN_EXT_PAGES"] = sys.argv[1]
print(test.digest(test.large_results(1)), test.digest(test.large_results(3)))
"""


def test_results_do_not_depend_on_pages_nor_threads() -> None:
    threads = torch.get_num_threads()
    expected = digest(large_results(2))
    torch.set_num_threads(threads)
    path = [str(Path(__file__).parent), *sys.path]
    variables = {"ROIALIGN_EXT_PAGES": "sometimes"}
    programs = [Program(CHILD, [choice], path=path, variables=variables) for choice in CHOICES]
    for child in run_all(programs):
        assert child.returncode == 0, child.stderr
        assert child.stdout.split() == [expected, expected]
