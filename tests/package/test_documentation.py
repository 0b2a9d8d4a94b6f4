"""Does the documentation hold: does its code run, are all files and names there, do links have targets?"""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import roialign_ext

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [page for page in (README, *sorted((ROOT / "docs").glob("*.md"))) if page.is_file()]
PROJECT = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "examples/README.md", "benchmarks/README.md")
# Pages of the site that have no programs to run.
WITHOUT_CODE = [page for page in (*map(ROOT.joinpath, PROJECT), ROOT / "benchmarks/results/cpu.md") if page.is_file()]
LINK = re.compile(r"\[[^\]]*\]\(([^)#:]+)\)")
# What a code block needs beside this package, by a word in it.
OPTIONAL = {"torchvision": "torchvision", "onnx": "onnxscript", "roialign_ext.viz": "matplotlib"}


def python_blocks(page: Path) -> list[str]:
    """The code blocks of a page that are programs; doctests have a test of their own."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [block for block in blocks if not block.startswith(">>>")]


def run(block: str) -> dict[str, Any]:
    for word, package in OPTIONAL.items():
        if word in block:
            pytest.importorskip(package, reason=f"{package} is not installed")
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(block, "a code block", "exec"), names)
    return names


BLOCKS = [
    pytest.param(block, id=f"{page.name} {number}")
    for page in PAGES
    for number, block in enumerate(python_blocks(page), start=1)
]
needs_readme = pytest.mark.skipif(not README.is_file(), reason="the README is not part of this copy")


# torch's own exporter to ONNX calls what torch has deprecated.
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.parametrize("block", BLOCKS)
def test_code_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a block writes
    run(block)


def test_worked_examples() -> None:
    """The doctests of docs/math.md."""
    page = ROOT / "docs" / "math.md"
    if not page.is_file():
        pytest.skip(f"{page} is not part of this copy")
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted > 15
    assert result.failed == 0


def block_with(page: str, words: str) -> str:
    (block,) = (block for block in python_blocks(ROOT / page) if words in block)
    return block


@needs_readme
def test_numbers_of_the_first_call() -> None:
    names = run(block_with("README.md", "roi_align(features"))
    assert names["pooled"].flatten().tolist() == [22.5, 24.5, 38.5, 40.5]
    assert names["boxes"][0].grad.tolist() == [[2.0, 16.0, 2.0, 16.0]]


@needs_readme
def test_the_trained_box_is_found() -> None:
    box = run(block_with("docs/guide.md", "optimizer"))["box"]
    torch.testing.assert_close(box.detach(), torch.tensor([[12.0, 10.0, 36.0, 30.0]]), atol=0.05, rtol=0)


@needs_readme
def test_the_readme_is_short_and_names_every_function_and_module() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    words = set(re.findall(r"\w+", text))
    assert set(roialign_ext.__all__) - words == {"BoxShapeError", "LayerReplacement", "__version__", "cpu_capability"}


WITHOUT_TYPES = {"BoxShapeError", "RoIAlignFunction", "__version__"}


@pytest.mark.parametrize("name", sorted(set(roialign_ext.__all__) - WITHOUT_TYPES))
def test_help_names_the_type_of_every_argument(name: str) -> None:
    """TorchScript's own BroadcastingList2 is None outside of scripts, and help() would show None."""
    for parameter in inspect.signature(getattr(roialign_ext, name)).parameters.values():
        assert parameter.annotation not in (None, inspect.Parameter.empty), parameter


def test_help_of_apply_is_that_of_the_function() -> None:
    shown = [
        [(parameter.name, parameter.default) for parameter in inspect.signature(function).parameters.values()]
        for function in (roialign_ext.RoIAlignFunction.apply, roialign_ext.roi_align)
    ]
    assert shown[0] == shown[1]


@needs_readme
def test_the_version_for_uv() -> None:
    assert f'\nversion = "{roialign_ext.__version__}"\n' in (ROOT / "docs" / "install.md").read_text(encoding="utf-8")


def expanded(entry: str) -> list[str]:
    """The names that a shell makes of braces."""
    if (braces := re.search(r"\{([^}]*)\}", entry)) is None:
        return [entry]
    return [
        before_and_part + rest
        for before_and_part in (entry[: braces.start()] + part for part in braces[1].split(","))
        for rest in expanded(entry[braces.end() :])
    ]


def named_files() -> set[str]:
    """The files of the map in docs/design.md: under the heading of a folder, lines of `name[, name ...]  contents`."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    found: set[str] = set()
    for section in text.split("## File map")[1].split("\n## ")[0].split("\n### ")[1:]:
        folder, lines = section.split("\n", 1)
        for line in re.findall(r"^    (\S.*)$", lines, flags=re.MULTILINE):
            names = re.split(r" {2,}", line)[0].split(", ")
            for name in (pattern for entry in names for pattern in expanded(entry)):
                matches = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob(name.rstrip("/"))}
                assert matches, f"docs/design.md names {folder}/{name}, which is not there"
                found |= matches
    return found


@needs_readme
def test_the_file_map_names_every_source() -> None:
    folders = ("csrc", "roialign_ext", "tests/support", "benchmarks", "examples", ".ci")
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".h", ".cpp", ".cu", ".cuh", ".py", ".sh"}
        and path.name not in {"__init__.py", "_build_info.py"}
    }
    assert sources - named_files() == set()


@pytest.mark.parametrize("page", [*PAGES, *WITHOUT_CODE], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_files(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.fixture
def site() -> dict[str, Any]:
    """docs/conf.py, which needs no Sphinx to be read."""
    for package in OPTIONAL.values():
        pytest.importorskip(package, reason=f"{package} is not installed")
    return runpy.run_path(str(ROOT / "docs" / "conf.py"))


@needs_readme
def test_the_readme_lists_every_page(site: dict[str, Any]) -> None:
    trees = site["navigation"](README.read_text(encoding="utf-8"))
    listed = re.findall(r" </(\S+)>$", trees, flags=re.MULTILINE)
    assert sorted(f"{page}.md" for page in listed) == sorted(
        page.relative_to(ROOT).as_posix() for page in [*PAGES, *WITHOUT_CODE] if page != README
    )


def test_the_page_of_the_api_has_every_public_name(site: dict[str, Any]) -> None:
    sections = re.findall(r"^<!-- api: (\S+) -->$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)
    assert len(sections) == 5
    directives = "\n".join(site["descriptions"](section) for section in sections)
    described = re.findall(r"^\.\. auto\w+:: (\S+)$", directives, flags=re.MULTILINE)
    names = [f"roialign_ext.{name}" for name in roialign_ext.__all__]
    assert sorted(described) == sorted([*names, "roialign_ext.onnx", "roialign_ext.viz"])


def texts_of(source: Path) -> list[str]:
    """The strings of a Python file, with "..." for what is filled in."""
    nodes = list(ast.walk(ast.parse(source.read_text(encoding="utf-8"))))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
            texts.append("".join(map(str, parts)))
    return texts


def quoted(section: str, column: int) -> list[str]:
    """Code in one column of the first table of a section of docs/faq.md."""
    text = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8").partition(f" {section}\n")[2]
    table = re.search(r"^\|.*?(?=^[^|])", text, flags=re.DOTALL | re.MULTILINE)
    assert table is not None
    cells = [row.split("|")[column] for row in table[0].splitlines()[2:]]
    return [found[1] for cell in cells for found in re.findall(r"(``?)(.+?)\1(?!`)", cell)]


@needs_readme
@pytest.mark.parametrize(
    ("section", "column", "sources"),
    [
        ("All values are 0, or all boxes give nearly the same", 1, ["roialign_ext/_box_warnings.py"]),
        ("Building and importing", 2, ["setup.py", "roialign_ext/_environment.py", "roialign_ext/_checks.py"]),
    ],
)
def test_messages_are_those_of_the_sources(section: str, column: int, sources: list[str]) -> None:
    known = [text for source in sources for text in texts_of(ROOT / source)]
    messages = quoted(section, column)
    assert len(messages) >= 3
    for message in messages:
        for part in re.split(r"\.\.\.|2\.11|77", message):  # versions are filled in
            assert any(part.strip() in text for text in known), f"docs/faq.md quotes {message!r}: {part!r}"
