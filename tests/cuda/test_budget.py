"""The CUDA kernels of the installed library are within budgets of registers, local memory and instructions.

All architectures that the package was built for are looked at: those of a release in CI and `make cuda-architectures`.
With more than 128 registers only one block of 256 threads fits a multiprocessor.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from roialign_ext import _build_info, _environment
from support import cuda_sass, cuda_shim
from support.cuda_sass import Kernel, Loop

FILES = sorted(path.stem for path in (cuda_shim.ROOT / "csrc" / "cuda").glob("*.cu"))
TOOL = cuda_sass.cuobjdump() or ""

pytestmark = [
    pytest.mark.budgets,
    pytest.mark.skipif(not _build_info.CUDA, reason="this build has no CUDA kernels"),
    pytest.mark.skipif(not TOOL, reason="no cuobjdump, neither beside nvcc nor in a package of Triton"),
]
each_file = pytest.mark.parametrize("file", FILES)


class Taken(NamedTuple):
    """Resources of one kernel, or their budget."""

    registers: int
    stack_bytes: int


# Kernels with a minimum of three blocks per multiprocessor spill a few values outside of their inner loops.
BUDGETS = {
    "average_pool_channels_last": Taken(128, 0),
    "average_pool_nchw": Taken(128, 0),
    "average_grad_input": Taken(108, 8),
    "average_grad_input_few_channels": Taken(96, 0),
    "average_grad_boxes": Taken(128, 0),
    "argmax_grad_boxes": Taken(80, 0),
    "argmax_grad_input": Taken(88, 0),
    "argmax_pool": Taken(48, 0),
    "max_pool": Taken(80, 0),
    # Derivatives of rotated boxes are rare, and limited by arithmetic.
    "rotated_boxes": Taken(64, 40),  # the logarithm of a level, in float64
    "rotated_grad_boxes": Taken(240, 0),
    "rotated_grad_input": Taken(216, 0),
    "rotated_pool": Taken(200, 0),
    "axis_samples": Taken(112, 0),  # coordinates of float64
    "axis_tables": Taken(144, 0),  # coordinates of float64
    "transpose": Taken(40, 0),
}
# Other architectures differ in address instructions and calling conventions.
BUDGETS_ELSEWHERE = {
    "average_pool_channels_last": Taken(128, 40),
    "average_pool_nchw": Taken(128, 0),
    "average_grad_input": Taken(128, 16),
    "average_grad_input_few_channels": Taken(128, 0),
    "average_grad_boxes": Taken(128, 0),
    "argmax_grad_boxes": Taken(104, 0),
    "argmax_grad_input": Taken(104, 0),
    "argmax_pool": Taken(104, 0),
    "max_pool": Taken(104, 0),
    "rotated_boxes": Taken(255, 64),  # frames of calls
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


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    """Those of the library."""
    return cuda_sass.kernels_of(TOOL, _environment.library("cuda"))


@each_file
def test_registers_and_spills(kernels: list[Kernel], file: str) -> None:
    built = [kernel for kernel in kernels if kernel.file == file]
    expected = re.findall(r"(\d+)\.(\d+\w?)", _build_info.CUDA_ARCHITECTURES) if file in BUDGETS else []
    assert {kernel.architecture for kernel in built} == {"".join(numbers) for numbers in expected}
    exceeded = []
    for kernel in built:
        budget = (BUDGETS if kernel.architecture == "90" else BUDGETS_ELSEWHERE)[file]
        if kernel.registers > budget.registers or kernel.stack_bytes > budget.stack_bytes:
            exceeded.append(f"{kernel}: the budget is {budget}")
    assert not exceeded, "\n".join(exceeded)


@pytest.fixture(scope="module")
def loops_of_each(kernels: list[Kernel]) -> list[tuple[Kernel, list[Loop]]]:
    """The kernels for 9.0 of common types, with their loops."""
    if "9.0" not in _build_info.CUDA_ARCHITECTURES:
        pytest.skip(f"the budget is that of 9.0, and this build is for {_build_info.CUDA_ARCHITECTURES}")
    common = [kernel for kernel in kernels if kernel.architecture == "90" and not cuda_sass.RARE.search(kernel.name)]
    return list(cuda_sass.loops_of_kernels(TOOL, _environment.library("cuda"), common))


@each_file
def test_instructions_of_inner_loops(loops_of_each: list[tuple[Kernel, list[Loop]]], file: str) -> None:
    """Every kernel that loads features in a loop has a budget."""
    budgets, largest = LOOPS.get(file, {}), {}
    for kernel, loops in loops_of_each:
        if loops and kernel.file == file:
            name = kernel.name.partition("<")[0]
            largest[name] = Loop(*map(max, zip(largest.get(name, Loop(0, 0)), *loops, strict=True)))
    assert sorted(largest) == sorted(budgets), f"every kernel has a row, and no other: {largest}"
    exceeded = [
        f"{name}: {loop}, the budget is {budgets[name]}"
        for name, loop in largest.items()
        if loop.instructions > budgets[name].instructions or loop.loads > budgets[name].loads
    ]
    assert not exceeded, "\n".join(exceeded)
