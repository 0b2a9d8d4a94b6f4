"""The annotation for one number or a pair. TorchScript knows it by its name, help() and type checkers by its value."""

from collections.abc import Sequence
from typing import TypeVar, Union

T = TypeVar("T")
BroadcastingList2 = Union[T, Sequence[T]]  # noqa: UP007 (a generic alias)

__all__ = ["BroadcastingList2"]
