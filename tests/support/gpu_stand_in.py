"""Stand-ins for the phases of benchmarks/gpu, and a run of them.

A phase: `python -m support.gpu_stand_in --results FILE BEHAVIOUR`. A run: `python -m support.gpu_stand_in run FOLDER
DEADLINE NAME[@LANE][<NEEDS]=BEHAVIOUR...`, where every phase has a box of STAND_IN_BOX seconds and a grace of a fifth.
No file grows beyond STAND_IN_FILE_SIZE bytes.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu import driver
from benchmarks.gpu.store import Store

FOREVER = 3600


def hang(results: Path) -> None:
    """Ignores the interrupt, and so does a process that it started in a group of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOREVER})"], start_new_session=True)
    Store(results).update("hangs", pids=[os.getpid(), child.pid])
    time.sleep(FOREVER)


def behave(what: str, results: Path) -> int:
    store = Store(results)
    if what == "hangs":
        hang(results)
    if what == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "no device":
        print("no GPU at all")
        return driver.NO_DEVICE
    if what == "floods":
        for i in range(5 * driver.LINES_OF_A_PHASE):
            print("line", i)
    for i in range(100 if what == "much" else 3):
        store.append(what, {"cell": i})
        print("cell", i, flush=True)
        if what == "fails" and i == 1:
            raise RuntimeError("the device is lost")
    return 0


def run(arguments: list[str]) -> int:
    folder, deadline, *described = arguments
    phases, box = [], float(os.environ["STAND_IN_BOX"])
    for description in described:
        front, what = description.split("=")
        front, _, needs = front.partition("<")
        name, _, lane = front.partition("@")
        phases.append(
            driver.Phase(
                name,
                box,
                "a stand-in",
                "support.gpu_stand_in",
                (what,),
                lane or "device",
                (),
                tuple(filter(None, [needs])),
                0.3,
            )
        )
    table = driver.Table(tuple(phases), float(deadline), grace=0.2, ending=0.2)
    if limit := os.environ.get("STAND_IN_FILE_SIZE"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    environment = {**os.environ, "COMMIT": "none"}
    return driver.start(table, Path(folder), ["nothing is missing"], environment)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.exit(run(sys.argv[2:]))
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("behaviour")
    options = parser.parse_args()
    sys.exit(behave(options.behaviour, options.results))
