"""compute-sanitizer's tools on small cases: `python -m benchmarks.gpu.sanitizers --results FILE [--tools TOOL...]`.

Only for the kernels of this package. memcheck and racecheck, which run first, need no others, and the kernels of other
libraries are not under test.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from .smoke import FINDINGS
from .store import Store
from .tests import FILE, Watched, pytest_command, pytest_environment, together

CASES = "test_kernels_agree and ((channels_last and (34 or 160 or 5)) or 41 or 600)"
"""About twenty cases that cover every kernel and dtype."""
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
MAX_FAILURES = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=["memcheck", "racecheck"])
    parser.add_argument("--cases", default=CASES, help="which tests, as pytest's -k")
    parser.add_argument("--file", type=Path, default=FILE, help="the tests")
    options = parser.parse_args()
    if shutil.which("compute-sanitizer") is None:
        print("there is no compute-sanitizer on the PATH")
        return 1
    runs = []
    for name in options.tools:
        tool = ["compute-sanitizer", "--tool", name, "--print-limit", "20", "--error-exitcode", str(FINDINGS)]
        if name != "initcheck":  # initcheck must see all writes to the memory that the kernels read
            tool += ["--kernel-name", "kns=roialign_ext"]
        runs.append(
            Watched(
                "sanitizers",
                name,
                Store(options.results),
                [*tool, *pytest_command(options.file, options.cases, MAX_FAILURES)],
                options.file.parent,
                {**pytest_environment(), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
                FINDINGS,
            )
        )
    return int(not together(runs))


if __name__ == "__main__":
    sys.exit(main())
