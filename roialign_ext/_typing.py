"""Annotations in the form that TorchScript reads, with a meaning for type checkers too."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar, Union

if TYPE_CHECKING:
    T = TypeVar("T")
    BroadcastingList2 = Union[T, Sequence[T]]  # noqa: UP007 (a generic alias)
else:
    from torch._jit_internal import BroadcastingList2

__all__ = ["BroadcastingList2"]
