"""A program without Python (examples/cpp) runs saved models with the library of this installation."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import roialign_ext
from roialign_ext import _environment

SOURCES = Path(__file__).resolve().parents[2] / "examples" / "cpp"
FEATURES = torch.arange(64.0).reshape(1, 1, 8, 8)
BOXES = torch.tensor([[0.0, 2.0, 2.0, 6.0, 6.0], [0.0, 1.0, 0.0, 7.5, 3.0]])

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cpp")]


def run(*command: str | Path) -> str:
    """The output of a command that has to succeed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("needs CMake")
    folder = tmp_path_factory.mktemp("cpp")
    run("cmake", "-S", SOURCES, "-B", folder, f"-DTORCH={torch.__path__[0]}")
    run("cmake", "--build", folder)
    return folder / "run_model"


class EveryOperator(nn.Module):
    """All public operators in one module: their results side by side."""

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        rotated = torch.cat([boxes, boxes[:, 4:]], 1)
        corners = boxes[:, 1:].flip(1) / 8.0
        results = [
            roialign_ext.roi_align(features, boxes, 2, 1.0, 2, True),
            roialign_ext.roi_align(features, boxes, 2, 1.0, 2, True, "max"),
            roialign_ext.roi_warp(features, boxes, 2, 1.0, 2),
            roialign_ext.prroi_pool(features, boxes, 2),
            roialign_ext.roi_pool(features, boxes, 2),
            roialign_ext.ps_roi_align(features.repeat(1, 4, 1, 1), boxes, 2, 1.0, 2),
            roialign_ext.ps_roi_pool(features.repeat(1, 4, 1, 1), boxes, 2),
            roialign_ext.roi_align_rotated(features, rotated, 2, 1.0, 2, True, True),
            roialign_ext.crop_and_resize(features, corners, boxes[:, 0].long(), 2),
            roialign_ext.crop_and_resize(features, corners, boxes[:, 0].long(), 2, samples_per_bin=2, mode="max"),
            roialign_ext.multiscale_roi_align([features, features[:, :, ::2, ::2]], boxes, 2, [1.0, 0.5], 2),
        ]
        return torch.stack(results)


def outputs(program: Path, model: Path) -> Tensor:
    lines = run(program, _environment.library("cpu"), model).split()
    return torch.tensor([float(line) for line in lines])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module(program: Path, tmp_path: Path) -> None:
    module = EveryOperator()
    torch.jit.script(module).save(tmp_path / "model.pt")
    assert torch.equal(outputs(program, tmp_path / "model.pt"), module(FEATURES, BOXES).flatten())


def test_a_package_of_aot_inductor(program: Path, tmp_path: Path) -> None:
    module = EveryOperator()
    with torch.no_grad():
        exported = torch.export.export(module, (FEATURES, BOXES))
        torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "model.pt2"))
        expected = module(FEATURES, BOXES).flatten()
    torch.testing.assert_close(outputs(program, tmp_path / "model.pt2"), expected)


def test_neither_program_nor_library_needs_python(program: Path) -> None:
    for file in (program, _environment.library("cpu")):
        assert re.search(r"^\s*lib(torch_)?python", run("ldd", file), re.MULTILINE) is None
