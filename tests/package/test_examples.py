"""Do the scripts in examples/ run, with the numbers and pictures that they promise?"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PICTURES = ROOT / "docs" / "pictures" / "recipes"
RECIPES = (
    "learn_boxes",
    "gradient_penalty",
    "export_onnx",
    "box_features",
    "pool_volumes",
    "two_scales",
    "train_coins_distributed",
)
NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]\d+)?)"

for needed in ("torchvision", "matplotlib", "skimage", "pycocotools", "tqdm"):
    pytest.importorskip(needed, reason=f"the examples need {needed}")

Example = Callable[..., str]
# pycocotools is older than NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


@pytest.fixture
def example(module: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Example:
    """Runs a script by name with arguments, in this process, and returns what it prints."""

    def run(name: str, *arguments: str) -> str:
        outputs = ["--outputs", str(tmp_path)] if "outputs" in (EXAMPLES / f"{name}.py").read_text() else []
        module(name).main([*arguments, *outputs])
        return capsys.readouterr().out

    return run


def numbers(text: str, words: str) -> list[float]:
    """The numbers behind these words."""
    found = [float(number) for number in re.findall(f"{words} {NUMBER}", text)]
    assert found, f"{words!r} is not in {text!r}"
    return found


def size_of(path: Path) -> tuple[int, int]:
    image = importlib.import_module("PIL.Image")
    with image.open(path) as picture:
        return picture.size[0], getattr(picture, "n_frames", 1)


def test_learn_boxes(example: Example, tmp_path: Path) -> None:
    text = example("learn_boxes", "--steps", "80", "--frames", "5")
    start, end = numbers(text, "corners off by")
    assert start > 5
    assert end < 0.5
    assert size_of(tmp_path / "learn_boxes.gif")[1] == 5


def test_gradient_penalty(example: Example, tmp_path: Path) -> None:
    text = example("gradient_penalty", "--steps", "60")
    start, without, with_penalty = numbers(text, "overlap of held-out boxes:")
    assert start < without < with_penalty
    assert size_of(tmp_path / "gradient_penalty.png")[0] > 400


# The exporters' own use of what torch deprecates, and that one of them is deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_export_onnx(example: Example, tmp_path: Path) -> None:
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed, reason=f"the export needs {needed}")
    text = example("export_onnx")
    assert max(numbers(text, "boxes: largest difference")) < 1e-5
    assert min(numbers(text, r"detector, image of \d+ x \d+:")) > 20
    assert max(numbers(text, "    boxes")) < 1e-2  # of pixels
    assert max(numbers(text, "scores") + numbers(text, "masks")) < 1e-3
    assert {path.suffix for path in tmp_path.iterdir()} == {".onnx"}


def test_box_features(example: Example, tmp_path: Path) -> None:
    text = example("box_features")
    assert "24 boxes, 256 features each" in text
    assert size_of(tmp_path / "box_features.png")[0] > 400


def test_box_features_of_timm(example: Example) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    assert "24 boxes, 256 features each" in example("box_features", "--backbone", "timm:resnet18")


def test_features_of_boxes_are_means_over_the_boxes(module: Callable[[str], ModuleType]) -> None:
    box_features = module("box_features")
    image = torch.rand(2, 3, 56, 84)
    boxes = [torch.tensor([[28.0, 0.0, 56.0, 28.0]]), torch.tensor([[0.0, 28.0, 28.0, 56.0]])]
    found = box_features.features_of_boxes(nn.Sequential(nn.Unflatten(0, (1, 2)), nn.Flatten(1, 1)), image, boxes)
    expected = torch.stack([image[0, :, :28, 28:56], image[1, :, 28:, :28]]).mean((2, 3))
    torch.testing.assert_close(found, (expected - box_features.MEAN) / box_features.DEVIATION)


def test_pool_volumes(example: Example) -> None:
    text = example("pool_volumes", "--boxes", "6")
    assert len(numbers(text, "largest difference")) == 4
    assert max(numbers(text, "largest difference")) < 1e-12


def test_gradients_of_volumes_and_sequences(module: Callable[[str], ModuleType]) -> None:
    recipe = module("pool_volumes")
    torch.manual_seed(0)
    volumes = torch.rand(2, 2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.31, 0.42, 0.23, 4.77, 4.18, 3.39], [1.13, -0.61, 0.87, 6.41, 3.26, 4.52]])
    images = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    corners = boxes.double().requires_grad_()

    def pooled(volumes: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
        return recipe.pool_volumes(volumes, torch.cat([images, corners], 1), (2, 2, 3), 0.9, 2)  # type: ignore[no-any-return]

    def in_time(sequences: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        return recipe.pool_time(sequences, torch.cat([images, ends], 1), 3, 0.9, 2)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(pooled, (volumes, corners))
    sequences = torch.rand(2, 2, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(in_time, (sequences, corners[:, [0, 3]].detach().requires_grad_()))


def test_two_scales(example: Example) -> None:
    text = example("two_scales", "--boxes", "4")
    assert max(numbers(text, "from the definition")) < 1e-12
    assert max(numbers(text, "from central differences")) < 1e-7


@pytest.mark.slow
def test_train_coins(tmp_path: Path) -> None:
    """The example is a program of its own, because it handles ctrl-C from its first line on."""
    command = [sys.executable, EXAMPLES / "train_coins.py", "--steps", "2", "--threads", "1", "--outputs", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads((tmp_path / "coins.json").read_text())
    assert [ours["pooling"], theirs["pooling"]] == ["roialign_ext", "torchvision"]
    assert ours["losses"][0] == pytest.approx(theirs["losses"][0], rel=1e-5)
    assert size_of(tmp_path / "coins.png")[0] > 800


@pytest.mark.parametrize("name", RECIPES)
def test_help_shows_how_to_call_it(
    name: str, module: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "export_onnx":
        pytest.importorskip("onnxruntime", reason="the script imports it")
    with pytest.raises(SystemExit) as end:
        module(name).main(["--help"])
    assert end.value.code == 0
    assert f"examples/{name}.py" in capsys.readouterr().out


def test_the_documentation_lists_every_script_and_picture() -> None:
    recipes = (ROOT / "docs" / "recipes.md").read_text()
    scripts = [*RECIPES, "train_coins"]
    for page in (recipes, (EXAMPLES / "README.md").read_text()):
        assert [name for name in scripts if f"{name}.py" not in page] == []
    shown = set(re.findall(r"\(pictures/recipes/([^)]+)\)", recipes))
    assert shown == {path.name for path in PICTURES.iterdir()}
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) < 1_000_000
    with_main = {path.stem for path in EXAMPLES.glob("*.py") if "def main(" in path.read_text()}
    assert with_main == {*scripts, "annotate_coins"}
