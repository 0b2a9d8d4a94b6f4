"""Do the pictures show what the operators compute?"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from support.inputs import generator

pytest.importorskip("matplotlib", reason="matplotlib is the optional extra viz")

from matplotlib.figure import Figure
from matplotlib.text import Text

from roialign_ext import viz
from roialign_ext.viz import gallery
from roialign_ext.viz.gallery import example_map
from roialign_ext.viz.geometry import (
    OPERATORS,
    Axis,
    hat_integral,
    operator_axis,
    round_half_away,
    sampling_grid,
    taps,
)
from roialign_ext.viz.localisation import max_of_gaussian, mean_of_gaussian
from roialign_ext.viz.operators import pool

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH = 9, 11
SAMPLED = ("roi_warp", "roi_align", "roi_align_half_pixel")
AVERAGING = (*SAMPLED, "prroi_pool")
# (x1, y1, x2, y2) in image pixels at scale 0.5: inside, corners at halves, over each border, tiny, larger than the map.
BOXES = [
    (3.7, 4.9, 15.2, 13.4),
    (3.0, 5.0, 13.0, 11.0),
    (-5.0, -3.5, 7.1, 9.3),
    (12.3, 8.8, 26.0, 21.7),
    (6.2, 6.1, 6.9, 6.3),
    (-9.0, -8.0, 30.0, 25.0),
]
SCALE = 0.5


def axes_of(operator: str, box: tuple[float, ...], bins: tuple[int, int], ratio: int = 2) -> tuple[Axis, Axis]:
    """The geometry along y and x on a map of HEIGHT x WIDTH."""
    y = operator_axis(operator, (box[1], box[3]), bins[0], HEIGHT, SCALE, ratio)
    x = operator_axis(operator, (box[0], box[2]), bins[1], WIDTH, SCALE, ratio)
    return y, x


def pooled(operator: str, image: Tensor, box: tuple[float, ...], bins: tuple[int, int], ratio: int = 2) -> Tensor:
    """The operator's own result, ``[PH, PW]``."""
    rows = torch.tensor([[0.0, *box]], dtype=torch.float64)
    return pool(operator, image[None, None], rows, bins, SCALE, ratio)[0, 0]


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(HEIGHT, WIDTH, generator=generator(3), dtype=torch.float64)


def interpolated(image: Tensor, y: float, x: float) -> float:
    """The sum of value times weight over the neighbours that the picture shows."""
    return sum(
        weight_y * weight_x * float(image[r, q])
        for r, weight_y in taps(y, HEIGHT).items()
        for q, weight_x in taps(x, WIDTH).items()
    )


@pytest.mark.parametrize("ratio", [1, 2, 3, -1])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("operator", SAMPLED)
def test_mean_of_the_drawn_samples_is_the_result(
    image: Tensor, operator: str, box: tuple[float, ...], ratio: int
) -> None:
    bins = (3, 2)
    y, x = axes_of(operator, box, bins, ratio)
    result = pooled(operator, image, box, bins, ratio)
    for p_y, p_x in itertools.product(range(bins[0]), range(bins[1])):
        values = [interpolated(image, v, u) for v in y.samples[p_y] for u in x.samples[p_x]]
        assert math.fsum(values) / len(values) == pytest.approx(float(result[p_y, p_x]), abs=1e-12)


@pytest.mark.parametrize("bins", [(3, 2), (5, 7)])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("operator", AVERAGING)
def test_drawn_weights_give_the_result(
    image: Tensor, operator: str, box: tuple[float, ...], bins: tuple[int, int]
) -> None:
    y, x = axes_of(operator, box, bins)
    torch.testing.assert_close(y.weights @ image @ x.weights.T, pooled(operator, image, box, bins), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bins", [(3, 2), (5, 7)])
@pytest.mark.parametrize("box", BOXES)
def test_largest_of_the_drawn_cells_is_the_result(image: Tensor, box: tuple[float, ...], bins: tuple[int, int]) -> None:
    y, x = axes_of("roi_pool", box, bins)
    result = pooled("roi_pool", image, box, bins)
    for p_y, p_x in itertools.product(range(bins[0]), range(bins[1])):
        cells = image[y.weights[p_y] > 0][:, x.weights[p_x] > 0]
        assert (cells.max().item() if cells.numel() else 0.0) == result[p_y, p_x].item()
        # The borders that are drawn enclose those cells and no other.
        rows = [r for r in range(HEIGHT) if y.bins[p_y][0] < r < y.bins[p_y][1]]
        assert rows == y.weights[p_y].nonzero().flatten().tolist()


def test_weights_of_prroi_pool_are_areas_under_the_hat(image: Tensor) -> None:
    y, _ = axes_of("prroi_pool", BOXES[0], (3, 2))
    steps = 20_000
    for p, (low, high) in enumerate(y.bins):
        positions = low + (torch.arange(steps, dtype=torch.float64) + 0.5) * (high - low) / steps
        hats = (1 - (positions[:, None] - torch.arange(HEIGHT)).abs()).clamp(min=0)
        torch.testing.assert_close(y.weights[p], hats.mean(0), rtol=0, atol=1e-8)


@pytest.mark.parametrize("operator", AVERAGING)
def test_bins_are_drawn_where_the_operator_reads(operator: str) -> None:
    # Averages of a ramp are the ramp at the centre of what was averaged: the frame of the picture is the operator's.
    column = torch.arange(WIDTH, dtype=torch.float64).expand(HEIGHT, WIDTH)
    y, x = axes_of(operator, BOXES[0], (3, 2))
    rows = column.T.new_tensor(range(HEIGHT))[:, None].expand(HEIGHT, WIDTH)
    for p_y, p_x in itertools.product(range(3), range(2)):
        assert float(pooled(operator, rows, BOXES[0], (3, 2))[p_y, p_x]) == pytest.approx(sum(y.bins[p_y]) / 2)
        assert float(pooled(operator, column, BOXES[0], (3, 2))[p_y, p_x]) == pytest.approx(sum(x.bins[p_x]) / 2)


def test_regions() -> None:
    edges = (2.5, 6.25)

    def region(operator: str) -> tuple[float, float]:
        return operator_axis(operator, edges, 2, 12).region

    assert region("roi_pool") == (2.5, 6.5)  # cells 3 to 6
    assert region("roi_warp") == (3.0, 6.0)
    assert region("roi_align") == edges
    assert region("roi_align_half_pixel") == (2.0, 5.75)
    assert region("prroi_pool") == edges
    assert operator_axis("roi_align", (4.0, 4.5), 2, 12).region == (4.0, 5.0)  # the legacy minimum of one map pixel
    assert operator_axis("roi_align_half_pixel", (4.0, 4.5), 2, 12).region == (3.5, 4.0)
    assert not operator_axis("prroi_pool", (4.0, 3.0), 2, 12).weights.any()


def test_equations() -> None:
    assert [round_half_away(value) for value in (-2.5, -0.5, -0.4, 0.5, 0.49999999999999994, 1.5, 2.5)] == [
        *(-3.0, -1.0, 0.0, 1.0, 0.0, 2.0, 3.0)
    ]
    assert [sampling_grid(5.0, 2, ratio) for ratio in (3, 0, -1)] == [3, 3, 3]
    assert taps(1.25, 4) == {1: 0.75, 2: 0.25}
    assert taps(2.0, 4) == {2: 1.0}
    assert taps(-1.0, 4) == {0: 1.0}
    assert taps(4.0, 4) == {3: 1.0}
    assert taps(-1.01, 4) == taps(4.01, 4) == taps(math.nan, 4) == {}
    assert [hat_integral(offset) for offset in (-2.0, -1.0, 0.0, 1.0, 2.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("operator", ["roi_align", "roi_align_half_pixel", "prroi_pool"])
@pytest.mark.parametrize(("size", "bins", "ratio"), [(7.0, 3, 2), (5.3, 2, 1), (11.9, 7, -1)])
def test_operators_without_rounding_have_no_position_error(operator: str, size: float, bins: int, ratio: int) -> None:
    shifts = torch.linspace(-1.0, 1.0, 21, dtype=torch.float64)
    assert viz.position_error(operator, shifts, size, bins, ratio).abs().max() < 1e-12


def test_position_errors_of_rounding() -> None:
    shifts = [0.0, 0.125, 0.375, 0.625, 0.875, 1.0]
    starts = torch.tensor(shifts, dtype=torch.float64) + 11.25
    # A box of a whole length moves as one: by the rounding of its start. RoIPool's is exact on the border of a cell.
    warped = (torch.floor(starts + 0.5) - starts)[:, None].expand(-1, 3)
    torch.testing.assert_close(viz.position_error("roi_warp", shifts), warped, rtol=0, atol=1e-12)
    error = viz.position_error("roi_pool", shifts)
    torch.testing.assert_close(error.mean(1), torch.floor(starts + 1.0) - 0.5 - starts, rtol=0, atol=1e-12)
    # Seven cells in three bins: [0, 3), [2, 5) and [4, 7), a third of a pixel off at the ends.
    torch.testing.assert_close(error[:, 2] - error[:, 0], torch.full_like(starts, 4 - 14 / 3), rtol=0, atol=1e-12)
    for operator in OPERATORS:
        first, *_, last = viz.position_error(operator, shifts)
        torch.testing.assert_close(first, last, rtol=0, atol=1e-12)  # a whole pixel further all is as it was


def test_value_error() -> None:
    shifts = [0.25, 0.75]
    errors = {operator: viz.value_error(operator, shifts).tolist() for operator in OPERATORS}
    assert errors["roi_align"] == pytest.approx(errors["roi_align_half_pixel"], abs=1e-12)
    # At 0.75 RoIWarp's corners are whole and it is RoIAlign; at 0.25 they are half a pixel off.
    assert errors["roi_warp"][1] == pytest.approx(errors["roi_align"][1], abs=1e-12)
    assert errors["roi_warp"][0] > 5 * errors["roi_align"][0]
    assert max(errors["roi_align"] + errors["prroi_pool"]) < 0.02
    # The bilinear surface of a finely sampled blob is the blob.
    assert viz.value_error("prroi_pool", shifts, size=12.0, deviation=6.0).max() < 0.003


def test_ideals_of_a_gaussian() -> None:
    first = torch.tensor([-3.0, -1.0, 0.5], dtype=torch.float64)
    steps = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    values = torch.exp(-((first[:, None] + 2.5 * steps) ** 2) / 2 / 1.7**2)
    torch.testing.assert_close(mean_of_gaussian(first, 2.5, 1.7), values.mean(1), rtol=0, atol=1e-9)
    torch.testing.assert_close(max_of_gaussian(first, 2.5, 1.7), values.amax(1), rtol=0, atol=1e-4)


def written(figure: Figure) -> list[Text]:
    """All text that is visible."""
    unused = set()  # labels of ticks outside an axis
    for axis in itertools.chain.from_iterable((axes.xaxis, axes.yaxis) for axes in figure.axes):
        low, high = sorted(axis.get_view_interval())
        outside = (tick for tick in axis.get_major_ticks() if not low - 1e-9 <= tick.get_loc() <= high + 1e-9)
        unused |= {label for tick in outside for label in (tick.label1, tick.label2)}
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    return [text for text in texts if isinstance(text, Text) and text.get_text().strip() and text not in unused]


FIGURES = {
    "four operators": lambda: viz.draw_box(example_map(), (22.0, 23.0, 117.0, 102.0), 3, spatial_scale=1 / 16),
    "one operator": lambda: viz.draw_box(example_map(), (1.3, 1.9, 7.2, 5.8), (2, 4), operators=["prroi_pool"]),
    "all operators": lambda: viz.draw_box(example_map().float(), torch.tensor([1, 2, 8, 6]), 2, operators=OPERATORS),
    "adaptive, over the border": lambda: viz.draw_box(example_map(), (-3.0, -2.6, 4.0, 5.0), 2, sampling_ratio=-1),
    "hardly on the map": lambda: viz.draw_box(example_map(), (-3.0, 1.0, -0.9, 4.0), 1),
    "middle off the map": lambda: viz.draw_box(example_map(), (6.0, 3.0, 20.0, 6.0), 3),
    "many bins": lambda: viz.draw_box(100 * torch.rand(16, 16, generator=generator(1)), (1.2, 2.3, 13.7, 12.1), (7, 5)),
    "large values": lambda: viz.draw_box(1e5 * torch.rand(9, 9, generator=generator(1)), (1.2, 2.3, 7.7, 6.1), 5),
    "constant map": lambda: viz.draw_box(torch.ones(6, 6), (1.0, 1.0, 4.0, 4.0), 2),
    "localisation": viz.plot_localisation_error,
}


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_inside_and_does_not_overlap(name: str) -> None:
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    boxes = [(text.get_text(), text.get_window_extent()) for text in written(figure)]
    assert len(boxes) > 8
    for words, box in boxes:
        assert 0 <= box.x0 <= box.x1 <= width, words
        assert 0 <= box.y0 <= box.y1 <= height, words
    for (words, box), (others, other) in itertools.combinations(boxes, 2):
        wide = min(box.x1, other.x1) - max(box.x0, other.x0)
        tall = min(box.y1, other.y1) - max(box.y0, other.y0)
        # The box of a line is taller than its letters.
        assert wide <= 0.5 or tall <= 3.0, f"{words!r} overlaps {others!r}"


def test_draw_box_writes_the_results_of_the_operators() -> None:
    box, image = (1.3, 1.9, 7.2, 5.8), example_map()
    for operator in OPERATORS:
        figure = viz.draw_box(image, box, 2, operators=[operator])
        result = pool(operator, image[None, None], torch.tensor([[0.0, *box]]).double(), (2, 2), 1.0, 2)
        shown = [text.get_text() for text in figure.axes[2].texts]
        assert shown == [f"{value:.2f}" for value in result.flatten().tolist()]


def test_figures_need_matplotlib_and_no_window() -> None:
    """Without it the import says so."""
    code = (
        "import sys, torch, roialign_ext; sys.modules['matplotlib'] = None\n"
        "try: import roialign_ext.viz\n"
        "except ImportError as error: print(error)\n"
        "del sys.modules['matplotlib']\n"
        "from roialign_ext import viz; viz.draw_box(torch.ones(6, 6), (1, 1, 4, 4), 2)\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == 'roialign_ext.viz needs matplotlib: pip install "roialign_ext[viz]"\n'


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.ones(1, 6, 6), (1, 1, 4, 4), 2), r"input: expected one finite map \[H, W\], got .* \[1, 6, 6\]"),
        ((torch.ones(6, 6).int(), (1, 1, 4, 4), 2), r"input: expected one finite map \[H, W\], got torch.int32"),
        ((torch.full((6, 6), math.nan), (1, 1, 4, 4), 2), "input: expected one finite map"),
        ((torch.ones(6, 6), (1, 1, 4), 2), "box: expected four finite numbers"),
        ((torch.ones(6, 6), (1, 1, 4, math.inf), 2), "box: expected four finite numbers"),
        ((torch.ones(6, 6), (9, 1, 12, 4), 2), "box: expected one that meets the map, got map pixels 8.5 to 12.5 of 6"),
        ((torch.ones(0, 6), (1, 1, 4, 4), 2), r"input: expected one finite map .* \[0, 6\]"),
        ((torch.ones(6, 6), (1, 1, 4, 4), 2, -1.0), "spatial_scale: "),
        ((torch.ones(99, 99), (1, 1, 90, 4), 2), "box: expected at most 40 map pixels .* to draw .*, got 89"),
        ((torch.ones(6, 6), (1, 1, 1e30, 4), 2, 1.0, -1), "box: expected at most 40 map pixels .* got 1e.30"),
        ((torch.ones(6, 6), (1, 1, 4, 4), (2, 0)), r"output_size: expected a positive int .*, got \(2, 0\)"),
        ((torch.ones(6, 6), (1, 1, 4, 4), 2, 1.0, 2, ("roi_crop",)), "operators: expected names out of roi_pool, "),
        ((torch.ones(6, 6), (1, 1, 4, 4), 2, 1.0, 2, "roi_pool"), "operators: expected names out of roi_pool, "),
        ((torch.ones(6, 6), (1, 1, 4, 4), 2, 1.0, 2, ()), "operators: expected names out of roi_pool, "),
    ],
)
def test_draw_box_refuses(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        viz.draw_box(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("roi_crop", [0.0]), "operators: expected names out of roi_pool, "),
        (("roi_pool", [1.5]), r"shifts: expected a row of numbers in \[-1, 1\], got \[1.5\]"),
        (("roi_pool", [math.nan]), "shifts: expected a row of numbers"),
        (("roi_pool", [0.0], 13.0), "size: expected 1 to 12 map pixels, got 13.0"),
        (("roi_pool", [0.0], 7.0, 0), "bins: expected a positive number, got 0"),
    ],
)
@pytest.mark.parametrize("function", [viz.position_error, viz.value_error])
def test_errors_refuse(function: object, arguments: tuple[object, ...], words: str) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=words):
        function(*arguments)


def test_value_error_refuses_a_deviation() -> None:
    with pytest.raises(ValueError, match=r"deviation: expected a positive number, got 0\.0"):
        viz.value_error("roi_align", [0.0], deviation=0.0)


def test_gallery_refuses_a_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format: expected one of png, svg, got 'gif'"):
        viz.write_gallery(tmp_path, "gif")


def test_command_writes_the_gallery(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    command = [sys.executable, "-W", "error", "-m", "roialign_ext.viz", "--out", str(folder), "--format", "png"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert sorted(paths) == sorted(folder.iterdir())
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 200_000
    # The documentation shows these files.
    gallery = (ROOT / "docs" / "gallery.md").read_text()
    assert {path.name for path in paths} == {path.name for path in (ROOT / "docs" / "pictures").glob("*.png")}
    assert all(f"(pictures/{path.name})" in gallery for path in paths)


def test_gallery_as_svg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other format, with a small figure in the place of the large ones."""
    monkeypatch.setattr(gallery, "draw_box", lambda *_, **__: viz.draw_box(torch.ones(6, 6), (1, 1, 4, 4), 2))
    monkeypatch.setattr(gallery, "plot_localisation_error", lambda: viz.draw_box(torch.ones(6, 6), (1, 1, 4, 4), 2))
    for path in viz.write_gallery(tmp_path, "svg"):
        assert path.suffix == ".svg"
        assert "</svg>" in path.read_text()
