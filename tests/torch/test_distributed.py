"""Do layers train in models that several processes share, on the CPU over gloo: DistributedDataParallel, FSDP2?

Two processes run all cases once and store gradients. Each test compares those of one case with one process that has
both batches.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from support.small_cases import BY_FUNCTION, NAMED, SmallCase, close

if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

PROCESSES = 2
PATIENCE = 120  # seconds for all cases in both processes
STEPS = 2  # static_graph changes the second one
pytestmark = pytest.mark.slow

Gradients = dict[str, Tensor]


class Model(nn.Module):
    """Convolutions of the maps, learned boxes, and the layer of a case."""

    def __init__(self, case: SmallCase, checkpointed: bool = False, unused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.case, self.checkpointed = case, checkpointed
        self.convolutions = nn.ModuleList(
            nn.Conv2d(feature_map.shape[1], feature_map.shape[1], 3, padding=1) for feature_map in case.maps()
        )
        if case.box_order:
            self.shift = nn.Parameter(torch.full_like(case.boxes(), 0.01))
        if unused:
            self.unused = nn.Linear(2, 2)
        self.pool = case.module()
        self.double()

    def pooled(self, *maps: Tensor) -> Tensor:
        boxes = self.case.boxes()
        if self.case.box_order:
            boxes = boxes + self.shift
        maps = tuple(convolution(feature_map) for convolution, feature_map in zip(self.convolutions, maps, strict=True))
        return self.pool(*self.case.forward_arguments(*maps, boxes))  # type: ignore[no-any-return]

    def forward(self, *maps: Tensor) -> Tensor:
        pooled = checkpoint(self.pooled, *maps, use_reentrant=False) if self.checkpointed else self.pooled(*maps)
        return pooled.square().sum()


def gradients(model: nn.Module) -> Gradients:
    """Gradients by name, without the prefix of a wrapper, and whole where each process holds a part."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            grad: Any = parameter.grad
            found[name.removeprefix("module.")] = (grad.full_tensor() if hasattr(grad, "full_tensor") else grad).clone()
    return found


def steps(model: nn.Module, case: SmallCase, batch: int) -> Gradients:
    """The gradients of the last step; the parameters stay, so each step has the same ones."""
    for _ in range(STEPS):
        model.zero_grad()
        model(*case.maps(batch)).backward()
    return gradients(model)


def replicated(
    rank: int, case: SmallCase, checkpointed: bool = False, unused: bool = False, **options: Any
) -> Gradients:
    return steps(DistributedDataParallel(Model(case, checkpointed, unused), **options), case, rank)


def sharded(rank: int, case: SmallCase, checkpointed: bool = False) -> Gradients:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (PROCESSES,))
    model = Model(case, checkpointed)
    for part in (*model.convolutions, model):
        fully_shard(part, mesh=mesh)
    return steps(model, case, rank)


OPTIONS: dict[str, dict[str, Any]] = {
    "find_unused_parameters": {"find_unused_parameters": True, "unused": True},
    "static_graph": {"static_graph": True},
    "gradient_as_bucket_view": {"gradient_as_bucket_view": True},
    "checkpointed": {"checkpointed": True, "static_graph": True},
}
RUNS: dict[str, Callable[[int], Gradients]] = {
    **{
        f"{case.name} {name}": functools.partial(replicated, case=case, **options)
        for case in BY_FUNCTION
        for name, options in OPTIONS.items()
    },
    **{f"{case.name} FSDP2": functools.partial(sharded, case=case) for case in BY_FUNCTION},
    **{
        f"{case.name} FSDP2 checkpointed": functools.partial(sharded, case=case, checkpointed=True)
        for case in BY_FUNCTION
    },
}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), PROCESSES)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=PROCESSES, timeout=timedelta(seconds=PATIENCE / 2)
    )
    torch.save({name: run(rank) for name, run in RUNS.items()}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Gradients]]:
    folder = tmp_path_factory.mktemp("distributed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        processes = multiprocessing.spawn(work, (folder,), PROCESSES, join=False)
        deadline = time.monotonic() + PATIENCE
        try:
            while not processes.join(timeout=1):
                assert time.monotonic() < deadline, f"the processes did not end in {PATIENCE} s"
        finally:
            for process in processes.processes:
                process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", RUNS)
def test_gradients_are_those_of_one_process(name: str, results: list[dict[str, Gradients]]) -> None:
    case = NAMED[name.split()[0]]
    model = Model(case)
    for batch in range(PROCESSES):
        (model(*case.maps(batch)) / PROCESSES).backward()
    expected = gradients(model)
    assert "convolutions.0.weight" in expected
    assert ("shift" in expected) == (case.box_order > 0)
    for found in results:
        close(found[name], expected)
