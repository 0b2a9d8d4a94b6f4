"""Trains the coins detector in several processes with DistributedDataParallel, and resumes if one of them dies.

    torchrun --standalone --nproc-per-node 2 examples/train_coins_distributed.py           # make demo-distributed
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST examples/train_coins_distributed.py

The second command runs on each of four machines with eight GPUs each. HOST is one of the machines. On GPUs every
process has its own GPU and uses nccl; on the CPU processes use gloo. All machines share the folder of --outputs.
Processes that find a checkpoint there resume from it. With TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 and --max-restarts 3
torchrun restarts all processes if one dies. Without that variable torch 2.14 gives them the store of the previous
processes, and gloo looks for processes that have ended.

The seed, the step and its number determine a view. So the training is the same, up to rounding, for every number of
processes, and exactly the same after a restart.

Writes coins_distributed.png, .json and .pt (the trained parameters).
"""
# mypy: allow-untyped-calls

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.detection import MaskRCNN
from tqdm import tqdm

from coins_data import Scene, load_scenes, random_view
from coins_eval import Found, average_precision, detect, save_picture
from coins_model import build_model

LEARNING_RATE = 1e-3


class MeanLoss(nn.Module):
    """The loss of one process in one step: the mean over its views.

    Each view is a batch of its own. The detector divides its losses by the number of proposals in a batch, so with
    larger batches the loss would depend on the number of processes.
    """

    def __init__(self, detector: MaskRCNN, scene: Scene, seed: int) -> None:
        super().__init__()
        self.detector, self.scene, self.seed = detector, scene, seed

    def forward(self, step: int, views: range) -> Tensor:
        losses = []
        for number in views:
            rng = random.Random(f"{self.seed} {step} {number}")
            image, target = random_view(self.scene, rng)
            torch.manual_seed(rng.getrandbits(32))  # the detector samples its proposals with torch's generator
            losses.append(torch.stack(list(self.detector([image], [target]).values())).sum())
        return torch.stack(losses).mean()


@dataclass
class Training:
    """The contents of a checkpoint."""

    detector: MaskRCNN
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    arguments: dict[str, int]  # of the run that wrote the checkpoint
    losses: list[float] = field(default_factory=list)  # of the steps so far

    def save(self, path: Path) -> None:
        """Writes a new file and then renames it. If the process dies while it writes, the old file remains."""
        state = {name: getattr(self, name).state_dict() for name in ("detector", "optimiser", "schedule")}
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save({**state, "arguments": self.arguments, "losses": self.losses}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def load(self, path: Path) -> None:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["arguments"] != self.arguments:
            sys.exit(f"{path} is of a run with {state['arguments']}, not {self.arguments}: delete it to start afresh.")
        for name in ("detector", "optimiser", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.losses = state["losses"]


def start_processes(device: str) -> torch.device:
    """Joins the processes that torchrun started, and returns the device of this one."""
    if "LOCAL_RANK" not in os.environ:
        sys.exit("torchrun starts this program: torchrun --standalone --nproc-per-node 2 train_coins_distributed.py")
    if device == "cpu":
        dist.init_process_group("gloo", timeout=timedelta(minutes=5))
        return torch.device("cpu")
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    dist.init_process_group("nccl", timeout=timedelta(minutes=5), device_id=own)
    return own


def train(training: Training, module: nn.Module, steps: int, views: int, checkpoint: Path, every: int) -> list[float]:
    """Goes on to ``steps`` and returns the seconds of each step."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    share = views // processes
    mine = range(rank * share, (rank + 1) * share)
    seconds = []
    first = len(training.losses)
    with tqdm(
        total=steps, initial=first, desc=f"training in {processes} processes", unit="step", disable=rank != 0
    ) as progress:
        for step in range(first, steps):
            start = time.perf_counter()
            loss = module(step, mine)
            training.optimiser.zero_grad()
            loss.backward()  # DistributedDataParallel averages the gradients meanwhile
            nn.utils.clip_grad_norm_(training.detector.parameters(), max_norm=5.0)
            training.optimiser.step()
            training.schedule.step()
            mean_loss = loss.detach() / processes
            dist.all_reduce(mean_loss)
            training.losses.append(mean_loss.item())
            seconds.append(time.perf_counter() - start)
            if rank == 0 and (step + 1) % every == 0:
                training.save(checkpoint)
            progress.set_postfix(loss=f"{statistics.mean(training.losses[-20:]):.3f}", refresh=False)
            progress.update()
    return seconds


def report(training: Training, held_out: Scene, seconds: list[float], outputs: Path) -> None:
    """Tests the detector, prints the numbers and writes the files."""
    detections = detect(training.detector, held_out)
    ap = average_precision(detections, held_out)
    processes = dist.get_world_size()
    title = f"{processes} processes, box AP {ap['box']:.3f}, mask AP {ap['mask']:.3f}"
    stem = outputs / "coins_distributed"
    save_picture(stem.with_suffix(".png"), held_out, [Found(title, detections, training.losses)])
    step_s = statistics.median(seconds) if seconds else None
    numbers = {**training.arguments, "processes": processes, "ap": ap, "step_s": step_s, "losses": training.losses}
    stem.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
    torch.save(training.detector.state_dict(), stem.with_suffix(".pt"))
    print(title if step_s is None else f"{title}, {step_s:.3f} seconds a step")
    print(f"wrote {stem}.png, .json and .pt")


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of training, default 200")
    parser.add_argument("--views", type=int, help="in a step, over all processes; default: one each, at least 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--checkpoint-every", type=int, default=20, metavar="STEPS")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder for results and the checkpoint")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = options(arguments)
    device = start_processes(chosen.device)
    rank, processes = dist.get_rank(), dist.get_world_size()
    views = chosen.views or max(2, processes)
    if views % processes:
        sys.exit(f"--views: expected a multiple of the {processes} processes, got {views}")
    chosen.outputs.mkdir(parents=True, exist_ok=True)
    scene, held_out = load_scenes(None, None)

    torch.manual_seed(chosen.seed)
    detector = build_model("roialign_ext").to(device)
    optimiser = torch.optim.AdamW(detector.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=max(chosen.steps, 2), pct_start=0.1
    )
    training = Training(detector, optimiser, schedule, {"steps": chosen.steps, "views": views, "seed": chosen.seed})
    checkpoint = chosen.outputs / "coins_distributed.checkpoint"
    if checkpoint.exists():
        training.load(checkpoint)
        if rank == 0:
            print(f"resuming after {len(training.losses)} steps of {checkpoint}")

    module = DistributedDataParallel(
        MeanLoss(detector, scene.to(device), chosen.seed),
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )
    seconds = train(training, module, chosen.steps, views, checkpoint, chosen.checkpoint_every)
    if rank == 0:
        report(training, held_out, seconds, chosen.outputs)
        checkpoint.unlink(missing_ok=True)  # the run is complete, so the next one starts from scratch
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
