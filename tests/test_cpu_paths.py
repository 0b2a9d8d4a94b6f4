"""Which code runs is a matter of speed: any number of threads gives the same bits, any instruction set the numbers."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import roialign_ext
from conftest import BOX_SETS, MODES, Call, all_boxes, assert_within_rounding, random_tensor, rows, spread

FORMATS = (torch.contiguous_format, torch.channels_last)
CAPABILITIES = {"default": "DEFAULT", "avx2": "AVX2", "avx512": "AVX512"}


Pooling = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def family_cases(dtype: torch.dtype, channels: int) -> dict[str, tuple[Pooling, torch.Tensor, torch.Tensor]]:
    """The other operators: each with a map and 40 boxes on a few of its pixels."""
    features = random_tensor(2, channels, 20, 24, seed=1, dtype=dtype)
    random = random_tensor(40, 4, seed=2).abs() * 5.0
    image = torch.arange(40)[:, None] % 2
    boxes = torch.cat([image, random[:, :2] * 2, random[:, :2] * 2 + random[:, 2:]], 1).float()
    turned = torch.cat([image, random[:, :2] * 2 + 5, random[:, 2:], random[:, :1] * 60], 1).float()
    shares = boxes[:, 1:] / 24

    def multiscale(features: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        levels = [features, torch.nn.functional.avg_pool2d(features, 2)]
        return roialign_ext.multiscale_roi_align(levels, boxes, (3, 2), [1.0, 0.5], 2, True, "avg", 5.0, 1.0)

    calls: dict[str, tuple[Pooling, torch.Tensor]] = {
        "prroi_pool": (lambda f, b: roialign_ext.prroi_pool(f, b, (3, 2)), boxes),
        "roi_warp": (lambda f, b: roialign_ext.roi_warp(f, b, (3, 2), 1.0, 2, "max"), boxes),
        "roi_pool": (lambda f, b: roialign_ext.roi_pool(f, b.detach(), (3, 2)), boxes),
        "crop_and_resize": (lambda f, b: roialign_ext.crop_and_resize(f, b, image[:, 0], (3, 2)), shares),
        "roi_align_rotated": (lambda f, b: roialign_ext.roi_align_rotated(f, b, (3, 2), 1.0, 2), turned),
        "multiscale_roi_align": (multiscale, boxes),
    }
    return {name: (call, features, boxes) for name, (call, boxes) in calls.items()}


def run_everything(
    call: Pooling, features: torch.Tensor, boxes: torch.Tensor, grad: torch.Tensor
) -> list[torch.Tensor]:
    """Forward, both gradients, and the three gradients of a form of the gradients."""
    features, boxes = features.detach().requires_grad_(), boxes.detach().requires_grad_()
    grad = grad.detach().requires_grad_()
    out = call(features, boxes)
    firsts = torch.autograd.grad(out, (features, boxes), grad, create_graph=True, materialize_grads=True)
    forms = [first.float().square().sum() for first in firsts if first.requires_grad]
    seconds = torch.autograd.grad(forms, (features, boxes, grad), materialize_grads=True)
    return [out.detach(), *(first.detach() for first in firsts), *seconds]


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("images", "channels", "count"), [(1, 1, 1), (2, 67, 40), (1, 256, 160), (3, 8, 900)])
def test_any_number_of_threads_gives_the_same_bits(
    mode: str, layout: torch.memory_format, dtype: torch.dtype, images: int, channels: int, count: int
) -> None:
    features = random_tensor(images, channels, 20, 24, seed=1, dtype=dtype).contiguous(memory_format=layout)
    corners = random_tensor(count, 4, seed=2).abs() * 5.0
    edges = torch.cat([corners[:, :2] * 2, corners[:, :2] * 2 + corners[:, 2:]], 1)  # many boxes on the same pixels
    boxes = torch.cat([torch.arange(count)[:, None].double() * 5 % images, edges], 1).float()
    grad = random_tensor(count, channels, 3, 2, seed=3, dtype=dtype).contiguous(memory_format=layout)
    for ratio in (-1, 2):
        call = Call((3, 2), 1.0, ratio, True, mode)
        torch.set_num_threads(1)
        expected = run_everything(call, features, boxes, grad)
        for threads in (2, 3, 8):
            torch.set_num_threads(threads)
            for actual, one in zip(run_everything(call, features, boxes, grad), expected, strict=True):
                assert torch.equal(actual, one)


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", FORMATS)
def test_threads_on_a_large_map(mode: str, layout: torch.memory_format) -> None:
    features = random_tensor(1, 70, 300, 301, seed=1, dtype=torch.float32).contiguous(memory_format=layout)
    corners = random_tensor(60, 4, seed=2).abs() * 80.0
    edges = torch.cat([corners[:, :2] * 1.5, corners[:, :2] * 1.5 + corners[:, 2:]], 1)
    boxes = torch.cat([torch.zeros(60, 1, dtype=torch.float64), edges], 1).float()
    grad = random_tensor(60, 70, 3, 2, seed=3, dtype=torch.float32)
    call = Call((3, 2), 1.0, -1 if mode == "avg" else 2, True, mode)
    torch.set_num_threads(1)
    expected = run_everything(call, features, boxes, grad)
    for threads in (2, 5):
        torch.set_num_threads(threads)
        for actual, one in zip(run_everything(call, features, boxes, grad), expected, strict=True):
            assert torch.equal(actual, one)


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_in_the_family(layout: torch.memory_format, dtype: torch.dtype) -> None:
    for call, features, boxes in family_cases(dtype, 67).values():
        features = features.contiguous(memory_format=layout)
        grad = random_tensor(40, 67, 3, 2, seed=3, dtype=dtype).contiguous(memory_format=layout)
        torch.set_num_threads(1)
        expected = run_everything(call, features, boxes, grad)
        for threads in (2, 3, 8):
            torch.set_num_threads(threads)
            for actual, one in zip(run_everything(call, features, boxes, grad), expected, strict=True):
                assert torch.equal(actual, one)


@pytest.mark.usefixtures("restore_threads")
def test_repeated_runs_give_the_same_bits() -> None:
    torch.set_num_threads(4)
    features, boxes = random_tensor(1, 64, 20, 24, seed=1, dtype=torch.float32), all_boxes().float().repeat(4, 1)
    grad = random_tensor(len(boxes), 64, 3, 2, seed=3, dtype=torch.float32)
    call = Call((3, 2), 1.0, 2, True)
    expected = run_everything(call, features, boxes, grad)
    for _ in range(20):
        for actual, first in zip(run_everything(call, features, boxes, grad), expected, strict=True):
            assert torch.equal(actual, first)


def instruction_set_cases() -> list[tuple[Call, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What every instruction set is put through: both modes and layouts, three dtypes, whole vectors and remainders."""
    cases = []
    for dtype, layout, mode, channels in itertools.product(
        (torch.float32, torch.float64, torch.bfloat16, torch.float16), FORMATS, MODES, (3, 16, 77)
    ):
        box_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        boxes = spread(torch.cat([BOX_SETS[name] for name in ("inside", "crossing", "reversed", "large")]), 2).to(
            box_dtype
        )
        features = random_tensor(2, channels, 7, 9, seed=1, dtype=dtype).contiguous(memory_format=layout)
        grad = random_tensor(len(boxes), channels, 3, 2, seed=2, dtype=dtype).contiguous(memory_format=layout)
        cases.append((Call((3, 2), 0.9, 2 if channels == 3 else -1, True, mode), features, boxes, grad))
    large = rows(
        (3.0, 5.0, 190.0, 140.0), (200.3, 120.1, 299.9, 299.0), (-40.0, -30.0, 340.0, 330.0), (90.1, 80.7, 11.0, 9.0)
    ).float()
    for layout, mode, channels in zip(FORMATS * 2, ("avg", "avg", "max", "max"), (70, 64, 70, 64), strict=True):
        features = random_tensor(1, channels, 300, 301, seed=3, dtype=torch.float32).contiguous(memory_format=layout)
        grad = random_tensor(len(large), channels, 3, 2, seed=4, dtype=torch.float32)
        cases.append((Call((3, 2), 1.0, 2, True, mode), features, large, grad))
    return cases


def first_order(call: Pooling, features: torch.Tensor, boxes: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    features, boxes = features.detach().requires_grad_(), boxes.detach().requires_grad_()
    out = call(features, boxes)
    return [out.detach(), *torch.autograd.grad(out, (features, boxes), grad, materialize_grads=True)]


@cache
def expected_results() -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """The oracle's result and the size of its terms, for every case."""
    expected = []
    for call, features, boxes, grad in instruction_set_cases():
        step = 2.0 * float(features.double().abs().max()) * call.spatial_scale
        terms = (grad.double().abs().sum((1, 2, 3)) * step)[:, None].expand(len(boxes), 5)
        expected.append(
            [
                (call.forward(features, boxes), call.forward(features.abs(), boxes)),
                (call.input_gradient(grad, features, boxes), call.input_gradient(grad.abs(), features, boxes)),
                (call.box_gradient(grad, features, boxes), terms),
            ]
        )
    return expected


def child(code: str, capability: str | None, *arguments: str) -> str:
    """Runs ``code`` in a process of its own with ``ATEN_CPU_CAPABILITY`` set; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    if capability is not None:
        environment["ATEN_CPU_CAPABILITY"] = capability
    paths = [
        str(Path(__file__).parent),
        str(Path(roialign_ext.__file__).parent.parent),
        environment.get("PYTHONPATH", ""),
    ]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


@cache
def best_capability() -> str:
    """The best instruction set that torch finds on this processor."""
    return child("import torch; print(torch.backends.cpu.get_cpu_capability())", None)


def family_results() -> list[list[torch.Tensor]]:
    """Of the other operators, in both types of arithmetic, with whole vectors of channels and a remainder."""
    return [
        first_order(*case, random_tensor(40, channels, 3, 2, seed=3, dtype=dtype))
        for dtype, channels in ((torch.float32, 77), (torch.float64, 16))
        for case in family_cases(dtype, channels).values()
    ]


RUN = """
import sys, torch, roialign_ext, test_cpu_paths
own = [test_cpu_paths.first_order(*case) for case in test_cpu_paths.instruction_set_cases()]
torch.save((own, test_cpu_paths.family_results()), sys.argv[1])
print(roialign_ext.cpu_capability())
"""


@pytest.mark.parametrize("capability", list(CAPABILITIES))
def test_every_instruction_set(capability: str, tmp_path: Path) -> None:
    """Forced in a process of its own, it says its name, and its numbers are the definition's."""
    order = list(CAPABILITIES.values())
    best = best_capability()
    if best not in order or order.index(best) < order.index(CAPABILITIES[capability]):
        pytest.skip(f"this processor has {best}, not {CAPABILITIES[capability]}")
    file = tmp_path / "results.pt"
    assert child(RUN, capability, str(file)) == CAPABILITIES[capability]
    results: list[list[Any]]
    results, family = torch.load(file)
    for case, actual, expected in zip(instruction_set_cases(), results, expected_results(), strict=True):
        arithmetic = torch.float64 if case[1].dtype == torch.float64 else torch.float32
        for ours, (exact, terms) in zip(actual, expected, strict=True):
            assert_within_rounding(ours, exact, terms, arithmetic)

    for ours, here in zip(family, family_results(), strict=True):
        torch.testing.assert_close(ours, here, rtol=1e-4, atol=1e-4)  # of float32 gradients: sums of hundreds of terms


def test_reports_the_instruction_set_in_use() -> None:
    assert roialign_ext.cpu_capability() in CAPABILITIES.values()
    assert roialign_ext.cpu_capability() == roialign_ext._C.cpu_capability()
    if "ATEN_CPU_CAPABILITY" not in os.environ and best_capability() in CAPABILITIES.values():
        assert roialign_ext.cpu_capability() == best_capability()
