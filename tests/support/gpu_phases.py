"""Phases of benchmarks/gpu in tests: a call in this process, programs beside them, the document of a run, its cells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LATE = 60
"""Seconds after which a stand-in that should have been ended has not been."""
Tool = Callable[[str, str], None]
Document = dict[str, Any]
RATES = {"copy": 4000.0, "fill": 3000.0, "cached_read": 5000.0, "multiply_adds": 30000.0}
"""Invented rates of the limits."""


def call(module: ModuleType, *arguments: object) -> int:
    """A phase's `main`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        return int(module.main())


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def states(folder: Path) -> dict[str, str]:
    return {cell["phase"]: cell["state"] for cell in document(folder)["run"]["cells"]}


def cell(dtype: str, us: float, direction: str = "forward", **more: Any) -> dict[str, Any]:
    """A measured cell of ``us`` microseconds."""
    name = {"workload": "D", "direction": direction, "dtype": dtype, "layout": "NCHW", "call": "kernel"}
    return {**name, "us": us, "p25": us, "p75": us, "min": us, "n": 30, **more}


def python(program: str, **variables: str) -> str:
    """The output of a program that imports the benchmarks, and the installed package before its sources."""
    path = os.pathsep.join(filter(None, [*sys.path[1:], str(ROOT)]))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
