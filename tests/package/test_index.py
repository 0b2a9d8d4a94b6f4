"""Do the index pages that .ci/index.py writes lead pip to the wheel of the device?"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "index.py"
DEVICES = ("cpu", "cu130")
VERSIONS = ("0.2.0", "0.10.0")


def write_wheel(folder: Path, version: str) -> Path:
    """A wheel without content, for every platform."""
    path = folder / f"roialign_ext-{version}-py3-none-any.whl"
    info = f"roialign_ext-{version}.dist-info"
    files = {
        "METADATA": f"Metadata-Version: 2.4\nName: roialign_ext\nVersion: {version}\nRequires-Python: >=3.10\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{info}/{name}", content)
        archive.writestr(f"{info}/RECORD", "".join(f"{info}/{name},,\n" for name in (*files, "RECORD")))
    return path


def index(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)


def download(folder: Path, device: str, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--isolated", "download", "--no-deps", "--no-cache-dir", "--dest", target]
    command += ["--index-url", (folder / "index" / device).as_uri(), "roialign_ext"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for version in VERSIONS:
        for device in DEVICES:
            write_wheel(wheels, f"{version}+{device}")
    return wheels


@pytest.mark.parametrize("device", DEVICES)
def test_pip_takes_the_newest_wheel_of_the_device(folder: Path, device: str, tmp_path: Path) -> None:
    done = index(folder)
    assert done.returncode == 0, done.stderr
    result = download(folder, device, tmp_path / "downloaded")
    assert result.returncode == 0, result.stderr
    (found,) = (tmp_path / "downloaded").iterdir()
    assert found.name == f"roialign_ext-0.10.0+{device}-py3-none-any.whl"
    assert found.read_bytes() == (folder / found.name).read_bytes()


def test_pip_notices_a_changed_wheel(folder: Path, tmp_path: Path) -> None:
    index(folder)
    wheel = folder / "roialign_ext-0.10.0+cpu-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    result = download(folder, "cpu", tmp_path / "downloaded")
    assert result.returncode != 0
    assert "DO NOT MATCH THE HASHES" in result.stderr


def test_pages_say_which_python(folder: Path) -> None:
    index(folder)
    pages = [path.read_text() for path in (folder / "index").rglob("roialign-ext/index.html")]
    assert [page.count('data-requires-python="&gt;=3.10"') for page in pages] == [len(VERSIONS)] * len(DEVICES)


@pytest.mark.parametrize(
    ("version", "words"),
    [(None, "has no wheels"), ("0.2.0", "roialign_ext-0.2.0-py3-none-any.whl has no device in its")],
)
def test_folders_that_are_refused(tmp_path: Path, version: str | None, words: str) -> None:
    if version is not None:
        write_wheel(tmp_path, version)
    done = index(tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
