"""Does the coins detector in two processes have the gradients of one, and does it survive a killed process?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROCESSES = 2
PATIENCE = 240  # seconds for a run
STEPS = 5

for needed in ("torchvision", "matplotlib", "skimage", "pycocotools", "tqdm"):
    pytest.importorskip(needed, reason=f"the example needs {needed}")
if not dist.is_available() or not dist.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    ),  # pycocotools
]


# --- gradients


def loss_module() -> Any:
    sys.path.insert(0, str(EXAMPLES))
    import train_coins_distributed as example

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return example.MeanLoss(example.build_model("roialign_ext"), example.load_scenes(None, None)[0], seed=0)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name.removeprefix("module."): parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def work(rank: int, folder: Path) -> None:
    module = loss_module()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    module = torch.nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)
    module(3, range(2 * rank, 2 * rank + 2)).backward()
    torch.save(gradients(module), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_gradients_are_those_of_one_process_with_all_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_threads: None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(EXAMPLES)
    processes = multiprocessing.spawn(work, (tmp_path,), PROCESSES, join=False)
    module = loss_module()
    module(3, range(4)).backward()
    expected = gradients(module)
    deadline = time.monotonic() + PATIENCE
    try:
        while not processes.join(timeout=1):
            assert time.monotonic() < deadline, f"the processes did not end in {PATIENCE} s"
    finally:
        for process in processes.processes:
            process.kill()
    for rank in range(PROCESSES):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == expected.keys()
        for name, grad in expected.items():
            # The same terms, added in another order.
            torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max()), msg=name)


# --- a killed process


def torchrun(outputs: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    command += [*arguments, EXAMPLES / "train_coins_distributed.py", "--device", "cpu", "--outputs", outputs]
    command += ["--steps", STEPS, "--checkpoint-every", "1"]
    return subprocess.Popen(
        list(map(str, command)),
        # Restarted processes get a store of their own, without the addresses of those that are gone.
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The output of a run that has to succeed."""
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        stop(process)
        raise
    assert process.returncode == 0, errors
    return output, errors


def stop(process: subprocess.Popen[str]) -> None:
    """Ends torchrun, which ends its processes."""
    process.terminate()
    try:
        process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()


def process_of_rank(rank: int, parent: int) -> int:
    """The process that torchrun started for a rank."""
    children = " ".join(thread.read_text() for thread in Path(f"/proc/{parent}/task").glob("*/children"))
    for child in children.split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"torchrun has no process of rank {rank}")


def test_a_killed_process_changes_nothing(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    output, errors = ended(torchrun(whole))
    assert "resuming" not in output
    assert errors.count("processes:   0%") == 1  # progress of one process

    run = torchrun(broken, "--max-restarts", "1")
    try:
        deadline = time.monotonic() + PATIENCE
        while not (broken / "coins_distributed.checkpoint").exists():
            assert run.poll() is None, run.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process_of_rank(1, run.pid), signal.SIGKILL)
    except BaseException:
        stop(run)
        raise
    output, _ = ended(run)
    assert "resuming after" in output

    results = [json.loads((folder / "coins_distributed.json").read_text()) for folder in (whole, broken)]
    assert len(results[0]["losses"]) == STEPS
    for name in ("losses", "ap"):
        assert results[0][name] == results[1][name]
    parameters = [torch.load(folder / "coins_distributed.pt") for folder in (whole, broken)]
    torch.testing.assert_close(parameters[0], parameters[1], rtol=0, atol=0)
    names = {"coins_distributed.png", "coins_distributed.json", "coins_distributed.pt"}
    assert {path.name for path in broken.iterdir()} == names  # the checkpoint is gone


def test_a_checkpoint_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies while it writes leaves the old file."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import train_coins_distributed as example

    layer = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    schedule = torch.optim.lr_scheduler.ConstantLR(optimiser)
    training = example.Training(layer, optimiser, schedule, {"steps": 3})
    path = tmp_path / "a.checkpoint"
    training.save(path)
    before = path.read_bytes()

    def half(state: object, file: Any) -> None:
        file.write(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(KeyboardInterrupt):
            training.save(path)
    assert path.read_bytes() == before
    training.load(path)
    training.arguments = {"steps": 4}
    with pytest.raises(SystemExit, match=r"is of a run with \{'steps': 3\}, not \{'steps': 4\}"):
        training.load(path)
