"""Do huge, far and not finite numbers give what the definition says, at no more cost than others?"""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from oracle import reference
from roialign_ext import crop_and_resize, prroi_pool, roi_align, roi_align_rotated, roi_pool, roi_warp
from support.cuda_cases import CPU, Case
from support.inputs import (
    DTYPES,
    FORMATS,
    INF,
    MODES,
    NAN,
    SWAPPED,
    as_array,
    formatted,
    random_tensor,
    requiring_grad,
    rotated_boxes,
    xyxy,
)
from support.operator_calls import (
    CropCall,
    OperatorCall,
    PrRoIPoolCall,
    RoIAlignCall,
    RoIPoolCall,
    RoIWarpCall,
    RotatedCall,
)
from support.operators import FIRST, RULES, WITHOUT_BOX_DERIVATIVE, each_operator, variants
from support.tolerance import (
    assert_gradients_match_oracle,
    assert_is_the_definition,
    assert_matches_oracle,
    assert_within_rounding,
)

FEATURES = random_tensor(2, 3, 7, 9, seed=1, dtype=torch.float32)


# --- how large a box may be


@pytest.mark.parametrize("size", [1e4, 1e5, 1e6, 1e7, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adaptive_grids_of_huge_boxes(size: float, dtype: torch.dtype) -> None:
    """A bin has up to 1.4e7 samples per axis: every one of them counts, few are on the map."""
    features = random_tensor(1, 2, 7, 9, seed=3, dtype=dtype)
    boxes = xyxy((2.0, 1.5, 7.5, size), (-size / 2 + 3.3, 1.0, size / 2 + 1.7, 6.0), (-size, -1.0, 4.0, 5.5)).to(dtype)
    boxes = boxes[: 3 if size <= 1e6 else 1]  # the oracle visits every sample of an axis
    for aligned in (False, True) if size <= 1e6 else (True,):
        call = RoIAlignCall((7, 7), 1.0, -1, aligned)
        assert bool(assert_matches_oracle(call, features, boxes).any())
        if size <= 1e6:
            grad = random_tensor(*call.output_shape(features, boxes), seed=4, dtype=dtype)
            assert_gradients_match_oracle(call, features, boxes, grad)
            assert_matches_oracle(replace(call, mode="max"), features, boxes)


@pytest.mark.parametrize("size", [1e4, 1e5, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_boxes_equal_the_definition(size: float, dtype: torch.dtype) -> None:
    """Every one of up to 1e12 samples of an adaptive grid counts, few are on the map; so do integrals and cells."""
    features = random_tensor(1, 2, 7, 9, seed=3, dtype=dtype)
    upright = xyxy((-size / 2 + 3.3, 1.0, size / 2 + 1.7, 6.0), (2.0, 1.5, 7.5, size), (-size, -1.0, 4.0, 5.5)).to(
        dtype
    )
    turned = rotated_boxes(
        (3.3, 2.1, size, 5.0, 30.0),
        (4.1, 3.0, 3.5, size, 77.0),
        (size / 3, 3.0, size, 4.4, 0.001),
        (4.0, 3.0, size, size, 45.0),
    ).to(dtype)
    calls: list[OperatorCall] = [
        PrRoIPoolCall((7, 3)), RoIPoolCall((7, 3)), RoIWarpCall((7, 3)), RoIWarpCall((7, 3), mode="max"),
        CropCall((7, 3), samples_per_bin=2), RotatedCall((3, 1)), RotatedCall((2, 1), aligned=False),
    ]  # fmt: skip
    for call in calls:
        if isinstance(call, RotatedCall):
            boxes = turned[: 4 if size < 1e5 else 3]  # the oracle visits the rows of a grid
        else:
            boxes = upright[:, SWAPPED] / 8.0 if isinstance(call, CropCall) else upright
        check = assert_matches_oracle if call.chooses_samples else assert_is_the_definition
        assert bool(check(call, features, boxes).any())


@pytest.mark.parametrize("size", [1e9, 1e15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_size_of_box_without_a_grid(size: float, dtype: torch.dtype) -> None:
    features = random_tensor(1, 2, 7, 9, seed=3, dtype=dtype)
    boxes = xyxy((-size, -size, size, size), (2.0, 1.5, size, 3 * size), (-size, -1.0, 4.0, 5.5)).to(dtype)
    warp = RoIWarpCall((2, 2), sampling_ratio=3)
    calls: list[OperatorCall] = [PrRoIPoolCall((2, 3)), RoIPoolCall((3, 2)), warp, CropCall((3, 3))]
    for call in calls:
        assert_is_the_definition(call, features, boxes)


@pytest.mark.parametrize("size", [1e9, 1e17, 1e19, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cells_of_boxes_of_any_size(size: float, dtype: torch.dtype) -> None:
    """A finite box covers what it covers, also where its edges are beyond 64-bit integers."""
    features = random_tensor(1, 2, 7, 9, seed=3, dtype=dtype)
    boxes = xyxy((-size, -size, size, size), (0.0, 1.0, size, size), (-size, -size, 4.0, 5.0)).to(dtype)
    for bins in ((1, 1), (2, 3), (3, 2)):
        assert_matches_oracle(RoIPoolCall(bins), features, boxes)
    assert bool(RoIPoolCall((1, 1))(features, boxes[:2]).ne(0.0).all())


def huge_boxes(call: OperatorCall, dtype: torch.dtype) -> Tensor:
    """Boxes of 1e3 to 1e39 pixels: around a map of 16 x 16 pixels, across its borders and far from it."""
    found: list[tuple[float, ...]] = []
    for exponent in (3, 5, 6, 8, 12, 17, 18, 19, 25, 30, 38, 39):
        s = 10.0**exponent
        if call.box_format == "CXCYWHR":
            found += [(8, 8, s, s, 30), (8, 8, s, 3, 45), (s, 8, s, s, 0), (s, -s, 2 * s, s, 77), (8, 8, 4, s, 90),
                      (-s / 2, 8, s, 1, 1e-3), (8, 8, 5, 5, s)]  # fmt: skip
        else:
            found += [(-s, -s, s, s), (0, 0, s, s), (-s, 1, 9, 8), (s, s, 2 * s, 2 * s), (s, s, -s, -s),
                      (-s, -2.0, s, 1e9)]  # fmt: skip
    return torch.tensor([(0.0, *row) for row in found], dtype=dtype)


def pool_huge_boxes() -> None:
    """Forward, backward and, where there are derivatives with respect to the boxes, backward twice."""
    options = {"sampling_ratio": (-1, 2), "aligned": (False, True), "mode": MODES, "method": ("bilinear", "nearest")}
    calls = [variant for call in FIRST.values() for variant in variants(call, **options)]
    for call, dtype, bins in itertools.product(calls, (torch.float32, torch.float64), ((1, 1), (7, 4))):
        call = replace(call, output_size=bins)
        leaves = call.leaves(call.input_of(torch.rand(1, 4, 16, 16, dtype=dtype)), huge_boxes(call, dtype))
        out, twice = call(*leaves), call.box_order > 0
        assert bool(out.isfinite().all())
        assert min(0.0, call.outside) <= float(out.min())
        assert float(out.max()) <= max(1.0, call.outside) + 1e-5
        grads = torch.autograd.grad(out, requiring_grad(leaves), torch.ones_like(out), create_graph=twice)
        assert all(bool(grad.isfinite().all()) for grad in grads)
        if twice:
            torch.autograd.grad(sum(grad.sum() for grad in grads), requiring_grad(leaves), allow_unused=True)
    far = xyxy(*((-s, -s, s, s) for s in (1e25, 1e30, 1e38)))
    for aligned in (False, True):
        assert float(roi_align(torch.rand(1, 4, 16, 16).double(), far, 7, 1.0, -1, aligned).max()) < 1e-5


def test_cost_is_bounded_by_the_map() -> None:
    """Walking or storing the samples of boxes of 1e3 to 1e39 pixels would never return."""
    code = f"import sys; sys.path = {sys.path!r}; import test_nasty_numbers as t; t.pool_huge_boxes()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize(
    "call",
    [
        RoIAlignCall((2, 1), 1.0, 20_000),
        RoIAlignCall((2, 1), 1.0, 20_000, True),
        RoIWarpCall((2, 1), 1.0, 20_000),
        CropCall((2, 1), samples_per_bin=20_000),
    ],
    ids=["roi_align-legacy", "roi_align", "roi_warp", "crop_and_resize"],
)
def test_cost_of_a_large_fixed_ratio(call: OperatorCall) -> None:
    """20000 samples along each axis of a bin, not their product: 4e8 samples would take minutes."""
    features = random_tensor(1, 4, 7, 9, seed=5)
    corners = xyxy((-3.0, -2.0, 12.0, 11.0), (5.6, 4.9, 1.3, 2.1))
    upright = corners / 8.0 if isinstance(call, CropCall) else corners
    expected = reference.dense_average(as_array(features), as_array(upright), call.params(features, upright))
    out = call(features, upright[:, SWAPPED] if isinstance(call, CropCall) else upright)
    torch.testing.assert_close(out, torch.from_numpy(expected), atol=1e-11, rtol=0)


@pytest.mark.parametrize("ratio", [33, 40])
def test_large_grids_of_reversed_and_empty_boxes(ratio: int) -> None:
    """The part on the map is found by bisection there too, from either end; also where samples coincide."""
    features = random_tensor(1, 2, 7, 9, seed=6, dtype=torch.float32)
    boxes = xyxy((5.2, 4.3, 1.1, 0.4), (2.0, 3.0, -40.0, 2.5), (30.0, 3.0, 2.0, -20.0), (3.3, 2.4, 3.3, 9.4)).float()
    far = xyxy((2.0**24, 1.0, -4.0, 5.0), (-4.0, 1.0, 2.0**24, 5.0)).float()
    grad = random_tensor(4, 2, 3, 2, seed=7, dtype=torch.float32)
    for mode in ("avg", "max"):
        assert_gradients_match_oracle(RoIAlignCall((3, 2), 1.0, ratio, True, mode), features, boxes, grad)
        assert_matches_oracle(RoIAlignCall((2, 4000), 1.0, ratio, True, mode), features, far)
    assert_matches_oracle(CropCall((3, 2), samples_per_bin=ratio), features, boxes[:, SWAPPED] / 8.0)


@pytest.mark.parametrize("ratio", [2, 33, 40])
def test_coinciding_samples_each_have_their_place_in_the_box(ratio: int) -> None:
    """All samples of a box without size are at one point, and each moves by another amount with an edge."""
    features = random_tensor(1, 2, 7, 9, seed=6, dtype=torch.float32)
    boxes = xyxy((3.3, 2.4, 3.3, 2.4), (1.7, 4.2, 5.1, 4.2)).float()
    turned = rotated_boxes((3.3, 2.4, 0.0, 0.0, 20.0), (4.2, 3.1, 2.0, 0.0, 30.0)).float()
    grad = random_tensor(2, 2, 2, 1, seed=7, dtype=torch.float32)
    assert_gradients_match_oracle(RoIAlignCall((2, 1), 1.0, ratio, True), features, boxes, grad)
    assert_gradients_match_oracle(RotatedCall((2, 1), 1.0, ratio), features, turned, grad)


def test_samples_without_a_place_take_no_time() -> None:
    """1e9 samples at one point, or at none, cost nothing each; the call would not end otherwise."""
    features, many = FEATURES[:1], 10**9
    nowhere = xyxy((NAN, 4.0, 3.0, 4.0), (3.0, NAN, 3.0, 4.0), (1.0, 4.0, INF, 4.0), (-INF, -INF, INF, INF)).float()
    out = roi_align(features, nowhere, 2, 1.0, many, aligned=True)
    assert_within_rounding(out, roi_align(features, nowhere, 2, 1.0, 3, aligned=True).double(), torch.ones(()))
    point = xyxy((3.3, 2.4, 3.3, 2.4)).float()
    out = roi_align(features, point, 2, 1.0, many, aligned=True)
    assert_within_rounding(out, roi_align(features, point, 2, 1.0, 1, aligned=True).double(), torch.ones(()))
    assert roi_align_rotated(features, rotated_boxes((NAN, 1.0, 3.0, 4.0, 0.0)).float(), 2, 1.0, many).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [1e9, 1e14, 1e17, 1e24])
def test_rotated_boxes_far_away_cost_no_more_than_near_ones(dtype: torch.dtype, distance: float) -> None:
    """However long they are: beyond what coordinates can tell apart on a map, an adaptive grid counts as empty."""
    boxes = rotated_boxes(
        (distance, 4 * distance, distance / 1e3, distance / 1e5, 90.0), (0.0, distance, 4e18, 1e18, 90.0),
        (distance, 3.0, 2 * distance, 5.0, 0.0),
    ).to(dtype)  # fmt: skip
    for aligned in (False, True):
        out = roi_align_rotated(FEATURES[:1].to(dtype), boxes, 2, aligned=aligned)
        assert out.isfinite().all()
        assert out[2].any() == (distance < 18e6 or (dtype == torch.float64 and distance < 9e15))


# --- how coordinates are rounded


@each_operator
def test_coordinates_are_rounded_step_by_step(call: OperatorCall) -> None:
    """Float32 coordinates of thousands of pixels have steps of 1e-4, so that one fused or reordered step shows."""
    call = replace(call, output_size=(1, 7))
    features = call.input_of(random_tensor(1, 2, 3, 4000, seed=9, dtype=torch.float32))
    length = random_tensor(24, 1, seed=10).abs() * 40.0 + 1.0
    start = random_tensor(24, 1, seed=11).abs() * 10.0 + 3300.0
    low, high = torch.full_like(start, 0.4), torch.full_like(start, 1.9)
    boxes = call.from_corners(torch.cat([torch.zeros_like(start), start, low, start + length, high], 1), 3, 4000)
    if call.box_format == "CXCYWHR":
        boxes[:, 5] *= 1e-4
    ratios = (2, 3) if call.options.get("sampling_ratio", 0) > 0 else (None,)
    for ratio in ratios:
        variant = call if ratio is None else replace(call, sampling_ratio=ratio)
        assert_is_the_definition(variant, features, boxes.float(), seed=12)


def test_float64_boxes_are_not_rounded_to_float32() -> None:
    """An edge 1e-9 before a half rounds down, a sample 1e-9 outside is outside; in float32 both are on the spot."""
    ramp = torch.arange(63.0).reshape(1, 1, 7, 9)
    edges = xyxy((2.5 - 1e-9, 0.0, 2.5 - 1e-9, 0.0))
    below = xyxy((1.0, 7.0, 2.0, 8.0 + 2e-9))
    outside, beside = xyxy((1.0 + 1e-9, 0.5, 1.0 + 1e-9, 0.5)), rotated_boxes((4.0, 7.5 + 1e-9, 1.0, 1.0, 0.0))
    for features in (ramp, ramp.double()):
        for call, boxes, exact, rounded in (
            (RoIAlignCall((1, 1), 1.0, 1, True), below, 0.0, 54.0 + 1.0),
            (RoIPoolCall((1, 1)), edges, 2.0, 3.0),
            (RoIWarpCall((1, 1), 1.0, 1), edges, 2.5 + 4.5, 3.5 + 4.5),
            (CropCall((1, 1)), outside, 0.0, 54.0 + 4.0),
            (RotatedCall((1, 1), 1.0, 1), beside, 0.0, 54.0 + 3.5),
        ):
            assert call(features, boxes).item() == exact
            assert call(features, boxes.float()).item() == rounded


# --- numbers that are not finite, pixels that are not used


@each_operator
def test_coordinates_that_are_not_finite(call: OperatorCall) -> None:
    """Such boxes touch no pixel: they have the value of what is outside, and gradients of 0."""
    boxes, features = call.boxes("not_finite", dtype=torch.float32), call.input_of(FEATURES)
    out = assert_matches_oracle(call, features, boxes)
    for gradient in assert_gradients_match_oracle(call, features, boxes, torch.ones_like(out)):
        assert bool(gradient.isfinite().all())
        assert isinstance(call, CropCall) or not bool(gradient.any())
    assert isinstance(call, CropCall) or not bool(out.any())


@each_operator
def test_boxes_beside_the_map_read_nothing_of_it(call: OperatorCall) -> None:
    """The result is that of what is outside, and every gradient is 0."""
    boxes = call.boxes("outside", images=1, dtype=torch.float32)
    for layout in FORMATS:
        features = formatted(call.input_of(torch.full((1, 20, 7, 9), NAN)), layout)
        leaves = call.leaves(features, boxes)
        out = call(*leaves)
        assert torch.equal(out, torch.full_like(out, call.outside))
        for gradient in call.gradients(leaves):
            assert not bool(gradient.any())


def test_pixels_that_are_not_sampled_are_not_read() -> None:
    """NaN everywhere but in the pixels that are needed."""
    for dtype in DTYPES:
        features = torch.full((1, 20, 7, 9), NAN, dtype=dtype)
        features[:, :, 2:4, 3:5] = 1.5
        for layout in FORMATS:
            map_ = features.contiguous(memory_format=layout)
            centres = torch.tensor([[0.0, 3.0, 2.0, 5.0, 4.0]])
            results = [
                roi_align(map_, centres, 2, 1.0, 1, True),
                roi_align(map_, centres, 2, 1.0, 1, True, "max"),
                crop_and_resize(map_, torch.tensor([[2 / 6, 3 / 8, 0.5, 0.5]]), torch.tensor([0]), 2, "nearest"),
                crop_and_resize(map_, torch.tensor([[2 / 6, 3 / 8, 0.5, 0.5]]).double(), torch.tensor([0]), 1),
                roi_pool(map_, torch.tensor([[0.0, 3.0, 2.0, 4.0, 3.0]]), 2),
                roi_align_rotated(map_, torch.tensor([[0.0, 4.0, 3.0, 1.0, 1.0, 45.0]]), 2),
                roi_align_rotated(map_, torch.tensor([[0.0, 4.0, 3.0, 2.0, 2.0, 0.0]]), 2),
                prroi_pool(map_, torch.tensor([[0.0, 3.0, 2.0, 4.0, 3.0]]), 2),
                roi_warp(map_, torch.tensor([[0.0, 3.4, 1.6, 3.6, 2.7]]), 2),
            ]
            for out in results:
                assert torch.equal(out, torch.full_like(out, 1.5))


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("layout", FORMATS)
def test_taps_of_weight_zero_have_no_gradient(mode: str, layout: torch.memory_format) -> None:
    """Samples on pixel centres have one tap."""
    features = torch.full((1, 20, 7, 9), NAN)
    features[:, :, 2:4, 3:5] = 1.5
    features = features.contiguous(memory_format=layout).requires_grad_()
    out = roi_align(features, xyxy((3.0, 2.0, 5.0, 4.0)).float(), 2, 1.0, 1, True, mode)
    (grad_input,) = torch.autograd.grad(out, features, torch.ones_like(out))
    assert int(grad_input.count_nonzero()) == 4 * 20


def test_reversed_boxes() -> None:
    """Fixed samples are mirrored, an adaptive grid is empty.

    A crop is mirrored; an integral over less than nothing is 0; a warped or pooled box is one pixel long.
    """
    box, mirrored = torch.tensor([[0.1, 0.2, 0.7, 0.9]]), torch.tensor([[0.7, 0.9, 0.1, 0.2]])
    corners, exchanged = xyxy((1.0, 1.5, 5.0, 4.5)), xyxy((5.0, 4.5, 1.0, 1.5))
    upright = roi_align(FEATURES.double(), corners, (3, 2), 1.0, 2, True)
    fixed = roi_align(FEATURES.double(), exchanged, (3, 2), 1.0, 2, True)
    torch.testing.assert_close(fixed, upright.flip(2, 3), atol=1e-13, rtol=0)
    assert not bool(roi_align(FEATURES.double(), exchanged, (3, 2), 1.0, -1, True).any())
    zero = torch.tensor([0])
    upright = crop_and_resize(FEATURES, box, zero, (3, 2))
    torch.testing.assert_close(crop_and_resize(FEATURES, mirrored, zero, (3, 2)), upright.flip(2, 3), atol=1e-6, rtol=0)
    reversed_, unit = torch.tensor([[0.0, 5.0, 4.0, 1.0, 0.0]]), torch.tensor([[0.0, 5.0, 4.0, 6.0, 5.0]])
    assert not bool(prroi_pool(FEATURES, reversed_, 2).any())
    assert torch.equal(roi_warp(FEATURES, reversed_, 2), roi_align(FEATURES, unit, 2))
    assert torch.equal(roi_pool(FEATURES, reversed_, 1)[0, :, 0, 0], FEATURES[0, :, 4, 5])


@pytest.mark.parametrize("value", [INF, -INF, NAN])
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in WITHOUT_BOX_DERIVATIVE])
def test_directions_that_are_not_finite(rule: str, value: float) -> None:
    """Samples that the range rule moved to a border do not follow their box, and nothing behind the map is touched."""
    case = Case(rule=rule, boxes="border", images=1)
    maps, boxes, grad, arguments = case.maps(), case.boxes_tensor(), case.grad(), case.geometry
    beyond = xyxy((-1.0, -1.0, 0.0, 0.0), (8.5, 6.5, 9.5, 7.5)).to(boxes)  # of a map of 7 rows and 9 columns
    if case.rotated:
        beyond = rotated_boxes((-0.6, -0.6, 0.2, 0.2, 30.0), (9.4, 7.4, 0.2, 0.2, -50.0)).to(boxes)
    moves = rule.startswith("crop") or rule == "prroi_pool"  # crops have no such samples, integrals no such rule
    boxes = torch.cat([beyond.repeat_interleave(case.parts, 0), boxes])
    first = 2 * case.parts
    grad = torch.cat([grad[:first], grad])
    argmaxes = [None, CPU("_max_pool", maps, boxes, case.bins, *arguments)[1]] if case.has_maximum else [None]
    for column in range(1, boxes.shape[1]):
        u = random_tensor(*boxes.shape, seed=column, dtype=boxes.dtype)
        u[:, column] = value
        for argmax in argmaxes:
            for v in (None, random_tensor(*boxes.shape, dtype=boxes.dtype)):
                (out,) = CPU("_pool", maps, boxes, u, v, argmax, case.bins, *arguments)
                CPU("_pool_grad_input", grad, boxes, u, v, argmax, case.input_size, False, *arguments)
                (grad_boxes,) = CPU("_pool_grad_boxes", grad, maps, boxes, u, argmax, *arguments)
                assert moves or (out[:first] == 0).all()
                assert moves or (grad_boxes[:first] == 0).all()
                assert not out[first:].isfinite().all() or rule == "crop_nearest"
