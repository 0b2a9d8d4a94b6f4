"""The operators beside ``roi_align``: any number of threads gives the same bits, any instruction set the numbers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import assert_within_rounding, random_tensor
from family import FAMILY, WITH_BOX_GRADIENT, CropCall, Family, RotatedCall, boxes_for, output_of
from roialign_ext import multiscale_roi_align
from test_cpu_paths import CAPABILITIES, best_capability, child
from test_family_forward import FORMATS, large_boxes, large_map


def many_boxes(call: Family, count: int, images: int) -> Tensor:
    """Many boxes on the same pixels of a map of 20 rows and 24 columns."""
    numbers = random_tensor(count, 5, seed=2).abs() * 5.0
    low, size = numbers[:, :2] * 2, numbers[:, 2:4]
    if isinstance(call, RotatedCall):
        columns = torch.cat([low + 3.0, size, numbers[:, 4:] * 30.0], 1)
    else:
        columns = torch.cat([low, low + size], 1) / (20.0 if isinstance(call, CropCall) else 1.0)
    return torch.cat([torch.arange(count)[:, None].double() * 5 % images, columns], 1).float()


def run_everything(call: Any, features: list[Tensor], boxes: Tensor, grad: Tensor, by_boxes: bool) -> list[Tensor]:
    """Forward, the gradients, and the gradients of a form of the gradients."""
    leaves = [level.detach().requires_grad_() for level in features]
    boxes, grad = boxes.detach().requires_grad_(by_boxes), grad.detach().requires_grad_()
    out = call(leaves if len(leaves) > 1 else leaves[0], boxes)
    wanted = [*leaves, boxes] if by_boxes else leaves
    firsts = torch.autograd.grad(out, wanted, grad, create_graph=True)
    squares = [first.float().square().sum() for first in firsts]
    seconds = torch.autograd.grad(squares, [*wanted, grad], allow_unused=True)
    return [out.detach(), *(first.detach() for first in firsts), *(second for second in seconds if second is not None)]


def assert_same_bits(call: Any, features: list[Tensor], boxes: Tensor, grad: Tensor, by_boxes: bool) -> None:
    torch.set_num_threads(1)
    expected = run_everything(call, features, boxes, grad, by_boxes)
    for threads in (2, 5):
        torch.set_num_threads(threads)
        for actual, one in zip(run_everything(call, features, boxes, grad, by_boxes), expected, strict=True):
            assert torch.equal(actual, one)


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("name", list(FAMILY))
@pytest.mark.parametrize(
    ("images", "channels", "count", "dtype", "layout"),
    [
        (2, 67, 40, torch.float32, 0),
        (1, 256, 160, torch.float32, 1),
        (3, 8, 900, torch.bfloat16, 0),
        (1, 1, 1, torch.float64, 1),
        (2, 33, 90, torch.float16, 1),
    ],
)
def test_any_number_of_threads_gives_the_same_bits(
    name: str, images: int, channels: int, count: int, dtype: torch.dtype, layout: int
) -> None:
    call = FAMILY[name]
    features = random_tensor(images, channels, 20, 24, seed=1, dtype=dtype).contiguous(memory_format=FORMATS[layout])
    boxes = many_boxes(call, count, images)
    grad = random_tensor(*output_of(call, features, boxes), seed=3, dtype=dtype)
    assert_same_bits(call, [features], boxes, grad, name in WITH_BOX_GRADIENT)


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("name", ["prroi_pool", "roi_warp", "roi_warp_max", "roi_pool", "crop_extrapolated", "rotated"])
def test_threads_on_a_large_map(name: str) -> None:
    call, features = FAMILY[name], large_map(torch.float32, 70, FORMATS[0], images=1)
    boxes = large_boxes(call, images=1).float().repeat(3, 1)
    grad = random_tensor(*output_of(call, features, boxes), seed=3, dtype=torch.float32)
    assert_same_bits(call, [features], boxes, grad, name in WITH_BOX_GRADIENT)


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("layout", FORMATS)
def test_threads_on_a_pyramid(mode: str, layout: torch.memory_format) -> None:
    features = [
        random_tensor(2, 67, 80 >> level, 96 >> level, seed=level, dtype=torch.float32).contiguous(memory_format=layout)
        for level in range(3)
    ]
    boxes = many_boxes(FAMILY["prroi_pool"], 200, 2)
    boxes[:, 1:] *= 16.0

    def call(levels: list[Tensor], rows: Tensor) -> Tensor:
        return multiscale_roi_align(levels, rows, (3, 2), [0.25, 0.125, 0.0625], 2, True, mode, 80.0)

    assert_same_bits(call, features, boxes, random_tensor(200, 67, 3, 2, seed=3, dtype=torch.float32), True)


def instruction_set_cases() -> list[tuple[str, Tensor, Tensor, Tensor]]:
    """What every instruction set is put through: all operators, both layouts, four dtypes, vectors and remainders."""
    kinds = (
        (torch.float32, FORMATS[0], 3),
        (torch.float32, FORMATS[1], 37),
        (torch.float64, FORMATS[0], 16),
        (torch.bfloat16, FORMATS[1], 40),
        (torch.float16, FORMATS[0], 21),
    )
    cases = []
    for name, call in FAMILY.items():
        for dtype, layout, channels in kinds:
            large = ("large",) if dtype == torch.float32 else ()
            box_dtype = torch.float64 if dtype == torch.float64 else torch.float32
            boxes = boxes_for(call, "inside", "crossing", *large, dtype=box_dtype)
            features = random_tensor(2, channels, 7, 9, seed=1, dtype=dtype).contiguous(memory_format=layout)
            grad = random_tensor(*output_of(call, features, boxes), seed=2, dtype=dtype)
            cases.append((name, features, boxes, grad.contiguous(memory_format=layout)))
    return cases


def first_order(name: str, features: Tensor, boxes: Tensor, grad: Tensor) -> list[Tensor]:
    leaves = [features.detach().requires_grad_(), boxes.detach().requires_grad_(name in WITH_BOX_GRADIENT)]
    out = FAMILY[name](*leaves)
    return [out.detach(), *torch.autograd.grad(out, [leaf for leaf in leaves if leaf.requires_grad], grad)]


@cache
def expected_results() -> list[list[tuple[Tensor, Tensor]]]:
    """The oracle's results and the size of their terms, for every case."""
    expected = []
    for name, features, boxes, grad in instruction_set_cases():
        call = FAMILY[name]
        results = [
            (call.forward(features, boxes), call.forward_terms(features, boxes)),
            (call.input_gradient(grad, features, boxes), call.input_terms(grad, features, boxes)),
        ]
        if name in WITH_BOX_GRADIENT:
            results.append((call.box_gradient(grad, features, boxes), call.box_terms(grad, features, boxes)))
        expected.append(results)
    return expected


RUN = """
import sys, torch, roialign_ext, test_family_cpu_paths as t
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
        arithmetic = torch.float64 if case[1].dtype == torch.float64 else torch.float32
        for ours, (exact, terms) in zip(actual, expected, strict=True):
            assert_within_rounding(ours, exact, terms, arithmetic)
