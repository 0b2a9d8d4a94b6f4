"""Pages of large blocks of memory: csrc/cpu/pages.h compiled alone. Does its rule choose as it should?"""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

import pytest
from torch.utils import cpp_extension

from support.cache import ROOT
from support.plain_functions import load

MIB = 1 << 20
CHOICES = ("touched", "populated", "huge")
PAGE = mmap.PAGESIZE

# Free blocks of 2^0 .. 2^10 pages; those of 2^9 count once as huge pages, those of 2^10 twice.
PLENTY = "Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3\n"
PLENTY += "Node 0, zone   Normal    862    278    115    102     70     45     37     27      9     50     80\n"
FRAGMENTED = "Node 0, zone   Normal  90862  90278  90115  90102  90070  90045  90037  90027  90009      1      0\n"
OTHER_NODE = "Node 1, zone   Normal  90862  90278  90115  90102  90070  90045  90037  90027  90009      1      0\n"


@pytest.fixture(scope="module")
def pages() -> ctypes.CDLL:
    sources = [Path(__file__).parent / "pages.cpp", ROOT / "csrc" / "cpu" / "pages.cpp"]
    includes = [word for path in cpp_extension.include_paths() for word in ("-isystem", path)]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    loaded = load("pages", sources, "cpu", "-std=c++20", *includes, *libraries, "-ltorch_cpu")
    size, text = ctypes.c_int64, ctypes.c_char_p
    loaded.choose.argtypes, loaded.choose.restype = [size, text, text, text, ctypes.c_bool], text
    loaded.stalls.argtypes, loaded.stalls.restype = [size, size], ctypes.c_bool
    loaded.try_huge_pages.argtypes, loaded.try_huge_pages.restype = [text, text], None
    loaded.supply.argtypes, loaded.supply.restype = [ctypes.c_void_p, size, text], None
    return loaded


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
def test_rule(pages: ctypes.CDLL, mib: int, enabled: str, defrag: str, buddyinfo: str, choice: str) -> None:
    facts = (enabled.encode(), defrag.encode(), buddyinfo.encode())
    assert pages.choose(mib * MIB, *facts, False).decode() == choice
    assert pages.choose(mib * MIB, *facts, True).decode() == choice.replace("huge", "populated")


def test_a_stall_is_longer_than_small_pages_take(pages: ctypes.CDLL) -> None:
    """One thread gets about 2.9 MiB of them in a millisecond."""
    assert not pages.stalls(400 * MIB, 139_000_000)
    assert pages.stalls(400 * MIB, 141_000_000)


def tried(pages: ctypes.CDLL, stalled: str) -> str:
    """Which of these results got huge pages, if those with "1" stall with them."""
    result = ctypes.create_string_buffer(len(stalled) + 1)
    pages.try_huge_pages(stalled.encode(), result)
    return result.value.decode()


def test_one_stall_alone_decides_nothing(pages: ctypes.CDLL) -> None:
    assert tried(pages, "101001") == "111111"


def test_after_two_stalls_results_wait_longer_each_time(pages: ctypes.CDLL) -> None:
    expected = "11" + "0" * 4 + "11" + "0" * 8 + "11" + "0" * 16 + "1"
    assert tried(pages, "1" * len(expected)) == expected


def test_a_result_without_a_stall_after_the_wait_goes_on(pages: ctypes.CDLL) -> None:
    assert tried(pages, "1" * 6 + "0" * 9) == "11" + "0" * 4 + "1" * 9


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def resident_pages(address: int, length: int) -> list[bool]:
    found = (ctypes.c_ubyte * (length // PAGE))()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), found) == 0
    return [flags & 1 == 1 for flags in found]


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
def test_supplies_the_whole_pages_inside_a_block(pages: ctypes.CDLL, choice: str) -> None:
    length = 16 * MIB
    memory = anonymous_memory(length)
    if choice != "huge":
        advise(memory, MADV_NOHUGEPAGE)  # where huge pages come unasked, they would reach beyond the block
    start = address_of(memory)
    middle = 5 * MIB + 17
    memory[middle] = 7  # its page is there already
    before = resident_pages(start, length)
    begin, end = 3 * PAGE + 100, length - 2 * PAGE - 100
    pages.supply(start + begin, end - begin, choice.encode())
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
def test_refusals_of_the_kernel_are_harmless(pages: ctypes.CDLL, choice: str, length: int) -> None:
    """Memory that nobody may write, and none at all."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    read_only = libc.mmap(None, ctypes.c_size_t(4 * PAGE), mmap.PROT_READ, flags, -1, ctypes.c_long(0))
    pages.supply(read_only + 5, length, choice.encode())
    assert ctypes.string_at(read_only, 4 * PAGE) == bytes(4 * PAGE)
    pages.supply(PAGE, length, choice.encode())
