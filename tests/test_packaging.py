"""What is installed, what the source archive holds, and what setup.py says where it cannot build."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import roialign_ext

ROOT = Path(__file__).parent.parent
PACKAGE = Path(roialign_ext.__file__).parent
COMMAND = "pip install --no-build-isolation ."


def setup(*arguments: str, folder: Path = ROOT, modules: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs setup.py, with the Python files of ``modules`` before the installed ones."""
    environment = {**os.environ}
    if modules is not None:
        environment["PYTHONPATH"] = str(modules)
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "torch.py",
            "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
            "install torch 2.11 or newer",
        ),
        ("torch.py", "__version__ = '2.10.3+cpu'", "version 2.10.3+cpu is installed"),
        ("setuptools.py", "__version__ = '65.5.0'", "version 65.5.0 is installed"),
    ],
    ids=["no torch", "old torch", "old setuptools"],
)
def test_setup_stops_with_one_sentence(tmp_path: Path, file: str, content: str, words: str) -> None:
    (tmp_path / file).write_text(content + "\n")
    result = setup("--version", modules=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("roialign_ext: ")
    assert sentence.endswith(".")
    assert words in sentence
    assert COMMAND in sentence


def test_an_older_setuptools_does_without_pyproject(tmp_path: Path) -> None:
    """benchmarks/gpu builds a copy of the sources without that file, which is all that asks for a newer one."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "torch.py").write_text("__version__ = '2.11.0'\n__path__ = []\n")
    (tmp_path / "modules" / "setuptools.py").write_text("__version__ = '65.5.0'\n")
    shutil.copy(ROOT / "setup.py", tmp_path)
    result = setup("--version", modules=tmp_path / "modules", folder=tmp_path)
    assert "No module named 'torch.utils'" in result.stderr  # the import behind the checks
    (tmp_path / "pyproject.toml").touch()
    assert "version 65.5.0 is installed" in setup("--version", modules=tmp_path / "modules", folder=tmp_path).stderr


def test_setup_names_a_missing_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = setup("build", "--build-base", str(tmp_path))
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("roialign_ext: found no working C++ compiler (`no-such-compiler --version` failed)")
    assert "Traceback" not in result.stderr


def test_source_archive_holds_everything(tmp_path: Path) -> None:
    copy = tmp_path / "sources"
    unwanted = shutil.ignore_patterns(
        ".git", ".venv*", "build", "dist", "outputs", "*_cache", "*.egg-info", ".hypothesis"
    )
    shutil.copytree(ROOT, copy, ignore=unwanted)
    (copy / "roialign_ext" / "_build_info.py").write_text("TORCH_VERSION = 'of another build'\n")
    result = setup("sdist", "--dist-dir", str(tmp_path), folder=copy)
    assert result.returncode == 0, result.stderr
    with tarfile.open(tmp_path / f"roialign_ext-{roialign_ext.__version__}.tar.gz") as archive:
        found = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile"}
    for folder in ("csrc", "roialign_ext", "tests", "docs", "examples", "benchmarks", ".ci"):
        files = (path for path in (copy / folder).rglob("*") if path.is_file() and path.suffix not in {".so", ".pyc"})
        wanted |= {path.relative_to(copy).as_posix() for path in files}
    wanted -= {"roialign_ext/_build_info.py"}
    assert wanted - found == set()
    assert any(name.startswith("csrc/core/") and name.endswith(".h") for name in found)
    assert "roialign_ext/_build_info.py" not in found
    assert not [name for name in found if name.endswith((".so", ".o", ".pyc"))]


def test_installed_files() -> None:
    names = {path.name for path in PACKAGE.iterdir()}
    assert {"py.typed", "_C.pyi", "_build_info.py", "_build_info.pyi"} <= names
    assert any(re.fullmatch(r"_C\..*so", name) for name in names)
    sources = {path.relative_to(ROOT / "roialign_ext") for path in (ROOT / "roialign_ext").rglob("*.py")}
    assert {path for path in sources if not (PACKAGE / path).is_file()} == set()


def test_metadata() -> None:
    metadata = importlib.metadata.metadata("roialign_ext")
    assert metadata["Version"] == roialign_ext.__version__
    assert metadata.get_all("Requires-Dist") == [
        "torch>=2.11",
        'onnx>=1.23; extra == "onnx"',
        'onnxscript>=0.7; extra == "onnx"',
        'matplotlib>=3.8; extra == "viz"',
    ]
    assert metadata.get_all("Provides-Extra") == ["onnx", "viz"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "BSD-3-Clause"


def test_version_stands_in_one_place() -> None:
    pattern = re.compile(rf"(?<![\d.]){re.escape(roialign_ext.__version__)}(?![\d.])")
    names = [
        "setup.py",
        "pyproject.toml",
        *(path.relative_to(ROOT).as_posix() for path in ROOT.glob("roialign_ext/**/*.py")),
    ]
    places = [name for name in names if pattern.search((ROOT / name).read_text())]
    assert places == ["roialign_ext/__init__.py"]
