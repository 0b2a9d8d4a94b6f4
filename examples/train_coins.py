"""Trains torchvision's Mask R-CNN with the pooling layers of roialign_ext and with torchvision's, and compares.

    python examples/train_coins.py                                        # 24 coins, half of them for testing
    python examples/train_coins.py --image FILE --annotations FILE        # your photograph, COCO masks
    python examples/train_coins.py --pooling roialign_ext --device cuda   # one of the two, on a GPU

Writes outputs/<name of the photograph>.png and .json (losses, times, average precision, versions).
"""
# mypy: allow-untyped-calls
# ruff: noqa: E402

import argparse
import json
import platform
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

# ctrl-C ends the imports below, which take seconds, without a traceback. main() handles it later.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from tqdm import tqdm

import roialign_ext
from coins_data import DataError, Scene, load_scenes, random_view
from coins_eval import Found, average_precision, detect, save_picture
from coins_model import LAYERS, build_model

VIEWS_PER_STEP = 2
LEARNING_RATE = 1e-3


@dataclass
class Report:
    pooling: str
    seed: int
    device: str
    threads: int
    ap: dict[str, float] = field(default_factory=dict)  # average precision of boxes and masks, if tested
    step_s: float = 0.0  # median wall time
    step_cpu_s: float = 0.0  # median time over all cores, steadier than wall time on a busy machine
    pooling_share: float = 0.0  # share of the wall time: forward and backward of both pooling layers
    total_s: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


def now(device: torch.device) -> float:
    """Time in seconds, after all work of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Stopwatch:
    """Total time of the given layers, forward and backward."""

    def __init__(self, device: torch.device, *layers: nn.Module) -> None:
        self.device = device
        self.seconds = 0.0
        for layer in layers:
            layer.register_forward_pre_hook(self.start)
            layer.register_forward_hook(self.stop_and_watch_backward)

    def start(self, *_: object) -> None:
        self.started = now(self.device)

    def stop(self, *_: object) -> None:
        self.seconds += now(self.device) - self.started

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
    """Trains, and fills in the losses and times, even if ctrl-C ends it."""
    rng, device = random.Random(report.seed), scene.image.device
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=max(steps, 2), pct_start=0.1)
    stopwatch = Stopwatch(device, model.roi_heads.box_roi_pool, model.roi_heads.mask_roi_pool)
    wall, cpu = [], []
    with tqdm(total=steps, desc=f"training, pooling by {report.pooling}", unit="step", leave=True) as progress:
        try:
            for step in range(steps):
                # The detector samples its proposals with the global generator. Seeding it in every step gives both runs
                # the same random numbers, even after rounding has made their proposals differ.
                torch.manual_seed(report.seed + step)
                wall_start, cpu_start = now(device), time.process_time()
                loss = batch_loss(model, scene, rng)
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), max_norm=5.0)
                optimiser.step()
                schedule.step()
                wall.append(now(device) - wall_start)
                cpu.append(time.process_time() - cpu_start)
                report.losses.append(loss.item())
                progress.set_postfix(loss=f"{statistics.mean(report.losses[-20:]):.3f}", refresh=False)
                progress.update()
        finally:
            if wall:
                report.step_s, report.step_cpu_s = statistics.median(wall), statistics.median(cpu)
                report.pooling_share = stopwatch.seconds / sum(wall)


def run(report: Report, scenes: tuple[Scene, Scene], steps: int) -> Found:
    """Trains on one scene and tests on the other; fills in the report."""
    start = time.perf_counter()
    device = torch.device(report.device)
    training, held_out = scenes
    torch.manual_seed(report.seed)
    model = build_model(report.pooling).to(device)
    train(model, training.to(device), steps, report)

    detections = detect(model, held_out)
    report.ap = average_precision(detections, held_out)
    report.total_s = time.perf_counter() - start
    title = f"{report.pooling}, box AP {report.ap['box']:.3f}, mask AP {report.ap['mask']:.3f}"
    return Found(title, detections, report.losses)


def table(reports: list[Report]) -> str:
    """One row per quantity, one column per run."""

    def loss(report: Report, step: int) -> str:
        return f"{report.losses[step]:.6f}" if len(report.losses) > step else "-"

    def trained(report: Report, text: str) -> str:
        return text if report.losses else "-"

    rows: list[tuple[str, list[str]]] = [
        ("pooling layers", [r.pooling for r in reports]),
        ("loss, first step", [loss(r, 0) for r in reports]),
        ("loss, second step", [loss(r, 1) for r in reports]),
        ("loss, mean of last 20", [trained(r, f"{statistics.mean(r.losses[-20:] or [0]):.4f}") for r in reports]),
        ("held-out box AP (AP50)", [f"{r.ap['box']:.3f} ({r.ap['box50']:.3f})" for r in reports]),
        ("held-out mask AP (AP50)", [f"{r.ap['mask']:.3f} ({r.ap['mask50']:.3f})" for r in reports]),
        ("seconds a step", [trained(r, f"{r.step_s:.3f}") for r in reports]),
        ("CPU seconds a step", [trained(r, f"{r.step_cpu_s:.3f}") for r in reports]),
        ("share of pooling", [trained(r, f"{r.pooling_share:.1%}") for r in reports]),
        ("whole run", [f"{r.total_s:.0f} s" for r in reports]),
    ]
    return "\n".join(f"{name:<26}" + "".join(f"{cell:>18}" for cell in cells) for name, cells in rows)


def whole_number(least: int) -> Callable[[str], int]:
    """An argument that is a whole number of at least ``least``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"wants a whole number from {least} on, got {text!r}")
        return int(text)

    return parse


def usable_device(text: str) -> str:
    """An argument that names a device on which both packages run here."""
    try:
        torch.zeros(1, device=text)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {str(error).splitlines()[0]}") from None
    return text


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a photograph of yours (default: the coins)")
    parser.add_argument("--annotations", type=Path, help="COCO JSON with the masks of its objects, as one class")
    parser.add_argument("--pooling", choices=[*LAYERS, "both"], default="both", help="default: both, one after another")
    parser.add_argument("--steps", type=whole_number(0), default=200, help="of training, default 200")
    parser.add_argument("--device", type=usable_device, default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=whole_number(1), help="default: what torch chooses")
    parser.add_argument("--seed", type=whole_number(0), default=0)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder for the picture and the numbers")
    chosen = parser.parse_args()
    if (chosen.image is None) != (chosen.annotations is None):
        parser.error("--image and --annotations go together")
    return chosen


def main() -> None:
    chosen = options()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    try:
        scenes = load_scenes(chosen.image, chosen.annotations)
        chosen.outputs.mkdir(parents=True, exist_ok=True)
    except (DataError, OSError) as error:
        sys.exit(f"train_coins.py: {error}")
    stem = chosen.outputs / ("coins" if chosen.image is None else chosen.image.stem)
    reports: list[Report] = []
    runs: list[Found] = []
    stopped = False
    try:
        for pooling in LAYERS if chosen.pooling == "both" else [chosen.pooling]:
            reports.append(Report(pooling, chosen.seed, chosen.device, torch.get_num_threads(), versions=versions()))
            runs.append(run(reports[-1], scenes, chosen.steps))
        print(table(reports))
    except KeyboardInterrupt:
        stopped = True
    written = [stem.with_suffix(".json")]
    written[0].write_text(json.dumps([asdict(report) for report in reports], indent=1) + "\n")
    if runs:
        written.insert(0, stem.with_suffix(".png"))
        save_picture(written[0], scenes[1], runs)
    names = " and ".join(map(str, written))
    if stopped:
        steps = sum(len(report.losses) for report in reports)
        print(f"stopped after {steps} steps; what there is so far is in {names}", file=sys.stderr)
        sys.exit(130)
    print(f"wrote {names}")


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "roialign_ext": roialign_ext.__version__,
    }


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
