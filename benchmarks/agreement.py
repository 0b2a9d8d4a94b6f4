"""The check before any timing: every contestant must compute the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .cases import Case, prepare
from .contestants import GRID_SAMPLE, OURS, STAND_INS, TORCHVISION
from .workloads import HALF_DTYPES, Data, Workload

# Largest difference allowed, relative to the reference's largest value.
_MAX_DIFFERENCE = {"float32": 2e-4, "float64": 1e-9, "float16": 4e-3, "bfloat16": 3e-2}
# Rounding may decide a near tie of samples, or the side of a pixel centre on which a sample lies. A few elements then
# differ a lot, so the norm of the difference is limited to this share of the reference's norm.
_NORM = 2e-2


class DisagreementError(Exception):
    """A contestant's result differs from the reference."""


def _relative_error(case: Case, results: tuple[Tensor, ...], references: tuple[Tensor, ...]) -> float:
    worst = 0.0
    for result, reference in zip(results, references, strict=True):
        if result.shape != reference.shape:
            raise DisagreementError(
                f"{case.title()}: result of shape {list(result.shape)}, not {list(reference.shape)}"
            )
        difference = result.to(reference.dtype) - reference
        if _by_norm(case):
            error, scale = difference.norm().item(), reference.norm().item()
        else:
            error, scale = difference.abs_().max().item(), reference.abs().max().item()
        if error != error:
            return float("inf")
        worst = max(worst, error / scale if scale else error)
    return worst


def _by_norm(case: Case) -> bool:
    return case.direction == "grad_boxes" or (case.mode == "max" and case.direction == "backward")


def check(case: Case, workload: Workload, data: Data, results: Mapping[str, tuple[Tensor, ...]]) -> dict[str, Any]:
    """Compare all results with one reference and raise if a contestant differs; the findings go into the JSON.

    The reference is torchvision's result, in float32 if the case is in half precision. It is grid_sample's result if
    torchvision takes no part, or is a stand-in, whose numbers are not compared. The difference of torchvision's own
    half precision is reported without a limit, because torchvision computes sample positions in half precision too."""
    if workload.operator in STAND_INS:
        results = {name: result for name, result in results.items() if name != TORCHVISION}
    if case.dtype in HALF_DTYPES:
        reference_name = f"{TORCHVISION} in float32"
        reference = prepare(TORCHVISION, case, workload, data.upcast())()
    else:
        reference_name = TORCHVISION if TORCHVISION in results else GRID_SAMPLE
        if reference_name not in results:
            return {"reference": None}
        reference = results[reference_name]
    limit = _NORM if _by_norm(case) else _MAX_DIFFERENCE[case.dtype]
    errors: dict[str, float] = {}
    for name, result in results.items():
        if result is reference:
            continue
        error = _relative_error(case, result, reference)
        if error > limit and not (name == TORCHVISION and case.dtype in HALF_DTYPES):
            raise DisagreementError(
                f"{case.title()}: {name} differs from {reference_name} by {error:.3g}, allowed {limit:g}"
            )
        errors[name] = float(f"{error:.3g}")
    return {
        "reference": reference_name,
        "measure": "norm" if _by_norm(case) else "largest",
        "limit": limit,
        "relative_error": errors,
    }


def same_layout(data: Data, results: Mapping[str, tuple[Tensor, ...]]) -> bool:
    """Whether our result has the memory format of the features, as documented."""
    if OURS not in results:
        return True
    features = data.features[0]
    memory_format = torch.contiguous_format if features.is_contiguous() else torch.channels_last
    return all(
        result.is_contiguous(memory_format=memory_format) for result in results[OURS] if result.dim() == features.dim()
    )
