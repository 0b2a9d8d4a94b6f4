"""Are the right files installed and archived, and does setup.py say why it cannot build?"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from ast import literal_eval
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import roialign_ext
from roialign_ext import _C, _build_info, _environment
from support.children import Ended, Program, run_all

ROOT = Path(__file__).parents[2]
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
    assert "No module named 'setuptools.command'" in result.stderr  # the first import behind the checks
    (tmp_path / "pyproject.toml").touch()
    assert "version 65.5.0 is installed" in setup("--version", modules=tmp_path / "modules", folder=tmp_path).stderr


NO_TORCH = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"


def test_isolation_of_pip(tmp_path: Path) -> None:
    """pip hides the environment, torch with it, and puts a folder of its own on the path."""
    modules = tmp_path / "pip-build-env-abc" / "overlay"
    modules.mkdir(parents=True)
    (modules / "torch.py").write_text(NO_TORCH)
    assert setup("--version", modules=modules).stderr == (
        "roialign_ext: pip builds in isolation and does not see the torch of your environment: "
        f"add --no-build-isolation, as in `{COMMAND}`.\n"
    )


@pytest.mark.parametrize(
    ("prefix", "tool", "remedy"),
    [
        ("/home/me/.cache/uv/builds-v0/.tmpAbc", "uv", "add --no-build-isolation, as in `uv pip install"),
        ("/tmp/build-env-abc", "python -m build", "add --no-isolation."),
    ],
)
def test_isolation_in_an_environment_of_its_own(tmp_path: Path, prefix: str, tool: str, remedy: str) -> None:
    (tmp_path / "torch.py").write_text(NO_TORCH)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.prefix = {prefix!r}\n")
    (sentence,) = setup("--version", modules=tmp_path).stderr.splitlines()
    assert sentence.startswith(f"roialign_ext: {tool} builds in isolation and does not see the torch")
    assert f"install torch 2.11 or newer if your environment has none, then {remedy}" in sentence


def copy_of_the_sources(folder: Path) -> Path:
    unwanted = (".git", ".venv*", "build", "dist", "outputs", "*_cache", "*.egg-info", ".hypothesis", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*unwanted, "*.so", "_build_info.py"))
    return folder


# A compiler whose results are the installed files, and which tells its flags and where objects would lie.
COMPILER = f"""
import shutil
from pathlib import Path
from torch.utils import cpp_extension

def compile(self):
    print(self.extensions[0].extra_compile_args)
    print(self.build_temp)
    for extension in self.extensions:
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path({_C.__file__!r}).with_name(target.name), target)

cpp_extension.BuildExtension.build_extensions = compile
"""
SETUP = """
from pathlib import Path
__file__ = "setup.py"
exec(Path("setup.py").read_text())
"""
CPU_ALONE = {"ROIALIGN_EXT_CUDA": "0", "FORCE_CUDA": "0", "ROIALIGN_EXT_SANITIZE": "0"}
LOST = """
import json
from pathlib import Path
files = [str(path) for path in Path().rglob("*")]
print(json.dumps(files))
Path("roialign_ext/lost.py").unlink()
"""


class Built(NamedTuple):
    """The files that setup.py made of a copy of the sources, and its output each time."""

    sources: Path
    before: set[Path]  # what was there
    folder: Path  # of wheels and archives
    ended: dict[str, Ended]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("packaging")
    sources = copy_of_the_sources(folder / "sources")
    (sources / "roialign_ext" / "lost.py").touch()
    compiler = folder / "compiler"
    before = set(sources.rglob("*"))
    programs = {
        "regular": Program(COMPILER + SETUP, ["build"]),
        "editable": Program(COMPILER + SETUP, ["editable_wheel", "--dist-dir", str(folder)]),
        "without a file": Program(LOST + COMPILER + SETUP, ["build"]),
        "missing compiler": Program(
            SETUP, ["build", "--build-base", str(folder)], variables={"CXX": "no-such-compiler"}
        ),
        "archive": Program(SETUP, ["sdist", "--dist-dir", str(folder)]),
    }
    for version in ("1", "2"):
        script = f"#!/bin/sh\necho compiler {version}\n"
        change = f"from pathlib import Path\nPath({str(compiler)!r}).write_text({script!r})\n"
        change += f"Path({str(compiler)!r}).chmod(0o755)\n"
        programs[version] = Program(change + COMPILER + SETUP, ["build"], variables={"CXX": str(compiler)})
    complete = [
        replace(
            program,
            arguments=["--quiet", *program.arguments],
            folder=str(sources),
            variables={**CPU_ALONE, **program.variables},
        )
        for program in programs.values()
    ]
    return Built(sources, before, folder, dict(zip(programs, run_all(complete), strict=True)))


def lines(built: Built, name: str) -> list[str]:
    """The output of a program that ended without an error."""
    assert built.ended[name].returncode == 0, built.ended[name].stderr
    return built.ended[name].stdout.splitlines()


def test_an_editable_install_lies_in_its_environment(built: Built, tmp_path: Path) -> None:
    """Compiled files belong to the wheel, so that `pip uninstall` removes them; the sources stay as they are."""
    assert lines(built, "editable")
    there = {built.sources / name for name in json.loads(lines(built, "without a file")[0])}
    assert {path for path in there - built.before if "build" not in path.parts} == set()
    with zipfile.ZipFile(next(built.folder.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    assert "\nRequires-Dist: torch>=2.11\n" in next(tmp_path.glob("*.dist-info/METADATA")).read_text()
    code = (
        "import sys, site; site.addsitedir(sys.argv[1]); import roialign_ext; "
        "from roialign_ext import _C, _build_info, _environment; "
        "print(roialign_ext.__file__, _C.__file__, _build_info.__file__, _environment.library('cpu'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=built.sources, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    package, *compiled = map(Path, result.stdout.split())
    assert package == built.sources / "roialign_ext" / "__init__.py"
    assert {path.parent for path in compiled} == {tmp_path / "_roialign_ext_editable"}


def test_objects_are_kept_from_build_to_build(built: Built) -> None:
    """An editable install would build in a folder that setuptools deletes."""
    regular, editable = lines(built, "regular"), lines(built, "editable")
    assert regular[-1] == editable[-1]
    assert (built.sources / regular[-1]).is_relative_to(built.sources / "build" / f"torch-{torch.__version__}")


def test_another_compiler_of_the_same_name_changes_the_flags(built: Built) -> None:
    """ninja compiles again where a command changed, and would keep the objects of the old compiler otherwise."""
    assert lines(built, "1")[-2] != lines(built, "2")[-2]


def test_a_module_that_the_sources_have_lost_is_not_packed(built: Built) -> None:
    before = json.loads(lines(built, "without a file")[0])
    assert [name for name in before if name.startswith("build/") and name.endswith("/lost.py")]
    assert not list((built.sources / "build").rglob("lost.py"))
    assert list((built.sources / "build").rglob("_build_info.py"))


def test_setup_names_a_missing_compiler(built: Built) -> None:
    result = built.ended["missing compiler"]
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("roialign_ext: found no working C++ compiler (`no-such-compiler --version` failed)")
    assert "Traceback" not in result.stderr


def test_source_archive_holds_everything(built: Built) -> None:
    """Files of builds before it are not in it."""
    assert built.ended["archive"].returncode == 0, built.ended["archive"].stderr
    with tarfile.open(built.folder / f"roialign_ext-{roialign_ext.__version__}.tar.gz") as archive:
        found = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        metadata = archive.extractfile(f"roialign_ext-{roialign_ext.__version__}/PKG-INFO")
        assert metadata is not None
        assert "\nRequires-Dist: torch>=2.11\n" in metadata.read().decode()
    assert not [name for name in found if name.startswith("build/") or ".egg-info" in name or ".hypothesis" in name]
    expected = {
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "requirements.txt",
    }
    for folder in ("csrc", "roialign_ext", "tests", "docs", "examples", "benchmarks", ".ci"):
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
        files = (path for path in files if path.suffix not in {".so", ".pyc"})
        files = (path for path in files if not {"__pycache__", ".hypothesis"} & set(path.parts))
        expected |= {path.relative_to(ROOT).as_posix() for path in files}
    expected -= {"roialign_ext/_build_info.py"}
    assert expected - found == set()
    assert any(name.startswith("csrc/core/") and name.endswith(".h") for name in found)
    assert "roialign_ext/_build_info.py" not in found
    assert not [name for name in found if name.endswith((".so", ".o", ".pyc"))]


def test_installed_files() -> None:
    assert {"py.typed", "_C.pyi", "_build_info.pyi"} <= {path.name for path in PACKAGE.iterdir()}
    compiled = Path(_C.__file__)
    assert re.fullmatch(r"_C\..*so", compiled.name)
    assert Path(_build_info.__file__) == compiled.with_name("_build_info.py")
    devices = ["cpu"] + ["cuda"] * bool(_build_info.CUDA)
    assert sorted(path.name for path in compiled.parent.glob("lib*")) == [f"libroialign_ext_{d}.so" for d in devices]
    sources = {path.relative_to(ROOT / "roialign_ext") for path in (ROOT / "roialign_ext").rglob("*.py")}
    assert {path for path in sources if not (PACKAGE / path).is_file()} == set()


def test_metadata() -> None:
    metadata = importlib.metadata.metadata("roialign_ext")
    device = f"cu{_build_info.CUDA.replace('.', '')}" if _build_info.CUDA else "cpu"
    assert metadata["Version"] == f"{roialign_ext.__version__}+{device}"
    assert metadata.get_all("Requires-Dist") == [
        "torch>=2.11",
        'onnx>=1.23; extra == "onnx"',
        'onnxscript>=0.7; extra == "onnx"',
        'matplotlib>=3.8; extra == "viz"',
    ]
    assert metadata.get_all("Provides-Extra") == ["onnx", "viz"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "BSD-3-Clause"


def test_the_oldest_torch_is_the_same_everywhere() -> None:
    """setup.py runs before the package can be imported, so it has the number once more."""
    (found,) = re.findall(r"^OLDEST_TORCH = (\(\d+, \d+\))", (ROOT / "setup.py").read_text(), flags=re.MULTILINE)
    assert literal_eval(found) == _environment.OLDEST_TORCH
    assert f'"torch>={".".join(map(str, _environment.OLDEST_TORCH))}"' in (ROOT / "pyproject.toml").read_text()


def test_version_stands_in_one_place() -> None:
    pattern = re.compile(rf"(?<![\d.]){re.escape(roialign_ext.__version__)}(?![\d.])")
    names = [
        "setup.py",
        "pyproject.toml",
        *(path.relative_to(ROOT).as_posix() for path in ROOT.glob("roialign_ext/**/*.py")),
    ]
    places = [name for name in names if pattern.search((ROOT / name).read_text())]
    assert places == ["roialign_ext/__init__.py"]
