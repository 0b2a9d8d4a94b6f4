"""Memory requests of kernels in a counted build (``cuda_shim``), launch by launch, and how lanes of a warp meet.

A request is one instruction of a warp. Sectors have 32 bytes, lines 128; a wavefront is one pass
of shared memory. Spaces: ``maps`` and ``bins`` are the features of a launch, ``tables`` all other memory of the device.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from support.cuda_sass import without_parameters


class Requests(NamedTuple):
    """Totals of some accesses, scaled to all blocks of the launch."""

    requests: float = 0
    lanes: float = 0
    bytes: float = 0
    sectors: float = 0
    lines: float = 0
    wavefronts: float = 0


@dataclass(frozen=True)
class Launch:
    """One launch. Counts are instructions of warps, in all blocks."""

    kernel: str  # with its template arguments
    blocks: int
    counted_blocks: int
    threads: int
    barriers: float
    syncs: float
    votes: float
    shuffles: float
    distinct_sectors: dict[str, float]  # each is counted once per block that reads it
    sites: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The kernel without template arguments."""
        return self.kernel.split("<")[0]

    @property
    def scale(self) -> float:
        return self.blocks / self.counted_blocks

    def requests(self, *spaces: str, write: bool) -> Requests:
        """Requests to the spaces, over all places in the program."""
        chosen = [site for site in self.sites if site["space"] in spaces and site["write"] == write]
        values = [sum(site[field] for site in chosen) for field in ("requests", "lanes", "sectors", "lines")]
        moved = sum(site["lanes"] * site["bytes"] for site in chosen)
        wavefronts = sum(site["wavefronts"] for site in chosen)
        requests, lanes, sectors, lines = (value * self.scale for value in values)
        return Requests(requests, lanes, moved * self.scale, sectors, lines, wavefronts * self.scale)


# Headers whose functions are counted at the line that calls them.
SHARED = ("cuda_runtime.h", "portable.cuh", "axis_bands.cuh", "axis_tables.cuh")


class Counter:
    """A library of a counted build."""

    def __init__(self, library: Path) -> None:
        self.path = library
        self.library = ctypes.CDLL(str(library))
        self.library.shim_counts.restype = ctypes.c_char_p
        listed = subprocess.run(["nm", "--demangle", str(library)], capture_output=True, text=True, check=True).stdout
        symbols = (line.split(" ", 2) for line in listed.splitlines() if not line.startswith(" "))
        self._names = {int(place, 16): name for place, kind, name in symbols if kind.lower() in "tw"}

    def launches(self, run: Callable[[], object], max_blocks: int = 1 << 40) -> list[Launch]:
        """The launches of ``run``; of each, at most ``max_blocks`` blocks spread over the launch are counted."""
        self.library.shim_count(ctypes.c_int64(max_blocks))
        run()
        result = []
        for launch in json.loads(self.library.shim_counts()):
            scale = launch["blocks"] / launch["counted_blocks"]
            numbers = {name: launch[name] * scale for name in ("barriers", "syncs", "votes", "shuffles")}
            distinct = {space: sectors * scale for space, sectors in launch["distinct_sectors"].items()}
            fixed = {name: launch[name] for name in ("blocks", "counted_blocks", "threads", "sites")}
            result.append(
                Launch(without_parameters(self._names[launch["kernel"]]), **fixed, **numbers, distinct_sectors=distinct)
            )
        return result

    def lines(self, launch: Launch) -> Iterable[tuple[str, dict[str, Any]]]:
        """The sites of a launch, each with its line in the kernel's own file."""
        places = [hex(site["place"] - 1) for site in launch.sites]
        command = ["addr2line", "--inlines", "--addresses", f"--exe={self.path}", *places]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for site, frames in zip(launch.sites, re.split(r"^0x\w+\n", text, flags=re.MULTILINE)[1:], strict=True):
            files = [frame.split(" (")[0].rsplit("/", 1)[-1] for frame in frames.splitlines()]
            own = [file for file in files if not file.startswith(SHARED)]
            yield (own or files)[0], site
