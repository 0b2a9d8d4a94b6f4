"""Shapes, dtypes and memory formats of the private operators' results, for tensors without data.

Fake tensors, export and compilation call these functions, with sizes that may be symbolic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from ._operator_checks import check_max_pool, check_pool, check_pool_grad_boxes, check_pool_grad_input


def _empty_output(input: Sequence[Tensor], boxes: Tensor, output_size: Sequence[Any], dtype: torch.dtype) -> Tensor:
    return torch.empty(
        (boxes.shape[0], input[0].shape[1], *output_size), dtype=dtype, device=input[0].device,
        memory_format=suggest_memory_format(input[0]),
    )  # fmt: skip


def pool(*arguments: Any) -> Tensor:
    check_pool(*arguments)
    return _empty_output(arguments[0], arguments[1], arguments[5], arguments[0][0].dtype)


def max_pool(*arguments: Any) -> tuple[Tensor, Tensor]:
    check_max_pool(*arguments)
    input, boxes, output_size = arguments[:3]
    return _empty_output(input, boxes, output_size, input[0].dtype), _empty_output(
        input, boxes, output_size, torch.int32
    )


def pool_grad_input(*arguments: Any) -> list[Tensor]:
    check_pool_grad_input(*arguments)
    grad, input_size, channels_last = arguments[0], arguments[5], arguments[6]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    planes = zip(input_size[2::2], input_size[3::2], strict=True)
    return [
        torch.empty((*input_size[:2], *plane), dtype=grad.dtype, device=grad.device, memory_format=layout)
        for plane in planes
    ]


def pool_grad_boxes(*arguments: Any) -> Tensor:
    check_pool_grad_boxes(*arguments)
    boxes = arguments[2]
    return torch.empty(boxes.shape, dtype=boxes.dtype, device=boxes.device)


SHAPES: dict[str, Callable[..., Any]] = {
    "_pool": pool,
    "_max_pool": max_pool,
    "_pool_grad_input": pool_grad_input,
    "_pool_grad_boxes": pool_grad_boxes,
}
