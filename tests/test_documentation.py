"""The documentation holds: the README's code runs, it names what there is, and links between files lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import roialign_ext

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
LINK = re.compile(r"\[[^\]]*\]\(([^)#:]+)\)")


def python_blocks() -> list[str]:
    """Empty where the tests are copied without the README."""
    text = README.read_text(encoding="utf-8") if README.is_file() else ""
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def run(block: str) -> dict[str, Any]:
    if "torchvision" in block:
        pytest.importorskip("torchvision", reason="torchvision is not installed")
    if "onnx" in block:
        pytest.importorskip("onnxscript", reason="onnxscript belongs to the optional extra onnx")
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(block, str(README), "exec"), names)
    return names


needs_readme = pytest.mark.skipif(not README.is_file(), reason="the README is not part of this copy")


# torch's own exporter to ONNX calls what torch has deprecated.
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.parametrize("block", python_blocks(), ids=lambda block: block.splitlines()[0])
def test_python_of_the_readme_runs(block: str) -> None:
    run(block)


@needs_readme
def test_the_ten_lines_find_the_box() -> None:
    box = run(python_blocks()[0])["box"]
    torch.testing.assert_close(box.detach(), torch.tensor([[0.0, 12.0, 10.0, 36.0, 30.0]]), atol=0.05, rtol=0)


@needs_readme
def test_the_readme_names_every_function_and_module() -> None:
    words = set(re.findall(r"\w+", README.read_text(encoding="utf-8")))
    assert set(roialign_ext.__all__) - words == {"BoxShapeError", "LayerReplacement", "__version__"}


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_the_version_for_uv(page: Path) -> None:
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    versions = re.findall(r'^version = "(.*)"$', text, flags=re.MULTILINE)
    assert len(versions) == text.count("[[tool.uv.dependency-metadata]]")
    assert set(versions) <= {roialign_ext.__version__}


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_links_between_files(page: Path) -> None:
    if not page.is_file():
        pytest.skip(f"{page} is not part of this copy")
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
