"""ONNX export of programs that hold the operators, as ``torch.export.export`` makes them.

``torch.onnx.export`` of a module needs nothing of this page: importing roialign_ext is enough, with ``dynamo=True`` and
with ``dynamo=False``. Needs onnx and onnxscript, the optional extra ``onnx``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ._onnx_translations import OPERATORS, Value, translate

try:
    import onnx_ir as ir
    import onnxscript
except ImportError as error:
    raise ImportError('roialign_ext.onnx needs onnx and onnxscript: pip install "roialign_ext[onnx]"') from error


def translation_table() -> dict[Callable[..., object], Callable[..., object]]:
    """The argument ``custom_translation_table`` of ``torch.onnx.export(..., dynamo=True)`` for these operators.

    The exporter has these translations without the argument too. The table is for changing them, and for tools that
    take a table of their own.

    A model may have any number of boxes, dynamic batch and map sizes, and every dtype. Its numbers are those of the
    operators up to rounding. Coordinates are float32 (float64 where the boxes or the features are); features are cast
    to that type and results back to their own.

    Returns:
        The translations by operator (``torch.ops.roialign_ext.roi_align.default`` and the others). Where one cannot
        translate a call, ``torch.onnx.export`` raises a ``ConversionError`` whose text ends in the reason:
        NotImplementedError for ``prroi_pool``, since no operator of ONNX integrates over a bin; ValueError for an
        adaptive ``sampling_ratio`` in mode ``"max"`` and in ``roi_align_rotated``, and for arguments such as
        ``output_size`` that are not constant.

    Source: the operators RoiAlign (since opset 16) and MaxRoiPool of the ONNX standard. docs/onnx.md says what each
    operator becomes, and what a model does otherwise.
    """
    return {getattr(torch.ops.roialign_ext, name).default: _translation(name) for name in OPERATORS}


def _translation(name: str) -> Callable[..., Value]:
    def write(*arguments: Any, **keywords: Any) -> Value:
        return translate(_OnnxScriptGraph(), name, arguments, keywords)

    return write


class _OnnxScriptGraph:
    """The graph that the exporter of ``dynamo=True`` writes at the moment."""

    # The exporter writes in this opset and converts the model to the one that was asked for. onnxscript's annotations
    # know tensors, not the values of a graph.
    _operators: Any = onnxscript.opset18

    def constant(self, value: Any, kind: int) -> Value:
        # Numbers themselves would be written as float32 and converted.
        return self._operators.Constant(value=ir.tensor(value, dtype=ir.DataType(kind)))

    def dtype(self, value: Value) -> int:
        return int(value.dtype)

    def __getattr__(self, operator: str) -> Callable[..., Value]:
        def add(*inputs: Value, **attributes: Any) -> Value:
            outputs = getattr(self._operators, operator)(*inputs, **attributes)
            return outputs[0] if isinstance(outputs, Sequence) else outputs  # of MaxPool, without the places

        return add
