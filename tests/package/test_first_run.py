"""Does the command for a GPU work, or say what is missing, on a machine without one?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.gpu_phases import LATE, Tool, document, states

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of this copy")


def test_the_command_without_a_gpu(environment: dict[str, str], tmp_path: Path, tool: Tool) -> None:
    """To its end, from another folder, saying so; and its plan."""
    (tmp_path / "no_device.py").write_text(
        "from benchmarks.gpu.device import NoDeviceError\n\n\ndef none():\n    raise NoDeviceError('nothing there')\n"
    )
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    environment |= {"BENCHMARK_DEVICE": "no_device:none", "PYTHON": sys.executable}
    tool("nvidia-smi", "sys.exit('NVIDIA-SMI has failed')")
    script = ROOT / "benchmarks" / "gpu" / "first_run.sh"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(script), *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=LATE)

    done = run("out")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "There is no GPU here, so nothing was measured: nothing there." in done.stdout
    assert set(states(tmp_path / "out").values()) == {"no device", "skipped"}
    facts = document(tmp_path / "out")["facts"]
    assert facts["nvidia_smi"].startswith("failed with 1")
    assert facts["versions"]["python"] == sys.version.split()[0]
    plan = run("--dry-run")
    assert plan.returncode == 0
    assert "sanitizers" in plan.stdout
    assert run().returncode == 2
    environment["PYTHON"] = "no-such-python"
    assert "there is no no-such-python: set PYTHON" in run("out").stdout


def test_what_is_missing_is_said(module: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: Any) -> None:
    found = module("environment")
    monkeypatch.setattr(found, "search_path", lambda: str(tmp_path / "tools"))
    monkeypatch.setattr(found, "headers", lambda: Path("/elsewhere/include"))
    monkeypatch.setattr(found, "versions", lambda: {**dict.fromkeys(found.PACKAGES, "1.0"), "setuptools": "68.1.2"})
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5 8.0 9.0")
    shutil.copy(shutil.which("true") or "/bin/true", tmp_path / "tools" / "clang++")
    setting = found.prepare()
    message = "\n".join(setting.sentences)
    assert "setuptools is 68.1.2, older than 77: it does here" in message
    assert "ninja is missing" in message
    assert setting.slow_build
    assert "g++ is missing: clang++ compiles" in message
    assert "that of /elsewhere/include is used" in message
    assert setting.variables["CXX"] == "clang++"
    assert setting.variables["CPATH"].startswith("/elsewhere/include")
    assert "TORCH_CUDA_ARCH_LIST" not in setting.variables
    assert "ncu, compute-sanitizer, nvidia-smi: missing, so there are no profile, sanitizers, clocks" in message
    monkeypatch.setattr(found, "versions", lambda: dict.fromkeys(found.PACKAGES, "missing"))
    monkeypatch.setattr(found, "headers", lambda: None)
    assert len(found.prepare().sentences) == 9  # everything, within the first ten lines
