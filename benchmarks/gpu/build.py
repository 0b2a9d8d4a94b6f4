"""Builds the module for the GPU of this machine: `python -m benchmarks.gpu.build --results FILE`.

Builds a copy of the sources without pyproject.toml, so that neither pip nor a particular setuptools is needed. Objects
and ninja's file go to `environment.OBJECTS`, the package to `environment.SITE`, which is on the path of every phase.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .environment import OBJECTS, ROOT, SITE, WORK
from .logs import LogFile
from .store import Store

SOURCES = WORK / "sources"


def cores() -> int:
    return len(os.sched_getaffinity(0))


def copy_sources() -> None:
    for folder in (SOURCES, SITE, OBJECTS):
        shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "_build_info.py")
    for name in ("csrc", "roialign_ext"):
        shutil.copytree(ROOT / name, SOURCES / name, ignore=ignored)
    shutil.copytree(ROOT / "roialign_ext", SITE / "roialign_ext", ignore=ignored)
    shutil.copy(ROOT / "setup.py", SOURCES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    store = Store(parser.parse_args().results)
    started = time.monotonic()
    copy_sources()
    # Two cores stay free for the measurements that run meanwhile.
    variables = {"FORCE_CUDA": "1", "MAX_JOBS": os.environ.get("MAX_JOBS", str(max(1, cores() - 2)))}
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(SITE), "--build-temp", str(OBJECTS)]
    done = lines(command, SOURCES, "build", variables)
    if done == 0:
        done = lines([sys.executable, "-m", "roialign_ext"], WORK, "environment", {})
    seconds = round(time.monotonic() - started, 1)
    store.update("build", seconds=seconds, status=done)
    print(f"built and imported in {seconds} s" if done == 0 else f"failed after {seconds} s, see log/build.txt")
    return done


def lines(command: list[str], folder: Path, name: str, variables: dict[str, str]) -> int:
    """Runs a command. Its output goes to a log of that name; the lines that matter are printed."""
    log = LogFile(f"{name}.txt")
    environment = {**os.environ, **variables}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log(line.rstrip())
            if "roialign_ext:" in line or "error" in line.lower() or name == "environment":
                print(line.rstrip(), flush=True)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
