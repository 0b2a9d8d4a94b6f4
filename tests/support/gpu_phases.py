"""Phases of benchmarks/gpu in tests: how long they may take, a call in this process, and the document of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LATE = 60
"""Seconds after which a stand-in that should have been ended has not been."""
Tool = Callable[[str, str], None]


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
