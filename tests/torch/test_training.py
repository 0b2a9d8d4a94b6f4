"""Do layers train under checkpointing, saved-tensor hooks, autocast, threads and processes, without a leak?"""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from roialign_ext import RoIAlign, RoIAlignFunction, roi_align
from support.small_cases import NAMED, SHAPE, SIZE, SmallCase, close, each_case, each_mode

AVERAGE = NAMED["roi_align"]


def gradients(case: SmallCase, function: Callable[..., Tensor] | None = None) -> tuple[Tensor, ...]:
    """The gradients of a sum of squares with respect to all that may be differentiated."""
    leaves = case.leaves()
    total = (function or case)(*leaves).square().sum()
    return torch.autograd.grad(total, [leaf for leaf in leaves if leaf.requires_grad])


@each_case
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(case: SmallCase, use_reentrant: bool) -> None:
    def checkpointed(*leaves: Tensor) -> Tensor:
        out: Tensor = checkpoint(case, *leaves, use_reentrant=use_reentrant)
        return out

    if not use_reentrant:
        close(gradients(case, checkpointed), gradients(case))
    else:  # which torch.autograd.grad refuses
        leaves = case.leaves()
        checkpointed(*leaves).square().sum().backward()
        close(tuple(leaf.grad for leaf in leaves if leaf.requires_grad), gradients(case))


def saved_shapes(x: Tensor, boxes: Tensor, case: SmallCase) -> list[torch.Size]:
    """Shapes of what one forward call keeps for its backward."""
    kept: list[torch.Size] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        case.call(x, boxes)
    return kept


@each_mode
def test_feature_map_is_kept_only_for_grad_boxes(case: SmallCase) -> None:
    (x,), (boxes,) = case.maps(), case.box_arguments(case.boxes())
    x.requires_grad_()
    assert x.shape not in saved_shapes(x, boxes, case)
    assert x.shape in saved_shapes(x, boxes.requires_grad_(), case)
    assert saved_shapes(x.detach(), boxes.detach(), case) == []


@each_mode
def test_feature_map_is_freed(case: SmallCase) -> None:
    x, boxes = case.leaves()
    moving = x * 1
    alive = weakref.ref(moving)
    out = case(moving, boxes.detach())
    del moving
    assert alive() is None
    close(torch.autograd.grad(out.square().sum(), x)[0], gradients(case)[0])


@each_case
def test_saved_tensor_hooks(case: SmallCase) -> None:
    with torch.autograd.graph.save_on_cpu():
        packed = gradients(case)
    close(packed, gradients(case))


def test_changed_features_are_noticed() -> None:
    x, boxes = AVERAGE.leaves()
    moving = x * 1
    out = AVERAGE(moving, boxes)
    moving.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@each_mode
def test_changed_boxes_are_noticed(case: SmallCase) -> None:
    x, (boxes,) = case.leaves()[0], case.box_arguments(case.boxes())
    out = case.call(x, boxes)
    boxes.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@each_mode
def test_features_may_change_where_boxes_are_fixed(case: SmallCase) -> None:
    x, boxes = case.leaves()
    moving = x * 1
    out = case(moving, boxes.detach())
    moving.zero_()
    close(torch.autograd.grad(out.square().sum(), x)[0], gradients(case)[0])


@each_case
def test_backward_again(case: SmallCase) -> None:
    """A kept graph gives the same gradients, a freed one raises an error."""
    leaves = case.leaves()
    out, inputs = case(*leaves).sum(), [leaf for leaf in leaves if leaf.requires_grad]
    first = torch.autograd.grad(out, inputs, retain_graph=True)
    assert_close(torch.autograd.grad(out, inputs), first, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(out, inputs)


@each_case
def test_without_gradients(case: SmallCase) -> None:
    expected = case(*case.leaves())
    assert expected.requires_grad
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            out = case(*case.leaves())
        assert not out.requires_grad
        assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    """Half features from the layer before, float32 boxes, float32 leaves."""
    convolution = torch.nn.Conv2d(SHAPE[1], 4, 1)
    maps, boxes = AVERAGE.maps()[0].float(), AVERAGE.box_arguments(AVERAGE.boxes())[0].float().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        x = convolution(maps)
        out = AVERAGE.call(x, boxes)
        assert AVERAGE.call(maps, boxes).dtype == torch.float32
    assert (x.dtype, out.dtype) == (dtype, dtype)
    out.float().sum().backward()
    assert convolution.weight.grad is not None
    assert convolution.weight.grad.dtype == torch.float32
    assert boxes.grad is not None
    assert boxes.grad.dtype == torch.float32


@each_case
def test_half_precision_and_layout(case: SmallCase) -> None:
    """Gradients have the dtypes and layouts of what they belong to."""
    *maps, boxes = case.point()
    maps = [
        feature_map.bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_() for feature_map in maps
    ]
    boxes = boxes.float().requires_grad_(case.box_order > 0)
    out = case(*maps, boxes)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    out.float().square().sum().backward()
    for feature_map in maps:
        assert feature_map.grad is not None
        assert feature_map.grad.dtype == torch.bfloat16
        assert feature_map.grad.is_contiguous(memory_format=torch.channels_last)
    assert case.box_order == 0 or (boxes.grad is not None and boxes.grad.dtype == torch.float32)


@each_mode
def test_function_class(case: SmallCase) -> None:
    def call(x: Tensor, boxes: Tensor) -> Tensor:
        return RoIAlignFunction.apply(x, *case.box_arguments(boxes), SIZE, *case.options.values())

    close(gradients(case, call), gradients(case))
    assert RoIAlignFunction.apply(*case.maps(), *case.box_arguments(case.boxes()), 3).shape == (2, SHAPE[1], 3, 3)
    assert issubclass(RoIAlignFunction, torch.autograd.Function)


def test_function_class_checks_its_arguments_like_the_function() -> None:
    (x,), corners = AVERAGE.maps(), AVERAGE.boxes()
    (boxes,) = AVERAGE.box_arguments(corners)
    wrong: tuple[tuple[type[Exception], str, tuple[Any, ...]], ...] = (
        (TypeError, "input: expected a tensor", (None, boxes, 2)),
        (TypeError, "boxes: expected a Tensor", (x, [corners], 2)),
        (TypeError, "output_size", (x, boxes, 3.0)),
        (TypeError, "sampling_ratio", (x, boxes, 3, 1.0, 2.0)),
        (ValueError, "boxes", (x, corners, 3)),
        (TypeError, "missing", (x, boxes)),
        (TypeError, "missing", ()),
    )
    for kind, message, arguments in wrong:
        with pytest.raises(kind, match=message):
            RoIAlignFunction.apply(*arguments)


def test_function_class_takes_no_subclass() -> None:
    """A backward() of its own would never be called."""
    with pytest.raises(TypeError, match="Other: expected no subclass of RoIAlignFunction"):
        type("Other", (RoIAlignFunction,), {})


def test_module() -> None:
    layer = RoIAlign(7, 0.25, 2, aligned=True, mode="max")
    assert repr(layer) == ("RoIAlign(output_size=7, spatial_scale=0.25, sampling_ratio=2, aligned=True, mode='max')")
    assert layer.state_dict() == {}
    (x,), corners = AVERAGE.maps(), AVERAGE.boxes(3)
    (boxes,) = AVERAGE.box_arguments(corners)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        close(other(x, boxes), layer(x, boxes))
    as_list = [corners[[0, 2]], corners[[1]]]
    for listed in (as_list, tuple(as_list)):
        close(layer(x, listed), layer(x, boxes[[0, 2, 1]]))


@each_mode
def test_threads(case: SmallCase) -> None:
    expected = gradients(case)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: gradients(case), range(100)):
            assert_close(result, expected, rtol=0, atol=0)


def pooled_in_child(name: str) -> Tensor:
    """Forward only: torch itself refuses backward in a process forked after its autograd threads have started."""
    torch.set_num_threads(1)
    return NAMED[name](*NAMED[name].point())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork() -> None:
    """A forked worker, as a data loader starts them, after the parent has used its threads."""
    big = torch.randn(1, 64, 64, 64)
    roi_align(big, torch.tensor([[0.0, 1.0, 1.0, 60.0, 60.0]]).repeat(64, 1), 7)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for case, result in zip(NAMED.values(), pool.map(pooled_in_child, NAMED), strict=True):
            assert torch.equal(result, case(*case.point()))


class Crops(Dataset[Tensor]):
    """Pools in the workers of a data loader."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return AVERAGE(*AVERAGE.maps(index), AVERAGE.boxes())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_data_loader() -> None:
    batches = list(DataLoader(Crops(), batch_size=2, num_workers=1, multiprocessing_context="fork", timeout=60))
    assert_close(torch.cat(batches), torch.stack([Crops()[index] for index in range(4)]))
