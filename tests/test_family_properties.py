"""Properties of the operators beside ``roi_align`` over drawn calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import reference
from conftest import DTYPES, INF, LAYOUTS, MODES, NAN, as_array, assert_matches_oracle, random_tensor, with_layout
from family import SWAPPED, CropCall, Family, PrRoIPoolCall, RoIPoolCall, RoIWarpCall, RotatedCall, output_of
from test_family_gradients import assert_all_gradients_match_oracle
from test_properties import coordinates


@dataclass(frozen=True)
class Case:
    """One drawn call."""

    call: Family
    features: Tensor
    boxes: Tensor
    seed: int


RATIOS = st.sampled_from([-1, 0, 1, 2, 3])
SCALES = st.sampled_from([1.0, 1.0, 0.25, 0.3, 2.0])
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 4))
CALLS: st.SearchStrategy[Family] = st.one_of(
    st.builds(PrRoIPoolCall, SIZES, SCALES),
    st.builds(RoIWarpCall, SIZES, SCALES, st.sampled_from(MODES), RATIOS),
    st.builds(RoIPoolCall, SIZES, SCALES),
    st.builds(
        CropCall,
        SIZES,
        mode=st.sampled_from(MODES),
        method=st.sampled_from(["bilinear", "nearest"]),
        extrapolation_value=st.sampled_from([0.0, -1.5, 3.25]),
        samples_per_bin=st.integers(1, 3),
    ),
    st.builds(RotatedCall, SIZES, SCALES, RATIOS, st.booleans(), st.booleans(), st.sampled_from(["degree", "radian"])),
)


def row_of(draw: st.DrawFn, call: Family, shape: tuple[int, ...], extreme: bool) -> list[float]:
    """The columns after the image, in the operator's own unit."""
    ratio = getattr(call, "sampling_ratio", 1)
    far = 2.0**100 if ratio > 0 else 2.0**12  # the oracles enumerate adaptive grids
    place = coordinates(far) if extreme else st.floats(-4.0, 14.0, width=32)
    if isinstance(call, CropCall):
        height, width = (max(length - 1, 1) for length in shape[2:])
        return [draw(place) / side for side in (height, width, height, width)]
    if isinstance(call, RotatedCall):
        near, sides = st.floats(0.0, 14.0, width=32), [0.0, 1.0, 4.0, far, INF, NAN]
        length = st.one_of(near, near, st.sampled_from(sides)) if extreme else near
        angle = st.one_of(st.floats(-400.0, 400.0, width=32), st.sampled_from([0.0, 90.0, -90.0, 180.0, 45.0, 360.0]))
        return [draw(s) / call.spatial_scale for s in (place, place, length, length)] + [draw(angle)]
    return [draw(place) / call.spatial_scale for _ in range(4)]


@st.composite
def cases(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = DTYPES, extreme: bool = True) -> Case:
    call = draw(CALLS)
    shape = tuple(draw(st.integers(1, high)) for high in (3, 5, 9, 9))
    if draw(st.booleans()):
        shape = (shape[0], shape[1] + draw(st.sampled_from([16, 29])), *shape[2:])
    seed = draw(st.integers(0, 1000))
    features = random_tensor(*shape, seed=seed, dtype=draw(st.sampled_from(dtypes)))
    features = with_layout(features, draw(st.sampled_from(LAYOUTS)))
    count = draw(st.integers(0 if extreme else 1, 4))
    table = [[float(draw(st.integers(0, shape[0] - 1))), *row_of(draw, call, shape, extreme)] for _ in range(count)]
    columns = 6 if isinstance(call, RotatedCall) else 5
    boxes = torch.tensor(table, dtype=torch.float64).reshape(-1, columns).to(draw(st.sampled_from(dtypes)))
    return Case(call, features, boxes, seed)


@given(cases())
def test_forward_is_the_definition(case: Case) -> None:
    out = assert_matches_oracle(case.call, case.features, case.boxes)
    assert bool(out.isfinite().all())


@given(cases(), st.sampled_from(LAYOUTS))
def test_gradients_are_the_definition(case: Case, layout: str) -> None:
    call, features, boxes = case.call, case.features, case.boxes
    if isinstance(call, (RoIWarpCall, CropCall)) and call.mode == "max":  # smaller leads leave the winner to rounding
        columns = SWAPPED if isinstance(call, CropCall) else [0, 1, 2, 3, 4]
        arrays = as_array(features), as_array(boxes[:, columns])
        assume(reference.maximum(*arrays, call.params(features, boxes)).margin > 1e-5)
    grad = random_tensor(*output_of(call, features, boxes), seed=case.seed + 1, dtype=features.dtype)
    for gradient in assert_all_gradients_match_oracle(call, features, boxes, with_layout(grad, layout)):
        assert bool(gradient.isfinite().all())


@given(cases(dtypes=(torch.float64,)))
def test_adjoint(case: Case) -> None:
    """<A F, G> = <F, A^T G>; in the maxima with the winners of F; without what comes from outside the map."""
    call = case.call
    if isinstance(call, CropCall):
        assume(call.extrapolation_value == 0.0)
    features = case.features.detach().requires_grad_()
    out = call(features, case.boxes)
    grad = random_tensor(*out.shape, seed=case.seed + 1)
    (by_input,) = torch.autograd.grad(out, features, grad)
    out, features = out.detach(), features.detach()
    terms = float((out.abs() * grad.abs()).sum() + (features.abs() * by_input.abs()).sum())
    assert abs(float((out * grad).sum() - (features * by_input).sum())) <= 1e-13 * terms


@given(cases())
def test_between_the_extremes_of_the_map(case: Case) -> None:
    """Means and maxima of interpolated values never leave the range of the map and of what lies outside."""
    out, outside = case.call(case.features, case.boxes), getattr(case.call, "extrapolation_value", 0.0)
    if out.numel():
        low, high = float(case.features.min()), float(case.features.max())
        slack = torch.finfo(torch.float32).eps * 16 * max(abs(low), abs(high), abs(outside))
        slack += torch.finfo(out.dtype).eps * abs(outside)
        assert min(low, outside) - slack <= float(out.min())
        assert float(out.max()) <= max(high, outside) + slack


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


@given(cases(dtypes=(torch.float64,), extreme=False))
def test_a_whole_number_of_turns_changes_nothing(case: Case) -> None:
    """Nor does a half turn of the box and of the result."""
    call, boxes = case.call, case.boxes
    assume(isinstance(call, RotatedCall))
    assert isinstance(call, RotatedCall)
    turn = 360.0 if call.angle_unit == "degree" else 2.0 * torch.pi
    whole, half = boxes.clone(), boxes.clone()
    whole[:, 5] += turn
    half[:, 5] += turn / 2
    out = call(case.features, boxes)
    for nudge in (1e-9, -1e-9):  # no sample on the border of the map
        nudged = boxes.clone()
        nudged[:, 5] += nudge * turn
        assume(float((call(case.features, nudged) - out).abs().max()) < 1e-5)
    torch.testing.assert_close(call(case.features, whole), out, atol=1e-9, rtol=0)
    torch.testing.assert_close(call(case.features, half).flip(2, 3), out, atol=1e-9, rtol=0)
