"""Moves boxes onto coins by gradient descent, which needs gradients with respect to the boxes.

The target of every box is the photograph pooled inside the true box. A box starts displaced and with a wrong size.
Gradient descent reduces the difference between its pooled pixels and the target.

    python examples/learn_boxes.py            # ten seconds; writes outputs/learn_boxes.gif
"""
# mypy: allow-untyped-calls

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.functional import gaussian_blur
from tqdm import tqdm

from coins_data import photograph_and_boxes
from roialign_ext import roi_align

BLURS = (2, 4, 8)  # standard deviations in pixels: the widest reaches far, the narrowest is precise
BINS = 7
COLOURS = ((0.0, (230, 30, 30)), (0.5, (255, 160, 0)), (0.9, (40, 220, 60)))  # (least IoU, colour) of a box


def displaced(boxes: Tensor) -> Tensor:
    """The boxes moved by up to a third of their size and scaled by up to a third, at random."""
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    centres = centres + sizes * torch.empty_like(sizes).uniform_(-0.33, 0.33)
    sizes = sizes * torch.empty_like(sizes).uniform_(-0.3, 0.3).exp()
    return torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1)


def descend(features: Tensor, truth: Tensor, start: Tensor, steps: int) -> list[Tensor]:
    """The boxes before every step and after the last one."""
    target = roi_align(features, [truth], BINS, aligned=True)  # [K, C, 7, 7]
    boxes = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([boxes], lr=1.0)  # at most about one pixel a step
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    path = [start]
    for _ in tqdm(range(steps), desc="moving boxes", unit="step"):
        optimiser.zero_grad()
        difference = roi_align(features, [boxes], BINS, aligned=True) - target
        difference.square().sum().backward()
        optimiser.step()
        schedule.step()
        path.append(boxes.detach().clone())
    return path


def frame(photograph: Tensor, truth: Tensor, boxes: Tensor, step: int) -> Image.Image:
    """The photograph with the true boxes dotted, and the boxes in the colour of their overlap."""
    height, width = photograph.shape[2:]
    figure = Figure(figsize=(width / 80, height / 80), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(photograph[0, 0].numpy(), cmap="gray", vmin=-0.1, vmax=1.4, extent=(0, width, height, 0))
    overlaps = box_iou(boxes, truth).diagonal()
    for true, box, overlap in zip(truth.tolist(), boxes.tolist(), overlaps.tolist(), strict=True):
        colour = [channel / 255 for channel in [colour for least, colour in COLOURS if overlap >= least][-1]]
        for (x1, y1, x2, y2), style, edge in ((true, ":", "white"), (box, "-", colour)):
            outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linestyle=style, color=edge, linewidth=1.5)
            axes.add_patch(outline)
    axes.text(4, 4, f"step {step}, mean IoU {overlaps.mean():.3f}", color="white", va="top", fontsize=9)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def save_animation(path: Path, frames: list[Image.Image]) -> None:
    """Writes a GIF with one palette for all frames, so that unchanged pixels take no space."""
    greys = [(level, level, level) for level in range(0, 256, 6)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for colour in (*greys, *(colour for _, colour in COLOURS)) for channel in colour])
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations = [800] + [70] * (len(frames) - 2) + [2500]  # milliseconds
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--frames", type=int, default=31, help="of the animation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder for the animation")
    chosen = parser.parse_args(arguments)
    torch.manual_seed(chosen.seed)

    photograph, truth = photograph_and_boxes()
    features = torch.cat([gaussian_blur(photograph, 6 * blur + 1, blur) for blur in BLURS], dim=1)
    path = descend(features, truth, displaced(truth), chosen.steps)

    shown = sorted({round(step) for step in np.linspace(0, chosen.steps, chosen.frames)})
    frames = [frame(photograph, truth, path[step], step) for step in tqdm(shown, desc="drawing", unit="frame")]
    chosen.outputs.mkdir(parents=True, exist_ok=True)
    save_animation(chosen.outputs / "learn_boxes.gif", frames)
    for name, boxes in (("start", path[0]), ("end", path[-1])):
        distances = (boxes - truth).abs()
        print(f"{name:<5}  corners off by {distances.mean():.2f} pixels, at most {distances.max():.2f}")
    print(f"wrote {chosen.outputs / 'learn_boxes.gif'}")


if __name__ == "__main__":
    main()
