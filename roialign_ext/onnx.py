"""ONNX export of the operators: what they are in operators of ONNX.

``torch.onnx.export(model, args, dynamo=True, custom_translation_table=translation_table())`` writes them so. Needs
onnx and onnxscript, the optional extra ``onnx``. The equations are those of docs/math.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

try:
    import onnx_ir as ir
    import onnxscript
except ImportError as error:
    raise ImportError('roialign_ext.onnx needs onnx and onnxscript: pip install "roialign_ext[onnx]"') from error

# The exporter writes in this opset and converts the model to the one that was asked for. onnxscript's annotations know
# tensors, not the values of a graph.
op: Any = onnxscript.opset18
Value: TypeAlias = Any
FLOAT, DOUBLE, INT64 = ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64


def translation_table() -> dict[Callable[..., object], Callable[..., object]]:
    """The argument ``custom_translation_table`` of ``torch.onnx.export(..., dynamo=True)`` for these operators.

    A model may have any number of boxes, dynamic batch and map sizes, and every dtype. Its numbers are those of the
    operators up to rounding. Coordinates are float32 (float64 where the boxes or the features are); features are cast
    to that type and results back to their own.

    Returns:
        The translations by operator (``torch.ops.roialign_ext.roi_align.default`` and the others). Where one cannot
        translate a call, ``torch.onnx.export`` raises a ``ConversionError`` whose text ends in the reason:
        NotImplementedError for ``prroi_pool``, since no operator of ONNX integrates over a bin; ValueError for an
        adaptive ``sampling_ratio`` in mode ``"max"`` and in ``roi_align_rotated``, and for an ``output_size`` or
        ``crop_size`` that is not constant.

    Source: the operators RoiAlign (since opset 16) and MaxRoiPool of the ONNX standard. docs/migration.md says what
    each operator becomes, and what a model does otherwise.
    """
    ops = torch.ops.roialign_ext
    return {
        ops.roi_align.default: _roi_align,
        ops.multiscale_roi_align.default: _multiscale_roi_align,
        ops.roi_warp.default: _roi_warp,
        ops.roi_pool.default: _roi_pool,
        ops.crop_and_resize.default: _crop_and_resize,
        ops.roi_align_rotated.default: _roi_align_rotated,
        ops.prroi_pool.default: _prroi_pool,
    }


# --- the operators, with the arguments of csrc/ops.cpp


def _roi_align(
    input: Value,
    boxes: Value,
    output_size: Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    mode: str = "avg",
) -> Value:
    kind = _coordinate_type(input, boxes)
    index, corners = _index_and_rest(op.Cast(boxes, to=kind))
    corners = op.Mul(corners, _constant(spatial_scale, kind))  # RoiAlign's own scale is float32
    pooled = _pool(op.Cast(input, to=kind), index, corners, output_size, sampling_ratio, aligned, mode)
    return op.Cast(pooled, to=input.dtype)


def _multiscale_roi_align(
    features: Sequence[Value],
    boxes: Value,
    output_size: Sequence[int],
    scales: Sequence[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
    mode: str = "avg",
    canonical_scale: float = 224.0,
    canonical_level: float = 4.0,
) -> Value:
    kind = _coordinate_type(features[0], boxes)
    index, corners = _index_and_rest(op.Cast(boxes, to=kind))
    level = _level(corners, kind, scales, canonical_scale, canonical_level)
    parts, numbers = [], []
    for place, (level_features, scale) in enumerate(zip(features, scales, strict=True)):
        number = op.Squeeze(op.NonZero(op.Equal(level, _constant(place, INT64))), [0])
        level_corners = op.Mul(op.Gather(corners, number), _constant(scale, kind))
        level_features = op.Cast(level_features, to=kind)
        parts.append(
            _pool(level_features, op.Gather(index, number), level_corners, output_size, sampling_ratio, aligned, mode)
        )
        numbers.append(op.Unsqueeze(number, [1]))
    pooled = op.Concat(*parts, axis=0)
    # The numbers of all boxes are a permutation: every row of the data is overwritten.
    in_order = op.ScatterND(pooled, op.Concat(*numbers, axis=0), pooled)
    return op.Cast(in_order, to=features[0].dtype)


def _roi_warp(
    input: Value,
    boxes: Value,
    output_size: Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    mode: str = "avg",
) -> Value:
    kind = _coordinate_type(input, boxes)
    index, corners = _index_and_rest(op.Cast(boxes, to=kind))
    corners = _rounded(op.Mul(corners, _constant(spatial_scale, kind)), kind)
    pooled = _pool(op.Cast(input, to=kind), index, corners, output_size, sampling_ratio, False, mode)
    return op.Cast(pooled, to=input.dtype)


def _roi_pool(input: Value, boxes: Value, output_size: Sequence[int], spatial_scale: float = 1.0) -> Value:
    kind = _coordinate_type(input, boxes)
    rows = op.Mul(op.Cast(boxes, to=kind), _constant([1.0, *[spatial_scale] * 4], kind))
    pooled = op.MaxRoiPool(op.Cast(input, to=kind), rows, pooled_shape=_constant_size("output_size", output_size))
    return op.Cast(pooled, to=input.dtype)


def _crop_and_resize(
    input: Value,
    boxes: Value,
    box_indices: Value,
    crop_size: Sequence[int],
    method: str = "bilinear",
    extrapolation_value: float = 0.0,
    samples_per_bin: int = 1,
    mode: str = "avg",
) -> Value:
    kind = _coordinate_type(input, boxes)
    bins_y, bins_x = _constant_size("crop_size", crop_size)
    corners = op.Cast(boxes, to=kind)

    def axis(first: int, samples: int, map_axis: int) -> tuple[Value, Value]:
        """Positions ``[K, samples]`` and which of them lie on the map, (34)."""
        low, high = _column(corners, first), _column(corners, first + 2)
        last = op.Cast(op.Shape(input, start=map_axis, end=map_axis + 1), to=kind)
        last = op.Sub(last, _constant(1.0, kind))
        if samples > 1:
            step = op.Div(op.Mul(op.Sub(high, low), last), _constant(float(samples - 1), kind))
            numbers = _constant([[float(j) for j in range(samples)]], kind)
            position = op.Add(op.Mul(low, last), op.Mul(numbers, step))
        else:
            position = op.Mul(op.Mul(_constant(0.5, kind), op.Add(low, high)), last)
        inside = op.And(op.GreaterOrEqual(position, _constant(0.0, kind)), op.LessOrEqual(position, last))
        return (position if method == "bilinear" else _rounded(position, kind)), inside

    y, y_inside = axis(0, bins_y * samples_per_bin, 2)
    x, x_inside = axis(1, bins_x * samples_per_bin, 3)
    crop = _sample(op.Cast(input, to=kind), box_indices, op.Unsqueeze(y, [2]), op.Unsqueeze(x, [1]), kind)
    inside = op.And(op.Unsqueeze(y_inside, [1, 3]), op.Unsqueeze(x_inside, [1, 2]))
    crop = op.Where(inside, crop, _constant(extrapolation_value, kind))
    return op.Cast(_pool_samples(crop, crop_size, samples_per_bin, mode), to=input.dtype)


def _roi_align_rotated(
    input: Value,
    boxes: Value,
    output_size: Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = True,
    clockwise: bool = False,
    angle_unit: str = "degree",
) -> Value:
    kind = _coordinate_type(input, boxes)
    _check_fixed(sampling_ratio, "roi_align_rotated")
    bins_y, bins_x = _constant_size("output_size", output_size)
    index, box = _index_and_rest(op.Cast(boxes, to=kind))
    scale = _constant(spatial_scale, kind)

    def centre(column: int) -> Value:
        position = op.Mul(_column(box, column), scale)
        return op.Unsqueeze(op.Sub(position, _constant(0.5 if aligned else 0.0, kind)), [2])

    def upright(column: int, bins: int) -> Value:
        """Positions ``[K, samples]`` along a side, from the centre of the box: (3), (5)."""
        size = op.Mul(_column(box, column), scale)
        if not aligned:
            size = op.Max(size, _constant(1.0, kind))
        step = op.Div(size, _constant(float(bins), kind))
        in_bin = [[i + 0.5 for _ in range(bins) for i in range(sampling_ratio)]]
        number = [[float(p) for p in range(bins) for _ in range(sampling_ratio)]]
        start = op.Add(op.Mul(size, _constant(-0.5, kind)), op.Mul(_constant(number, kind), step))
        return op.Add(start, op.Div(op.Mul(_constant(in_bin, kind), step), _constant(float(sampling_ratio), kind)))

    angle = _column(box, 4)
    if angle_unit == "degree":
        radians = op.Div(op.Mul(op.Cast(angle, to=DOUBLE), _constant(math.pi, DOUBLE)), _constant(180.0, DOUBLE))
        angle = op.Cast(radians, to=kind)
    angle = op.Unsqueeze(op.Cast(op.Neg(angle) if clockwise else angle, to=DOUBLE), [2])
    cosine, sine = op.Cast(op.Cos(angle), to=kind), op.Cast(op.Sin(angle), to=kind)
    up_y, up_x = op.Unsqueeze(upright(3, bins_y), [2]), op.Unsqueeze(upright(2, bins_x), [1])
    y = op.Add(op.Sub(op.Mul(up_y, cosine), op.Mul(up_x, sine)), centre(1))
    x = op.Add(op.Add(op.Mul(up_y, sine), op.Mul(up_x, cosine)), centre(0))
    samples = _sample(op.Cast(input, to=kind), index, y, x, kind)
    return op.Cast(_pool_samples(samples, output_size, sampling_ratio, "avg"), to=input.dtype)


def _prroi_pool(input: Value, boxes: Value, output_size: Sequence[int], spatial_scale: float = 1.0) -> Value:
    raise NotImplementedError(
        "prroi_pool: cannot be exported, because no operator of ONNX integrates a map over a bin; "
        "roi_align with a fixed sampling_ratio comes near it"
    )


# --- what they are made of


def _constant(value: Any, kind: ir.DataType) -> Value:
    """Numbers in the type of their use: the exporter would write them as float32 and convert."""
    return op.Constant(value=ir.tensor(value, dtype=kind))


def _coordinate_type(input: Value, boxes: Value) -> ir.DataType:
    return DOUBLE if DOUBLE in (input.dtype, boxes.dtype) else FLOAT


def _constant_size(name: str, size: Sequence[int]) -> Sequence[int]:
    if not all(isinstance(bins, int) for bins in size):
        raise ValueError(f"{name}: expected constant ints, because ONNX has them as attributes, got {size}")
    return size


def _check_fixed(sampling_ratio: int, what: str) -> None:
    if sampling_ratio <= 0:
        raise ValueError(
            f"sampling_ratio: expected a positive number for the export of {what}, because ONNX has no form of it "
            f"in which every box has a number of samples of its own, got {sampling_ratio}"
        )


def _column(rows: Value, column: int) -> Value:
    """A column ``[K, 1]``."""
    return op.Slice(rows, [column], [column + 1], [1])


def _index_and_rest(rows: Value) -> tuple[Value, Value]:
    """Batch indices ``[K]`` and the other columns."""
    index = op.Cast(op.Squeeze(_column(rows, 0), [1]), to=INT64)
    return index, op.Slice(rows, [1], [6], [1])


def _rounded(position: Value, kind: ir.DataType) -> Value:
    """Half away from zero; ONNX's Round takes halves to even."""
    size = op.Abs(position)
    whole = op.Floor(size)
    up = op.GreaterOrEqual(op.Sub(size, whole), _constant(0.5, kind))
    return op.Mul(op.Sign(position), op.Add(whole, op.Cast(up, to=kind)))


def _level(
    corners: Value, kind: ir.DataType, scales: Sequence[float], canonical_scale: float, canonical_level: float
) -> Value:
    """Which map a box belongs to, (35): the number of levels after the first whose smallest size it reaches."""
    first, last = (math.trunc(-math.log2(scale)) for scale in (scales[0], scales[-1]))
    smallest = [canonical_scale * 2.0 ** (k - canonical_level - 1e-6) for k in range(first + 1, last + 1)]
    sides = op.Sub(op.Slice(corners, [2], [4], [1]), op.Slice(corners, [0], [2], [1]))
    size = op.Sqrt(op.Mul(_column(sides, 0), _column(sides, 1)))
    reached = op.Cast(op.GreaterOrEqual(size, _constant([smallest], kind)), to=INT64)
    return op.Min(op.ReduceSum(reached, [1], keepdims=0), _constant(len(scales) - 1, INT64))


def _pool(
    input: Value,
    index: Value,
    corners: Value,
    output_size: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
    mode: str,
) -> Value:
    """RoIAlign of boxes in map pixels."""
    bins_y, bins_x = _constant_size("output_size", output_size)
    if mode == "max":
        # One sample of a bin that is g times smaller along both axes is one of the g x g samples.
        _check_fixed(sampling_ratio, "mode 'max'")
        samples = _align(input, index, corners, bins_y * sampling_ratio, bins_x * sampling_ratio, 1, aligned)
        return _pool_samples(samples, output_size, sampling_ratio, mode)
    if aligned and sampling_ratio <= 0:
        # A reversed box has an empty grid, as one without size has; runtimes fail on a negative number of samples.
        low, high = op.Slice(corners, [0], [2], [1]), op.Slice(corners, [2], [4], [1])
        corners = op.Concat(low, op.Max(low, high), axis=1)
    return _align(input, index, corners, bins_y, bins_x, max(sampling_ratio, 0), aligned)


def _align(
    input: Value, index: Value, corners: Value, bins_y: int, bins_x: int, sampling_ratio: int, aligned: bool
) -> Value:
    return op.RoiAlign(
        input,
        corners,
        index,
        output_height=bins_y,
        output_width=bins_x,
        sampling_ratio=sampling_ratio,
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
    )


def _sample(input: Value, index: Value, y: Value, x: Value, kind: ir.DataType) -> Value:
    """The map at positions whose shapes broadcast to ``[K, samples_y, samples_x]``: ``[K, C, samples_y, samples_x]``.

    Every sample is a box without size in ``RoiAlign``, with one bin and one sample in it.
    """
    grid = op.Shape(op.Add(y, x))
    xs, ys = (op.Add(op.Reshape(op.Expand(v, grid), [-1, 1]), _constant(0.5, kind)) for v in (x, y))
    images = op.Reshape(op.Expand(op.Unsqueeze(op.Cast(index, to=INT64), [1, 2]), grid), [-1])
    samples = _align(input, images, op.Concat(xs, ys, xs, ys, axis=1), 1, 1, 1, aligned=True)
    shape = op.Concat(grid, op.Shape(input, start=1, end=2), axis=0)
    return op.Transpose(op.Reshape(samples, shape), perm=[0, 3, 1, 2])


def _pool_samples(samples: Value, bins: Sequence[int], n: int, mode: str) -> Value:
    """Each n x n of ``[K, C, PH * n, PW * n]`` become one output."""
    if n == 1:
        return samples
    if mode == "max":
        maxima, _ = op.MaxPool(samples, kernel_shape=[n, n], strides=[n, n])
        return maxima
    # AveragePool would do, but onnxruntime has none for float64.
    return op.ReduceMean(op.Reshape(samples, [0, 0, bins[0], n, bins[1], n]), [3, 5], keepdims=0)
