"""Are the operators registered as they should be, and does a call run only the kernels that it needs?"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jacrev, jvp
from torch.utils._python_dispatch import TorchDispatchMode

from roialign_ext import PrRoIPool, RoIAlign, RoIAlignFunction, _checks, multiscale_roi_align, roi_align, roi_pool
from support.inputs import MODES, random_tensor
from support.operators import FIRST
from support.small_cases import NAMED, close

PRIVATE = ("_pool", "_max_pool", "_pool_grad_input", "_pool_grad_boxes")
FEATURES = random_tensor(2, 2, 5, 6)
BOXES = torch.tensor([[0, 0.3, 0.4, 3.1, 3.2], [1, 1.1, 1.3, 4.2, 3.7], [0, -1.0, 2.0, 3.0, 3.3]], dtype=torch.float64)


@pytest.mark.parametrize("name", PRIVATE)
@pytest.mark.parametrize("key", ["CPU", "Meta", "Autograd", "FuncTorchDynamicLayerFrontMode", "Batched"])
def test_private_operators_have_a_kernel(name: str, key: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"roialign_ext::{name}", key)


@pytest.mark.parametrize("name", FIRST)
def test_public_operators_are_composed_of_the_private_ones(name: str) -> None:
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    for key in ("CompositeImplicitAutograd", "Autograd", "FuncTorchDynamicLayerFrontMode", "Batched", "CPU"):
        assert has_kernel(f"roialign_ext::{name}", key)
    assert not has_kernel(f"roialign_ext::{name}", "Meta")


def test_import_brings_no_compiler_along() -> None:
    heavy = ("torch._dynamo", "torch._inductor", "torch.onnx._internal", "onnxscript", "sympy", "numpy.testing")
    code = (
        "import sys, torch; before = set(sys.modules); import roialign_ext; "
        f"print([name for name in set(sys.modules) - before if name.startswith({heavy!r})])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
@pytest.mark.parametrize("layer", [roi_align, roi_pool, RoIAlign(2, 1.0, 2), PrRoIPool(2, 1.0)])
def test_unsupported_device(device: str, layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, with the device that was given and the one that works. Fake tensors need no such hardware."""
    monkeypatch.setattr(_checks, "HAS_CUDA", False)
    with FakeTensorMode():
        features, boxes = torch.empty(1, 2, 5, 6, device=device), torch.empty(3, 5, device=device)
        arguments = () if isinstance(layer, torch.nn.Module) else (2,)
        with pytest.raises(ValueError, match=rf"input: .*\bcpu\b.*{device}") as caught:
            layer(features, boxes, *arguments)
    assert "\n" not in str(caught.value)


class Recorder(TorchDispatchMode):
    """The names of this package's operators, in the order in which kernels run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "roialign_ext":
            self.calls.append(func._opname)
        return func(*args, **(kwargs or {}))


def kernels_run(features: Tensor, boxes: Tensor, mode: str) -> list[str]:
    with Recorder() as recorder:
        out = roi_align(features, boxes, 2, mode=mode)
        if out.requires_grad:
            out.sum().backward()
    return recorder.calls


@pytest.mark.parametrize("mode", MODES)
def test_only_wanted_gradients_are_computed(mode: str) -> None:
    forward = "_pool" if mode == "avg" else "_max_pool"
    for by_features, by_boxes in ((False, False), (True, False), (False, True), (True, True)):
        features, boxes = FEATURES.clone().requires_grad_(by_features), BOXES.clone().requires_grad_(by_boxes)
        expected = [forward] + ["_pool_grad_input"] * by_features + ["_pool_grad_boxes"] * by_boxes
        assert kernels_run(features, boxes, mode) == expected


@pytest.mark.parametrize("mode", MODES)
def test_one_operator_call_for_all_levels(mode: str) -> None:
    maps = [FEATURES.clone().requires_grad_() for _ in range(4)]
    with Recorder() as recorder:
        multiscale_roi_align(maps, BOXES, 2, [1.0, 0.5, 0.25, 0.125], mode=mode).sum().backward()
    assert recorder.calls == ["_pool" if mode == "avg" else "_max_pool", "_pool_grad_input"]
    assert all(feature_map.grad is not None for feature_map in maps)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_asked_for_by_name(mode: str) -> None:
    """torch.autograd.grad of one leaf does not pay for the other."""
    features, boxes = FEATURES.clone().requires_grad_(), BOXES.clone().requires_grad_()
    total = roi_align(features, boxes, 2, mode=mode).sum()
    with Recorder() as recorder:
        torch.autograd.grad(total, features, retain_graph=True)
        torch.autograd.grad(total, boxes)
    assert recorder.calls == ["_pool_grad_input", "_pool_grad_boxes"]


def test_only_wanted_levels_get_gradients() -> None:
    case = NAMED["multiscale_roi_align"]
    *maps, boxes = case.point()
    maps[1].requires_grad_()
    case(*maps, boxes).sum().backward()
    assert maps[0].grad is None
    assert maps[1].grad is not None
    close(grad(lambda coarse: case(maps[0], coarse, boxes).sum())(maps[1].detach()), maps[1].grad)
    _, tangent = jvp(lambda coarse: case(maps[0], coarse, boxes), (maps[1].detach(),), (maps[1].detach(),))
    assert not bool(tangent[0].any())  # the first box is on the fine level
    assert bool(tangent[1].any())


def test_roi_pool_has_no_grad_boxes() -> None:
    case = NAMED["roi_pool"]
    maps, boxes = case.point()
    refused = pytest.raises(NotImplementedError, match=r"roi_pool.*boxes")
    leaves = maps.clone().requires_grad_(), boxes.clone().requires_grad_()
    result = case(*leaves)
    with refused:
        result.sum().backward()
    (by_maps,) = torch.autograd.grad(case(*leaves).sum(), leaves[:1])
    assert torch.equal(by_maps, grad(lambda maps: case(maps, boxes).sum())(maps))
    for transform in (grad, jacrev, jacfwd):
        with refused:
            transform(lambda boxes: case(maps, boxes).sum())(boxes)
    with forward_ad.dual_level(), refused:
        case(maps, forward_ad.make_dual(boxes, boxes))


def test_function_takes_trailing_arguments_or_not() -> None:
    expected = roi_align(FEATURES, BOXES, 2)
    assert torch.equal(RoIAlignFunction.apply(FEATURES, BOXES, 2), expected)
    assert torch.equal(RoIAlignFunction.apply(FEATURES, BOXES, (2, 2), 1.0, -1, False, "avg"), expected)
    assert torch.equal(torch.ops.roialign_ext.roi_align(FEATURES, BOXES, [2, 2]), expected)


def test_kernels_run_without_the_gil() -> None:
    """Another Python thread goes on counting during a long call; a busy machine may need several to let it."""
    features = torch.randn(4, 64, 128, 128)
    boxes = torch.tensor([[0.0, 1.0, 1.0, 126.0, 126.0]]).repeat(64, 1)
    counted, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1000.0)  # who holds the lock keeps it, unless it is given up
        during = 0
        for _ in range(100):
            before = counted[0]
            roi_align(features, boxes, 7)
            during += counted[0] - before
            if during > 0:
                break
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert during > 0


@pytest.mark.filterwarnings("ignore:Warning only once for all operators:UserWarning")
@pytest.mark.parametrize(
    ("operator", "requires_grad"),
    [
        ("roi_align", False),
        ("roi_align", True),
        ("_max_pool", True),
        ("_pool_grad_input", True),
        ("_pool_grad_boxes", True),
    ],
)
def test_cuda_memory_that_runs_out_raises_the_exception_of_torch(operator: str, requires_grad: bool) -> None:
    """Kernels can only raise RuntimeError; others replace them here, with and without derivatives, and backward."""
    words = "CUDA out of memory. Tried to allocate 8.00 GiB (a Float tensor of shape [2] on cuda:0)"
    features, boxes = FEATURES.clone().requires_grad_(requires_grad), BOXES.clone().requires_grad_(requires_grad)

    def kernel(*_: Any) -> Any:
        raise RuntimeError(words)

    def call() -> None:
        out = roi_align(features, boxes, 2, mode="max" if operator == "_max_pool" else "avg")
        torch.autograd.grad(out.sum(), [boxes if operator == "_pool_grad_boxes" else features])

    library = torch.library.Library("roialign_ext", "IMPL")
    library.impl(operator, kernel, "CPU")
    try:
        with pytest.raises(torch.OutOfMemoryError) as found:
            call()
    finally:
        library._destroy()
    assert str(found.value) == words
