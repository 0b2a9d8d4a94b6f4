"""Facts of the machine: `python -m benchmarks.gpu.facts --results FILE`. Exits with 3 if there is no GPU."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from . import environment
from .driver import NO_DEVICE
from .logs import LogFile
from .store import Store

SECONDS_OF_A_TOOL = 8
ASKED = (
    "name,driver_version,memory.total,compute_cap,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,pstate,"
    "power.draw,power.limit,temperature.gpu,persistence_mode,mig.mode.current,ecc.mode.current"
)
TOOLS = {
    "nvcc": ("nvcc", "--version"),
    "compiler": (*os.environ.get("CXX", "g++").split(), "--version"),
    "ninja": ("ninja", "--version"),
    "ncu": ("ncu", "--version"),
    "compute-sanitizer": ("compute-sanitizer", "--version"),
}


def ask(*command: str) -> str:
    """The output of a tool, or the reason why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_OF_A_TOOL)
    except FileNotFoundError:
        return "missing"
    except (OSError, subprocess.SubprocessError) as error:
        return f"no answer: {error}"
    words = (done.stdout or done.stderr).strip()
    return words if done.returncode == 0 else f"failed with {done.returncode}: {words[-300:]}"


def version(words: str) -> str:
    """The line with the version."""
    lines = words.splitlines()
    return next((line.strip() for line in lines if "release" in line or "ersion" in line), lines[0] if lines else "")


def memory() -> str:
    try:
        return Path("/proc/meminfo").read_text().splitlines()[0].split(":")[1].strip()
    except OSError:
        return "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    store = Store(parser.parse_args().results)

    def note(**facts: object) -> None:
        for name, fact in facts.items():
            print(f"{name}: {fact}", flush=True)
        store.update("facts", **facts)

    note(versions=environment.versions(), commit=os.environ.get("COMMIT", "unknown"))
    values = ask("nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader,nounits")
    # An older driver lacks some of these names; the list of GPUs needs no names.
    note(nvidia_smi=values if "failed" not in values else ask("nvidia-smi", "-L"))
    LogFile("nvidia-smi.txt")(ask("nvidia-smi", "-q"))
    note(tools={name: version(ask(*command)) for name, command in TOOLS.items()})
    headers = environment.headers()
    note(
        python_h="missing" if headers is None else str(headers / "Python.h"),
        interpreter=sys.executable,
        platform=f"{platform.platform()}, {sysconfig.get_platform()}",
        cores=len(os.sched_getaffinity(0)),
        memory=memory(),
        free_disk_gb=round(shutil.disk_usage(environment.ROOT).free / 1e9, 1),
    )
    try:
        from .device import NoDeviceError, open_device
    except ImportError as error:
        print(f"torch cannot be imported ({error})", flush=True)
        return NO_DEVICE
    try:
        device = open_device()
    except NoDeviceError as reason:
        store.update("facts", no_device=str(reason))
        print(reason, flush=True)
        return NO_DEVICE
    note(device=device.describe(), clocks=device.clocks())
    device.warm_up()
    note(warm_clocks=device.clocks())
    return 0


if __name__ == "__main__":
    sys.exit(main())
