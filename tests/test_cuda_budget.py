"""The CUDA kernels compile without a warning, and within a budget of registers and spills as ptxas reports them.

``ROIALIGN_EXT_TEST_ARCHITECTURES`` names the architectures ("7.5 9.0"; "release": those that setup.py lists), as CI and
`make cuda-architectures` do. More than 128 registers leave a block of 256 threads alone on its multiprocessor.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

import cuda_shim

KERNELS = sorted((cuda_shim.ROOT / "csrc" / "cuda").glob("*.cu"))


def architectures() -> list[str]:
    """Those to compile for."""
    request = os.environ.get("ROIALIGN_EXT_TEST_ARCHITECTURES", "9.0")
    if request != "release":
        return request.split()
    listed = re.search(r"^RELEASE_ARCHITECTURES = \((.*)\)$", (cuda_shim.ROOT / "setup.py").read_text(), re.MULTILINE)
    assert listed is not None
    return re.findall(r'"([\d.]+)"', listed[1])


pytestmark = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="no CUDA compiler: kernels cannot be compiled here"
)


class Taken(NamedTuple):
    """What one kernel takes of a multiprocessor, or may take at most."""

    registers: int
    spilled_bytes: int  # stored plus loaded


# Kernels that are held to three blocks of a multiprocessor spill a few values, which stay out of their inner loops.
BUDGETS = {
    "average_pool_channels_last": Taken(128, 0),
    "average_pool_nchw": Taken(128, 0),
    "average_grad_input": Taken(108, 24),
    "average_grad_input_few_channels": Taken(96, 0),
    "box_gradient": Taken(128, 0),
    "argmax": Taken(88, 0),
    "max_pool": Taken(80, 0),
    "rotated": Taken(240, 0),  # derivatives of rotated boxes: rare, and bound by their arithmetic
    "tables": Taken(136, 0),  # coordinates of float64
    "transpose": Taken(40, 0),
}
# Other architectures have other instructions for addresses, and calling conventions.
BUDGETS_ELSEWHERE = {
    "average_pool_channels_last": Taken(128, 180),
    "average_pool_nchw": Taken(128, 0),
    "average_grad_input": Taken(128, 64),
    "average_grad_input_few_channels": Taken(128, 64),
    "box_gradient": Taken(128, 80),
    "argmax": Taken(104, 0),
    "max_pool": Taken(104, 0),
    "rotated": Taken(255, 0),  # all there are, without a spill: second derivatives in float64
    "tables": Taken(184, 0),  # taps of float64
    "transpose": Taken(64, 0),
}
REPORT = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


@pytest.mark.parametrize("architecture", architectures())
@pytest.mark.parametrize("source", KERNELS, ids=lambda path: path.stem)
def test_registers_and_spills(source: Path, architecture: str, tmp_path: Path) -> None:
    number = architecture.replace(".", "")
    command = ["nvcc", "-c", "-std=c++17", "-O3", f"-gencode=arch=compute_{number},code=sm_{number}"]
    command += ["--Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra", "-Xptxas", "-v"]
    result = subprocess.run(
        [*command, str(source), "-o", str(tmp_path / "kernels.o")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    kernels = [match.groupdict() for match in REPORT.finditer(result.stderr)]
    assert len(kernels) == result.stderr.count("Compiling entry function")
    assert bool(kernels) == (source.stem in BUDGETS)
    budgets = BUDGETS if architecture == "9.0" else BUDGETS_ELSEWHERE
    for kernel in kernels:
        taken = Taken(int(kernel["registers"]), int(kernel["stores"]) + int(kernel["loads"]))
        budget = budgets[source.stem]
        assert taken.registers <= budget.registers, (kernel["name"], taken)
        assert taken.spilled_bytes <= budget.spilled_bytes, (kernel["name"], taken)
