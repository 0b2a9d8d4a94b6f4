"""Do large results have the same values, whichever pages their memory has?"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest
import torch

from roialign_ext import roi_align
from support.children import Program, run_all

CHOICES = ("touched", "populated", "huge")
TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


def test_an_allocation_that_fails_names_the_result() -> None:
    """After torch's own words, which the stable ABI tells from torch 2.13 on."""
    words = "DefaultCPUAllocator: " if TORCH >= (2, 13) else "out of memory."
    result = "(a Float tensor of shape [1, 2, 1048576, 1048576] on cpu)"
    with pytest.raises(RuntimeError, match=f"{words}.* {re.escape(result)}$"):
        roi_align(torch.zeros(1, 2, 3, 3), torch.zeros(1, 5), 2**20)


def large_results(threads: int) -> dict[str, torch.Tensor]:
    """Outputs, maxima with their argmax, and gradients of 8 MiB and more, in both layouts and in half precision."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(700, 2, generator=generator) * 150
    size = torch.rand(700, 2, generator=generator) * 40
    boxes = torch.cat([torch.zeros(700, 1), corner, corner + size], dim=1)
    results = {}
    for name, dtype, layout, mode in (
        ("NCHW", torch.float32, torch.contiguous_format, "avg"),
        ("channels_last", torch.float32, torch.channels_last, "avg"),
        ("float64", torch.float64, torch.channels_last, "avg"),
        ("max", torch.float32, torch.channels_last, "max"),
    ):
        features = torch.randn(1, 64, 200, 200, generator=generator, dtype=dtype).contiguous(memory_format=layout)
        features.requires_grad_()
        out = roi_align(features, boxes.to(dtype), 7, sampling_ratio=2, mode=mode)
        results[name] = out.detach()
        (results[f"{name} gradient"],) = torch.autograd.grad(out.square().sum(), features)
    return results


def digest(results: dict[str, torch.Tensor]) -> str:
    sha = hashlib.sha256()
    for tensor in results.values():
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


CHILD = """
import os, sys, test_result_memory as test
try:
    test.large_results(1)
except ValueError as error:
    assert "ROIALIGN_EXT_PAGES must be touched, populated or huge, but is sometimes" in str(error), error
else:
    raise AssertionError("an unknown choice passed")
os.environ["ROIALIGN_EXT_PAGES"] = sys.argv[1]
print(test.digest(test.large_results(1)), test.digest(test.large_results(3)))
"""


def test_results_do_not_depend_on_pages_nor_threads() -> None:
    threads = torch.get_num_threads()
    expected = digest(large_results(2))
    torch.set_num_threads(threads)
    path = [str(Path(__file__).parent), *sys.path]
    variables = {"ROIALIGN_EXT_PAGES": "sometimes"}
    programs = [Program(CHILD, [choice], path=path, variables=variables) for choice in CHOICES]
    for child in run_all(programs):
        assert child.returncode == 0, child.stderr
        assert child.stdout.split() == [expected, expected]
