"""Batching rules of the private operators: a batch of calls is one call on more channels, or on more images and boxes.

Where only features or gradients are batched, the batch goes into the channels and boxes are shared. Otherwise it goes
into the boxes, and where features are batched too, into the images, with the batch indices shifted to match.
Each rule returns (result, position of the batch dimension).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ops = torch.ops.roialign_ext

InDims = tuple[int | None, ...]


def _into_channels(tensor: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """[n, C, h, w] with a batch dimension -> [n, batch * C, h, w]."""
    if tensor is None:
        return None
    if dim is None:
        tensor = tensor.unsqueeze(1).expand(tensor.shape[0], batch, *tensor.shape[1:])
    else:
        tensor = tensor.movedim(dim, 1)
    return tensor.flatten(1, 2)


def _into_rows(tensor: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """[n, ...] with a batch dimension -> [batch * n, ...]."""
    if tensor is None:
        return None
    tensor = tensor.expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1)


def _boxes_into_rows(boxes: Tensor, dim: int | None, batch: int, images: int | None) -> Tensor:
    """Boxes [K, 5] -> [batch * K, 5]; with `images` per element of the batch, element i uses images i * N ... .

    An index outside [0, N) belongs to no element and becomes -1, which is invalid everywhere.
    """
    boxes = boxes.expand(batch, *boxes.shape) if dim is None else boxes.movedim(dim, 0)
    if images is not None:
        if boxes.dtype in (torch.float16, torch.bfloat16):
            boxes = boxes.float()  # shifted indices need more than eleven bits
        index = boxes[..., :1]
        shift = images * torch.arange(batch, dtype=boxes.dtype, device=boxes.device).view(batch, 1, 1)
        index = torch.where((index >= 0) & (index < images), index + shift, -1)
        boxes = torch.cat([index, boxes[..., 1:]], dim=-1)
    return boxes.flatten(0, 1)


def _size_without(tensor: Tensor, dim: int | None) -> list[int]:
    size = list(tensor.shape)
    if dim is not None:
        del size[dim]
    return size


def pool(
    info: Any, in_dims: InDims, input: Tensor, boxes: Tensor, u: Tensor | None, v: Tensor | None,
    winners: Tensor | None, *rest: Any,
) -> tuple[Tensor, int]:  # fmt: skip
    batch = info.batch_size
    images, channels = _size_without(input, in_dims[0])[:2]
    if all(dim is None for dim in in_dims[1:4]):
        features = _into_channels(input, in_dims[0], batch)
        result = ops._pool(features, boxes, u, v, _into_channels(winners, in_dims[4], batch), *rest)
        return result.unflatten(1, (batch, channels)), 1
    count = _size_without(boxes, in_dims[1])[0]
    batched = in_dims[0] is not None
    features = _into_rows(input, in_dims[0], batch) if batched else input
    rows = _boxes_into_rows(boxes, in_dims[1], batch, images if batched else None)
    directions = _into_rows(u, in_dims[2], batch), _into_rows(v, in_dims[3], batch)
    result = ops._pool(features, rows, *directions, _into_rows(winners, in_dims[4], batch), *rest)
    return result.unflatten(0, (batch, count)), 0


def pool_max(
    info: Any, in_dims: InDims, input: Tensor, boxes: Tensor, *rest: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    batch = info.batch_size
    images, channels = _size_without(input, in_dims[0])[:2]
    if in_dims[1] is None:
        results = ops._pool_max(_into_channels(input, in_dims[0], batch), boxes, *rest)
        values, winners = (result.unflatten(1, (batch, channels)) for result in results)
        return (values, winners), (1, 1)
    count = _size_without(boxes, in_dims[1])[0]
    batched = in_dims[0] is not None
    features = _into_rows(input, in_dims[0], batch) if batched else input
    rows = _boxes_into_rows(boxes, in_dims[1], batch, images if batched else None)
    values, winners = (result.unflatten(0, (batch, count)) for result in ops._pool_max(features, rows, *rest))
    return (values, winners), (0, 0)


def pool_grad_input(
    info: Any, in_dims: InDims, grad: Tensor, boxes: Tensor, u: Tensor | None, v: Tensor | None,
    winners: Tensor | None, input_size: list[int], *rest: Any,
) -> tuple[Tensor, int]:  # fmt: skip
    batch = info.batch_size
    images, channels, *plane = input_size
    if all(dim is None for dim in in_dims[1:4]):
        bins = _into_channels(grad, in_dims[0], batch)
        size = [images, batch * channels, *plane]
        result = ops._pool_grad_input(bins, boxes, u, v, _into_channels(winners, in_dims[4], batch), size, *rest)
        return result.unflatten(1, (batch, channels)), 1
    rows = _boxes_into_rows(boxes, in_dims[1], batch, images)
    directions = _into_rows(u, in_dims[2], batch), _into_rows(v, in_dims[3], batch)
    bins, chosen = _into_rows(grad, in_dims[0], batch), _into_rows(winners, in_dims[4], batch)
    result = ops._pool_grad_input(bins, rows, *directions, chosen, [batch * images, channels, *plane], *rest)
    return result.unflatten(0, (batch, images)), 0


def pool_grad_boxes(
    info: Any, in_dims: InDims, grad: Tensor, input: Tensor, boxes: Tensor, v: Tensor | None,
    winners: Tensor | None, *rest: Any,
) -> tuple[Tensor, int]:  # fmt: skip
    batch = info.batch_size
    count = _size_without(boxes, in_dims[2])[0]
    batched = in_dims[1] is not None
    features = _into_rows(input, in_dims[1], batch) if batched else input
    rows = _boxes_into_rows(boxes, in_dims[2], batch, _size_without(input, in_dims[1])[0] if batched else None)
    bins, direction = _into_rows(grad, in_dims[0], batch), _into_rows(v, in_dims[3], batch)
    result = ops._pool_grad_boxes(bins, features, rows, direction, _into_rows(winners, in_dims[4], batch), *rest)
    return result.to(boxes.dtype).unflatten(0, (batch, count)), 0
