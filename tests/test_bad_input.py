"""Bad arguments raise an exception that names the argument, what was wanted, what came. Nasty numbers are no errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reference
import roialign_ext
from conftest import (
    BOX_SETS,
    DTYPES,
    MODES,
    Call,
    as_array,
    assert_gradients_match_oracle,
    assert_matches_oracle,
    random_tensor,
    rows,
    spread,
)
from roialign_ext import BoxShapeError, RoIAlign, roi_align

FEATURES = random_tensor(2, 3, 7, 9, seed=1, dtype=torch.float32)
BOXES = spread(BOX_SETS["inside"], 2).float()
NAN, INF = float("nan"), float("inf")


def still_works() -> None:
    assert_matches_oracle(Call((2, 2), 1.0, 2, True), FEATURES, BOXES)


# --- shapes of boxes


@pytest.mark.parametrize(
    ("boxes", "came"),
    [
        (torch.zeros(3, 4), r"3,\s*4"),
        (torch.zeros(3, 6), r"3,\s*6"),
        (torch.zeros(5), r"5"),
        (torch.zeros(1, 3, 5), r"1,\s*3,\s*5"),
        (torch.zeros(()), ""),
        ([torch.zeros(3, 5), torch.zeros(0, 4)], r"3,\s*5"),
        ([torch.zeros(2, 4), torch.zeros(4)], r"4"),
        ((torch.zeros(2, 4), torch.zeros(1, 2, 4)), r"1,\s*2,\s*4"),
    ],
)
def test_box_shape(boxes: Any, came: str) -> None:
    """Code written for torchvision catches AssertionError, other code ValueError: it is both."""
    for kind in (BoxShapeError, ValueError, AssertionError):
        with pytest.raises(kind, match=rf"(?s)boxes.*{came}"):
            roi_align(FEATURES, boxes, 2)
        with pytest.raises(kind, match="boxes"):
            RoIAlign(2, 1.0, 2)(FEATURES, boxes)
    assert issubclass(BoxShapeError, ValueError)
    assert issubclass(BoxShapeError, AssertionError)
    still_works()


def test_box_shape_message_says_what_was_wanted() -> None:
    with pytest.raises(BoxShapeError, match=r"(?i)\[K, 5\]"):
        roi_align(FEATURES, torch.zeros(3, 4), 2)
    with pytest.raises(BoxShapeError, match=r"(?i)\[L.*4\]"):
        roi_align(FEATURES, [torch.zeros(3, 5), torch.zeros(3, 4)], 2)


@pytest.mark.parametrize("length", [0, 1, 3])
def test_list_length(length: int) -> None:
    with pytest.raises(ValueError, match=rf"(?s)boxes.*(2.*{length}|{length}.*2)"):
        roi_align(FEATURES, [torch.zeros(1, 4)] * length, 2)


# --- values


@pytest.mark.parametrize("shape", [(3, 7, 9), (7, 9), (1, 2, 3, 7, 9), ()])
def test_input_rank(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"input"):
        roi_align(torch.zeros(shape), BOXES, 2)


@pytest.mark.parametrize("output_size", [0, -1, (0, 2), (2, 0), (2, -3), (1, 2, 3), ()])
@pytest.mark.parametrize("mode", MODES)
def test_output_size(output_size: Any, mode: str) -> None:
    with pytest.raises(ValueError, match=r"output_size"):
        roi_align(FEATURES, BOXES, output_size, mode=mode)
    still_works()


@pytest.mark.parametrize("scale", [0.0, -0.5, NAN, INF, -INF])
@pytest.mark.parametrize("mode", MODES)
def test_spatial_scale(scale: float, mode: str) -> None:
    with pytest.raises(ValueError, match=r"spatial_scale"):
        roi_align(FEATURES, BOXES, 2, scale, mode=mode)


@pytest.mark.parametrize("mode", ["", "mean", "AVG", "median"])
def test_mode(mode: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)mode.*avg.*max"):
        roi_align(FEATURES, BOXES, 2, mode=mode)


def test_values_are_checked_without_boxes_too() -> None:
    """An empty batch of boxes does not hide a mistake."""
    none = torch.zeros(0, 5)
    for arguments in ((0, 1.0), (2, 0.0), (2, NAN)):
        with pytest.raises(ValueError, match=r"output_size|spatial_scale"):
            roi_align(FEATURES, none, *arguments)
    with pytest.raises(ValueError, match="mode"):
        roi_align(FEATURES, none, 2, mode="median")
    with pytest.raises(BoxShapeError):
        roi_align(FEATURES, torch.zeros(0, 4), 2)


# --- types and devices


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_input_dtype(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="input"):
        roi_align(torch.zeros(1, 2, 4, 4, dtype=dtype), BOXES, 2)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool, torch.complex64])
def test_box_dtype(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="boxes"):
        roi_align(FEATURES, torch.zeros(2, 5, dtype=dtype), 2)
    with pytest.raises(TypeError, match="boxes"):
        roi_align(FEATURES, [torch.zeros(2, 4, dtype=dtype)] * 2, 2)


@pytest.mark.parametrize("boxes", [None, "boxes", 3, np.zeros((2, 5)), [[0, 1, 2, 3, 4]], [np.zeros((2, 4))] * 2])
def test_boxes_that_are_no_tensors(boxes: Any) -> None:
    with pytest.raises(TypeError, match="boxes"):
        roi_align(FEATURES, boxes, 2)


@pytest.mark.parametrize("features", [None, np.zeros((1, 2, 4, 4)), [torch.zeros(2, 4, 4)]])
def test_input_that_is_no_tensor(features: Any) -> None:
    with pytest.raises(TypeError, match="input"):
        roi_align(features, BOXES, 2)


@pytest.mark.parametrize("output_size", [2.5, "2", None, (2.0, 3.5), ("2", "2")])
def test_output_size_type(output_size: Any) -> None:
    with pytest.raises(TypeError, match="output_size"):
        roi_align(FEATURES, BOXES, output_size)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sampling_ratio", 1.5), ("sampling_ratio", "2"), ("spatial_scale", "1"), ("mode", None), ("mode", 1)],
)
def test_types_of_the_other_arguments(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises((TypeError, ValueError), match=name):
        roi_align(FEATURES, BOXES, 2, **arguments)


def test_devices_differ() -> None:
    with pytest.raises(ValueError, match=r"(?s)boxes.*(cpu.*meta|meta.*cpu)"):
        roi_align(FEATURES, BOXES.to("meta"), 2)
    with pytest.raises(ValueError, match=r"(?s)boxes.*(cpu.*meta|meta.*cpu)"):
        roi_align(FEATURES.to("meta"), BOXES, 2)


# --- the batch index


@pytest.mark.parametrize("index", [-1.0, 2.0, 1e9, 1e30, 0.5, NAN, INF, -INF, -0.25])
@pytest.mark.parametrize("row", [0, 2, 5])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("box_dtype", [torch.float32, torch.float64])
def test_batch_index(index: float, row: int, mode: str, box_dtype: torch.dtype) -> None:
    boxes = torch.cat([BOXES, BOXES]).to(box_dtype)
    boxes[row, 0] = index
    with pytest.raises(IndexError, match=rf"(?s)boxes.*\b{row}\b"):
        roi_align(FEATURES, boxes, 2, mode=mode)
    with pytest.raises(IndexError, match=rf"(?s)boxes.*\b{row}\b"):
        roi_align(FEATURES.clone().requires_grad_(), boxes.requires_grad_(), 2, mode=mode)
    still_works()


@pytest.mark.parametrize(("index", "moved"), [(-1e-6, True), (0.9999, True), (1.04, True), (1.96, False), (0.5, False),
                                              (2.0, False), (-0.96, False), (NAN, False)])  # fmt: skip
def test_an_index_that_a_step_has_moved(index: float, moved: bool) -> None:
    """gradcheck and weight decay move every number of a row: the error says how to give boxes that are trained."""
    boxes = BOXES.double()
    boxes[1, 0] = index
    for call in (
        lambda: roi_align(FEATURES, boxes, 2),
        lambda: torch.func.vmap(lambda rows: roi_align(FEATURES, rows, 2))(boxes[None]),
    ):
        with pytest.raises(IndexError, match=r"^boxes: the batch index.* must be a whole number in \[0, 2\)") as error:
            call()
        assert ("list with one tensor per image" in str(error.value)) is moved


def test_gradcheck_of_boxes_in_a_list() -> None:
    features = random_tensor(2, 2, 6, 7)
    boxes = [
        torch.tensor([box], dtype=torch.float64, requires_grad=True)
        for box in ([1.2, 0.7, 4.1, 3.9], [0.3, 1.4, 5.2, 4.6])
    ]
    assert torch.autograd.gradcheck(lambda *lists: roi_align(features, list(lists), 2, 1.0, 2), boxes)


def test_messages_say_what_to_pass() -> None:
    integer = r"^boxes: expected .*float32 or float64 tensors?, got torch\.int64( at index 0)?: use boxes\.float\(\)$"
    for boxes in (BOXES.long(), [BOXES[:, 1:].long()] * 2):
        with pytest.raises(TypeError, match=integer):
            roi_align(FEATURES, boxes, 2)
    for boxes in (torch.tensor([]), [torch.tensor([])] * 2):
        with pytest.raises(BoxShapeError, match=r"^boxes: .* got .*shape \[0\].*torch\.zeros\(0, 4\)"):
            roi_align(FEATURES, boxes, 2)
    with pytest.raises(TypeError, match=r"^boxes: .* got a list of list$"):
        roi_align(FEATURES, [[[0.0, 1, 2, 3]], [[0.0, 1, 2, 3]]], 2)  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"^boxes: .* got a list of ndarray$"):
        roi_align(FEATURES, [np.zeros((1, 4))] * 2, 2)  # type: ignore[list-item]
    for make in (lambda scale: roi_align(FEATURES, BOXES, 2, scale), lambda scale: RoIAlign(2, scale, 2)):
        with pytest.raises(TypeError, match=r"^spatial_scale: .* got \(0\.5, 0\.25\): .* scale the boxes first"):
            make((0.5, 0.25))
    for make in (
        lambda scales: roialign_ext.multiscale_roi_align([FEATURES, FEATURES], BOXES, 2, scales),
        lambda scales: roialign_ext.MultiScaleRoIAlign(["0", "1"], 2, 2, scales=scales),
    ):
        with pytest.raises(ValueError, match=r"^scales: expected 1 / stride of each level.* got \[4, 8\]"):
            make([4, 8])
    with pytest.raises(TypeError, match=r"^x: expected a dict .* got a list of Tensor$"):
        roialign_ext.MultiScaleRoIAlign(["0"], 2, 2)([FEATURES], [BOXES[:, 1:]], [(7, 9)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_index_in_every_dtype(dtype: torch.dtype) -> None:
    boxes = BOXES.clone().to(dtype)
    boxes[1, 0] = 2.0
    with pytest.raises(IndexError, match=r"(?s)boxes.*\b1\b"):
        roi_align(FEATURES, boxes, 2)


def test_batch_index_without_images() -> None:
    with pytest.raises(IndexError, match="boxes"):
        roi_align(torch.zeros(0, 3, 7, 9), BOXES[:1], 2)


def test_batch_index_of_the_private_operators() -> None:
    """They are part of exported graphs and may meet other boxes there."""
    boxes = BOXES.clone()
    boxes[2, 0] = 2.0
    grad = torch.ones(3, 3, 2, 2)
    rule = ([1.0], [224.0, 4.0], 2, "roi_align_legacy")
    ops = torch.ops.roialign_ext
    calls: tuple[Callable[[], object], ...] = (
        lambda: ops._pool([FEATURES], boxes, None, None, None, [2, 2], *rule),
        lambda: ops._pool([FEATURES], boxes, boxes, None, None, [2, 2], *rule),
        lambda: ops._pool_max([FEATURES], boxes, [2, 2], *rule),
        lambda: ops._pool_grad_input(grad, boxes, None, None, None, [2, 3, 7, 9], False, *rule),
        lambda: ops._pool_grad_input(grad, boxes, None, None, None, [2, 3, 7, 9], True, *rule),
        lambda: ops._pool_grad_boxes(grad, [FEATURES], boxes, None, None, *rule),
    )
    for call in calls:
        with pytest.raises(IndexError, match=r"(?s)boxes.*\b2\b"):
            call()


# --- numbers that are no errors


@pytest.mark.parametrize("name", list(BOX_SETS))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ratio", [-1, 0, 1, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_nasty_boxes_forward_and_backward(name: str, mode: str, ratio: int, aligned: bool) -> None:
    boxes = spread(BOX_SETS[name], 2).float()
    call = Call((3, 2), 1.0, ratio, aligned, mode)
    out = assert_matches_oracle(call, FEATURES, boxes)
    assert bool(out.isfinite().all())
    grad = random_tensor(*out.shape, seed=2, dtype=torch.float32)
    by_input, by_boxes = assert_gradients_match_oracle(call, FEATURES, boxes, grad)
    assert bool(by_input.isfinite().all())
    assert bool(by_boxes.isfinite().all())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ratio", [-1, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_coordinates_that_are_not_finite_give_zero(mode: str, ratio: int, aligned: bool) -> None:
    features, boxes = FEATURES.clone().requires_grad_(), spread(BOX_SETS["not_finite"], 2).float().requires_grad_()
    out = roi_align(features, boxes, (3, 2), 1.0, ratio, aligned, mode)
    by_input, by_boxes = torch.autograd.grad(out, (features, boxes), torch.ones_like(out))
    assert not bool(out.any())
    assert not bool(by_input.any())
    assert not bool(by_boxes.any())


def test_reversed_boxes() -> None:
    """With a fixed ratio the samples are mirrored; with an adaptive one the grid is empty."""
    box, mirrored = rows((1.0, 1.5, 5.0, 4.5)), rows((5.0, 4.5, 1.0, 1.5))
    features = FEATURES[:1].double()
    upright = roi_align(features, box, (3, 2), 1.0, 2, True)
    torch.testing.assert_close(
        roi_align(features, mirrored, (3, 2), 1.0, 2, True), upright.flip(2, 3), atol=1e-13, rtol=0
    )
    assert not bool(roi_align(features, mirrored, (3, 2), 1.0, -1, True).any())


@pytest.mark.parametrize("mode", MODES)
def test_zero_weight_taps_are_not_read(mode: str) -> None:
    """Samples on pixel centres have one tap: NaN in every other pixel stays away, forward and backward."""
    for layout in (torch.contiguous_format, torch.channels_last):
        features = torch.full((1, 20, 7, 9), NAN)
        features[:, :, 2:4, 3:5] = 1.5
        features = features.contiguous(memory_format=layout).requires_grad_()
        out = roi_align(features, rows((3.0, 2.0, 5.0, 4.0)).float(), 2, 1.0, 1, True, mode)
        assert torch.equal(out, torch.full_like(out, 1.5))
        (by_input,) = torch.autograd.grad(out, features, torch.ones_like(out))
        assert int(by_input.count_nonzero()) == 4 * 20
        outside = roi_align(
            features, rows((-9.0, -9.0, -3.0, -3.0), (20.0, 1.0, 30.0, 4.0)).float(), 2, 1.0, 2, True, mode
        )
        assert not bool(outside.any())


@pytest.mark.parametrize("ratio", [-1, 1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_nan_and_infinite_pixels_reach_only_outputs_that_use_them(
    ratio: int, aligned: bool, layout: torch.memory_format
) -> None:
    for value in (NAN, INF, -INF):
        for place in ((0, 0), (3, 4), (6, 8)):
            features = FEATURES[:1, :].repeat(1, 6, 1, 1)
            features[0, :, place[0], place[1]] = value
            boxes = torch.cat([BOX_SETS[name] for name in ("inside", "crossing", "border", "tiny", "empty")]).float()
            out = assert_matches_oracle(
                Call((3, 3), 1.0, ratio, aligned), features.contiguous(memory_format=layout), boxes
            )
            assert not bool(out.isfinite().all())
            assert bool(out.isfinite().any())


@pytest.mark.parametrize("size", [1e4, 1e5, 1e6, 1e7, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_boxes_equal_the_definition(size: float, dtype: torch.dtype) -> None:
    """Adaptive grids of up to 1.4e7 samples per bin and axis: every one of them counts, few are on the map."""
    features = random_tensor(1, 2, 7, 9, seed=3, dtype=dtype)
    boxes = rows((-size / 2 + 3.3, 1.0, size / 2 + 1.7, 6.0), (2.0, 1.5, 7.5, size), (-size, -1.0, 4.0, 5.5)).to(dtype)
    for aligned in (False, True) if size <= 1e6 else (True,):
        call = Call((7, 7), 1.0, -1, aligned)
        out = assert_matches_oracle(call, features, boxes)
        assert bool(out.any())
        if size <= 1e6:
            assert_gradients_match_oracle(call, features, boxes, random_tensor(*out.shape, seed=4, dtype=dtype))
            assert_matches_oracle(Call((7, 7), 1.0, -1, aligned, "max"), features, boxes)


HUGE = """
import itertools, torch
from roialign_ext import roi_align
dtypes, ratios, modes = (torch.float32, torch.float64), (-1, 0, 2), ("avg", "max")
for dtype, ratio, aligned, mode in itertools.product(dtypes, ratios, (False, True), modes):
    features = torch.rand(1, 8, 16, 16, dtype=dtype).requires_grad_()
    rows = []
    for exponent in range(3, 40, 2):
        e = 10.0 ** exponent
        rows += [(-e, -e, e, e), (0, 0, e, e), (-e, 1, 9, 8), (e, e, 2 * e, 2 * e), (e, e, -e, -e), (-e, -2.0, e, 1e9)]
    boxes = torch.tensor([(0.0, *row) for row in rows], dtype=dtype).requires_grad_()
    for bins in ((1, 1), (7, 4)):
        out = roi_align(features, boxes, bins, 1.0, ratio, aligned, mode)
        assert bool(out.isfinite().all()) and float(out.min()) >= 0.0 and float(out.max()) <= 1.0 + 1e-5
        grads = torch.autograd.grad(out, (features, boxes), torch.ones_like(out), create_graph=True)
        assert all(bool(grad.isfinite().all()) for grad in grads)
        torch.autograd.grad(sum(grad.sum() for grad in grads), (features, boxes))
    far = roi_align(features, boxes[-4:].detach(), 7, 1.0, -1, aligned, "avg")
    assert float(far.max()) < 1e-5
print("done")
"""


def test_cost_is_bounded_by_the_map() -> None:
    """Boxes of 1e3 to 1e39 px, around the map and far from it: walking or storing their samples would never return."""
    result = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == "done"


@pytest.mark.parametrize("aligned", [False, True])
def test_cost_of_a_large_fixed_ratio(aligned: bool) -> None:
    """20000 samples along each axis of a bin, not their product: 4e8 samples would take minutes."""
    features = random_tensor(1, 16, 7, 9, seed=5)
    boxes = torch.cat([rows((1.3, 2.1, 5.6, 4.9), (-3.0, -2.0, 12.0, 11.0), (5.6, 4.9, 1.3, 2.1)), BOX_SETS["large"]])
    call = Call((2, 1), 1.0, 20_000, aligned)
    expected = reference.dense_average(as_array(features), as_array(boxes), call.params(features, boxes))
    torch.testing.assert_close(call(features, boxes), torch.from_numpy(expected), atol=1e-11, rtol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("shape", "count"), [((2, 3, 7, 9), 0), ((0, 3, 7, 9), 0), ((2, 0, 7, 9), 3), ((0, 0, 0, 0), 0)]
)
def test_empty_results(mode: str, shape: tuple[int, ...], count: int) -> None:
    for dtype in DTYPES:
        out = roi_align(torch.zeros(shape, dtype=dtype), torch.zeros(count, 5), (2, 3), mode=mode)
        assert out.shape == (count, shape[1], 2, 3)
        assert out.dtype == dtype
    empty = [torch.zeros(0, 4)] * shape[0]
    if count == 0:
        assert roi_align(torch.zeros(shape), empty, (2, 3), mode=mode).shape == (0, shape[1], 2, 3)


def test_empty_results_still_check_the_index() -> None:
    boxes = torch.zeros(2, 5)
    boxes[1, 0] = 5.0
    with pytest.raises(IndexError):
        roi_align(torch.zeros(2, 0, 7, 9), boxes, 2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(0, 9), (7, 0), (0, 0)])
def test_map_without_pixels(mode: str, size: tuple[int, int]) -> None:
    """There is nothing to sample: every sample is rejected."""
    features, boxes = torch.zeros(2, 3, *size, requires_grad=True), BOXES.clone().requires_grad_()
    out = roi_align(features, boxes, (2, 3), 1.0, 2, True, mode)
    assert out.shape == (3, 3, 2, 3)
    assert not bool(out.any())
    by_input, by_boxes = torch.autograd.grad(out.sum(), (features, boxes))
    assert by_input.shape == features.shape
    assert not bool(by_boxes.any())


def test_arguments_are_left_alone() -> None:
    features, boxes = FEATURES.clone(), BOXES.clone()
    for mode in MODES:
        out: Tensor = roialign_ext.roi_align(features, boxes, 2, mode=mode)
        assert out.data_ptr() != features.data_ptr()
    assert torch.equal(features, FEATURES)
    assert torch.equal(boxes, BOXES)
