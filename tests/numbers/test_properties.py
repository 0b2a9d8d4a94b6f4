"""Does every operator keep the definition and its properties, for any shapes, options, boxes, strides and dtypes?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from oracle import reference
from support.inputs import DTYPES, INF, LAYOUTS, NAN, SWAPPED, as_array, finest, random_tensor, with_layout
from support.operator_calls import OperatorCall, RoIAlignCall
from support.operators import FIRST, OPTIONS
from support.tolerance import assert_gradients_match_oracle, assert_matches_oracle


@dataclass(frozen=True)
class Drawn:
    """One drawn call."""

    call: Any
    features: Any
    boxes: Tensor
    seed: int


def calls_of(call: OperatorCall) -> st.SearchStrategy[Any]:
    """Calls of the same function with any options."""
    sizes = st.tuples(st.integers(1, 4), st.integers(1, 4))
    return st.builds(type(call), sizes, **{name: st.sampled_from(OPTIONS[name]) for name in call.options})


ROI_ALIGN, ROTATED = (calls_of(FIRST[name]) for name in ("roi_align", "roi_align_rotated"))
OTHERS = st.one_of([calls_of(call) for name, call in FIRST.items() if name != "roi_align"])
of_every_operator = pytest.mark.parametrize("calls", [ROI_ALIGN, OTHERS], ids=["roi_align", "others"])


def coordinates(largest: float) -> st.SearchStrategy[float]:
    """Image coordinates around the map at scale 1: anywhere, on borders and half borders, far away, not finite."""
    near = st.floats(-4.0, 14.0, width=32)
    borders = st.integers(-6, 26).map(lambda half: half / 2)
    far = st.floats(-largest, largest, width=32, allow_nan=False)
    return st.one_of(near, near, near, borders, borders, far, st.sampled_from([NAN, INF, -INF, 0.0, -0.0]))


def row_of(draw: st.DrawFn, call: OperatorCall, shape: tuple[int, ...], extreme: bool) -> list[float]:
    """The columns after the image, in the operator's own unit."""
    ratio = call.options.get("sampling_ratio", 1)
    scale = call.options.get("spatial_scale", call.options.get("scales", [1.0])[0])
    far = 2.0**100 if ratio > 0 else 2.0**16 if isinstance(call, RoIAlignCall) else 2.0**12  # oracles enumerate grids
    place = coordinates(far) if extreme else st.floats(-4.0, 14.0, width=32)
    if call.box_format == "XYXY":
        return [draw(place) / scale for _ in range(4)]
    if call.box_format == "CXCYWHR":
        near, sides = st.floats(0.0, 14.0, width=32), [0.0, 1.0, 4.0, far, INF, NAN]
        length = st.one_of(near, near, st.sampled_from(sides)) if extreme else near
        angle = st.one_of(st.floats(-400.0, 400.0, width=32), st.sampled_from([0.0, 90.0, -90.0, 180.0, 45.0, 360.0]))
        return [draw(s) / scale for s in (place, place, length, length)] + [draw(angle)]
    height, width = (max(length - 1, 1) for length in shape[2:])
    return [draw(place) / side for side in (height, width, height, width)]


def draw_call(
    draw: st.DrawFn | Any,
    calls: st.SearchStrategy[Any],
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    extreme: bool = True,
) -> Drawn:
    call = draw(calls)
    shape = tuple(draw(st.integers(1, high)) for high in (3, 5, 9, 9))
    if draw(st.booleans()):
        shape = (shape[0], shape[1] + draw(st.sampled_from([16, 29])), *shape[2:])
    seed = draw(st.integers(0, 1000))
    maps = call.input_of(random_tensor(*shape, seed=seed, dtype=draw(st.sampled_from(dtypes))))
    layout = draw(st.sampled_from(LAYOUTS))
    features = tree_map(lambda feature_map: with_layout(feature_map, layout), maps)
    count = draw(st.integers(0 if extreme else 1, 5))
    table = [[float(draw(st.integers(0, shape[0] - 1))), *row_of(draw, call, shape, extreme)] for _ in range(count)]
    boxes = torch.tensor(table, dtype=torch.float64).reshape(-1, call.columns).to(draw(st.sampled_from(dtypes)))
    if draw(st.booleans()):
        boxes = boxes.t().contiguous().t()
    return Drawn(call, features, boxes, seed)


def drawn(calls: st.SearchStrategy[Any], *arguments: Any) -> st.SearchStrategy[Drawn]:
    return st.composite(draw_call)(calls, *arguments)


DOUBLE = (torch.float64,)


@of_every_operator
@given(st.data())
def test_forward_is_the_definition(calls: st.SearchStrategy[OperatorCall], data: Any) -> None:
    case = data.draw(drawn(calls))
    out = assert_matches_oracle(case.call, case.features, case.boxes)
    assert bool(out.isfinite().all())


@of_every_operator
@given(st.data(), st.sampled_from(LAYOUTS))
def test_gradients_are_the_definition(calls: st.SearchStrategy[OperatorCall], data: Any, layout: str) -> None:
    case = data.draw(drawn(calls))
    call, features, boxes = case.call, case.features, case.boxes
    assume(call.lead(features, boxes) > 1e-5)  # smaller ones leave the argmax to rounding
    grad = random_tensor(*call.output_shape(features, boxes), seed=case.seed + 1, dtype=finest(features).dtype)
    for gradient in assert_gradients_match_oracle(call, features, boxes, with_layout(grad, layout)):
        assert bool(gradient.isfinite().all())


@of_every_operator
@given(st.data())
def test_adjoint(calls: st.SearchStrategy[OperatorCall], data: Any) -> None:
    """<A F, G> = <F, A^T G>; in the maxima with the argmax of F; without what comes from outside the map."""
    case = data.draw(drawn(calls, DOUBLE))
    call = case.call
    assume(call.outside == 0.0)
    features = tree_leaves(case.features)
    out = call(case.features, case.boxes)
    grad = random_tensor(*out.shape, seed=case.seed + 1)
    grad_inputs = call.gradients([call.leaves(case.features, case.boxes)[0], case.boxes], grad)
    products = [feature_map * by_one for feature_map, by_one in zip(features, grad_inputs, strict=True)]
    terms = float((out * grad).abs().sum() + sum(product.abs().sum() for product in products))
    assert abs(float((out * grad).sum() - sum(product.sum() for product in products))) <= 1e-13 * terms


@of_every_operator
@given(st.data())
def test_between_the_extremes_of_the_map(calls: st.SearchStrategy[OperatorCall], data: Any) -> None:
    """Means and maxima of interpolated values never leave the range of the map and of what lies outside."""
    case = data.draw(drawn(calls))
    out, outside = case.call(case.features, case.boxes), case.call.outside
    if out.numel():
        maps = tree_leaves(case.features)
        low, high = (
            min(float(feature_map.min()) for feature_map in maps),
            max(float(feature_map.max()) for feature_map in maps),
        )
        roundings = 8 if isinstance(case.call, RoIAlignCall) else 16
        slack = torch.finfo(torch.float32).eps * roundings * max(abs(low), abs(high), abs(outside))
        slack += torch.finfo(out.dtype).eps * abs(outside)
        assert min(low, outside) - slack <= float(out.min())
        assert float(out.max()) <= max(high, outside) + slack


@of_every_operator
@given(st.data(), st.randoms(use_true_random=False))
def test_boxes_and_channels_are_independent(calls: st.SearchStrategy[OperatorCall], data: Any, random: Any) -> None:
    """Any order of boxes, one call per box, one call per channel: the same numbers."""
    case = data.draw(drawn(calls, DOUBLE))
    call, features, boxes = case.call, case.features, case.boxes
    out = call(features, boxes)
    order = list(range(len(boxes)))
    random.shuffle(order)
    torch.testing.assert_close(call(features, boxes[order]), out[order], atol=1e-13, rtol=0)
    for k in range(len(boxes)):
        torch.testing.assert_close(call(features, boxes[k : k + 1]), out[k : k + 1], atol=1e-13, rtol=0)
    for c in range(0, out.shape[1], 7):
        part = tree_map(lambda feature_map: feature_map[:, call.channels_of([c])], features)  # noqa: B023
        torch.testing.assert_close(call(part, boxes), out[:, c : c + 1], atol=1e-13, rtol=0)


# --- of roi_align


@given(drawn(ROI_ALIGN, (torch.float64, torch.float32)))
def test_swapping_the_axes(case: Drawn) -> None:
    """Nothing but the names tells y from x: the transposed map and boxes give the transposed output."""
    call = case.call
    swapped = replace(call, output_size=call.output_size[::-1])
    out = swapped(case.features.transpose(2, 3), case.boxes[:, SWAPPED])
    tolerance = 1e-13 if case.features.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(out.transpose(2, 3), call(case.features, case.boxes), atol=tolerance, rtol=0)


def distance_to_kinks(case: Drawn, call: RoIAlignCall) -> float:
    height, width = case.features.shape[2:]
    return reference.distance_to_kinks(as_array(case.boxes), height, width, call.params(case.features, case.boxes))


@given(drawn(ROI_ALIGN, DOUBLE, False))
def test_flipping_the_map(case: Drawn) -> None:
    """With the half-pixel rule left and right are alike: x becomes W - x, and the corners change places."""
    call = replace(case.call, spatial_scale=1.0, aligned=True)
    width = case.features.shape[3]
    boxes = case.boxes.clone()
    boxes[:, [1, 3]] = width - case.boxes[:, [3, 1]]
    assume(distance_to_kinks(case, call) > 1e-9)
    out = call(case.features.flip(3), boxes)
    torch.testing.assert_close(out.flip(3), call(case.features, case.boxes), atol=1e-11, rtol=0)


@given(drawn(ROI_ALIGN, (torch.float64, torch.float32)))
def test_scale_and_boxes_trade_powers_of_two(case: Drawn) -> None:
    call, factor = case.call, torch.tensor([1.0, 2.0, 2.0, 2.0, 2.0], dtype=case.boxes.dtype)
    other = replace(call, spatial_scale=call.spatial_scale / 2)
    assert torch.equal(other(case.features, case.boxes * factor), call(case.features, case.boxes))


@given(drawn(ROI_ALIGN, DOUBLE, False), st.integers(1, 4))
def test_pooling_identities(case: Drawn, grid: int) -> None:
    """A bin of g x g samples is the g x g pool of bins of one sample, for the maximum and for the mean."""
    height, width = case.call.output_size
    coarse = replace(case.call, sampling_ratio=grid)
    assume(distance_to_kinks(case, coarse) > 1e-9)
    fine = replace(coarse, output_size=(height * grid, width * grid), sampling_ratio=1, mode="avg")
    pool = torch.nn.functional.max_pool2d if coarse.mode == "max" else torch.nn.functional.avg_pool2d
    pooled = pool(fine(case.features, case.boxes), grid)
    torch.testing.assert_close(coarse(case.features, case.boxes), pooled, atol=1e-11, rtol=0)


# --- of roi_align_rotated


@given(drawn(ROTATED, DOUBLE, False))
def test_a_whole_number_of_turns_changes_nothing(case: Drawn) -> None:
    """A half turn of the box turns the result by half a turn."""
    call, boxes = case.call, case.boxes
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
