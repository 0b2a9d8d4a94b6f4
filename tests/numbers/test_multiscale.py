"""Does each box of a pyramid come from its level, with the numbers of one call per level?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from roialign_ext import (
    MultiScaleRoIAlign,
    MultiScaleRoIAlignRotated,
    multiscale_roi_align,
    multiscale_roi_align_rotated,
    roi_align,
    roi_align_rotated,
)
from support.inputs import (
    BOX_SETS,
    DTYPES,
    FORMATS,
    LAYOUTS,
    MODES,
    listed,
    pyramid_boxes,
    random_tensor,
    with_layout,
)
from support.operator_calls import MultiscaleCall, MultiscaleRotatedCall, coordinate_type
from support.tolerance import assert_is_the_definition

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


@dataclass(frozen=True)
class Pooler(MultiscaleCall):
    """``multiscale_roi_align`` of the maps of ``pyramid()``, and a loop over its levels."""

    scales: tuple[float, ...] = SCALES
    sampling_ratio: int = 2
    canonical_scale: float = 40.0
    canonical_level: float = 4.0

    def one_by_one(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        """A loop over the levels with this package's ``roi_align``."""
        out = features[0].new_zeros(len(boxes), features[0].shape[1], *self.output_size)
        levels = torch.tensor(self.levels_of(features, boxes), dtype=torch.int64)
        arguments = self.sampling_ratio, self.aligned, self.mode
        for level, scale in enumerate(self.scales):
            chosen = torch.nonzero(levels == level)[:, 0]
            pooled = roi_align(features[level], boxes[chosen], self.output_size, scale, *arguments)
            out = out.index_copy(0, chosen, pooled)
        return out


def pyramid(dtype: torch.dtype = torch.float64, channels: int = 3, layout: str = "contiguous") -> list[Tensor]:
    """Four levels for images of 128 x 160 pixels; sizes are not exactly halves."""
    sizes = [(32, 40), (16, 20), (9, 11), (4, 5)]
    maps = [random_tensor(2, channels, *size, seed=30 + level, dtype=dtype) for level, size in enumerate(sizes)]
    return [with_layout(level, layout) for level in maps]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("mode", MODES)
def test_matches_oracle(dtype: torch.dtype, layout: str, mode: str) -> None:
    features = pyramid(dtype, layout=layout)
    boxes = pyramid_boxes(40).to(torch.float64 if dtype == torch.float64 else torch.float32)
    call = Pooler((3, 2), aligned=True, mode=mode)
    assert set(call.levels_of(features, boxes)) == {0, 1, 2, 3}
    out = assert_is_the_definition(call, features, boxes)
    assert out.is_contiguous(memory_format=FORMATS[layout == "channels_last"])
    assert_is_the_definition(Pooler((2, 2), sampling_ratio=-1, mode=mode), features, boxes)


def test_every_level_has_its_own_layout() -> None:
    features = [with_layout(level, layout) for level, layout in zip(pyramid(), LAYOUTS[:4], strict=True)]
    boxes = pyramid_boxes(30)
    out = assert_is_the_definition(Pooler(), features, boxes)
    assert torch.equal(out, Pooler()([level.contiguous() for level in features], boxes))


@pytest.mark.parametrize(
    ("dtype", "layout", "channels"),
    [
        (dtype, layout, (3, 70)[(i + j) % 2])
        for i, dtype in enumerate(DTYPES)
        for j, layout in enumerate(("contiguous", "channels_last"))
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_equals_one_call_per_level_bit_for_bit(dtype: torch.dtype, layout: str, mode: str, channels: int) -> None:
    """Value, the gradient of every level, grad_boxes."""
    boxes = pyramid_boxes(150).to(torch.float64 if dtype == torch.float64 else torch.float32)
    for call in (Pooler((3, 2), aligned=True, mode=mode), Pooler((7, 7), sampling_ratio=-1, mode=mode)):
        results = []
        for function in (call, call.one_by_one):
            features = [level.requires_grad_() for level in pyramid(dtype, channels, layout)]
            rows = boxes.clone().requires_grad_()
            out = function(features, rows)
            grad = random_tensor(*out.shape, seed=41, dtype=dtype)
            results.append([out, *torch.autograd.grad(out, [*features, rows], grad)])
        for together, alone in zip(*results, strict=True):
            assert torch.equal(together, alone)


@pytest.mark.parametrize("levels", [1, 2, 3, 5, 8])
def test_any_number_of_levels(levels: int) -> None:
    """There may be up to eight levels, of any size, down to a single pixel."""
    features = [random_tensor(2, 5, max(40 >> level, 1), max(52 >> level, 1), seed=level) for level in range(levels)]
    call = Pooler((2, 2), tuple(0.5**level for level in range(levels)), 2, True, "avg", 4.0, 0.5)
    boxes = pyramid_boxes(60)
    boxes[:, 3:] = boxes[:, 1:3] + 2.0 ** torch.linspace(0.0, 11.0, 60, dtype=torch.float64)[:, None]
    assert len(set(call.levels_of(features, boxes))) == levels
    assert torch.equal(assert_is_the_definition(call, features, boxes), call.one_by_one(features, boxes))


def test_level_boundaries() -> None:
    """Boxes of exactly the sizes where the level changes, and one rounding below; in both types of coordinates."""
    features = [torch.full((1, 1, 4, 4), float(level)) for level in range(4)]
    sides = torch.tensor([1e-3, 111.99999, 112.0, 223.99998, 224.0, 447.99997, 448.0, 896.0, 1e9])
    boxes = torch.zeros(len(sides), 5)
    boxes[:, 3] = boxes[:, 4] = sides
    for kind in (torch.float32, torch.float64):
        call = Pooler((1, 1), canonical_scale=224.0, sampling_ratio=1)
        expected = call.levels_of(features, boxes.to(kind))
        assert {0, 1, 2, 3} == set(expected)
        centres = boxes.to(kind, copy=True)
        centres[:, 1:] -= sides[:, None].to(kind) / 2  # so that the only sample is at the origin
        assert call.levels_of(features, centres) == expected
        assert call(features, centres).flatten().tolist() == [float(level) for level in expected]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nasty_boxes(mode: str, dtype: torch.dtype) -> None:
    """Boxes without an area, or with one that is no number, have a level too."""
    boxes = torch.cat(list(BOX_SETS.values())).to(dtype)
    boxes[:, 1:] *= 16.0
    features = pyramid(dtype)
    out = assert_is_the_definition(Pooler(mode=mode), features, boxes)
    assert bool(out.isfinite().all())
    assert torch.equal(out, Pooler(mode=mode).one_by_one(features, boxes))


def test_levels_without_boxes_get_zeros() -> None:
    """A level that no box goes to has a gradient of zeros, and its values do not matter."""
    features = pyramid()
    features[0].fill_(float("nan"))
    boxes = pyramid_boxes(40)
    boxes = boxes[torch.tensor(Pooler().levels_of(features, boxes)) > 0]
    leaves = [level.requires_grad_() for level in features]
    out = Pooler()(leaves, boxes)
    assert bool(out.isfinite().all())
    by_levels = torch.autograd.grad(out.sum(), leaves)
    assert not bool(by_levels[0].any())
    assert all(bool(gradient.any()) for gradient in by_levels[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("canonical", [{}, {"canonical_scale": 40, "canonical_level": 4}, {"canonical_level": 5}])
def test_module_equals_torchvision(dtype: torch.dtype, canonical: dict[str, Any]) -> None:
    """Inferred scales, levels, values and gradients; maps of other names are passed over."""
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    boxes = listed(pyramid_boxes(60).to(dtype))
    results = []
    for kind in (MultiScaleRoIAlign, ops.MultiScaleRoIAlign):
        layer = kind(["0", "1", "2", "3"], (3, 2), 2, **canonical)
        maps = [level.requires_grad_() for level in pyramid(dtype, 20)]
        named = {str(i): level for i, level in enumerate(maps)}
        named["pool"] = torch.full((2, 20, 2, 2), float("nan"), dtype=dtype)
        out = layer(named, boxes, [(128, 160), (120, 150)])
        grad = random_tensor(*out.shape, seed=42, dtype=dtype)
        results.append([out, *torch.autograd.grad(out, maps, grad)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12 if dtype == torch.float64 else 2e-5, rtol=0)


@given(st.data())
def test_drawn_pyramids_equal_one_call_per_level(data: Any) -> None:
    draw = data.draw
    levels, images, channels = draw(st.integers(1, 8)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 18]))
    dtype, layout = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(LAYOUTS))
    sizes = [(draw(st.integers(1, 12)), draw(st.integers(1, 12))) for _ in range(levels)]
    features = [
        with_layout(random_tensor(images, channels, *size, seed=level, dtype=dtype), layout)
        for level, size in enumerate(sizes)
    ]
    first = draw(st.integers(-2, 3))
    scales = tuple(2.0 ** -(first + level) for level in range(levels))
    ratio, mode = draw(st.sampled_from([-1, 1, 2])), draw(st.sampled_from(MODES))
    canonical = draw(st.floats(1.0, 300.0)), draw(st.integers(0, 5))
    call = Pooler((2, 3), scales, ratio, draw(st.booleans()), mode, *canonical)
    place = st.one_of(st.floats(-20.0, 500.0, width=32), st.sampled_from([0.0, 1e4, float("nan"), float("inf"), -1e4]))
    count = draw(st.integers(0, 6))
    table = [[draw(st.integers(0, images - 1)), *(draw(place) for _ in range(4))] for _ in range(count)]
    boxes = torch.tensor(table, dtype=torch.float64).reshape(-1, 5).to(draw(st.sampled_from(DTYPES)))
    assert torch.equal(call(features, boxes), call.one_by_one(features, boxes))


def test_oracle_and_package_agree_on_the_type_of_coordinates() -> None:
    """float64 where the maps or the boxes are, float32 elsewhere."""
    for dtype in DTYPES:
        for box_dtype in DTYPES:
            double = torch.float64 in (dtype, box_dtype)
            kind = coordinate_type(torch.zeros(1, dtype=dtype), torch.zeros(1, dtype=box_dtype))
            assert kind is (np.float64 if double else np.float32)


# --- rotated boxes


def turned(boxes: Tensor) -> Tensor:
    """Rotated boxes of the same centres and sizes, each by another angle."""
    centre, size = (boxes[:, 1:3] + boxes[:, 3:]) / 2, boxes[:, 3:] - boxes[:, 1:3]
    angle = torch.linspace(-170.0, 190.0, len(boxes), dtype=boxes.dtype)
    return torch.cat([boxes[:, :1], centre, size, angle[:, None]], 1)


ROTATED = MultiscaleRotatedCall((3, 2), SCALES, 2, canonical_scale=40.0)
ROTATED_VARIANTS = (
    ROTATED,
    MultiscaleRotatedCall((2, 2), SCALES, -1, aligned=False, canonical_scale=40.0),
    MultiscaleRotatedCall((2, 3), SCALES, 2, clockwise=True, angle_unit="radian", canonical_scale=40.0),
)


@pytest.mark.parametrize("call", ROTATED_VARIANTS, ids=["detectron2", "legacy adaptive", "mmcv"])
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [(torch.float64, "contiguous"), (torch.float32, "channels_last"), (torch.bfloat16, "sliced")],
)
def test_rotated_matches_oracle(call: MultiscaleRotatedCall, dtype: torch.dtype, layout: str) -> None:
    """Values, and gradients with respect to every map and the boxes."""
    features = pyramid(dtype, 5, layout)
    boxes = turned(pyramid_boxes(60)).to(torch.float64 if dtype == torch.float64 else torch.float32)
    assert set(call.levels_of(features, boxes)) == {0, 1, 2, 3}
    assert_is_the_definition(call, features, boxes)


def test_rotated_equals_a_loop_over_levels() -> None:
    """Function and layer, of rows and lists, give the bits of the loop."""
    features, boxes = pyramid(), turned(pyramid_boxes(80))
    boxes = boxes[boxes[:, 0].argsort(stable=True)]
    levels = torch.tensor(ROTATED.levels_of(features, boxes))
    expected = torch.zeros(80, 3, 3, 2, dtype=torch.float64)
    for level, scale in enumerate(SCALES):
        expected[levels == level] = roi_align_rotated(features[level], boxes[levels == level], (3, 2), scale, 2)
    options = {"canonical_scale": 40.0, "canonical_level": 4.0}
    layer = MultiScaleRoIAlignRotated((3, 2), list(SCALES), 2, **options)  # type: ignore[arg-type]
    for rois in (boxes, listed(boxes)):
        assert torch.equal(multiscale_roi_align_rotated(features, rois, (3, 2), list(SCALES), 2, **options), expected)
        assert torch.equal(layer(features, rois), expected)


def test_rotated_boxes_of_angle_0_are_upright_ones() -> None:
    """Both go to the same levels."""
    features, boxes = pyramid(), pyramid_boxes(60)
    rotated = turned(boxes)
    rotated[:, 5] = 0.0
    options = {"canonical_scale": 40.0, "canonical_level": 4.0}
    expected = multiscale_roi_align(features, boxes, (3, 2), list(SCALES), 2, True, **options)
    out = multiscale_roi_align_rotated(features, rotated, (3, 2), list(SCALES), 2, **options)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("width", "height", "level"), [(112.0, 112.0, 1), (111.9, 112.0, 0), (56.0, 224.0, 1), (900.0, 900.0, 3)]
)
def test_rotated_levels_by_hand(width: float, height: float, level: int) -> None:
    """The area decides, whatever the angle."""
    maps = [torch.full((1, 1, 256 >> k, 256 >> k), float(k)) for k in range(4)]
    boxes = torch.tensor([[0.0, 400.0, 400.0, width, height, angle] for angle in (0.0, 33.0, 90.0)])
    out = multiscale_roi_align_rotated(maps, boxes, 1, list(SCALES), 2)
    assert out.flatten().tolist() == [float(level)] * 3
