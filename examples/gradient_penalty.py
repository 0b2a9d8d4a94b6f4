"""Trains a score of boxes with a penalty on its gradient, which differentiates the pooling twice.

A small network learns the overlap (IoU) of a box with the nearest coin. Boxes then move along the gradient of the
score, as in IoU-Net. Their final overlap depends on that gradient, so the training penalises its distance from the true
one. The loss thus contains a gradient with respect to the boxes, and its backward pass is a double backward.

    python examples/gradient_penalty.py       # half a minute; writes outputs/gradient_penalty.png
"""
# mypy: allow-untyped-calls

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.ops import box_iou
from tqdm import tqdm

from coins_data import photograph_and_boxes
from roialign_ext import roi_align

BOXES_PER_STEP = 32
CLIMBING_STEPS = 40


class BoxScore(nn.Module):
    """The score of each box [K] from the pooled features of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Tanh())
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 7 * 7, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        pooled = roi_align(features, [boxes], 7, spatial_scale=1 / 4, sampling_ratio=2, aligned=True)
        score: Tensor = self.head(pooled)
        return score[:, 0]


def boxes_near(coins: Tensor, count: int) -> Tensor:
    """Random boxes, each at a random one of the coins."""
    chosen = coins[torch.randint(len(coins), (count,))]
    sizes = (chosen[:, 2:] - chosen[:, :2]).repeat(1, 2)
    return chosen + sizes * torch.empty_like(chosen).uniform_(-0.35, 0.35)


def overlap(boxes: Tensor, coins: Tensor) -> Tensor:
    """IoU of each box with the coin that it overlaps most."""
    overlaps: Tensor = box_iou(boxes, coins)
    return overlaps.amax(1)


def slope(values: Tensor, boxes: Tensor, create_graph: bool = False) -> Tensor:
    """Derivatives [K, 4] of the value of each box by its coordinates, per image pixel."""
    gradient: Tensor = torch.autograd.grad(values.sum(), boxes, create_graph=create_graph)[0]
    return gradient


def train(image: Tensor, coins: Tensor, weight: float, steps: int) -> BoxScore:
    """A network trained on boxes near the coins, with ``weight`` times the penalty."""
    torch.manual_seed(0)
    network = BoxScore()
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    for _ in tqdm(range(steps), desc=f"training, weight of the penalty {weight:g}", unit="step"):
        boxes = boxes_near(coins, BOXES_PER_STEP).requires_grad_()
        truth, score = overlap(boxes, coins), network(network.features(image), boxes)
        loss = (score - truth.detach()).square().mean()
        if weight > 0:
            difference = slope(score, boxes, create_graph=True) - slope(truth, boxes)
            loss = loss + weight * difference.square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


def climb(network: BoxScore, image: Tensor, boxes: Tensor) -> list[Tensor]:
    """The boxes before each step along the gradient and after the last one. A step is at most a pixel long."""
    features = network.features(image).detach()
    path = [boxes]
    for _ in range(CLIMBING_STEPS):
        boxes = boxes.detach().requires_grad_()
        uphill = slope(network(features, boxes), boxes)
        boxes = boxes.detach() + uphill / uphill.norm(dim=1, keepdim=True).clamp(min=0.01)
        path.append(boxes)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of training, without and with the penalty")
    parser.add_argument("--weight", type=float, default=100.0, help="of the penalty")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder for the picture")
    chosen = parser.parse_args(arguments)

    image, coins = photograph_and_boxes()
    training, held_out = coins[:12], coins[12:]  # two rows each
    upper_half = image[:, :, :152]
    networks = {
        name: train(upper_half, training, weight, chosen.steps)
        for name, weight in (("without penalty", 0.0), ("with penalty", chosen.weight))
    }

    torch.manual_seed(1)
    start = boxes_near(held_out, 200)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    print(f"overlap of held-out boxes: {overlap(start, held_out).mean():.3f} at the start")
    for name, network in networks.items():
        path = climb(network, image, start)
        overlaps = [float(overlap(boxes, held_out).mean()) for boxes in path]
        axes.plot(overlaps, label=name)
        print(f"overlap of held-out boxes: {overlaps[-1]:.3f} after climbing the score trained {name}")
    axes.set(xlabel="steps uphill, of at most one pixel", ylabel="mean IoU, held-out coins")
    axes.grid(alpha=0.3)
    axes.legend()
    chosen.outputs.mkdir(parents=True, exist_ok=True)
    figure.savefig(chosen.outputs / "gradient_penalty.png", dpi=100)
    print(f"wrote {chosen.outputs / 'gradient_penalty.png'}")


if __name__ == "__main__":
    main()
