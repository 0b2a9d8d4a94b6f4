"""The batching rule: a batch of calls is one call on more channels, or on more images and boxes.

If only features or gradients are batched, the batch goes into the channels, and all calls share the boxes. Otherwise
the batch goes into the boxes. If features are batched too, it also goes into the images, and batch indices are shifted
to match. The maps of all levels have the same images and channels, so the batch goes the same way in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from ._form import Settings, bins_per_image, call

# csrc/checks.cpp has the same text for calls without vmap.
_TRAIN_AS_LIST = (
    ": give boxes that are trained as a list with one tensor per image, whose rows have no index that a step could move"
)


def _into_channels(tensor: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """[n, C, h, w] with a batch dimension -> [n, batch * C, h, w]."""
    if tensor is None:
        return None
    if dim is None:
        tensor = tensor.unsqueeze(1).expand(tensor.shape[0], batch, *tensor.shape[1:])
    else:
        tensor = tensor.movedim(dim, 1)
    return tensor.flatten(1, 2)


def _into_first_dimension(tensor: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """[n, ...] with a batch dimension -> [batch * n, ...]."""
    if tensor is None:
        return None
    tensor = tensor.expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1)


def _batched_boxes(boxes: Tensor, dim: int | None, batch: int, images: int | None) -> Tensor:
    """Boxes [K, B] -> [batch * K, B]. With N = ``images`` images for each call, those of call i begin at i * N.

    An index outside [0, N) belongs to no call and becomes -1, which is invalid everywhere.
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
def _errors_of_one_call(boxes: Tensor, dim: int | None, images: int) -> Iterator[None]:
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


def _size_without(tensor: Tensor, dim: int | None) -> list[int]:
    size = list(tensor.shape)
    if dim is not None:
        del size[dim]
    return size


def batched(info: Any, in_dims: tuple[Any, ...], _: None, settings: Settings, *tensors: Any) -> tuple[Any, Any]:
    """Results, and the position of the batch dimension in each. Arguments are those of the operator's function."""
    batch, operator = info.batch_size, settings.operator
    boxes, u, v, argmax, grad, *maps = tensors
    boxes_dim, u_dim, v_dim, argmax_dim, grad_dim, *map_dims = in_dims[2:]
    images, channels, *planes = settings.input_size
    errors: Any = nullcontext()
    # _pool_grad_boxes adds up the channels, so that they cannot hold a batch.
    if boxes_dim is None and u_dim is None and v_dim is None and operator != "_pool_grad_boxes":
        into, out_dim, size = _into_channels, 1, channels
        maps = [into(level_map, dim, batch) for level_map, dim in zip(maps, map_dims, strict=True)]
        input_size = [images, batch * channels, *planes]
    else:
        into, out_dim = _into_first_dimension, 0
        size = images if operator == "_pool_grad_input" else _size_without(boxes, boxes_dim)[0]
        indices = images // bins_per_image(settings.geometry)  # which batch indices count
        errors = _errors_of_one_call(boxes, boxes_dim, indices)
        shares_images = operator != "_pool_grad_input" and all(dim is None for dim in map_dims)
        if not shares_images:
            maps = [into(level_map, dim, batch) for level_map, dim in zip(maps, map_dims, strict=True)]
        boxes = _batched_boxes(boxes, boxes_dim, batch, None if shares_images else indices)
        u, v = into(u, u_dim, batch), into(v, v_dim, batch)
        input_size = [batch * images, channels, *planes]
    grad, argmax = into(grad, grad_dim, batch), into(argmax, argmax_dim, batch)
    with errors:
        results = call(settings._replace(input_size=input_size), boxes, u, v, argmax, grad, *maps)
    if operator == "_pool_grad_boxes":
        results = results.to(tensors[0].dtype)
    if isinstance(results, Tensor):
        return results.unflatten(out_dim, (batch, size)), out_dim  # type: ignore[no-untyped-call]
    return tuple(result.unflatten(out_dim, (batch, size)) for result in results), (out_dim,) * len(results)


def _with_older_batch(tensor: Tensor, dim: int, level: int) -> Tensor:
    """Forward mode copies strides, which the older vmap allows only where the batch lies outermost in memory."""
    return torch._add_batch_dim(tensor.movedim(dim, 0).contiguous(), 0, level)


def under_older_vmap(settings: Settings, *tensors: Any) -> Any:
    """The operator under torch's older vmap, whose innermost batch is taken off."""
    innermost = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    for level in range(innermost, 0, -1):
        # A tensor without a batch at that level comes back with a first dimension of the size that is asked for: 0.
        unbatched = [None if tensor is None else torch._remove_batch_dim(tensor, level, 0, 0) for tensor in tensors]
        batches = {len(tensor) for tensor in unbatched if tensor is not None} - {0}
        if not batches:
            continue
        is_batched = [tensor is not None and len(tensor) > 0 for tensor in unbatched]
        dims = tuple(0 if batch else None for batch in is_batched)
        arguments = [new if batch else old for new, old, batch in zip(unbatched, tensors, is_batched, strict=True)]
        info = SimpleNamespace(batch_size=batches.pop())
        results, out_dims = batched(info, (None, None, *dims), None, settings, *arguments)
        if isinstance(results, Tensor):
            return _with_older_batch(results, out_dims, level)
        wrapped = [_with_older_batch(result, dim, level) for result, dim in zip(results, out_dims, strict=True)]
        return wrapped if settings.operator == "_pool_grad_input" else tuple(wrapped)
    raise ValueError(f"{settings.operator}: expected a batch of one call or more, got an empty one")
