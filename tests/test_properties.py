"""Properties over drawn shapes, boxes, strides and dtypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import reference
from conftest import (
    DTYPES,
    LAYOUTS,
    MODES,
    Call,
    as_array,
    assert_gradients_match_oracle,
    assert_matches_oracle,
    random_tensor,
    with_layout,
)

NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Case:
    """One drawn call."""

    call: Call
    features: Tensor
    boxes: Tensor
    seed: int


def coordinates(largest: float) -> st.SearchStrategy[float]:
    """Image coordinates around the map at scale 1: anywhere, on borders and half borders, far away, not finite."""
    near = st.floats(-4.0, 14.0, width=32)
    borders = st.integers(-6, 26).map(lambda half: half / 2)
    far = st.floats(-largest, largest, width=32, allow_nan=False)
    return st.one_of(near, near, near, borders, borders, far, st.sampled_from([NAN, INF, -INF, 0.0, -0.0]))


@st.composite
def cases(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = DTYPES, extreme: bool = True) -> Case:
    shape = tuple(draw(st.integers(1, high)) for high in (3, 5, 9, 9))
    ratio = draw(st.sampled_from([-1, 0, 1, 2, 3, 4]))
    call = Call(
        (draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        draw(st.sampled_from([1.0, 1.0, 0.25, 0.3, 2.0])),
        ratio,
        draw(st.booleans()),
        draw(st.sampled_from(MODES)),
    )
    if draw(st.booleans()):
        shape = (shape[0], shape[1] + draw(st.sampled_from([16, 29])), *shape[2:])
    seed = draw(st.integers(0, 1000))
    features = with_layout(
        random_tensor(*shape, seed=seed, dtype=draw(st.sampled_from(dtypes))), draw(st.sampled_from(LAYOUTS))
    )
    # the oracle enumerates an adaptive grid, so its boxes end at 65536 px; with a fixed ratio they may have any size
    coordinate = coordinates(2.0**100 if ratio > 0 else 2.0**16) if extreme else st.floats(-4.0, 14.0, width=32)
    count = draw(st.integers(0 if extreme else 1, 5))
    table = [
        [float(draw(st.integers(0, shape[0] - 1))), *(draw(coordinate) / call.spatial_scale for _ in range(4))]
        for _ in range(count)
    ]
    boxes = torch.tensor(table, dtype=torch.float64).reshape(-1, 5).to(draw(st.sampled_from(dtypes)))
    if draw(st.booleans()):
        boxes = boxes.t().contiguous().t()
    return Case(call, features, boxes, seed)


@given(cases())
def test_forward_is_the_definition(case: Case) -> None:
    out = assert_matches_oracle(case.call, case.features, case.boxes)
    assert bool(out.isfinite().all())


@given(cases(), st.sampled_from(LAYOUTS))
def test_gradients_are_the_definition(case: Case, layout: str) -> None:
    call, features, boxes = case.call, case.features, case.boxes
    if call.mode == "max":  # leads smaller than rounding leave the winner open
        result = reference.maximum(as_array(features), as_array(boxes), call.params(features, boxes))
        assume(result.margin > 1e-5)
    shape = (len(boxes), features.shape[1], *call.output_size)
    grad = with_layout(random_tensor(*shape, seed=case.seed + 1, dtype=features.dtype), layout)
    by_input, by_boxes = assert_gradients_match_oracle(call, features, boxes, grad)
    assert bool(by_input.isfinite().all())
    assert bool(by_boxes.isfinite().all())


@given(cases(dtypes=(torch.float64,)))
def test_adjoint(case: Case) -> None:
    features = case.features.detach().requires_grad_()
    out = case.call(features, case.boxes)
    grad = random_tensor(*out.shape, seed=case.seed + 1)
    (by_input,) = torch.autograd.grad(out, features, grad)
    out, features = out.detach(), features.detach()
    terms = float((out.abs() * grad.abs()).sum() + (features.abs() * by_input.abs()).sum())
    assert abs(float((out * grad).sum() - (features * by_input).sum())) <= 1e-13 * terms


@given(cases())
def test_between_the_extremes_of_the_map(case: Case) -> None:
    """A mean and a maximum of bilinear samples and zeros never leave the range of the map and 0."""
    out = case.call(case.features, case.boxes)
    if out.numel():
        low, high = (float(bound(case.features.min(), case.features.max())) for bound in (torch.minimum, torch.maximum))
        slack = torch.finfo(torch.float32).eps * 8 * max(abs(low), abs(high))
        assert min(low, 0.0) - slack <= float(out.min())
        assert float(out.max()) <= max(high, 0.0) + slack


@given(cases(dtypes=(torch.float64,)), st.randoms(use_true_random=False))
def test_boxes_and_channels_are_independent(case: Case, random: Any) -> None:
    """Any order of boxes, one call per box, one call per channel: the same numbers."""
    call, features, boxes = case.call, case.features, case.boxes
    out = call(features, boxes)
    order = list(range(len(boxes)))
    random.shuffle(order)
    torch.testing.assert_close(call(features, boxes[order]), out[order], atol=1e-13, rtol=0)
    for k in range(len(boxes)):
        torch.testing.assert_close(call(features, boxes[k : k + 1]), out[k : k + 1], atol=1e-13, rtol=0)
    for c in range(0, features.shape[1], 7):
        torch.testing.assert_close(call(features[:, c : c + 1], boxes), out[:, c : c + 1], atol=1e-13, rtol=0)


@given(cases(dtypes=(torch.float64, torch.float32)))
def test_swapping_the_axes(case: Case) -> None:
    """Nothing but the names tells y from x: the transposed map and boxes give the transposed output."""
    call = case.call
    swapped = Call(call.output_size[::-1], call.spatial_scale, call.sampling_ratio, call.aligned, call.mode)
    out = swapped(case.features.transpose(2, 3), case.boxes[:, [0, 2, 1, 4, 3]])
    tolerance = 1e-13 if case.features.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(out.transpose(2, 3), call(case.features, case.boxes), atol=tolerance, rtol=0)


@given(cases(dtypes=(torch.float64,), extreme=False))
def test_flipping_the_map(case: Case) -> None:
    """With the half-pixel rule left and right are alike: x becomes W - x, and the corners change places."""
    call = Call(case.call.output_size, 1.0, case.call.sampling_ratio, True, case.call.mode)
    width = case.features.shape[3]
    boxes = case.boxes.clone()
    boxes[:, [1, 3]] = width - case.boxes[:, [3, 1]]
    assume(reference_distance(case.boxes, case.features, call) > 1e-9)
    out = call(case.features.flip(3), boxes)
    torch.testing.assert_close(out.flip(3), call(case.features, case.boxes), atol=1e-11, rtol=0)


def reference_distance(boxes: Tensor, features: Tensor, call: Call) -> float:
    height, width = features.shape[2:]
    return reference.distance_to_kinks(as_array(boxes), height, width, call.params(features, boxes))


@given(cases(dtypes=(torch.float64, torch.float32)))
def test_scale_and_boxes_trade_powers_of_two(case: Case) -> None:
    call, factor = case.call, torch.tensor([1.0, 2.0, 2.0, 2.0, 2.0], dtype=case.boxes.dtype)
    other = Call(call.output_size, call.spatial_scale / 2, call.sampling_ratio, call.aligned, call.mode)
    assert torch.equal(other(case.features, case.boxes * factor), call(case.features, case.boxes))


@given(cases(dtypes=(torch.float64,), extreme=False), st.integers(1, 4))
def test_pooling_identities(case: Case, grid: int) -> None:
    """A bin of g x g samples is the g x g pool of bins of one sample, for the maximum and for the mean."""
    height, width = case.call.output_size
    coarse = Call((height, width), case.call.spatial_scale, grid, case.call.aligned, case.call.mode)
    assume(reference_distance(case.boxes, case.features, coarse) > 1e-9)
    fine = Call((height * grid, width * grid), coarse.spatial_scale, 1, coarse.aligned)(case.features, case.boxes)
    pool = torch.nn.functional.max_pool2d if coarse.mode == "max" else torch.nn.functional.avg_pool2d
    torch.testing.assert_close(coarse(case.features, case.boxes), pool(fine, grid), atol=1e-11, rtol=0)
