"""The tables of an axis: csrc/core compiled alone, compared with plain loops over the samples."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from oracle.reference_sampled import round_half_away
from support.cache import ROOT
from support.plain_functions import load

CORE = ROOT / "csrc" / "core"
HALF_PIXEL, LEGACY, WARP, PRROI, ROI_POOL, CROP, CROP_NEAREST = range(7)
VALUE, EDGES, DIRECTION, EDGES_ALONG = range(4)


class Axis(NamedTuple):
    """One axis of one box: edges in image pixels, the size of the map in map pixels."""

    rule: int
    low: float
    high: float
    scale: float
    bins: int
    length: int
    ratio: int


class TapStruct(ctypes.Structure):
    _fields_ = (("bin", ctypes.c_int64), ("pixel", ctypes.c_int64), ("weight", ctypes.c_double * 2))


Table = dict[tuple[int, int], tuple[float, float]]


@pytest.fixture(scope="module")
def core() -> ctypes.CDLL:
    loaded = load("core", [Path(__file__).parent / "harness.cpp"], "core", "-std=c++17")
    integer, real = ctypes.c_int64, ctypes.c_double
    loaded.build_taps.restype = integer
    box = [ctypes.c_int, real, real, real, integer, integer, integer]
    loaded.build_taps.argtypes = [ctypes.c_int, *box, ctypes.c_int, real, real, ctypes.POINTER(TapStruct), integer]
    loaded.crop_position_of.restype = real
    loaded.crop_position_of.argtypes = [ctypes.c_int, real, real, integer, integer, integer]
    return loaded


def build(
    core: ctypes.CDLL, axis: Axis, kind: int = VALUE, rates: tuple[float, float] = (0, 0), single: int = 0
) -> Table:
    """The taps of the table as {(bin, pixel): weights}; checks that pixels ascend and that none has no weight."""
    capacity = 1 << 14
    taps = (TapStruct * capacity)()
    count = core.build_taps(single, *axis, kind, *rates, taps, capacity)
    assert count <= capacity
    table: Table = {}
    last = (-1, -1)
    for tap in taps[:count]:
        assert (tap.bin, tap.pixel) > last
        last = (tap.bin, tap.pixel)
        assert 0 <= tap.pixel < axis.length
        assert tap.weight[0] != 0 or tap.weight[1] != 0
        table[last] = (tap.weight[0], tap.weight[1])
    return table


def samples(axis: Axis, real: type = np.float64) -> list[tuple[int, float, float]]:
    """Every sample as (bin, position in map pixels, share of the box's length before it), by the definition."""
    with np.errstate(all="ignore"):
        shift = real(0.5 if axis.rule == HALF_PIXEL else 0)
        start = real(axis.low) * real(axis.scale) - shift
        size = (real(axis.high) * real(axis.scale) - shift) - start
        if axis.rule == LEGACY and size < 1:
            size = real(1)
        bin_size = size / real(axis.bins)
        grid = axis.ratio if axis.ratio > 0 else int(np.ceil(bin_size))
        result = []
        for p in range(axis.bins):
            for i in range(grid):
                position = start + real(p) * bin_size + (real(i) + real(0.5)) * bin_size / real(grid)
                result.append((p, position, (p + (i + 0.5) / grid) / axis.bins))
        return result


def by_definition(axis: Axis, kind: int = VALUE, real: type = np.float64) -> Table:
    """The mean over samples of the two bilinear weights, or of their derivatives with respect to the two edges."""
    table: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    drawn = samples(axis, real)
    grid = max(len(drawn) // axis.bins, 1)
    held = axis.rule == LEGACY and axis.high * axis.scale - axis.low * axis.scale < 1
    for p, position, u in drawn:
        if not -1 <= position <= axis.length:
            continue
        y = max(float(position), 0.0)
        low = int(y)
        clamped = position <= 0 or low >= axis.length - 1
        if low >= axis.length - 1:
            low, y = axis.length - 1, float(axis.length - 1)
        if kind == VALUE:
            table[p, low][0] += (1 - (y - low)) / grid
            if not clamped:
                table[p, low + 1][0] += (y - low) / grid
        elif not clamped:
            rates = (axis.scale, 0.0) if held else (axis.scale * (1 - u), axis.scale * u)
            for edge in range(2):
                table[p, low][edge] -= rates[edge] / grid
                table[p, low + 1][edge] += rates[edge] / grid
    return {key: (value[0], value[1]) for key, value in table.items()}


def assert_same(actual: Table, expected: Table, tolerance: float) -> None:
    for key in actual.keys() | expected.keys():
        assert actual.get(key, (0.0, 0.0)) == pytest.approx(expected.get(key, (0.0, 0.0)), abs=tolerance, rel=0), key


coordinates = st.floats(-40, 60, allow_nan=False, width=32)
axes = st.builds(
    Axis,
    rule=st.sampled_from([HALF_PIXEL, LEGACY]),
    low=coordinates,
    high=coordinates,
    scale=st.sampled_from([1.0, 0.5, 0.25, 1 / 3]),
    bins=st.integers(1, 9),
    length=st.integers(1, 20),
    ratio=st.sampled_from([-1, 0, 1, 2, 3, 4, 6, 33, 50]),
)


@given(axis=axes)
def test_weights_are_the_mean_of_the_samples(core: ctypes.CDLL, axis: Axis) -> None:
    assert_same(build(core, axis), by_definition(axis), 1e-12)


@given(axis=axes)
def test_single_precision_takes_the_same_floor_decisions(core: ctypes.CDLL, axis: Axis) -> None:
    assert_same(build(core, axis, single=1), by_definition(axis, real=np.float32), 2e-6)


@given(axis=axes)
def test_derivatives_with_respect_to_the_edges(core: ctypes.CDLL, axis: Axis) -> None:
    assert_same(build(core, axis, EDGES), by_definition(axis, EDGES), 1e-12)


@given(axis=axes)
def test_derivatives_are_those_of_the_weights(core: ctypes.CDLL, axis: Axis) -> None:
    """Finite differences, wherever no sample is near a pixel or a border of the range rule."""
    assume(all(abs(position - round(position)) > 1e-3 for _, position, _ in samples(axis)))
    length = (axis.high - axis.low) * axis.scale
    assume(abs(length - 1) > 1e-3)
    cells = length / axis.bins
    assume(axis.ratio > 0 or abs(cells - round(cells)) > 1e-3)
    derivative, step = build(core, axis, EDGES), 1e-6
    for edge, field in enumerate(("low", "high")):
        ahead = build(core, axis._replace(**{field: getattr(axis, field) + step}))
        behind = build(core, axis._replace(**{field: getattr(axis, field) - step}))
        for key in ahead.keys() | behind.keys() | derivative.keys():
            slope = (ahead.get(key, (0.0,))[0] - behind.get(key, (0.0,))[0]) / (2 * step)
            assert derivative.get(key, (0.0, 0.0))[edge] == pytest.approx(slope, abs=1e-6)


@given(axis=axes, rates=st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
def test_direction_is_a_combination_of_the_edges(core: ctypes.CDLL, axis: Axis, rates: tuple[float, float]) -> None:
    edges = build(core, axis, EDGES)
    expected = {key: (low * rates[0] + high * rates[1], 0.0) for key, (low, high) in edges.items()}
    assert_same(build(core, axis, DIRECTION, rates), expected, 1e-12)


@given(axis=axes)
def test_weights_sum_to_one_inside_the_map(core: ctypes.CDLL, axis: Axis) -> None:
    drawn = samples(axis)
    assume(drawn and all(-1 <= position <= axis.length for _, position, _ in drawn))
    sums = np.zeros(axis.bins)
    for (p, _), (weight, _) in build(core, axis).items():
        sums[p] += weight
    np.testing.assert_allclose(sums, 1, atol=1e-12)


@given(axis=axes.map(lambda a: a._replace(length=64, scale=1.0)), shift=st.integers(1, 9))
def test_weights_move_with_the_box(core: ctypes.CDLL, axis: Axis, shift: int) -> None:
    moved = axis._replace(low=axis.low + shift, high=axis.high + shift)
    assume(all(0.01 < position < 50 for _, position, _ in samples(axis)))
    assume(len(samples(axis)) == len(samples(moved)))
    expected = {(p, pixel + shift): weight for (p, pixel), weight in build(core, axis).items()}
    assert_same(build(core, moved), expected, 1e-10)


# Rules whose tables come from something else than the samples of a regular grid.


@given(axis=axes)
def test_warped_edges_are_rounded_first(core: ctypes.CDLL, axis: Axis) -> None:
    real = np.float64
    low, high = (float(round_half_away(real(edge) * real(axis.scale))) for edge in (axis.low, axis.high))
    rounded = axis._replace(rule=LEGACY, low=low, high=high, scale=1.0)
    assert build(core, axis._replace(rule=WARP)) == build(core, rounded)
    straight_through = {key: (a * axis.scale, b * axis.scale) for key, (a, b) in build(core, rounded, EDGES).items()}
    assert_same(build(core, axis._replace(rule=WARP), EDGES), straight_through, 1e-12)


def integral_of_hat(x: float) -> float:
    """The integral of the hat function of pixel 0 from minus infinity to x."""
    x = min(max(x, -1.0), 1.0)
    return 0.5 + x - x * abs(x) / 2


def integrals(axis: Axis) -> Table:
    """The mean over each bin of the hat function of each pixel."""
    start, size = axis.low * axis.scale, (axis.high - axis.low) * axis.scale / axis.bins
    table = {}
    for p in range(axis.bins if size > 0 else 0):
        for pixel in range(axis.length):
            end = start + (p + 1) * size - pixel
            table[p, pixel] = ((integral_of_hat(end) - integral_of_hat(end - size)) / size, 0.0)
    return table


integral_axes = axes.map(lambda a: a._replace(rule=PRROI)).filter(lambda a: not 0 < a.high - a.low < 0.01)


@given(axis=integral_axes)
def test_integral_weights(core: ctypes.CDLL, axis: Axis) -> None:
    assert_same(build(core, axis), integrals(axis), 1e-9)


def kinks(axis: Axis) -> list[float]:
    """The edges of the bins, map pixels."""
    return [axis.scale * (axis.low + p * (axis.high - axis.low) / axis.bins) for p in range(axis.bins + 1)]


def assert_slopes(core: ctypes.CDLL, axis: Axis, derivative: Table, kind: int, rates: tuple[float, float]) -> None:
    """The derivatives with respect to the two edges against differences of the tables of that kind."""
    step = 1e-5
    for edge, field in enumerate(("low", "high")):
        ahead = build(core, axis._replace(**{field: getattr(axis, field) + step}), kind, rates)
        behind = build(core, axis._replace(**{field: getattr(axis, field) - step}), kind, rates)
        for key in ahead.keys() | behind.keys() | derivative.keys():
            slope = (ahead.get(key, (0.0,))[0] - behind.get(key, (0.0,))[0]) / (2 * step)
            assert derivative.get(key, (0.0, 0.0))[edge] == pytest.approx(slope, abs=1e-5)


@given(
    axis=integral_axes,
    bin_size=st.floats(0.3125, 20),
    rates=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
)
def test_derivatives_of_integrals(core: ctypes.CDLL, axis: Axis, bin_size: float, rates: tuple[float, float]) -> None:
    axis = axis._replace(high=axis.low + bin_size * axis.bins / axis.scale)
    assume(all(abs(edge - round(edge)) > 1e-3 for edge in kinks(axis)))
    assert_slopes(core, axis, build(core, axis, EDGES), VALUE, (0, 0))
    assert_slopes(core, axis, build(core, axis, EDGES_ALONG, rates), DIRECTION, rates)


@pytest.mark.parametrize("rate", [5e-324, 2.2250738585072014e-308])
def test_weights_that_underflow_are_left_out(core: ctypes.CDLL, rate: float) -> None:
    """The last division may take a weight that is not zero to zero."""
    axis = Axis(PRROI, -3.5, 2.5, 1.0, 1, 1, -1)
    assert build(core, axis, EDGES_ALONG, (rate, rate)) == {}


def test_second_derivatives_of_means_are_zero(core: ctypes.CDLL) -> None:
    assert build(core, Axis(HALF_PIXEL, 1.3, 7.9, 1.0, 3, 9, 2), EDGES_ALONG, (1.0, 2.0)) == {}


def crop_position(axis: Axis, number: int, real: type) -> float:
    """The position of a sample of a crop in map pixels, by the definition."""
    low, high, last, count = real(axis.low), real(axis.high), real(axis.length - 1), axis.bins * axis.ratio
    if count == 1:
        return float((real(0.5) * (low + high)) * last)
    first, end, step = low * last, high * last, (high - low) * last / real(count - 1)
    return float(
        end if number == count - 1 else min(max(first + real(number) * step, min(first, end)), max(first, end))
    )


shares = st.one_of(st.floats(-2.5, 3.75, width=32), st.sampled_from([0.0, 1.0, 0.5, 1 - 2**-24, 2**-24, 1e7, -1e7]))
crops = st.builds(
    Axis,
    rule=st.sampled_from([CROP, CROP_NEAREST]),
    low=shares,
    high=shares,
    scale=st.just(1.0),
    bins=st.integers(1, 9),
    length=st.integers(1, 200),
    ratio=st.sampled_from([1, 2, 3, 7, 33, 50]),
)


@given(axis=crops, single=st.integers(0, 1))
@example(axis=Axis(CROP, 0.0, 1.0, 1.0, 22, 4, 1), single=1)
@example(axis=Axis(CROP_NEAREST, 1.0, 0.0, 1.0, 22, 4, 1), single=1)
@example(axis=Axis(CROP, 1.0, 1 - 2**-24, 1.0, 1, 4, 50), single=1)
@example(axis=Axis(CROP, 1 - 2**-24, 1.0, 1.0, 1, 200, 50), single=1)
def test_crops_run_from_edge_to_edge(core: ctypes.CDLL, axis: Axis, single: int) -> None:
    """No sample lies beyond an edge, also where the two edges are a few roundings apart."""
    nearest = axis.rule == CROP_NEAREST
    count, last = axis.bins * axis.ratio, axis.length - 1
    table: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    edges: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for i in range(count):
        position = crop_position(axis, i, np.float32 if single else np.float64)
        along = i / (count - 1) if count > 1 else 0.5
        if not 0 <= position <= last:
            continue
        at = round_half_away(position) if nearest else position
        low, key = int(at), (i // axis.ratio, int(at))
        table[key][0] += (1 - (at - low)) / axis.ratio
        table[key[0], low + 1][0] += (at - low) / axis.ratio
        if not nearest and 0 < position < last:
            for edge, rate in enumerate((last * (1 - along), last * along)):
                edges[key][edge] -= rate / axis.ratio
                edges[key[0], low + 1][edge] += rate / axis.ratio
    expected = {key: (w[0], 0.0) for key, w in table.items()}
    assert_same(build(core, axis, single=single), expected, 1e-5 if single else 1e-9)
    expected = {key: (w[0], w[1]) for key, w in edges.items()}
    assert_same(build(core, axis, EDGES, single=single), expected, 1e-3 if single else 1e-9)


@pytest.mark.parametrize("single", [0, 1])
def test_outer_samples_of_crops_lie_on_the_edges(core: ctypes.CDLL, single: int) -> None:
    """For all pairs of sizes below 200, in both directions. Rounded steps add up to more than the map for some."""
    real, past = np.float32 if single else np.float64, 0
    for length in range(2, 200):
        for count in range(2, 200):
            for low, high in ((0.0, 1.0), (1.0, 0.0)):
                ends = [core.crop_position_of(single, low, high, count, length, j) for j in (0, count - 1)]
                assert ends == [low * (length - 1), high * (length - 1)], (length, count)
            past += real(count - 1) * (real(length - 1) / real(count - 1)) > length - 1
    assert past == (1698 if single else 1250)


@given(axis=crops, count=st.integers(2, 2**31 - 1), single=st.integers(0, 1), near_end=st.integers(3, 40))
@example(axis=Axis(CROP, 0.0, 1.0, 1.0, 1, 200, 1), count=16792709, single=1, near_end=3)
@example(axis=Axis(CROP, 1.0, 0.0, 1.0, 1, 200, 1), count=16792709, single=1, near_end=3)
def test_samples_of_crops_lie_between_the_edges_in_order(
    core: ctypes.CDLL, axis: Axis, count: int, single: int, near_end: int
) -> None:
    """Positions are those of the definition to the last bit and run in one direction, for any number of samples."""
    axis, real = axis._replace(bins=1, ratio=count), np.float32 if single else np.float64
    numbers = sorted({0, 1, count // 2, *range(max(count - near_end, 0), count)})
    positions = [core.crop_position_of(single, axis.low, axis.high, count, axis.length, j) for j in numbers]
    assert positions == [crop_position(axis, j, real) for j in numbers]
    assert positions == sorted(positions, reverse=axis.high < axis.low)
    assert {positions[0], positions[-1]} == {float(real(edge) * real(axis.length - 1)) for edge in axis[1:3]}


@pytest.mark.parametrize("single", [0, 1])
@pytest.mark.parametrize("ratio", [2, 50])
def test_crops_of_steps_that_are_not_finite_have_no_samples(core: ctypes.CDLL, single: int, ratio: int) -> None:
    """An edge on the map changes nothing, and neither does the search for samples: one by one, or by bisection."""
    edges = [
        (-math.inf, 1.0),
        (0.0, math.inf),
        (math.inf, 0.5),
        (math.nan, 1.0),
        (0.0, math.nan),
        (-math.inf, math.inf),
    ]
    edges += [(-3e38, 3e38), (0.5, -3e38)] if single else []
    for low, high in edges:
        assert build(core, Axis(CROP, low, high, 1.0, 3, 40, ratio), single=single) == {}


@pytest.mark.parametrize("half_size", [1e4, 1e6, 1e8, 1e12, 1e18, 1e30, 1e38, math.inf, math.nan])
@pytest.mark.parametrize("single", [0, 1])
@pytest.mark.parametrize("rule", [HALF_PIXEL, WARP, PRROI, CROP])
@pytest.mark.parametrize("ratio", [0, 2])
def test_taps_are_bounded_whatever_the_size_of_the_box(
    core: ctypes.CDLL, half_size: float, single: int, rule: int, ratio: int
) -> None:
    axis = Axis(rule, 20 - half_size, 20 + half_size, 1.0, 7, 40, ratio)
    table = build(core, axis, single=single)
    per_bin = defaultdict(int)
    for p, _ in table:
        per_bin[p] += 1
    assert all(count <= axis.length for count in per_bin.values())
    assert sum(weight for weight, _ in table.values()) <= axis.bins * (1 + 1e-6)


def test_huge_adaptive_box_averages_the_whole_map(core: ctypes.CDLL) -> None:
    """One bin over a box of 2e6 px: 42 rows of a grid of 2e6 samples fall on a map of 40 (-1 ... 40)."""
    table = build(core, Axis(HALF_PIXEL, 20 - 1e6, 20 + 1e6, 1.0, 1, 40, 0))
    weights = [table[0, pixel][0] for pixel in range(40)]
    np.testing.assert_allclose(weights[1:-1], 1 / 2e6, rtol=1e-6)
    np.testing.assert_allclose(sum(weights), 41.0 / 2e6, rtol=0.03)


def test_core_knows_no_framework() -> None:
    for header in CORE.glob("*.h"):
        text = header.read_text()
        assert not any(word in text for word in ("ATen", "torch", "c10", "pybind")), header.name


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no CUDA compiler: device code cannot be compiled here")
def test_core_compiles_for_the_device(tmp_path: Path) -> None:
    source = Path(__file__).parent / "device.cu"
    command = ["nvcc", "-c", "-std=c++17", "-arch=sm_80", "--Werror", "all-warnings", "-I", str(CORE), str(source)]
    subprocess.run([*command, "-o", str(tmp_path / "device.o")], check=True)
