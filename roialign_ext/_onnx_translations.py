"""The operators in terms of ONNX operators, for any exporter that offers a :class:`Graph`.

Equations are those of docs/math.md. Only operators of opset 16 are used, in forms with the same meaning up to opset 21.
So a graph of a newer opset can be converted to an older one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch

Value: TypeAlias = Any
"""A value of the graph. Every exporter has its own class."""

FLOAT, INT64, DOUBLE = 1, 7, 11
"""Numbers of dtypes in ONNX."""


class Graph(Protocol):
    """The model that an exporter writes. ``graph.Mul(a, b)`` adds a node and returns its value."""

    def constant(self, value: Any, dtype: int) -> Value:
        """A constant of this dtype: a number, or numbers nested in lists."""

    def dtype(self, value: Value) -> int:
        """The number of a value's dtype in ONNX."""

    def __getattr__(self, operator: str) -> Callable[..., Value]:
        """A function that adds a node of this operator. It takes inputs, where a list is a constant, and attributes."""


class Translations:
    """The operators, with the names and arguments of csrc/schemas.cpp, written into a graph."""

    def __init__(self, graph: Graph, name: str) -> None:
        self._graph = graph
        self._name = name

    def roi_align(
        self,
        input: Value,
        boxes: Value,
        output_size: Sequence[int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = False,
        mode: str = "avg",
    ) -> Value:
        op = self._graph
        dtype = self._coordinate_type(input, boxes)
        index, corners = self._index_and_rest(op.Cast(boxes, to=dtype))
        corners = op.Mul(corners, op.constant(spatial_scale, dtype))  # not by RoiAlign's own scale, which is float32
        pooled = self._pool(op.Cast(input, to=dtype), index, corners, output_size, sampling_ratio, aligned, mode, dtype)
        return op.Cast(pooled, to=op.dtype(input))

    def multiscale_roi_align(
        self,
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
        op = self._graph
        dtype = self._coordinate_type(features[0], boxes)
        index, corners = self._index_and_rest(op.Cast(boxes, to=dtype))
        levels = self._levels(corners, dtype, scales, canonical_scale, canonical_level)
        parts, numbers = [], []
        for level, (level_features, scale) in enumerate(zip(features, scales, strict=True)):
            number = op.Squeeze(op.NonZero(op.Equal(levels, op.constant(level, INT64))), [0])
            level_corners = op.Mul(op.Gather(corners, number), op.constant(scale, dtype))
            level_index, level_features = op.Gather(index, number), op.Cast(level_features, to=dtype)
            parts.append(
                self._pool(
                    level_features, level_index, level_corners, output_size, sampling_ratio, aligned, mode, dtype
                )
            )
            numbers.append(op.Unsqueeze(number, [1]))
        pooled = op.Concat(*parts, axis=0)
        # The box numbers of all levels are a permutation: every row is overwritten.
        in_order = op.ScatterND(pooled, op.Concat(*numbers, axis=0), pooled)
        return op.Cast(in_order, to=op.dtype(features[0]))

    def roi_warp(
        self,
        input: Value,
        boxes: Value,
        output_size: Sequence[int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        mode: str = "avg",
    ) -> Value:
        op = self._graph
        dtype = self._coordinate_type(input, boxes)
        index, corners = self._index_and_rest(op.Cast(boxes, to=dtype))
        corners = self._rounded(op.Mul(corners, op.constant(spatial_scale, dtype)), dtype)
        pooled = self._pool(op.Cast(input, to=dtype), index, corners, output_size, sampling_ratio, False, mode, dtype)
        return op.Cast(pooled, to=op.dtype(input))

    def roi_pool(self, input: Value, boxes: Value, output_size: Sequence[int], spatial_scale: float = 1.0) -> Value:
        op = self._graph
        dtype = self._coordinate_type(input, boxes)
        scaled = op.Mul(op.Cast(boxes, to=dtype), op.constant([1.0, *[spatial_scale] * 4], dtype))
        pooled = op.MaxRoiPool(op.Cast(input, to=dtype), scaled, pooled_shape=output_size)
        return op.Cast(pooled, to=op.dtype(input))

    def ps_roi_align(
        self,
        input: Value,
        boxes: Value,
        output_size: Sequence[int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
    ) -> Value:
        op = self._graph
        bins = math.prod(output_size)
        pooled = self.roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned=True)
        # RoiAlign pools every bin from every group of channels: [K, C, groups * bins]. Each bin keeps its own group.
        channels = op.Div(op.Shape(pooled, start=1, end=2), op.constant([bins], INT64))
        sizes = op.Concat(op.Shape(pooled, start=0, end=1), channels, axis=0)
        pairs = op.Reshape(pooled, op.Concat(sizes, op.constant([bins * bins], INT64), axis=0))
        own = op.Gather(pairs, [p * (bins + 1) for p in range(bins)], axis=2)
        return op.Reshape(own, op.Concat(sizes, op.constant(list(output_size), INT64), axis=0))

    def ps_roi_pool(self, input: Value, boxes: Value, output_size: Sequence[int], spatial_scale: float = 1.0) -> Value:
        raise NotImplementedError("ps_roi_pool: cannot be exported, because no operator of ONNX averages whole pixels")

    def crop_and_resize(
        self,
        input: Value,
        boxes: Value,
        box_indices: Value,
        crop_size: Sequence[int],
        method: str = "bilinear",
        extrapolation_value: float = 0.0,
        samples_per_bin: int = 1,
        mode: str = "avg",
    ) -> Value:
        op = self._graph
        dtype = self._coordinate_type(input, boxes)
        bins_y, bins_x = crop_size
        corners = op.Cast(boxes, to=dtype)

        def axis(first: int, samples: int, map_axis: int) -> tuple[Value, Value]:
            """Positions ``[K, samples]`` in map pixels and a mask of those on the map, (34)."""
            low, high = self._column(corners, first), self._column(corners, first + 2)
            last = op.Cast(op.Shape(input, start=map_axis, end=map_axis + 1), to=dtype)
            last = op.Sub(last, op.constant(1.0, dtype))
            if samples > 1:
                step = op.Div(op.Mul(op.Sub(high, low), last), op.constant(float(samples - 1), dtype))
                numbers = op.constant([[float(j) for j in range(samples - 1)]], dtype)
                position, end = op.Add(op.Mul(low, last), op.Mul(numbers, step)), op.Mul(high, last)
                # Rounding may move a sample past the edge of the box, where the last sample lies.
                goes_down = op.Less(step, op.constant(0.0, dtype))
                position = op.Where(goes_down, op.Max(position, end), op.Min(position, end))
                position = op.Concat(position, end, axis=1)
            else:
                position = op.Mul(op.Mul(op.constant(0.5, dtype), op.Add(low, high)), last)
            inside = op.And(op.GreaterOrEqual(position, op.constant(0.0, dtype)), op.LessOrEqual(position, last))
            return (position if method == "bilinear" else self._rounded(position, dtype)), inside

        y, y_inside = axis(0, bins_y * samples_per_bin, 2)
        x, x_inside = axis(1, bins_x * samples_per_bin, 3)
        crop = self._sample(op.Cast(input, to=dtype), box_indices, op.Unsqueeze(y, [2]), op.Unsqueeze(x, [1]), dtype)
        inside = op.And(op.Unsqueeze(y_inside, [1, 3]), op.Unsqueeze(x_inside, [1, 2]))
        crop = op.Where(inside, crop, op.constant(extrapolation_value, dtype))
        return op.Cast(self._pool_samples(crop, crop_size, samples_per_bin, mode, dtype), to=op.dtype(input))

    def roi_align_rotated(
        self,
        input: Value,
        boxes: Value,
        output_size: Sequence[int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = -1,
        aligned: bool = True,
        clockwise: bool = False,
        angle_unit: str = "degree",
    ) -> Value:
        op = self._graph
        dtype = self._coordinate_type(input, boxes)
        _check_fixed(sampling_ratio, self._name)
        bins_y, bins_x = output_size
        index, box = self._index_and_rest(op.Cast(boxes, to=dtype))
        scale = op.constant(spatial_scale, dtype)

        def centre(column: int) -> Value:
            position = op.Mul(self._column(box, column), scale)
            return op.Unsqueeze(op.Sub(position, op.constant(0.5 if aligned else 0.0, dtype)), [2])

        def upright(column: int, bins: int) -> Value:
            """Positions ``[K, samples]`` in map pixels along a side, relative to the centre of the box: (3), (5)."""
            size = op.Mul(self._column(box, column), scale)
            if not aligned:
                size = op.Max(size, op.constant(1.0, dtype))
            step = op.Div(size, op.constant(float(bins), dtype))
            in_bin = [[i + 0.5 for _ in range(bins) for i in range(sampling_ratio)]]
            number = [[float(p) for p in range(bins) for _ in range(sampling_ratio)]]
            start = op.Add(op.Mul(size, op.constant(-0.5, dtype)), op.Mul(op.constant(number, dtype), step))
            return op.Add(
                start, op.Div(op.Mul(op.constant(in_bin, dtype), step), op.constant(float(sampling_ratio), dtype))
            )

        angle = self._column(box, 4)
        if angle_unit == "degree":
            radians = op.Div(
                op.Mul(op.Cast(angle, to=DOUBLE), op.constant(math.pi, DOUBLE)), op.constant(180.0, DOUBLE)
            )
            angle = op.Cast(radians, to=dtype)
        angle = op.Unsqueeze(op.Cast(op.Neg(angle) if clockwise else angle, to=DOUBLE), [2])
        cosine, sine = op.Cast(op.Cos(angle), to=dtype), op.Cast(op.Sin(angle), to=dtype)
        up_y, up_x = op.Unsqueeze(upright(3, bins_y), [2]), op.Unsqueeze(upright(2, bins_x), [1])
        y = op.Add(op.Sub(op.Mul(up_y, cosine), op.Mul(up_x, sine)), centre(1))
        x = op.Add(op.Add(op.Mul(up_y, sine), op.Mul(up_x, cosine)), centre(0))
        samples = self._sample(op.Cast(input, to=dtype), index, y, x, dtype)
        return op.Cast(self._pool_samples(samples, output_size, sampling_ratio, "avg", dtype), to=op.dtype(input))

    def multiscale_roi_align_rotated(
        self,
        features: Sequence[Value],
        boxes: Value,
        output_size: Sequence[int],
        scales: Sequence[float],
        sampling_ratio: int = -1,
        aligned: bool = True,
        clockwise: bool = False,
        angle_unit: str = "degree",
        canonical_scale: float = 224.0,
        canonical_level: float = 4.0,
    ) -> Value:
        raise NotImplementedError(
            "multiscale_roi_align_rotated: cannot be exported; roi_align_rotated of the boxes of each level can"
        )

    def prroi_pool(self, input: Value, boxes: Value, output_size: Sequence[int], spatial_scale: float = 1.0) -> Value:
        raise NotImplementedError(
            "prroi_pool: cannot be exported, because no operator of ONNX integrates a map over a bin; "
            "roi_align with a fixed sampling_ratio approximates it"
        )

    # --- parts of several operators

    def _coordinate_type(self, input: Value, boxes: Value) -> int:
        op = self._graph
        return DOUBLE if DOUBLE in (op.dtype(input), op.dtype(boxes)) else FLOAT

    def _column(self, boxes: Value, column: int) -> Value:
        """One column of the boxes, ``[K, 1]``."""
        op = self._graph
        return op.Gather(boxes, [column], axis=1)

    def _index_and_rest(self, boxes: Value) -> tuple[Value, Value]:
        """Batch indices ``[K]`` and the remaining columns."""
        op = self._graph
        index = op.Cast(op.Squeeze(self._column(boxes, 0), [1]), to=INT64)
        return index, op.Slice(boxes, [1], [6], [1])

    def _low_and_high(self, corners: Value) -> tuple[Value, Value]:
        """``(x1, y1)`` and ``(x2, y2)``. For Slice an optimizer would write a form of Split that needs opset 18."""
        return self._graph.Gather(corners, [0, 1], axis=1), self._graph.Gather(corners, [2, 3], axis=1)

    def _rounded(self, position: Value, dtype: int) -> Value:
        """Rounds half away from zero; ONNX's Round rounds halves to even."""
        op = self._graph
        size = op.Abs(position)
        whole = op.Floor(size)
        up = op.GreaterOrEqual(op.Sub(size, whole), op.constant(0.5, dtype))
        return op.Mul(op.Sign(position), op.Add(whole, op.Cast(up, to=dtype)))

    def _levels(
        self, corners: Value, dtype: int, scales: Sequence[float], canonical_scale: float, canonical_level: float
    ) -> Value:
        """Index of the map of each box, (35): the number of levels after the first whose smallest size it reaches."""
        op = self._graph
        first, last = (math.trunc(-math.log2(scale)) for scale in (scales[0], scales[-1]))
        smallest = [canonical_scale * 2.0 ** (k - canonical_level - 1e-6) for k in range(first + 1, last + 1)]
        low, high = self._low_and_high(corners)
        sides = op.Sub(high, low)
        size = op.Sqrt(op.Mul(self._column(sides, 0), self._column(sides, 1)))
        reached = op.Cast(op.GreaterOrEqual(size, op.constant([smallest], dtype)), to=INT64)
        return op.Min(op.ReduceSum(reached, [1], keepdims=0), op.constant(len(scales) - 1, INT64))

    def _pool(
        self,
        input: Value,
        index: Value,
        corners: Value,
        output_size: Sequence[int],
        sampling_ratio: int,
        aligned: bool,
        mode: str,
        dtype: int,
    ) -> Value:
        """RoIAlign of boxes ``corners``, in map pixels."""
        op = self._graph
        bins_y, bins_x = output_size
        if mode == "max":
            # RoiAlign takes g x g times as many bins, with one sample each: the g x g samples of every bin.
            _check_fixed(sampling_ratio, f"mode 'max' of {self._name}")
            samples = self._align(input, index, corners, bins_y * sampling_ratio, bins_x * sampling_ratio, 1, aligned)
            return self._pool_samples(samples, output_size, sampling_ratio, mode, dtype)
        if aligned and sampling_ratio <= 0:
            # A reversed box has a negative number of samples, on which runtimes fail. An empty box has the same result.
            low, high = self._low_and_high(corners)
            corners = op.Concat(low, op.Max(low, high), axis=1)
        return self._align(input, index, corners, bins_y, bins_x, max(sampling_ratio, 0), aligned)

    def _align(
        self, input: Value, index: Value, corners: Value, bins_y: int, bins_x: int, sampling_ratio: int, aligned: bool
    ) -> Value:
        op = self._graph
        return op.RoiAlign(
            input,
            corners,
            index,
            output_height=bins_y,
            output_width=bins_x,
            sampling_ratio=sampling_ratio,
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        )

    def _sample(self, input: Value, index: Value, y: Value, x: Value, dtype: int) -> Value:
        """The map interpolated at positions (map pixels) that broadcast to ``[K, rows, columns]``.

        The result is ``[K, C, rows, columns]``. For ``RoiAlign`` each sample is an empty box, a bin with one sample.
        """
        op = self._graph
        grid = op.Shape(op.Add(y, x))
        xs, ys = (op.Add(op.Reshape(op.Expand(v, grid), [-1, 1]), op.constant(0.5, dtype)) for v in (x, y))
        images = op.Reshape(op.Expand(op.Unsqueeze(op.Cast(index, to=INT64), [1, 2]), grid), [-1])
        samples = self._align(input, images, op.Concat(xs, ys, xs, ys, axis=1), 1, 1, 1, aligned=True)
        shape = op.Concat(grid, op.Shape(input, start=1, end=2), axis=0)
        return op.Transpose(op.Reshape(samples, shape), perm=[0, 3, 1, 2])

    def _pool_samples(self, samples: Value, bins: Sequence[int], n: int, mode: str, dtype: int) -> Value:
        """Pools each n x n samples of ``[K, C, PH * n, PW * n]`` to one output."""
        op = self._graph
        if n == 1:
            return samples
        if mode == "max":
            return op.MaxPool(samples, kernel_shape=[n, n], strides=[n, n])
        # ONNX Runtime has no float64 AveragePool, and opset 18 changed how ReduceMean takes its axes.
        size = op.Concat(op.Shape(samples, start=0, end=2), op.constant([bins[0], n, bins[1], n], INT64), axis=0)
        sums = op.ReduceSum(op.Reshape(samples, size), [3, 5], keepdims=0)
        return op.Div(sums, op.constant(float(n * n), dtype))


def _check_fixed(sampling_ratio: int, what: str) -> None:
    if sampling_ratio <= 0:
        raise ValueError(
            f"sampling_ratio: expected a positive number for the export of {what}, because ONNX has no adaptive "
            f"form of it, got {sampling_ratio}"
        )


OPERATORS = tuple(name for name in vars(Translations) if not name.startswith("_"))
"""The public operators."""


def translate(graph: Graph, name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Value:
    """Writes a call of an operator into the graph. Arguments other than tensors must be constants."""
    parameters = getattr(torch.ops.roialign_ext, name).default._schema.arguments
    bound = {parameter.name: value for parameter, value in zip(parameters, arguments, strict=False)} | dict(keywords)
    types = {parameter.name: str(parameter.type) for parameter in parameters}
    for argument, value in bound.items():
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if "Tensor" not in types[argument] and not all(isinstance(number, (int, float, str)) for number in numbers):
            what = "constant ints" if "int" in types[argument] else "constant numbers"
            raise ValueError(f"{argument}: expected {what}, because ONNX has them as attributes, got {value}")
    written: Value = getattr(Translations(graph, name), name)(**bound)
    return written
