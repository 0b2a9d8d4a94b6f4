"""Batching rules of the private operators: a batch of calls is one call on more channels, or on more images and boxes.

Where only features or gradients are batched, the batch goes into the channels and boxes are shared. Otherwise it goes
into the boxes, and where features are batched too, into the images, with the batch indices shifted to match.
The feature maps of all levels come first, after their number; they have the same images and channels, so the batch goes
the same way in all of them. Each rule returns (result, position of the batch dimension).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

ops = torch.ops.roialign_ext

# csrc/checks.cpp says the same without vmap.
_TRAIN_AS_LIST = (
    ": give boxes that are trained as a list with one tensor per image, whose rows have no index that a step could move"
)

InDims: TypeAlias = tuple[int | None, ...]


def _into_channels(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    """[n, C, h, w] with a batch dimension -> [n, batch * C, h, w]."""
    if dim is None:
        tensor = tensor.unsqueeze(1).expand(tensor.shape[0], batch, *tensor.shape[1:])
    else:
        tensor = tensor.movedim(dim, 1)
    return tensor.flatten(1, 2)


def _into_rows(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    """[n, ...] with a batch dimension -> [batch * n, ...]."""
    tensor = tensor.expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1)


def _given_into_channels(tensor: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    return None if tensor is None else _into_channels(tensor, dim, batch)


def _given_into_rows(tensor: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    return None if tensor is None else _into_rows(tensor, dim, batch)


def _boxes_into_rows(boxes: Tensor, dim: int | None, batch: int, images: int | None) -> Tensor:
    """Box rows [K, B] -> [batch * K, B]; with `images` per element of the batch, element i uses images i * N ... .

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


@contextmanager
def _as_given(boxes: Tensor, dim: int | None, images: int) -> Iterator[None]:
    """Errors about a batch index name the one that the caller gave and the images of one call."""
    try:
        yield
    except IndexError as error:
        index = boxes[..., 0] if dim is None else boxes.movedim(dim, 0)[..., 0]
        while is_functorch_wrapped_tensor(index):
            index = get_unwrapped(index)
        bad = index[~((index >= 0) & (index < images) & (index == index.floor()))]
        if bad.numel() == 0:
            raise
        what = str(error).partition(" in row ")[0].partition(" must be ")[0]
        came, nearest = bad[0].item(), bad[0].round().item()
        moved = came != nearest and abs(came - nearest) < 0.1 and 0 <= nearest < images
        raise IndexError(
            f"{what} must be a whole number in [0, {images}), the images of one call under vmap, got {came:g}"
            f"{_TRAIN_AS_LIST if moved else ''}"
        ) from error


def _maps_into_channels(maps: Sequence[Tensor], dims: InDims, batch: int) -> list[Tensor]:
    return [_into_channels(one, dim, batch) for one, dim in zip(maps, dims, strict=True)]


def _maps_and_boxes_into_rows(
    maps: Sequence[Tensor], dims: InDims, boxes: Tensor, boxes_dim: int | None, batch: int
) -> tuple[list[Tensor], Tensor]:
    """Maps of all levels and the box rows that belong to them; maps without a batch dimension are shared."""
    if all(dim is None for dim in dims):
        return list(maps), _boxes_into_rows(boxes, boxes_dim, batch, None)
    images = _size_without(maps[0], dims[0])[0]
    rows = _boxes_into_rows(boxes, boxes_dim, batch, images)
    return [_into_rows(one, dim, batch) for one, dim in zip(maps, dims, strict=True)], rows


def _size_without(tensor: Tensor, dim: int | None) -> list[int]:
    size = list(tensor.shape)
    if dim is not None:
        del size[dim]
    return size


def pool(info: Any, in_dims: InDims, levels: int, *args: Any) -> tuple[Tensor, int]:
    batch = info.batch_size
    maps, (boxes, u, v, winners, *rest) = args[:levels], args[levels:]
    map_dims, (boxes_dim, u_dim, v_dim, winners_dim) = in_dims[1 : levels + 1], in_dims[levels + 1 : levels + 5]
    if boxes_dim is None and u_dim is None and v_dim is None:
        features, chosen = _maps_into_channels(maps, map_dims, batch), _given_into_channels(winners, winners_dim, batch)
        result = ops._pool(features, boxes, u, v, chosen, *rest)
        return result.unflatten(1, (batch, _size_without(maps[0], map_dims[0])[1])), 1
    features, rows = _maps_and_boxes_into_rows(maps, map_dims, boxes, boxes_dim, batch)
    directions = _given_into_rows(u, u_dim, batch), _given_into_rows(v, v_dim, batch)
    with _as_given(boxes, boxes_dim, _size_without(maps[0], map_dims[0])[0]):
        result = ops._pool(features, rows, *directions, _given_into_rows(winners, winners_dim, batch), *rest)
    return result.unflatten(0, (batch, _size_without(boxes, boxes_dim)[0])), 0


def pool_max(info: Any, in_dims: InDims, levels: int, *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    batch = info.batch_size
    maps, (boxes, *rest) = args[:levels], args[levels:]
    map_dims, boxes_dim = in_dims[1 : levels + 1], in_dims[levels + 1]
    if boxes_dim is None:
        channels = _size_without(maps[0], map_dims[0])[1]
        results = ops._pool_max(_maps_into_channels(maps, map_dims, batch), boxes, *rest)
        values, winners = (result.unflatten(1, (batch, channels)) for result in results)
        return (values, winners), (1, 1)
    count = _size_without(boxes, boxes_dim)[0]
    features, rows = _maps_and_boxes_into_rows(maps, map_dims, boxes, boxes_dim, batch)
    with _as_given(boxes, boxes_dim, _size_without(maps[0], map_dims[0])[0]):
        results = ops._pool_max(features, rows, *rest)
    values, winners = (result.unflatten(0, (batch, count)) for result in results)
    return (values, winners), (0, 0)


def pool_grad_input(
    info: Any, in_dims: InDims, grad: Tensor, boxes: Tensor, u: Tensor | None, v: Tensor | None,
    winners: Tensor | None, input_size: list[int], *rest: Any,
) -> tuple[tuple[Tensor, ...], InDims]:  # fmt: skip
    batch = info.batch_size
    images, channels, *planes = input_size
    if all(dim is None for dim in in_dims[1:4]):
        bins, chosen = _into_channels(grad, in_dims[0], batch), _given_into_channels(winners, in_dims[4], batch)
        results = ops._pool_grad_input(bins, boxes, u, v, chosen, [images, batch * channels, *planes], *rest)
        return tuple(result.unflatten(1, (batch, channels)) for result in results), (1,) * len(results)
    rows = _boxes_into_rows(boxes, in_dims[1], batch, images)
    directions = _given_into_rows(u, in_dims[2], batch), _given_into_rows(v, in_dims[3], batch)
    bins, chosen = _into_rows(grad, in_dims[0], batch), _given_into_rows(winners, in_dims[4], batch)
    with _as_given(boxes, in_dims[1], images):
        results = ops._pool_grad_input(bins, rows, *directions, chosen, [batch * images, channels, *planes], *rest)
    return tuple(result.unflatten(0, (batch, images)) for result in results), (0,) * len(results)


def pool_grad_boxes(info: Any, in_dims: InDims, levels: int, *args: Any) -> tuple[Tensor, int]:
    batch = info.batch_size
    maps, (grad, boxes, v, winners, *rest) = args[:levels], args[levels:]
    map_dims, (grad_dim, boxes_dim, v_dim, winners_dim) = in_dims[1 : levels + 1], in_dims[levels + 1 : levels + 5]
    features, rows = _maps_and_boxes_into_rows(maps, map_dims, boxes, boxes_dim, batch)
    bins, direction = _into_rows(grad, grad_dim, batch), _given_into_rows(v, v_dim, batch)
    chosen = _given_into_rows(winners, winners_dim, batch)
    with _as_given(boxes, boxes_dim, _size_without(maps[0], map_dims[0])[0]):
        result = ops._pool_grad_boxes(bins, features, rows, direction, chosen, *rest)
    return result.to(boxes.dtype).unflatten(0, (batch, _size_without(boxes, boxes_dim)[0])), 0
