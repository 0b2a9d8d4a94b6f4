"""Do usual calls from Python go past the dispatcher, and do all others reach it?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from roialign_ext import roi_align
from support.small_cases import BY_FUNCTION, NAMED, SmallCase, name_of

DIRECT = [case for case in BY_FUNCTION if case.levels == 1 and not case.is_crop]
each_direct = pytest.mark.parametrize("case", DIRECT, ids=name_of)
CASE = NAMED["roi_align"]


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the operators of this package that were called through the dispatcher."""
    packet = type(torch.ops.roialign_ext.roi_align)
    names: list[str] = []
    call = packet.__call__

    def counted(self: Any, /, *arguments: Any, **keywords: Any) -> Any:
        if str(self).startswith("roialign_ext."):
            names.append(str(self).partition(".")[2])
        return call(self, *arguments, **keywords)

    monkeypatch.setattr(packet, "__call__", counted)
    return names


@each_direct
@pytest.mark.parametrize("grad", [False, True])
def test_usual_calls_go_past_it(case: SmallCase, grad: bool, dispatched: list[str]) -> None:
    with torch.set_grad_enabled(grad):
        case(*case.leaves())
    assert dispatched == []


def test_usual_calls_under_autocast_go_past_it(dispatched: list[str]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        CASE(*CASE.leaves())
    assert dispatched == []


@each_direct
def test_the_operator_gives_the_same(case: SmallCase) -> None:
    *maps, boxes = case.leaves()
    operator = getattr(torch.ops.roialign_ext, case.name)
    by_operator = operator(*maps, *case.box_arguments(boxes), [2, 3], *case.options.values())
    by_function = case(*maps, boxes)
    assert torch.equal(by_function, by_operator)
    assert type(by_function.grad_fn) is type(by_operator.grad_fn)


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


UNUSUAL: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "mode": Watching,
    "inference": torch.inference_mode,
    "profiler": lambda: profile(activities=[ProfilerActivity.CPU], acc_events=True),
    "below_autograd": torch._C._AutoDispatchBelowAutograd,
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_threads_reach_it(name: str, dispatched: list[str]) -> None:
    leaves = CASE.leaves()
    with UNUSUAL[name]():
        CASE(*leaves)
    assert dispatched[0] == "roi_align"


def test_a_profile_has_the_public_operator() -> None:
    leaves = CASE.leaves()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
        CASE(*leaves)
    assert "roialign_ext::roi_align" in {event.key for event in profiled.key_averages()}


TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "meta": lambda tensor: tensor.to("meta"),
    "negated": lambda tensor: torch._neg_view(-tensor),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("place", [0, 1])
def test_unusual_tensors_reach_it(kind: str, place: int, dispatched: list[str]) -> None:
    arguments = [CASE.maps()[0], *CASE.box_arguments(CASE.boxes())]
    expected = roi_align(*arguments, 2)
    assert dispatched == []
    arguments[place] = TENSORS[kind](arguments[place])
    if kind == "meta":
        arguments[1 - place] = arguments[1 - place].to("meta")
    result = roi_align(*arguments, 2)
    assert dispatched[0] == "roi_align"
    assert result.shape == expected.shape
    assert result.is_meta or torch.equal(result, expected)


def test_transforms_reach_it(dispatched: list[str]) -> None:
    (features,), (rows,) = CASE.maps(), CASE.box_arguments(CASE.boxes())
    torch.func.vmap(lambda image: roi_align(image, rows, 2))(torch.stack([features, features]))
    assert dispatched[0] == "roi_align"


def test_tracing_records_the_operator(dispatched: list[str]) -> None:
    (features,), (rows,) = CASE.maps(), CASE.box_arguments(CASE.boxes())
    traced = torch.jit.trace(lambda image, boxes: roi_align(image, boxes, 2), (features, rows))
    assert "roialign_ext::roi_align" in str(traced.graph)
