"""Does any number of threads give the same bits, and any instruction set the numbers of the definitions?"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import roialign_ext
from support.inputs import FORMATS, finest, formatted, large_boxes, large_map, random_tensor, requiring_grad
from support.operator_calls import OperatorCall
from support.operators import FIRST, ON_ONE_MAP, OPERATORS, each_operator
from support.tolerance import assert_within_rounding

CAPABILITIES = {"default": "DEFAULT", "avx2": "AVX2", "avx512": "AVX512"}


def many_boxes(call: OperatorCall, count: int, images: int) -> Tensor:
    """Many boxes on the same pixels of a map of 20 rows and 24 columns."""
    numbers = random_tensor(count, 4, seed=2).abs() * 5.0
    low = numbers[:, :2] * 2
    image = torch.arange(count)[:, None].double() * 5 % images
    return call.from_corners(torch.cat([image, low, low + numbers[:, 2:]], 1), 20, 24).float()


def run_everything(call: OperatorCall, features: Any, boxes: Tensor, grad: Tensor) -> list[Tensor]:
    """Forward, every gradient, and the gradients of a form of the gradients."""
    leaves, grad = call.leaves(features, boxes), grad.detach().requires_grad_()
    out, inputs = call(*leaves), requiring_grad(leaves)
    firsts = torch.autograd.grad(out, inputs, grad, create_graph=True)
    squares = [first.float().square().sum() for first in firsts]
    seconds = torch.autograd.grad(squares, [*inputs, grad], materialize_grads=True)
    return [out.detach(), *(first.detach() for first in firsts), *seconds]


def assert_same_bits(call: OperatorCall, features: Any, boxes: Tensor, threads: tuple[int, ...] = (2, 5)) -> None:
    grad = random_tensor(*call.output_shape(features, boxes), seed=3, dtype=finest(features).dtype)
    torch.set_num_threads(1)
    expected = run_everything(call, features, boxes, grad)
    for number in threads:
        torch.set_num_threads(number)
        for actual, reference in zip(run_everything(call, features, boxes, grad), expected, strict=True):
            assert torch.equal(actual, reference)


@pytest.mark.usefixtures("restore_threads")
@each_operator
@pytest.mark.parametrize(
    ("images", "channels", "count", "dtype", "layout"),
    [
        (2, 67, 40, torch.float32, FORMATS[0]),
        (1, 256, 160, torch.float32, FORMATS[1]),
        (3, 8, 900, torch.bfloat16, FORMATS[0]),
        (1, 1, 1, torch.float64, FORMATS[1]),
        (2, 33, 90, torch.float16, FORMATS[1]),
    ],
)
def test_any_number_of_threads_gives_the_same_bits(
    call: OperatorCall, images: int, channels: int, count: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    features = formatted(call.input_of(random_tensor(images, channels, 20, 24, seed=1, dtype=dtype)), layout)
    assert_same_bits(call, features, many_boxes(call, count, images))


# The other types and layouts of the two operators whose kernels differ in them most.
@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("name", ["roi_align", "roi_align-max"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", FORMATS)
def test_threads_in_other_types(name: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    features = random_tensor(2, 67, 20, 24, seed=1, dtype=dtype).contiguous(memory_format=layout)
    assert_same_bits(OPERATORS[name], features, many_boxes(OPERATORS[name], 160, 2), (2, 3, 8))


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *((name, FORMATS[0]) for name in ON_ONE_MAP if "-" not in name),
        ("roi_align", FORMATS[1]),
        ("roi_align-adaptive", FORMATS[0]),
        ("roi_align-max", FORMATS[0]),
        ("roi_align-max", FORMATS[1]),
        ("roi_warp-max", FORMATS[0]),
        ("crop_and_resize-plain", FORMATS[0]),
    ],
)
def test_threads_on_a_large_map(name: str, layout: torch.memory_format) -> None:
    call = OPERATORS[name]
    boxes = large_boxes(call, images=1).float().repeat(3, 1)
    assert_same_bits(call, large_map(torch.float32, 70 - 70 % call.groups, layout, images=1), boxes)


@pytest.mark.usefixtures("restore_threads")
def test_repeated_runs_give_the_same_bits() -> None:
    call = OPERATORS["roi_align"]
    features, boxes = random_tensor(1, 64, 20, 24, seed=1, dtype=torch.float32), call.boxes(images=1).float()
    assert_same_bits(call, features, boxes.repeat(4, 1), (4,) * 20)


Arguments = tuple[OperatorCall, Any, Tensor, Tensor]
KINDS = [
    (torch.float32, FORMATS[0], 3),
    (torch.float32, FORMATS[1], 37),
    (torch.float64, FORMATS[0], 16),
    (torch.bfloat16, FORMATS[1], 40),
    (torch.float16, FORMATS[0], 21),
]
OTHER_KINDS = [
    (torch.float32, FORMATS[0], 77),
    (torch.float32, FORMATS[1], 16),
    (torch.float64, FORMATS[1], 19),
    (torch.bfloat16, FORMATS[0], 77),
    (torch.float16, FORMATS[1], 16),
]
LOOKED_AT = [0, 1, 35, 63]
"""Channels of the large maps that have a gradient, and that the oracle pools."""


def instruction_set_cases() -> list[Arguments]:
    """Every operator in both layouts and four types, with whole vectors and remainders; large maps.

    Variants of an operator, whose loops are those of its first row, share these kinds out among them.
    """
    cases: list[Arguments] = []
    for number, (name, call) in enumerate(OPERATORS.items()):
        kinds = KINDS if name in FIRST else [KINDS[number % 5], KINDS[(number + 2) % 5]]
        for dtype, layout, channels in kinds + (OTHER_KINDS if name in ("roi_align-adaptive", "roi_align-max") else []):
            large = ("large",) if dtype == torch.float32 else ()
            box_dtype = torch.float64 if dtype == torch.float64 else torch.float32
            boxes = call.boxes("inside", "crossing", *large, dtype=box_dtype)
            features = formatted(call.input_of(random_tensor(2, channels, 7, 9, seed=1, dtype=dtype)), layout)
            grad = random_tensor(*call.output_shape(features, boxes), seed=2, dtype=dtype)
            cases.append((call, features, boxes, grad.contiguous(memory_format=layout)))
    for name in ("roi_align", "roi_align-max"):
        for layout, channels in zip(FORMATS, (70, 64), strict=True):
            call, features = OPERATORS[name], large_map(torch.float32, channels, layout, images=1)
            boxes = large_boxes(call, images=1).float()
            grad = torch.zeros(call.output_shape(features, boxes))
            grad[:, LOOKED_AT] = random_tensor(len(boxes), 4, *call.output_size, seed=4, dtype=torch.float32)
            cases.append((call, features, boxes, grad))
    return cases


def is_large(features: Any) -> bool:
    return finest(features).shape[2] >= 300


def first_order(call: OperatorCall, features: Any, boxes: Tensor, grad: Tensor) -> list[Tensor]:
    """Forward and every gradient."""
    leaves = call.leaves(features, boxes)
    out = call(*leaves)
    results = [out.detach(), *torch.autograd.grad(out, requiring_grad(leaves), grad)]
    if is_large(features):
        return [results[0][:, LOOKED_AT], results[1][:, LOOKED_AT], results[2]]
    return results


@cache
def expected_results() -> list[list[tuple[Tensor, Tensor]]]:
    """The oracle's results and the size of their terms, for every case."""
    expected = []
    for call, features, boxes, grad in instruction_set_cases():
        if is_large(features):
            features, grad = features[:, LOOKED_AT], grad[:, LOOKED_AT]
        forward = call.forward(features, boxes), call.forward_terms(features, boxes)
        expected.append([forward, *call.expected_gradients(grad, features, boxes)])
    return expected


def child(code: str, capability: str | None, *arguments: str) -> str:
    """Runs ``code`` in a process of its own with ``ATEN_CPU_CAPABILITY`` set; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    if capability is not None:
        environment["ATEN_CPU_CAPABILITY"] = capability
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


@cache
def best_capability() -> str:
    """The best instruction set that torch finds on this processor."""
    return child("import torch; print(torch.backends.cpu.get_cpu_capability())", None)


RUN = """
import sys, torch, roialign_ext, test_cpu_paths as t
torch.save([t.first_order(*case) for case in t.instruction_set_cases()], sys.argv[1])
print(roialign_ext.cpu_capability())
"""


@pytest.mark.parametrize("capability", list(CAPABILITIES))
def test_every_instruction_set(capability: str, tmp_path: Path) -> None:
    """Forced in a process of its own, it says its name, and its numbers are the definitions'."""
    order = list(CAPABILITIES.values())
    best = best_capability()
    if best not in order or order.index(best) < order.index(CAPABILITIES[capability]):
        pytest.skip(f"this processor has {best}, not {CAPABILITIES[capability]}")
    file = tmp_path / "results.pt"
    assert child(RUN, capability, str(file)) == CAPABILITIES[capability]
    results: list[list[Tensor]] = torch.load(file)
    for case, actual, expected in zip(instruction_set_cases(), results, expected_results(), strict=True):
        arithmetic = torch.float64 if finest(case[1]).dtype == torch.float64 else torch.float32
        for ours, (exact, terms) in zip(actual, expected, strict=True):
            assert_within_rounding(ours, exact, terms, arithmetic)


def test_reports_the_instruction_set_in_use() -> None:
    assert roialign_ext.cpu_capability() in CAPABILITIES.values()
    assert roialign_ext.cpu_capability() == roialign_ext._C.cpu_capability()
    if "ATEN_CPU_CAPABILITY" not in os.environ and best_capability() in CAPABILITIES.values():
        assert roialign_ext.cpu_capability() == best_capability()
