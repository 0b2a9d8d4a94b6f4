"""One box on one map, as read by each operator."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from torch import Tensor

from .._checks import DTYPES, as_layer_size, as_layer_spatial_scale, as_number, as_pair
from .geometry import Axis, operator_axis, taps
from .operators import WORDS, check_operators, pool

MAX_BOX_SIZE = 40.0
"""Longest box to draw, map pixels along an axis; a picture of a longer one would show nothing."""

# Okabe and Ito's colours, distinct for colour-blind readers, on a map light enough for black text.
BOX, SAMPLE, MARKED = "#D55E00", "#00507A", "#CC79A7"
MAP_COLOURS = LinearSegmentedColormap.from_list("light", ["#FFFFFF", "#D3E6F0", "#7FB8D6"])
GRID, TEXT, FAINT, WEIGHT = "#B9C4CC", "#222222", "#555555", "#8A3B00"
SMALL, NORMAL, LARGE = 8.0, 9.0, 11.5
DASHES = (0, (4, 2))

# Inches.
PANEL, DETAIL, RESULT = 2.3, 1.8, 1.4
LEFT, GAP, RIGHT = 0.4, 0.24, 0.72
TITLES, TICKS, LINE = 0.6, 0.3, 0.28

_HALO = [patheffects.withStroke(linewidth=2.2, foreground="white")]


@dataclass(frozen=True)
class Reading:
    """The box as one operator reads it."""

    operator: str
    y: Axis
    x: Axis
    pooled: Tensor
    """``[PH, PW]``"""

    def sample(self, p_y: int, p_x: int) -> tuple[float, float] | None:
        """The sample ``(y, x)`` of a bin with the most even weights, in map pixels; None if no sample is on the map."""
        length_y, length_x = self.y.weights.shape[1], self.x.weights.shape[1]

        def evenness(point: tuple[float, float]) -> float:
            by_row, by_column = taps(point[0], length_y), taps(point[1], length_x)
            return len(by_row) * len(by_column) + min(by_row.values()) * min(by_column.values())

        points = [
            (y, x) for y in self.y.samples[p_y] if taps(y, length_y) for x in self.x.samples[p_x] if taps(x, length_x)
        ]
        return max(points, key=evenness, default=None)


def draw_box(
    input: Tensor,
    box: Sequence[float] | Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
    operators: Sequence[str] = ("roi_pool", "roi_warp", "roi_align", "prroi_pool"),
) -> Figure:
    """Draws one box on one map as each operator reads it, side by side.

    Each operator has one column. The first row has the map, the box in the operator's own frame, the quantised box if
    there is one, the bins, and the sampling points (for PrRoIPool the integrated area). The second row shows the bin
    that is marked in the first row: one sample with its four neighbours and their weights (for RoIPool the cells of the
    bin, for PrRoIPool the weights of the whole bin). The third row has the result of the operator. All maps share one
    colour scale. Numbers are written if they fit.

    Args:
        input: one map ``[H, W]``, floating point, finite.
        box: ``(x1, y1, x2, y2)`` in image pixels.
        output_size: bins ``(PH, PW)``, or one int for both.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples per bin along each axis for RoIWarp and RoIAlign; if not positive, adaptive.
        operators: the columns, in this order: ``"roi_pool"``, ``"roi_warp"``, ``"roi_align"`` (with ``aligned=False``,
            its default), ``"roi_align_half_pixel"`` (with ``aligned=True``), ``"prroi_pool"``.
            ``"roi_align_half_pixel"`` maps box coordinate ``c`` to map position ``c * spatial_scale - 0.5``, the others
            to ``c * spatial_scale``.

    Returns:
        A matplotlib ``Figure`` without a window; save it by ``figure.savefig(path)``.

    Raises:
        TypeError: ``input`` is not a tensor, or ``box`` does not hold numbers.
        ValueError: an argument has another shape, the box misses the map or is longer than 40 map pixels, or an
            operator rejects its arguments.
    """
    check_operators(operators)
    if not isinstance(input, Tensor):
        raise TypeError(f"input: expected one finite map [H, W], got {type(input).__name__}")
    dense = input.layout == torch.strided and not (input.is_nested or input.is_meta)
    drawable = dense and input.dim() == 2 and input.numel() > 0 and input.dtype in DTYPES
    if not drawable or not bool(input.isfinite().all()):
        shape = list(input.shape) if dense else [input.layout, input.device]
        raise ValueError(f"input: expected one finite map [H, W], got {input.dtype} of shape {shape}")
    x1, y1, x2, y2 = corners = _corners(box)
    bins_y, bins_x = as_pair("output_size", as_layer_size("output_size", output_size))
    spatial_scale = as_layer_spatial_scale(spatial_scale)
    height, width = input.shape
    image = input.detach().cpu().double()
    row = torch.tensor([[0.0, *corners]], dtype=torch.float64)
    readings = []
    for operator in operators:
        result = pool(operator, image[None, None], row, (bins_y, bins_x), spatial_scale, sampling_ratio)
        size = max(abs(x2 - x1), abs(y2 - y1)) * spatial_scale
        if size > MAX_BOX_SIZE:
            raise ValueError(
                f"box: expected at most {MAX_BOX_SIZE:g} map pixels along an axis to draw at this spatial_scale, "
                f"got {size:g}"
            )
        y = operator_axis(operator, (y1, y2), bins_y, height, spatial_scale, sampling_ratio)
        x = operator_axis(operator, (x1, x2), bins_x, width, spatial_scale, sampling_ratio)
        readings.append(Reading(operator, y, x, result[0, 0]))
    rows = _view([reading.y for reading in readings], height)
    columns = _view([reading.x for reading in readings], width)
    return _compose(image, readings, rows, columns)


def _corners(box: Sequence[float] | Tensor) -> list[float]:
    expected = "four finite numbers (x1, y1, x2, y2)"
    try:
        corners = [as_number("box", coordinate) for coordinate in (box.tolist() if isinstance(box, Tensor) else box)]
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"box: expected {expected}, got {box!r}") from error
    if len(corners) != 4 or not all(map(math.isfinite, corners)):
        raise ValueError(f"box: expected {expected}, got {box!r}")
    return corners


def _view(axes: Sequence[Axis], length: int) -> tuple[int, int]:
    """First and last cell shown along an axis: the drawn range and one more cell, at most two cells off the map."""
    drawn = [edge for axis in axes for edge in (*axis.box, *axis.region)]
    low, high = min(drawn), max(drawn)
    if high < -1 or low > length:
        raise ValueError(f"box: expected one that meets the map, got map pixels {low:g} to {high:g} of {length}")
    return max(math.floor(low + 0.5) - 1, -2), min(math.ceil(high - 0.5) + 1, length + 1)


def _marked(axes: Sequence[Axis]) -> int:
    """The bin to mark along an axis: among those on the map for every operator, the one nearest to the middle."""
    bins = len(axes[0].bins)
    on_map = [p for p in range(bins) if all(axis.weights[p].any() for axis in axes)]
    return min(on_map, key=lambda p: abs(p - bins // 2), default=bins // 2)


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}"


def _fits(words: Iterable[str], size: float, width: float) -> bool:
    """Whether each word fits into a cell ``width`` inches wide, in letters of ``size`` points."""
    return max(map(len, words)) * size * 0.62 / 72 < width


class _Page:
    """A figure measured in inches from its upper left corner, with one column per operator."""

    def __init__(self, columns: int, height: float) -> None:
        self.columns = columns
        self.width = LEFT + columns * PANEL + (columns - 1) * GAP + RIGHT
        self.height = height
        self.figure = Figure(figsize=(self.width, height), facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Empty axes; a map that does not fill them is centred."""
        place = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        axes: Axes = self.figure.add_axes(place)
        axes.spines[:].set_color(GRID)
        return axes

    def panel(self, column: int, top: float, height: float) -> Axes:
        return self.axes(LEFT + column * (PANEL + GAP), top, PANEL, height)

    def words(self, column: int, top: float, words: str, size: float = NORMAL, weight: str = "normal") -> None:
        """One line above or below a picture, its baseline ``top`` inches from the upper edge."""
        x = (LEFT + column * (PANEL + GAP) + PANEL / 2) / self.width
        y = 1 - top / self.height
        self.figure.text(x, y, words, ha="center", va="baseline", fontsize=size, fontweight=weight, color=TEXT)


def _compose(image: Tensor, readings: list[Reading], rows: tuple[int, int], columns: tuple[int, int]) -> Figure:
    tall = PANEL * min(max((rows[1] - rows[0] + 1) / (columns[1] - columns[0] + 1), 0.5), 1.5)
    detail = TITLES + tall + TICKS + LINE
    result = detail + DETAIL + LINE + 0.12 + LINE
    legend = result + RESULT + 0.3
    lines_of_legend = 1 if len(readings) > 2 else 2 if len(readings) == 2 else 4
    caption = legend + 0.2 * lines_of_legend + 0.12
    width = LEFT + len(readings) * (PANEL + GAP) - GAP + RIGHT
    explanation = textwrap.wrap(_explanation(readings), int(width * 15))
    page = _Page(len(readings), caption + 0.16 * len(explanation) + 0.06)

    shown = image[max(rows[0], 0) : rows[1] + 1, max(columns[0], 0) : columns[1] + 1]
    values = torch.cat([shown.flatten(), *(reading.pooled.flatten() for reading in readings)])
    lowest, highest = float(values.min()), float(values.max())
    norm = Normalize(lowest, highest) if highest > lowest else Normalize(lowest - 0.5, highest + 0.5)
    marked = (_marked([reading.y for reading in readings]), _marked([reading.x for reading in readings]))
    for column, reading in enumerate(readings):
        words = WORDS[reading.operator]
        page.words(column, 0.26, words.name, LARGE, "bold")
        page.words(column, TITLES - 0.12, words.rounding)
        axes = page.panel(column, TITLES, tall)
        _draw_reading(axes, image, norm, reading, rows, columns, marked)
        if column:
            axes.set_yticklabels([])
        page.words(column, detail - 0.08, words.detail)
        outcome = _draw_detail(page.panel(column, detail, DETAIL), image, norm, reading, marked)
        page.words(column, detail + DETAIL + 0.2, outcome)
        page.words(column, result - 0.08, f"result: {words.result}")
        _draw_result(page.panel(column, result, RESULT), norm, reading.pooled, marked)

    bar = page.axes(page.width - RIGHT + 0.12, TITLES + 0.2 * tall, 0.09, 0.7 * tall)
    ticks, numbers = MaxNLocator(5), StrMethodFormatter("{x:.4g}")
    scale = page.figure.colorbar(ScalarMappable(norm, MAP_COLOURS), cax=bar, ticks=ticks, format=numbers)
    scale.outline.set_edgecolor(GRID)
    bar.tick_params(labelsize=SMALL, length=2, colors=FAINT)
    bar.set_title("value", fontsize=SMALL, color=FAINT, pad=5, loc="left")
    handles = _legend(readings)
    page.figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - (legend - 0.12) / page.height),
        ncols=math.ceil(len(handles) / lines_of_legend),
        fontsize=NORMAL,
        frameon=False,
        borderpad=0,
        handlelength=1.8,
        columnspacing=1.5,
        labelcolor=TEXT,
    )
    text = "\n".join(explanation)
    page.figure.text(0.5, 1 - caption / page.height, text, ha="center", va="top", fontsize=SMALL, color=FAINT)
    return page.figure


def _explanation(readings: list[Reading]) -> str:
    half = sum(reading.operator == "roi_align_half_pixel" for reading in readings)
    words = "Ticks count map pixels: cell centres have whole coordinates. A box coordinate c lies at map position "
    if half == 0:
        return words + "c × spatial_scale."
    if half == len(readings):
        return words + "c × spatial_scale − ½ (aligned=True)."
    return words + "c × spatial_scale − ½ for aligned RoIAlign, at c × spatial_scale otherwise."


def _legend(readings: list[Reading]) -> list[Artist]:
    operators = {reading.operator for reading in readings}
    handles: list[Artist] = [Line2D([], [], color=BOX, linewidth=2, label="box")]
    if operators & {"roi_pool", "roi_warp"}:
        handles.append(Line2D([], [], color="black", linewidth=1.7, linestyle=DASHES, label="quantised box"))
    handles.append(Line2D([], [], color=TEXT, linewidth=0.8, label="bins"))
    handles.append(Patch(facecolor="none", edgecolor=MARKED, linewidth=2.5, label="marked bin"))
    if any(reading.y.samples for reading in readings):
        handles.append(_dot(SAMPLE, 5, "sampling point"))
        handles.append(_dot(BOX, 6.5, "the sample shown below"))
    if "prroi_pool" in operators:
        handles.append(Patch(facecolor="none", edgecolor=BOX, hatch="////", linewidth=0, label="integrated area"))
    return handles


def _dot(colour: str, size: float, label: str) -> Line2D:
    return Line2D(
        [], [], color=colour, marker="o", markersize=size, linestyle="none", markeredgecolor="white", label=label
    )


def _draw_cells(axes: Axes, image: Tensor, norm: Normalize, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """The cells of the map in ``rows`` and ``columns``, both inclusive; the area off the map stays grey."""
    height, width = image.shape
    axes.set_facecolor("#EEEEEE")
    for r in range(max(rows[0], 0), min(rows[1], height - 1) + 1):
        for q in range(max(columns[0], 0), min(columns[1], width - 1) + 1):
            _frame(axes, (r - 0.5, r + 0.5), (q - 0.5, q + 0.5), GRID, 0.6, MAP_COLOURS(norm(float(image[r, q]))))
    axes.set_xlim(columns[0] - 0.5, columns[1] + 0.5)
    axes.set_ylim(rows[1] + 0.5, rows[0] - 0.5)
    axes.set_aspect("equal")


def _frame(
    axes: Axes,
    y: tuple[float, float],
    x: tuple[float, float],
    colour: str,
    linewidth: float,
    fill: str | tuple[float, ...] = "none",
    **style: Any,
) -> None:
    style = {"edgecolor": colour, "facecolor": fill, "linewidth": linewidth, "joinstyle": "miter", **style}
    axes.add_patch(Rectangle((x[0], y[0]), x[1] - x[0], y[1] - y[0], **style))


def _draw_reading(
    axes: Axes,
    image: Tensor,
    norm: Normalize,
    reading: Reading,
    rows: tuple[int, int],
    columns: tuple[int, int],
    marked: tuple[int, int],
) -> None:
    """The first row."""
    y, x = reading.y, reading.x
    _draw_cells(axes, image, norm, rows, columns)
    if reading.operator == "prroi_pool":
        _frame(axes, y.region, x.region, BOX, 0.0, hatch="////", alpha=0.45)
    for bin_y in y.bins:
        for bin_x in x.bins:
            _frame(axes, bin_y, bin_x, TEXT, 0.8)
    if reading.operator in ("roi_pool", "roi_warp"):
        _frame(axes, y.region, x.region, "black", 1.7, linestyle=DASHES)
    _frame(axes, y.box, x.box, BOX, 2.0)
    _frame(axes, y.bins[marked[0]], x.bins[marked[1]], MARKED, 2.5)
    if y.samples:
        _draw_samples(axes, image, reading, marked)
    for axis, (first, last) in ((axes.xaxis, columns), (axes.yaxis, rows)):
        step = 1 if last - first < 12 else 5
        axis.set_ticks([pixel for pixel in range(first, last + 1) if pixel % step == 0])
    axes.tick_params(labelsize=SMALL, length=2, pad=2, color=GRID, labelcolor=FAINT)


def _draw_samples(axes: Axes, image: Tensor, reading: Reading, marked: tuple[int, int]) -> None:
    height, width = image.shape
    rows, columns = ([place for of_bin in axis.samples for place in of_bin] for axis in (reading.y, reading.x))
    points = [(y, x) for y in rows for x in columns]
    size, edges = (15.0, 0.5) if len(points) <= 64 else (4.0, 0.0)
    inside = [(y, x) for y, x in points if taps(y, height) and taps(x, width)]
    rejected = [(y, x) for y, x in points if not (taps(y, height) and taps(x, width))]
    for chosen, fill, edge, line in ((inside, SAMPLE, "white", edges), (rejected, "none", SAMPLE, 0.5)):
        places = [x for _, x in chosen], [y for y, _ in chosen]
        axes.scatter(*places, s=size, facecolors=fill, edgecolors=edge, linewidths=line, zorder=3)
    sample = reading.sample(*marked)
    if sample is not None:
        y, x = sample
        for r in taps(y, height):
            for q in taps(x, width):
                axes.plot([x, q], [y, r], color=BOX, linewidth=1.2, zorder=4, solid_capstyle="round")
        axes.scatter([x], [y], s=2 * size, color=BOX, edgecolors="white", linewidths=0.7, zorder=5)


def _draw_detail(axes: Axes, image: Tensor, norm: Normalize, reading: Reading, marked: tuple[int, int]) -> str:
    """The second row. Returns the line below the picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if reading.y.samples:
        return _detail_of_sample(axes, image, norm, reading.sample(*marked))
    by_row, by_column = reading.y.weights[marked[0]], reading.x.weights[marked[1]]
    rows, columns = by_row.nonzero().flatten().tolist(), by_column.nonzero().flatten().tolist()
    if not rows or not columns:
        axes.set_axis_off()
        return "no pixel of the map: 0"
    _draw_cells(axes, image, norm, (rows[0], rows[-1]), (columns[0], columns[-1]))
    cell = DETAIL / max(len(rows), len(columns))
    size = NORMAL if cell > 0.4 else SMALL - 1.0
    pooled = float(reading.pooled[marked])
    if reading.operator == "roi_pool":
        values = {(r, q): float(image[r, q]) for r in rows for q in columns}
        written = _fits(map(_number, values.values()), size, cell)
        for (r, q), value in values.items():
            if value == pooled:
                _frame(axes, (r - 0.46, r + 0.46), (q - 0.46, q + 0.46), BOX, 2.2)
            if written:
                axes.text(q, r, _number(value), fontsize=size, ha="center", va="center", color=TEXT)
        return f"largest value: {_number(pooled)}"
    _frame(axes, reading.y.bins[marked[0]], reading.x.bins[marked[1]], BOX, 0.0, hatch="////", alpha=0.45)
    _frame(axes, reading.y.bins[marked[0]], reading.x.bins[marked[1]], MARKED, 2.5)
    if _fits(["<.01"], size, cell):
        for r in rows:
            for q in columns:
                _write_weight(axes, q, r, float(by_row[r] * by_column[q]), size)
    return f"sum of value × weight: {_number(pooled)}"


def _detail_of_sample(axes: Axes, image: Tensor, norm: Normalize, sample: tuple[float, float] | None) -> str:
    if sample is None:
        axes.set_axis_off()
        return "no sample on the map: 0"
    y, x = sample
    by_row, by_column = taps(y, image.shape[0]), taps(x, image.shape[1])
    _draw_cells(axes, image, norm, (min(by_row), max(by_row)), (min(by_column), max(by_column)))
    total = 0.0
    for r, weight_y in by_row.items():
        for q, weight_x in by_column.items():
            value, weight = float(image[r, q]), weight_y * weight_x
            total += weight * value
            axes.plot([x, q], [y, r], color=BOX, linewidth=0.8 + 5.0 * weight, solid_capstyle="round", alpha=0.8)
            axes.plot([q], [r], marker="o", markersize=3.5, color=BOX)
            # Lines run inwards from a pixel centre, so its value and weight are written on the outer side.
            outside = r + (0.27 if r > min(by_row) else -0.27)
            words = f"{_number(value)} ×"
            if _fits([words], NORMAL, 0.3 * DETAIL):
                axes.text(q + 0.1, outside, words, ha="right", va="center", fontsize=NORMAL, color=TEXT)
            _write_weight(axes, q + 0.14, outside, weight, NORMAL, "left")
    axes.scatter([x], [y], s=46, color=BOX, edgecolors="white", linewidths=0.9, zorder=4)
    return f"sum of value × weight: {_number(total)}"


def _write_weight(axes: Axes, x: float, y: float, weight: float, size: float, place: str = "center") -> None:
    text = f"{weight:.2f}".removeprefix("0") if weight >= 0.005 else "<.01"
    axes.text(x, y, text, ha=place, va="center", fontsize=size, fontweight="bold", color=WEIGHT, path_effects=_HALO)


def _draw_result(axes: Axes, norm: Normalize, pooled: Tensor, marked: tuple[int, int]) -> None:
    """The third row."""
    height, width = pooled.shape
    _draw_cells(axes, pooled, norm, (0, height - 1), (0, width - 1))
    axes.set_axis_off()
    _frame(axes, (marked[0] - 0.5, marked[0] + 0.5), (marked[1] - 0.5, marked[1] + 0.5), MARKED, 2.5, clip_on=False)
    cell = RESULT / max(height, width)
    size = LARGE - 1.5 if max(height, width) <= 3 else SMALL - 0.5
    words = {(r, q): _number(float(pooled[r, q])) for r in range(height) for q in range(width)}
    if _fits(words.values(), size, cell):
        for (r, q), number in words.items():
            axes.text(q, r, number, fontsize=size, ha="center", va="center", color=TEXT)
