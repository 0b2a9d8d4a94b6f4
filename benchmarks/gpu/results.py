"""Result files: written whole or not at all, with what they were measured on."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch


def write(path: Path, results: object) -> None:
    """Replaces the file in one step, so that a process that is killed leaves the one before."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(results, indent=1) + "\n")
    unfinished.replace(path)


def ask_driver(names: str) -> str:
    """What nvidia-smi says of the first GPU."""
    command = ["nvidia-smi", f"--query-gpu={names}", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown, {type(error).__name__} of nvidia-smi"


def clocks() -> str:
    return ask_driver("clocks.sm,clocks.mem,pstate,temperature.gpu,power.draw")


def environment() -> dict[str, str]:
    """The device, versions, date and commit (of the variable COMMIT, which run_all.sh sets)."""
    import torchvision

    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "multiprocessors": str(properties.multi_processor_count),
        "driver": ask_driver("driver_version"),
        "cuda": str(torch.version.cuda),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": os.environ.get("COMMIT", "unknown"),
    }
