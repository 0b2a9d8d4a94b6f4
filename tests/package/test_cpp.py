"""Does a saved model with every operator run in a program without Python, and in a fresh process of Python?"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.export import Dim

from roialign_ext import _environment
from support.cache import cached
from support.every_operator import FEATURES, EveryOperator, boxes_of

SOURCES = Path(__file__).resolve().parents[2] / "examples" / "cpp"
BOXES = boxes_of(2)
COUNTS = (2, 3, 40)  # boxes; the programs are exported with 5

pytestmark = pytest.mark.slow


def run(*command: str | Path) -> str:
    """The output of a command that has to succeed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def program() -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("needs CMake")

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as objects:
            run("cmake", "-S", SOURCES, "-B", objects, f"-DTORCH={torch.__path__[0]}")
            run("cmake", "--build", objects)
            shutil.copy(Path(objects) / "run_model", folder)

    return cached("cpp", [torch.__version__, torch.__path__[0], *SOURCES.iterdir()], make) / "run_model"


def outputs(program: Path, model: Path) -> Tensor:
    lines = run(program, _environment.library("cpu"), model).split()
    return torch.tensor([float(line) for line in lines])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_scripted_functions(program: Path, tmp_path: Path) -> None:
    torch.jit.trace(EveryOperator(torch.jit.script), (FEATURES, BOXES)).save(tmp_path / "model.pt")
    assert torch.equal(outputs(program, tmp_path / "model.pt"), EveryOperator()(FEATURES, BOXES).flatten())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program of torch.export and the package of AOTInductor, both for any number of boxes."""
    folder = tmp_path_factory.mktemp("saved")
    shapes = (None, {0: Dim("boxes", min=2, max=1000)})
    program = torch.export.export(EveryOperator(), (FEATURES, boxes_of(5)), dynamic_shapes=shapes)
    torch.export.save(program, folder / "program.pt2")
    with torch.no_grad():
        program = torch.export.export(EveryOperator(), (FEATURES, boxes_of(5)), dynamic_shapes=shapes)
    torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "package.pt2"))
    return folder


# Runs in a fresh process. Only the public package is imported.
USE = """
import sys

import torch

import roialign_ext

folder, *counts = sys.argv[1:]
results = {}
package = torch._inductor.aoti_load_package(f"{folder}/package.pt2")
program = torch.export.load(f"{folder}/program.pt2").module()
for count in map(int, counts):
    features, boxes = torch.load(f"{folder}/{count}.pt")
    with torch.no_grad():
        compiled = package(features, boxes)
    leaves = [features.requires_grad_(), boxes.requires_grad_(), *program.parameters()]
    result = program(features, boxes)
    results[count] = [compiled, result, *torch.autograd.grad(result.square().sum(), leaves)]
optimizer = torch.optim.SGD(program.parameters(), 1e-6)
program(features, boxes).square().sum().backward()
optimizer.step()
results["weight"] = program.weight.detach()
torch.save(results, f"{folder}/results.pt")
"""


def test_saved_models_in_a_fresh_process(saved: Path) -> None:
    """For other numbers of boxes than exported, the program has the numbers and gradients of the package."""
    for count in COUNTS:
        torch.save((FEATURES, boxes_of(count)), saved / f"{count}.pt")
    run(sys.executable, "-c", USE, saved, *map(str, COUNTS))
    found = torch.load(saved / "results.pt")
    module = EveryOperator()
    for count in COUNTS:
        features, boxes = FEATURES.clone().requires_grad_(), boxes_of(count).requires_grad_()
        result = module(features, boxes)
        gradients = torch.autograd.grad(result.square().sum(), (features, boxes, module.weight))
        assert all(gradient.abs().max() > 0 for gradient in gradients)
        torch.testing.assert_close(found[count], [result, result, *gradients])
    assert found["weight"] != 1.0


def test_a_package_of_aot_inductor(program: Path, saved: Path) -> None:
    expected = EveryOperator()(FEATURES, BOXES).flatten()
    torch.testing.assert_close(outputs(program, saved / "package.pt2"), expected)


def test_neither_program_nor_library_needs_python(program: Path) -> None:
    for file in (program, _environment.library("cpu")):
        assert re.search(r"^\s*lib(torch_)?python", run("ldd", file), re.MULTILINE) is None
