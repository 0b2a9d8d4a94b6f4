"""Average mode, forward: the package's numbers are the definition's."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conftest import (
    BOX_SETS,
    Call,
    all_boxes,
    assert_gradients_match_oracle,
    assert_matches_oracle,
    random_tensor,
    rows,
    spread,
)
from roialign_ext import roi_align

FEATURES = random_tensor(2, 3, 7, 9, seed=1)
RATIOS = (-1, 0, 1, 2, 3, 4, 6)
LARGE_MAP_BOXES = rows(
    (3.0, 5.0, 190.0, 140.0),
    (200.3, 120.1, 299.9, 299.0),
    (0.0, 170.5, 12.0, 180.0),
    (-40.0, -30.0, 340.0, 330.0),
    (100.2, 100.4, 100.9, 131.7),
    (20.0, 290.0, 80.0, 320.0),
    (150.0, 7.0, 90.0, 2.0),
    (400.0, 10.0, 420.0, 30.0),
)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_matches_oracle(aligned: bool, ratio: int, dtype: torch.dtype, layout: torch.memory_format) -> None:
    features = FEATURES.to(dtype).contiguous(memory_format=layout)
    assert_matches_oracle(Call((3, 2), 1.0, ratio, aligned), features, all_boxes(2).to(dtype))


@pytest.mark.parametrize("channels", [1, 4, 8, 15, 16, 17, 33, 64, 130, 300])
@pytest.mark.parametrize("ratio", [-1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_channel_count(channels: int, ratio: int, layout: torch.memory_format) -> None:
    """Vector blocks of any width and their remainders."""
    features = random_tensor(2, channels, 6, 5, seed=channels, dtype=torch.float32).contiguous(memory_format=layout)
    boxes = spread(torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"]]), 2).float()
    assert_matches_oracle(Call((2, 3), 0.7, ratio, True), features, boxes)


@pytest.mark.parametrize("output_size", [(1, 1), (1, 5), (5, 1), (7, 7), (14, 3), (2, 20)])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_output_sizes(output_size: tuple[int, int], ratio: int) -> None:
    boxes = spread(torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"]]), 2)
    assert_matches_oracle(Call(output_size, 1.0, ratio, True), FEATURES, boxes)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (6, 1), (2, 2), (13, 4), (3, 40)])
@pytest.mark.parametrize("ratio", [-1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
def test_map_sizes(height: int, width: int, ratio: int, aligned: bool) -> None:
    features = random_tensor(2, 2, height, width, seed=5)
    boxes = torch.cat([spread(torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"], BOX_SETS["border"]]), 2)])
    assert_matches_oracle(Call((3, 2), 1.0, ratio, aligned), features, boxes)


@pytest.mark.parametrize("scale", [1 / 4, 1 / 16, 0.37, 2.0, 1e-3])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_spatial_scales(scale: float, aligned: bool, dtype: torch.dtype) -> None:
    boxes = torch.cat([BOX_SETS["inside"], BOX_SETS["crossing"], BOX_SETS["empty"]])
    boxes[:, 1:] /= scale
    assert_matches_oracle(Call((2, 2), scale, -1, aligned), FEATURES.to(dtype), boxes.to(dtype))


@pytest.mark.parametrize("count", [1, 19, 200])
@pytest.mark.parametrize("channels", [2, 48])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_box_counts(count: int, channels: int, layout: torch.memory_format) -> None:
    """Few boxes, many boxes, boxes in no order: an implementation may choose its method by such sizes."""
    features = random_tensor(3, channels, 8, 11, seed=6, dtype=torch.float32).contiguous(memory_format=layout)
    corners = random_tensor(count, 4, seed=7).mul(4.0).add(4.0)
    sizes = torch.stack([corners[:, :2], corners[:, :2] + corners[:, 2:].abs()], 1).flatten(1)
    boxes = torch.cat([torch.arange(count, dtype=torch.float64)[:, None] * 7 % 3, sizes], 1).float()
    assert_matches_oracle(Call((2, 2), 1.0, 2, True), features, boxes)


@pytest.mark.parametrize(
    ("dtype", "channels"),
    [(torch.float32, 5), (torch.float32, 64), (torch.float32, 70), (torch.float64, 32), (torch.bfloat16, 70)],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_map(dtype: torch.dtype, channels: int, layout: torch.memory_format) -> None:
    """Maps beyond any cache block of a kernel: a method for large maps gives the same numbers, forward and backward."""
    features = random_tensor(2, channels, 300, 301, seed=8, dtype=dtype).contiguous(memory_format=layout)
    boxes = spread(LARGE_MAP_BOXES, 2).to(torch.float64 if dtype == torch.float64 else torch.float32)
    grad = random_tensor(len(boxes), channels, 3, 4, seed=9, dtype=dtype)
    call = Call((3, 4), 1.0, 2, True)
    assert_matches_oracle(call, features, boxes)
    assert_gradients_match_oracle(call, features, boxes, grad)
    if channels == 5:
        assert_matches_oracle(Call((3, 4), 1.0, 2, True, "max"), features, boxes)
        assert_matches_oracle(Call((3, 4), 0.5, -1, False), features, boxes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_large_results_equal_small_ones(dtype: torch.dtype, layout: torch.memory_format, mode: str) -> None:
    """A result of 15 to 60 MB, which a kernel may store in another way, against the same boxes a few at a time."""
    features = random_tensor(1, 128, 20, 21, seed=11, dtype=dtype).contiguous(memory_format=layout)
    corners = random_tensor(1200, 4, seed=12).abs() * 6.0
    edges = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    boxes = torch.cat([torch.zeros(1200, 1, dtype=torch.float64), edges], 1).float()
    call = Call((7, 7), 1.0, 2, True, mode)
    expected = torch.cat([call(features, part) for part in boxes.split(60)])
    assert torch.equal(call(features, boxes), expected)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 2, 3])
def test_float32_coordinates_are_rounded_step_by_step(aligned: bool, ratio: int) -> None:
    """Thousands of pixels from the origin a coordinate has steps of 1e-4: one fused or reordered operation shows."""
    features = random_tensor(1, 2, 3, 4000, seed=9, dtype=torch.float32)
    corners = random_tensor(24, 2, seed=10).abs() * 40.0
    start = 3300.0 + 10.0 * corners[:, :1]
    level = torch.tensor([[0.4, 2.7]], dtype=torch.float64).expand(24, 2)
    edges = torch.stack([start[:, 0], level[:, 0], start[:, 0] + corners[:, 1], level[:, 1]], 1) / 0.3
    boxes = torch.cat([torch.zeros(24, 1, dtype=torch.float64), edges], 1).float()
    assert_matches_oracle(Call((1, 7), 0.3, ratio, aligned), features, boxes)
    assert_matches_oracle(Call((1, 7), 0.3, ratio, aligned, "max"), features, boxes)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_torchvision(aligned: bool, ratio: int, dtype: torch.dtype) -> None:
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    names = [name for name in BOX_SETS if name != "not_finite" and (name != "reversed" or ratio > 0 or not aligned)]
    boxes = spread(torch.cat([BOX_SETS[name] for name in names]), 2).to(dtype)
    features = FEATURES.to(dtype)
    arguments = ((3, 2), 0.8, ratio, aligned)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    expected = ops.roi_align(features, boxes, *arguments)
    torch.testing.assert_close(roi_align(features, boxes, *arguments), expected, atol=tolerance, rtol=0)


# --- the identities of the definition


def test_whole_map_is_returned() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        features = random_tensor(2, 3, 7, 9, dtype=dtype)
        boxes = torch.tensor([[1.0, 0.0, 0.0, 9.0, 7.0], [0.0, 0.0, 0.0, 9.0, 7.0]])
        assert torch.equal(roi_align(features, boxes, (7, 9), sampling_ratio=1, aligned=True), features.flip(0))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
def test_linear_ramp_is_reproduced_at_bin_centres(aligned: bool, ratio: int) -> None:
    y, x = torch.meshgrid(torch.arange(12.0).double(), torch.arange(15.0).double(), indexing="ij")
    ramp = torch.stack([3.0 * y - 2.0 * x + 1.0, x, y])[None]
    out = roi_align(ramp, rows((2.4, 1.6, 25.2, 19.0)), (4, 3), 0.5, ratio, aligned)[0]
    offset = 0.5 if aligned else 0.0
    centre_y = 0.8 - offset + (torch.arange(4).double() + 0.5) * (9.5 - 0.8) / 4
    centre_x = 1.2 - offset + (torch.arange(3).double() + 0.5) * (12.6 - 1.2) / 3
    expected = torch.stack(
        [3.0 * centre_y[:, None] - 2.0 * centre_x + 1.0, centre_x.expand(4, 3), centre_y[:, None].expand(4, 3)]
    )
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_constant_is_kept_inside(aligned: bool, ratio: int, mode: str) -> None:
    constant = torch.full((2, 3, 7, 9), 2.5, dtype=torch.float64)
    boxes = spread(BOX_SETS["inside"], 2)
    out = roi_align(constant, boxes, (3, 4), 1.0, ratio, aligned, mode)
    torch.testing.assert_close(out, torch.full_like(out, 2.5), atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("grid", [1, 2, 3, 5])
@pytest.mark.parametrize("aligned", [False, True])
def test_average_pool_identity(grid: int, aligned: bool) -> None:
    boxes = all_boxes(2)
    fine = roi_align(FEATURES, boxes, (3 * grid, 2 * grid), 0.9, 1, aligned)
    expected = torch.nn.functional.avg_pool2d(fine, grid)
    torch.testing.assert_close(roi_align(FEATURES, boxes, (3, 2), 0.9, grid, aligned), expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize(("aligned", "expected"), [(False, [15.5, 16.5, 21.5, 22.5]), (True, [12.0, 13.0, 18.0, 19.0])])
def test_ramp_of_36(aligned: bool, expected: list[float]) -> None:
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0, 4.0]])
    out = roi_align(torch.arange(36.0).reshape(1, 1, 6, 6), box, 2, aligned=aligned)
    assert out.flatten().tolist() == expected


def test_five_by_five_by_two() -> None:
    """A notebook port that divides inside the sample loop prints 57.96875 for this case."""
    features = torch.arange(50.0, 100.0).reshape(1, 5, 5, 2).permute(0, 3, 1, 2)
    out = roi_align(features, torch.tensor([[0.0, 1.0, 4.0, 4.0, 4.0]]), 4, sampling_ratio=2)
    assert out[0, :, 0, 0].tolist() == [92.75, 93.75]


def test_worked_examples_of_the_documentation() -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "math.md"
    if not page.is_file():
        pytest.skip(f"{page} is not part of this copy")
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted > 15
    assert result.failed == 0


# --- ways to call it


def test_defaults_and_argument_order() -> None:
    boxes = all_boxes(2)
    expected = roi_align(
        input=FEATURES, boxes=boxes, output_size=(3, 3), spatial_scale=1.0, sampling_ratio=-1, aligned=False, mode="avg"
    )
    assert torch.equal(roi_align(FEATURES, boxes, 3), expected)
    assert torch.equal(roi_align(FEATURES, boxes, [3, 3]), expected)
    assert torch.equal(roi_align(FEATURES, boxes, torch.Size([3, 3]), 1.0, -1, False, "avg"), expected)
    assert torch.equal(roi_align(FEATURES, boxes, (3, 3), 1, 0), expected)
    assert torch.equal(roi_align(FEATURES, boxes, (3, 3), sampling_ratio=-7), expected)


def lists_of(boxes: Tensor, images: int) -> list[Tensor]:
    return [boxes[boxes[:, 0] == image, 1:] for image in range(images)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_list_of_boxes_equals_rows(dtype: torch.dtype) -> None:
    boxes = all_boxes(2).to(dtype)
    sorted_rows = boxes[boxes[:, 0].argsort(stable=True)]
    call = Call((3, 2), 0.5, 2, True)
    expected = call(FEATURES.to(dtype), sorted_rows)
    as_list = lists_of(boxes, 2)
    assert torch.equal(call(FEATURES.to(dtype), as_list), expected)
    assert torch.equal(roi_align(FEATURES.to(dtype), tuple(as_list), (3, 2), 0.5, 2, True), expected)


def test_list_with_images_without_boxes() -> None:
    features = random_tensor(3, 2, 7, 9)
    boxes = BOX_SETS["inside"]
    expected = roi_align(features, boxes + torch.tensor([2.0, 0, 0, 0, 0]), 2)
    empty = torch.zeros(0, 4, dtype=torch.float64)
    assert torch.equal(roi_align(features, [empty, empty, boxes[:, 1:]], 2), expected)
    assert roi_align(features, [empty, empty, empty], 2).shape == (0, 2, 2, 2)


def test_same_box_in_every_image() -> None:
    features = random_tensor(300, 1, 2, 2, dtype=torch.float32)
    boxes = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]).repeat(300, 1)
    boxes[:, 0] = torch.arange(300).flip(0)
    assert torch.equal(roi_align(features, boxes, 2, sampling_ratio=1, aligned=True), features.flip(0))
