"""The ONNX translations as a table, for a program that changes one of them and for other tools.

``torch.onnx.export`` does not need this module: importing roialign_ext is enough, with ``dynamo=True`` and with
``dynamo=False``. The module needs onnx and onnxscript, the optional extra ``onnx``.
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

    The exporter uses these translations without the argument too. The table is for programs that change one of them,
    and for tools that take such a table.

    A model may have any number of boxes, dynamic batch and map sizes, and every dtype. Its results equal those of the
    operators up to rounding. Coordinates are float32, or float64 if the boxes or the features are float64. Features are
    cast to that type, and results are cast back to the dtype of the features.

    Returns:
        The translations by operator (``torch.ops.roialign_ext.roi_align.default`` and the others). If a call has no
        translation, ``torch.onnx.export`` raises a ``ConversionError`` whose text ends in the reason. The reason is a
        NotImplementedError for ``prroi_pool``, ``ps_roi_pool`` and ``multiscale_roi_align_rotated``. It is a ValueError
        for an adaptive ``sampling_ratio`` in mode ``"max"`` and in ``roi_align_rotated``, and for an argument such as
        ``output_size`` that is not constant.

    Source: the operators RoiAlign (since opset 16) and MaxRoiPool of the ONNX standard. docs/onnx.md lists the ONNX
    form of each operator, and how an exported model differs.
    """
    return {getattr(torch.ops.roialign_ext, name).default: _translation(name) for name in OPERATORS}


def _translation(name: str) -> Callable[..., Value]:
    def write(*arguments: Any, **keywords: Any) -> Value:
        return translate(_OnnxScriptGraph(), name, arguments, keywords)

    return write


class _OnnxScriptGraph:
    """The graph that the exporter of ``dynamo=True`` writes."""

    # The exporter writes this opset and converts the model to the requested one. Typed Any, because onnxscript
    # annotates tensors, not values of a graph.
    _operators: Any = onnxscript.opset18

    def constant(self, value: Any, dtype: int) -> Value:
        # Plain numbers would be written as float32 and converted.
        return self._operators.Constant(value=ir.tensor(value, dtype=ir.DataType(dtype)))

    def dtype(self, value: Value) -> int:
        return int(value.dtype)

    def __getattr__(self, operator: str) -> Callable[..., Value]:
        def add(*inputs: Value, **attributes: Any) -> Value:
            outputs = getattr(self._operators, operator)(*inputs, **attributes)
            return outputs[0] if isinstance(outputs, Sequence) else outputs  # MaxPool: drop the indices

        return add
