"""Fixtures for tests of benchmarks/gpu: a machine whose tools and devices are stand-ins, the path to the modules."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from support.gpu_phases import LATE, ROOT, Tool


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a child that finds the benchmarks, the stand-ins and, first of all, the tools in a folder."""
    tools = tmp_path / "tools"
    tools.mkdir()
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "BENCHMARK_WORK": str(tmp_path / "work"),
        "BENCHMARK_DEVICE": "support.fake_device:Fake",
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "STAND_IN_BOX": str(LATE),
        "PATH": os.pathsep.join([str(tools), os.environ["PATH"]]),
    }


@pytest.fixture
def tool(tmp_path: Path, environment: dict[str, str]) -> Tool:
    """Puts a script under a tool's name in front of the real one."""

    def write(name: str, script: str) -> None:
        file = tmp_path / "tools" / name
        file.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{script}\n")
        file.chmod(0o755)

    return write


@pytest.fixture
def module(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ModuleType]]:
    """A module of benchmarks.gpu in this process, with the variables of a child."""
    for name in ("BENCHMARK_WORK", "BENCHMARK_DEVICE", "PATH"):
        monkeypatch.setenv(name, environment[name])
    for path in (ROOT / "tests", ROOT):
        monkeypatch.syspath_prepend(path)
    before = {name for name in sys.modules if name.startswith("benchmarks.gpu")}
    for name in before:
        del sys.modules[name]  # they read their variables when they are imported
    yield lambda name: importlib.import_module(f"benchmarks.gpu.{name}")
    for name in [name for name in sys.modules if name.startswith("benchmarks.gpu")]:
        del sys.modules[name]


@pytest.fixture
def path_to_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the benchmarks importable; a copy without them has none to test."""
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("the benchmarks are not part of this copy")
    monkeypatch.syspath_prepend(ROOT)
