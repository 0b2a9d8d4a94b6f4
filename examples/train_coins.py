"""Train torchvision's Mask R-CNN, pooling by roialign_ext, on half a photograph of coins; test it on the other half.

    python examples/train_coins.py                        # this package's layers
    python examples/train_coins.py --pooling torchvision  # the same with torchvision's operator
    python examples/train_coins.py --compare              # both, side by side

Writes outputs/coins_<pooling>.json (losses, times, average precision, versions) and outputs/coins_<pooling>.png.
"""
# mypy: allow-untyped-calls

import argparse
import json
import platform
import random
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from tqdm import tqdm

import roialign_ext
from coins_data import Scene, load_scenes, random_view
from coins_eval import average_precision, save_picture
from coins_model import LAYERS, build_model

VIEWS_PER_STEP = 2
LEARNING_RATE = 1e-3


@dataclass
class Report:
    pooling: str
    seed: int
    threads: int
    box_ap: float = 0.0
    box_ap50: float = 0.0
    mask_ap: float = 0.0
    mask_ap50: float = 0.0
    step_ms: float = 0.0  # median wall time
    step_cpu_ms: float = 0.0  # median time over all cores: steadier than wall time on a busy machine
    pooling_share: float = 0.0  # of the wall time, forward and backward of both pooling layers
    total_s: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


class Stopwatch:
    """Adds up the time that the given layers take, forward and backward."""

    def __init__(self, *layers: nn.Module) -> None:
        self.seconds = 0.0
        for layer in layers:
            layer.register_forward_pre_hook(self.start)
            layer.register_forward_hook(self.stop_and_watch_backward)

    def start(self, *_: object) -> None:
        self.started = time.perf_counter()

    def stop(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.started

    def stop_and_watch_backward(self, layer: nn.Module, inputs: object, output: Tensor) -> None:
        self.stop()
        if output.grad_fn is not None:
            output.grad_fn.register_prehook(self.start)
            output.grad_fn.register_hook(self.stop)


def batch_loss(model: nn.Module, scene: Scene, rng: random.Random) -> Tensor:
    images, targets = zip(*(random_view(scene, rng) for _ in range(VIEWS_PER_STEP)), strict=True)
    losses: dict[str, Tensor] = model(list(images), list(targets))
    return torch.stack(list(losses.values())).sum()


def train(model: MaskRCNN, scene: Scene, steps: int, report: Report) -> None:
    rng = random.Random(report.seed)
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    stopwatch = Stopwatch(model.roi_heads.box_roi_pool, model.roi_heads.mask_roi_pool)
    wall, cpu = [], []
    progress = tqdm(range(steps), desc=f"training, pooling by {report.pooling}", unit="step")
    for step in progress:
        # The detector samples its proposals with the global generator. Seeding it in every step gives the runs that are
        # compared the same random numbers, even when rounding has made their proposals differ.
        torch.manual_seed(report.seed + step)
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        loss = batch_loss(model, scene, rng)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=5.0)
        optimiser.step()
        schedule.step()
        wall.append(1e3 * (time.perf_counter() - wall_start))
        cpu.append(1e3 * (time.process_time() - cpu_start))
        report.losses.append(loss.item())
        progress.set_postfix(loss=f"{statistics.mean(report.losses[-20:]):.3f}")
    report.step_ms, report.step_cpu_ms = statistics.median(wall), statistics.median(cpu)
    report.pooling_share = 1e3 * stopwatch.seconds / sum(wall)


def run(pooling: str, seed: int, steps: int, threads: int, folder: Path) -> Report:
    start = time.perf_counter()
    torch.manual_seed(seed)
    training, held_out = load_scenes()
    model = build_model(pooling)
    report = Report(pooling, seed, threads)
    report.versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "roialign_ext": roialign_ext.__version__,
    }
    train(model, training, steps, report)

    model.eval()
    with torch.no_grad():
        detections: dict[str, Tensor] = model([held_out.image])[0]
    for name, value in average_precision(detections, held_out).items():
        setattr(report, name, value)
    report.total_s = time.perf_counter() - start

    stem = folder / f"coins_{pooling}"
    found = f"found by Mask R-CNN, pooling by {pooling}: box AP {report.box_ap:.3f}, mask AP {report.mask_ap:.3f}"
    save_picture(stem.with_suffix(".png"), held_out, detections, report.losses, found)
    stem.with_suffix(".json").write_text(json.dumps(asdict(report), indent=1) + "\n")
    print(f"wrote {stem}.png and {stem}.json")
    return report


def table(reports: list[Report]) -> str:
    """One row per quantity, one column per run."""
    rows: list[tuple[str, list[str]]] = [
        ("pooling layers", [r.pooling for r in reports]),
        ("loss, first step", [f"{r.losses[0]:.6f}" for r in reports]),
        ("loss, after one update", [f"{r.losses[1]:.6f}" for r in reports]),
        ("loss, mean of last 20", [f"{statistics.mean(r.losses[-20:]):.4f}" for r in reports]),
        ("held-out box AP (AP50)", [f"{r.box_ap:.3f} ({r.box_ap50:.3f})" for r in reports]),
        ("held-out mask AP (AP50)", [f"{r.mask_ap:.3f} ({r.mask_ap50:.3f})" for r in reports]),
        ("median step, wall", [f"{r.step_ms:.0f} ms" for r in reports]),
        ("median step, CPU time", [f"{r.step_cpu_ms:.0f} ms" for r in reports]),
        ("share of pooling", [f"{r.pooling_share:.1%}" for r in reports]),
        ("whole run", [f"{r.total_s:.0f} s" for r in reports]),
    ]
    return "\n".join(f"{name:<26}" + "".join(f"{cell:>18}" for cell in cells) for name, cells in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pooling", choices=sorted(LAYERS), default="roialign_ext")
    parser.add_argument("--compare", action="store_true", help="run with either operator and print both")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    options = parser.parse_args()
    options.outputs.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)

    names = sorted(LAYERS) if options.compare else [options.pooling]
    reports = [run(name, options.seed, options.steps, options.threads, options.outputs) for name in names]
    print(table(reports))


if __name__ == "__main__":
    main()
