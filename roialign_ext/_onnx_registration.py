"""Registers the operators with both exporters of ``torch.onnx`` when these are imported.

Importing roialign_ext imports neither ``torch.onnx`` nor onnxscript, because only exports need them. Each exporter
fills its registry when its module is imported, and looks translations up when it is called. So the entries for these
operators are added right after that import.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ._onnx_translations import INT64, OPERATORS, Value, translate


def register() -> None:
    """Adds the operators to each registry: now if its module is imported, else right after its import."""
    actions = {
        "torch.onnx": _register_symbolics,
        "torch.onnx._internal.exporter._torchlib.ops": _register_translations,
    }
    finder = _AfterImport({name: action for name, action in actions.items() if name not in sys.modules})
    sys.meta_path.insert(0, finder)
    for name in actions.keys() - finder.actions.keys():
        actions[name](sys.modules[name])


class _AfterImport(MetaPathFinder):
    """Calls a function right after the first import of a module, for each module named."""

    def __init__(self, actions: dict[str, Callable[[Any], None]]) -> None:
        self.actions = actions
        self._searched: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.actions or fullname in self._searched:
            return None
        self._searched.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)  # calls this finder again, which then returns None
        finally:
            self._searched.remove(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self.actions.pop(fullname)(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _register_translations(_: Any) -> None:
    """Registers the translations with the exporter of ``dynamo=True``, as torch registers those of its operators."""
    from torch.onnx._internal.exporter._torchlib import _torchlib_registry

    from .onnx import translation_table

    for target, translation in translation_table().items():
        _torchlib_registry.onnx_impl(target, no_compile=True)(translation)


def _register_symbolics(exporter: Any) -> None:
    """Registers the translations with the exporter of ``dynamo=False``, if torch still has it."""
    if hasattr(exporter, "register_custom_op_symbolic"):
        for name in OPERATORS:
            exporter.register_custom_op_symbolic(f"roialign_ext::{name}", _symbolic(name), 16)


def _symbolic(name: str) -> Callable[..., Value]:
    parameters = getattr(torch.ops.roialign_ext, name).default._schema.arguments

    def write(context: Any, *values: Value) -> Value:
        read = {"Tensor": lambda value: value, "List[Tensor]": _list_elements}
        arguments = [
            read.get(str(parameter.type), _python_value)(value)
            for parameter, value in zip(parameters, values, strict=True)
        ]
        return translate(_TorchScriptGraph(context), name, arguments, {})

    return write


def _list_elements(values: Value) -> list[Value]:
    """The elements of a list of tensors in the graph."""
    node = values.node()
    if node.kind() != "prim::ListConstruct":
        raise ValueError(f"features: expected a list written out in the call, because ONNX has none, got {node}")
    return list(node.inputs())


def _python_value(value: Value) -> Any:
    """A constant of the graph as a Python value, and a list as a Python list. Other values are returned as they are."""
    node = value.node()
    if node.kind() == "prim::ListConstruct":
        return [_python_value(element) for element in node.inputs()]
    if node.kind() != "onnx::Constant":
        return value
    constant = getattr(node, node.kindOf("value"))("value")
    return constant.tolist() if isinstance(constant, Tensor) else constant


class _TorchScriptGraph:
    """The graph that the exporter of ``dynamo=False`` writes."""

    def __init__(self, context: Any) -> None:
        self._context = context
        exporter: Any = torch.onnx
        self._dtypes = exporter.JitScalarType

    def constant(self, value: Any, dtype: int) -> Value:
        torch_dtype = self._dtypes.from_onnx_type(dtype).dtype()
        return self._context.op("Constant", value_t=torch.tensor(value, dtype=torch_dtype))

    def dtype(self, value: Value) -> int:
        return int(self._dtypes.from_value(value).onnx_type())

    def __getattr__(self, operator: str) -> Callable[..., Value]:
        def add(*inputs: Value, **attributes: Any) -> Value:
            values = [self.constant(value, INT64) if isinstance(value, list) else value for value in inputs]
            # The exporter reads the type of an attribute from its name.
            typed = {f"{name}_{'s' if isinstance(value, str) else 'i'}": value for name, value in attributes.items()}
            return self._context.op(operator, *values, **typed)

        return add
