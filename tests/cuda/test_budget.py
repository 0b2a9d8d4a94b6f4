"""The CUDA kernels compile without a warning, within budgets of registers, spills and instructions.

``ROIALIGN_EXT_TEST_ARCHITECTURES`` names the architectures ("7.5 9.0"; "release": those that setup.py lists), as CI and
`make cuda-architectures` do. With more than 128 registers only one block of 256 threads fits a multiprocessor.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from support import cuda_sass, cuda_shim
from support.cuda_sass import Kernel, Loop

KERNELS = sorted((cuda_shim.ROOT / "csrc" / "cuda").glob("*.cu"))


def architectures() -> list[str]:
    """The architectures to compile for."""
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
    """Resources of one kernel, or their budget."""

    registers: int
    spilled_bytes: int  # stored plus loaded


# Kernels with a minimum of three blocks per multiprocessor spill a few values outside of their inner loops.
BUDGETS = {
    "average_pool_channels_last": Taken(128, 0),
    "average_pool_nchw": Taken(128, 0),
    "average_grad_input": Taken(108, 24),
    "average_grad_input_few_channels": Taken(96, 0),
    "average_grad_boxes": Taken(128, 0),
    "argmax_grad_boxes": Taken(80, 0),
    "argmax_grad_input": Taken(88, 0),
    "argmax_pool": Taken(48, 0),
    "max_pool": Taken(80, 0),
    # Derivatives of rotated boxes are rare, and limited by arithmetic.
    "rotated_boxes": Taken(64, 0),  # the logarithm of a level, in float64
    "rotated_grad_boxes": Taken(240, 0),
    "rotated_grad_input": Taken(216, 0),
    "rotated_pool": Taken(200, 0),
    "axis_samples": Taken(112, 0),  # coordinates of float64
    "axis_tables": Taken(144, 0),  # coordinates of float64
    "transpose": Taken(40, 0),
}
# Other architectures differ in address instructions and calling conventions.
BUDGETS_ELSEWHERE = {
    "average_pool_channels_last": Taken(128, 180),
    "average_pool_nchw": Taken(128, 0),
    "average_grad_input": Taken(128, 64),
    "average_grad_input_few_channels": Taken(128, 64),
    "average_grad_boxes": Taken(128, 80),
    "argmax_grad_boxes": Taken(104, 0),
    "argmax_grad_input": Taken(104, 0),
    "argmax_pool": Taken(104, 0),
    "max_pool": Taken(104, 0),
    "rotated_boxes": Taken(255, 48),  # spills around calls
    "rotated_grad_boxes": Taken(255, 0),  # 255 is the maximum: second derivatives in float64
    "rotated_grad_input": Taken(255, 0),
    "rotated_pool": Taken(255, 0),
    "axis_samples": Taken(184, 0),
    "axis_tables": Taken(192, 0),  # taps of float64
    "transpose": Taken(64, 0),
}
# Innermost loops around loads of features on 9.0, by file and kernel: the most instructions, and the most loads, of any
# loop. Rare types are left out.
LOOPS = {
    "argmax_grad_boxes": {"argmax_grad_boxes": Loop(442, 9)},
    "argmax_grad_input": {"argmax_grad_input": Loop(260, 1)},
    "average_grad_input": {
        "average_grad_input_channels_last": Loop(118, 4),
        "average_grad_input_nchw": Loop(118, 4),
    },
    "average_grad_input_few_channels": {"average_grad_input_few_channels": Loop(455, 16)},
    "average_pool_channels_last": {"average_pool_channels_last": Loop(125, 4)},
    "average_pool_nchw": {"average_pool_nchw": Loop(101, 16)},
    "average_grad_boxes": {
        "average_grad_boxes_channels_last": Loop(680, 8),
        "average_grad_boxes_nchw": Loop(279, 8),
    },
    "max_pool": {"max_pool": Loop(249, 16)},
    "rotated_grad_boxes": {"rotated_grad_boxes": Loop(1850, 24)},
    "rotated_grad_input": {
        "rotated_grad_input_channels_last": Loop(334, 48),
        "rotated_grad_input_nchw": Loop(2006, 192),
    },
    "rotated_pool": {"rotated_pool": Loop(527, 48)},
    "transpose": {"transpose_channels": Loop(211, 4)},
}


class Compiled(NamedTuple):
    """A file of kernels: the report of ptxas on each, and the device code for all architectures."""

    source: Path
    kernels: list[Kernel]
    target: Path


# In a run of several processes, one of them has all tests of a file, which would wait for its compilation.
@pytest.fixture(
    scope="module",
    params=[pytest.param(path, id=path.stem, marks=pytest.mark.xdist_group(f"nvcc {path.stem}")) for path in KERNELS],
)
def compiled(request: pytest.FixtureRequest) -> Compiled:
    """Compiles every file once."""
    target, kernels = cuda_sass.compile_kernels(request.param, architectures())
    return Compiled(request.param, kernels, target)


def test_registers_and_spills(compiled: Compiled) -> None:
    assert bool(compiled.kernels) == (compiled.source.stem in BUDGETS)
    assert len({kernel.architecture for kernel in compiled.kernels}) == (
        len(architectures()) if compiled.kernels else 0
    )
    exceeded = []
    for kernel in compiled.kernels:
        budget = (BUDGETS if kernel.architecture == "90" else BUDGETS_ELSEWHERE)[compiled.source.stem]
        if kernel.registers > budget.registers or kernel.spilled_bytes > budget.spilled_bytes:
            exceeded.append(f"{kernel}: the budget is {budget}")
    assert not exceeded, "\n".join(exceeded)


def test_instructions_of_inner_loops(compiled: Compiled) -> None:
    """Every kernel that loads features in a loop has a budget."""
    tool = cuda_sass.cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump, neither beside nvcc nor in a package of Triton: instructions cannot be counted here")
    if "9.0" not in architectures():
        pytest.skip("the budget is that of 9.0, which is not among the architectures to compile for")
    wanted = [kernel for kernel in compiled.kernels if kernel.architecture == "90"]
    wanted = [kernel for kernel in wanted if not cuda_sass.RARE.search(kernel.name)]
    budgets, largest = LOOPS.get(compiled.source.stem, {}), {}
    for kernel, loops in cuda_sass.loops_of_kernels(tool, compiled.target, wanted):
        if loops:
            name = kernel.name.partition("<")[0]
            largest[name] = Loop(*map(max, zip(largest.get(name, Loop(0, 0)), *loops, strict=True)))
    assert sorted(largest) == sorted(budgets), f"every kernel has a row, and no other: {largest}"
    exceeded = [
        f"{name}: {loop}, the budget is {budgets[name]}"
        for name, loop in largest.items()
        if loop.instructions > budgets[name].instructions or loop.loads > budgets[name].loads
    ]
    assert not exceeded, "\n".join(exceeded)
