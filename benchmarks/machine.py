"""Machine and process of a measurement: their setup, and their description for every result."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torchvision

ALLOCATION = {
    "stock": "default malloc: glibc maps a large result anew on every call, which causes page faults",
    "recycled": "malloc keeps freed memory: large results reuse pages that are already mapped",
}
# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
# Memory that the recycled regime maps beforehand: more than any case holds at once, at most a quarter of the memory.
_MAPPED_BEFOREHAND = 4 << 30

_CPU_FLAGS = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "asimd", "asimdhp", "asimddp", "bf16", "sve", "sve2")
_CPU_FLAG_PREFIXES = ("avx512", "amx")


def set_allocation(regime: str) -> None:
    """Sets the regime of allocation for large results in this process. Call it before any allocation.

    `recycled` forbids malloc to map memory for a single request, and to return the end of the heap. A larger mmap
    threshold would do the same, but older versions of glibc limit the threshold. `recycled` then writes to a large
    block and frees it. Small blocks split the holes that large blocks leave. Without this reserve the heap would
    therefore still grow in the first calls of each case, and cause page faults."""
    if regime == "stock":
        return
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is None or not (mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1)):
        raise SystemExit("--allocation recycled needs glibc's mallopt; this C library lacks it: use --allocation stock")
    size = ctypes.c_size_t(min(_MAPPED_BEFOREHAND, _memory_bytes() // 4))
    libc.malloc.restype = ctypes.c_void_p
    block = ctypes.c_void_p(libc.malloc(size))
    if not block:
        raise SystemExit(f"--allocation recycled found no {size.value >> 20} MiB to map beforehand")
    ctypes.memset(block, 1, size.value)
    libc.free(block)


class Flusher:
    """Evicts the caches by writing a buffer four times the size of the largest one."""

    def __init__(self) -> None:
        largest = max((cache["bytes"] for cache in _caches()), default=64 << 20)
        self._buffer = torch.zeros(largest, dtype=torch.float32)

    def __call__(self) -> None:
        self._buffer.add_(1.0)


class OtherLoad:
    """Share of processor time that other processes took since creation: 0 on a quiet machine, None outside Linux."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Seconds: busy time of all cores (stolen time included), time of this process, wall clock."""
        stat = Path("/proc/stat")
        if not stat.exists():
            return None
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return busy, time.process_time(), time.monotonic()

    def share(self) -> float | None:
        now = self._now()
        if self._start is None or now is None:
            return None
        busy, own, wall = (after - before for after, before in zip(now, self._start, strict=True))
        return round(max(0.0, busy - own) / (wall * (os.cpu_count() or 1)), 3)


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n", 1)[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _huge_pages(question: str) -> str | None:
    """A setting of the operating system for huge pages: `enabled` (who gets them) or `defrag` (who waits for them)."""
    path = Path("/sys/kernel/mm/transparent_hugepage") / question
    chosen = re.search(r"\[(\w+)\]", path.read_text()) if path.exists() else None
    return chosen[1] if chosen else None


def _caches() -> list[dict[str, Any]]:
    """Caches of the first core, as reported by the kernel."""
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        size = (index / "size").read_text().strip()
        caches.append(
            {
                "level": int((index / "level").read_text()),
                "type": (index / "type").read_text().strip(),
                "bytes": int(size.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}[size[-1]],
                "shared_by_cores": (index / "shared_cpu_list").read_text().strip(),
            }
        )
    return caches


def describe_cpu() -> dict[str, Any]:
    info = _cpuinfo()
    flags = info.get("flags", info.get("Features", "")).split()
    return {
        "model": info.get("model name", platform.processor() or platform.machine()),
        "architecture": platform.machine(),
        "family_model_stepping": [info[key] for key in ("cpu family", "model", "stepping") if key in info],
        "cores": os.cpu_count(),
        "vector_flags": sorted(flag for flag in flags if flag in _CPU_FLAGS or flag.startswith(_CPU_FLAG_PREFIXES)),
        "caches": _caches(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "transparent_huge_pages": {question: _huge_pages(question) for question in ("enabled", "defrag")},
    }


def describe_software(with_ours: bool) -> dict[str, Any]:
    software = {
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
    }
    if with_ours:
        import roialign_ext
        from roialign_ext import _build_info

        software["roialign_ext"] = roialign_ext.__version__
        software["roialign_ext_capability"] = roialign_ext.cpu_capability()
        software["roialign_ext_compiler"] = _build_info.COMPILER
    return software


def describe(with_ours: bool) -> dict[str, Any]:
    return {"cpu": describe_cpu(), "software": describe_software(with_ours)}


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
