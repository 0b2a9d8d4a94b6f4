"""What training does around a layer: checkpointing, saved-tensor hooks, autocast, threads, processes, memory."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from roialign_ext import RoIAlign, RoIAlignFunction, roi_align
from support.small_case import RATIO, SCALE, SIZE, corners, features, loss, operator, rows

modes = pytest.mark.parametrize("mode", ["avg", "max"])


def gradients(mode: str, function: Any = None) -> tuple[Tensor, ...]:
    x, xyxy = features().requires_grad_(), corners().requires_grad_()
    return torch.autograd.grad((function or loss(mode))(x, xyxy), (x, xyxy))


@modes
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(mode: str, use_reentrant: bool) -> None:
    x, xyxy = features().requires_grad_(), corners().requires_grad_()
    out: Tensor = checkpoint(operator(mode), x, xyxy, use_reentrant=use_reentrant)
    out.square().sum().backward()
    assert_close((x.grad, xyxy.grad), gradients(mode))


def saved_shapes(x: Tensor, boxes: Tensor, mode: str) -> list[torch.Size]:
    """Shapes of what one forward call keeps for its backward."""
    kept: list[torch.Size] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        roi_align(x, boxes, SIZE, SCALE, RATIO, mode=mode)
    return kept


@modes
def test_feature_map_is_kept_only_for_grad_boxes(mode: str) -> None:
    x, boxes = features().requires_grad_(), rows(corners())
    assert x.shape not in saved_shapes(x, boxes, mode)
    assert x.shape in saved_shapes(x, boxes.requires_grad_(), mode)
    assert saved_shapes(x.detach(), boxes.detach(), mode) == []


@modes
def test_feature_map_is_freed(mode: str) -> None:
    x = features().requires_grad_()
    moving = x * 1
    alive = weakref.ref(moving)
    out = roi_align(moving, rows(corners()), SIZE, SCALE, RATIO, True, mode)
    del moving
    assert alive() is None
    assert_close(torch.autograd.grad(out.square().sum(), x)[0], gradients(mode)[0])


@modes
def test_saved_tensor_hooks(mode: str) -> None:
    with torch.autograd.graph.save_on_cpu():
        packed = gradients(mode)
    assert_close(packed, gradients(mode))


def test_changed_features_are_noticed() -> None:
    x, boxes = features().requires_grad_(), rows(corners()).requires_grad_()
    moving = x * 1
    out = roi_align(moving, boxes, SIZE)
    moving.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@modes
def test_changed_boxes_are_noticed(mode: str) -> None:
    x, boxes = features().requires_grad_(), rows(corners())
    out = roi_align(x, boxes, SIZE, mode=mode)
    boxes.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@modes
def test_features_may_change_where_boxes_are_fixed(mode: str) -> None:
    x, boxes = features().requires_grad_(), rows(corners())
    moving = x * 1
    out = roi_align(moving, boxes, SIZE, SCALE, RATIO, True, mode)
    moving.zero_()
    assert_close(torch.autograd.grad(out.square().sum(), x)[0], gradients(mode)[0])


@modes
def test_backward_again(mode: str) -> None:
    """Through a kept graph the same gradients, through a freed one an error."""
    x, boxes = features().requires_grad_(), rows(corners()).requires_grad_()
    out = roi_align(x, boxes, SIZE, mode=mode).sum()
    first = torch.autograd.grad(out, (x, boxes), retain_graph=True)
    assert_close(torch.autograd.grad(out, (x, boxes)), first, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(out, (x, boxes))


@modes
def test_without_gradients(mode: str) -> None:
    x, boxes = features().requires_grad_(), rows(corners()).requires_grad_()
    wanted = roi_align(x, boxes, SIZE, mode=mode)
    assert wanted.requires_grad
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            out = roi_align(x, boxes, SIZE, mode=mode)
        assert not out.requires_grad
        assert torch.equal(out, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    """Half features from the layer before, float32 boxes, float32 leaves."""
    convolution = torch.nn.Conv2d(3, 4, 1)
    boxes = rows(corners().float()).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        x = convolution(features().float())
        out = roi_align(x, boxes, SIZE, SCALE, RATIO)
        assert roi_align(features().float(), boxes, SIZE).dtype == torch.float32
    assert (x.dtype, out.dtype) == (dtype, dtype)
    out.float().sum().backward()
    assert convolution.weight.grad is not None
    assert convolution.weight.grad.dtype == torch.float32
    assert boxes.grad is not None
    assert boxes.grad.dtype == torch.float32


@modes
def test_function_class(mode: str) -> None:
    def call(x: Tensor, xyxy: Tensor) -> Tensor:
        return RoIAlignFunction.apply(x, rows(xyxy), SIZE, SCALE, RATIO, True, mode).square().sum()

    assert_close(gradients(mode, call), gradients(mode))
    assert RoIAlignFunction.apply(features(), rows(corners()), 2).shape == (3, 3, 2, 2)
    assert issubclass(RoIAlignFunction, torch.autograd.Function)


def test_function_class_checks_its_arguments_like_the_function() -> None:
    x, boxes = features(), rows(corners())
    wrong: tuple[tuple[type[Exception], str, tuple[Any, ...]], ...] = (
        (TypeError, "input: expected a tensor", (None, boxes, 2)),
        (TypeError, "boxes: expected a Tensor", (x, [corners()], 2)),
        (TypeError, "output_size", (x, boxes, 3.0)),
        (TypeError, "sampling_ratio", (x, boxes, 3, 1.0, 2.0)),
        (ValueError, "boxes", (x, corners(), 3)),
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
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_close(other(features(), rows(corners())), layer(features(), rows(corners())))
    as_list = [corners()[[0, 2]], corners()[[1]]]
    in_order = rows(corners())[[0, 2, 1]]
    assert_close(layer(features(), as_list), layer(features(), in_order))
    assert_close(layer(features(), tuple(as_list)), layer(features(), in_order))


@modes
def test_threads(mode: str) -> None:
    wanted = gradients(mode)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: gradients(mode), range(100)):
            assert_close(result, wanted, rtol=0, atol=0)


def pooled_in_child(mode: str) -> Tensor:
    """Forward only: torch itself refuses backward in a process forked after its autograd threads have started."""
    torch.set_num_threads(1)
    return operator(mode)(features(), corners())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork() -> None:
    """A forked worker, as a data loader starts them, after the parent has used its threads."""
    big = torch.randn(1, 64, 64, 64)
    roi_align(big, torch.tensor([[0.0, 1.0, 1.0, 60.0, 60.0]]).repeat(64, 1), 7)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for mode, result in zip(("avg", "max"), pool.map(pooled_in_child, ("avg", "max")), strict=True):
            assert torch.equal(result, operator(mode)(features(), corners()))


class Crops(Dataset[Tensor]):
    """Pools in the workers of a data loader."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return roi_align(features(index), rows(corners()), SIZE)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_data_loader() -> None:
    batches = list(DataLoader(Crops(), batch_size=2, num_workers=1, multiprocessing_context="fork", timeout=60))
    assert_close(torch.cat(batches), torch.stack([Crops()[index] for index in range(4)]))
