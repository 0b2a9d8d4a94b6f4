"""Decisions of setup.py about CUDA, with fake toolkits of a few files, and messages of a build without kernels."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import setuptools
import torch
from torch._subclasses import FakeTensorMode
from torch.utils import cpp_extension

import roialign_ext
from roialign_ext import _build_info, _checks
from support import cuda_shim

ROOT = cuda_shim.ROOT
VARIABLES = (
    "CUDA_HOME",
    "CUDA_PATH",
    "FORCE_CUDA",
    "ROIALIGN_EXT_CUDA",
    "ROIALIGN_EXT_SANITIZE",
    "TORCH_CUDA_ARCH_LIST",
)
NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release {version}, V{version}.1" ;;
--list-gpu-arch) for number in {architectures}; do echo "compute_$number"; done ;;
*) exit 1 ;;
esac
"""
KNOWN = "75 80 86 87 89 90 100 120"


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, beside a torch with CUDA 13.0 and no GPU; it builds nothing."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    spec = importlib.util.spec_from_file_location("setup_under_test", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    monkeypatch.chdir(ROOT)
    spec.loader.exec_module(module)
    return module


def make_toolkit(home: Path, version: str = "13.0", architectures: str = KNOWN, without: str = "") -> Path:
    """A fake toolkit without one of its files."""
    texts = {
        "bin/nvcc": NVCC.format(version=version, architectures=architectures),
        "include/cuda_runtime.h": "",
        "lib64/libcudart_static.a": "",
    }
    for name, text in texts.items():
        if name == without:
            continue
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    if without != "bin/nvcc":
        (home / "bin" / "nvcc").chmod(0o755)
    return home


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = make_toolkit(tmp_path / "cuda")
    monkeypatch.setenv("CUDA_HOME", str(home))
    return home


def test_a_toolkit_is_used_without_a_gpu(setup: ModuleType, toolkit: Path) -> None:
    found, reason = setup.toolkit_or_reason()
    assert (found.home, found.version, found.architectures) == (toolkit, "13.0", "7.5;8.0;8.6;9.0;10.0;12.0+PTX")
    assert reason == ""
    assert str(found) == f"CUDA 13.0 in {toolkit}, architectures 7.5;8.0;8.6;9.0;10.0;12.0+PTX"


def test_the_path_is_searched(setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command on the path that links to a toolkit leads to it."""
    home = make_toolkit(tmp_path / "cuda-13.0")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").symlink_to(home / "bin" / "nvcc")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert setup.find_toolkit().home == home


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (KNOWN, "7.5;8.0;8.6;9.0;10.0;12.0+PTX"),
        ("70 75 80 86 89 90", "7.5;8.0;8.6;9.0+PTX"),
        ("80 90 103", "8.0;9.0+PTX"),
    ],
)
def test_default_architectures_are_those_that_nvcc_knows(
    setup: ModuleType, tmp_path: Path, known: str, expected: str
) -> None:
    assert setup.architectures(make_toolkit(tmp_path, architectures=known)) == expected


def test_architectures_of_the_gpus_here(setup: ModuleType, toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = [(9, 0), (8, 0), (9, 0)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: capabilities[i])
    assert setup.architectures(toolkit) == "8.0;9.0"
    capabilities.append((13, 0))  # newer than nvcc: PTX will have to do
    assert setup.architectures(toolkit) == "7.5;8.0;8.6;9.0;10.0;12.0+PTX"


@pytest.mark.parametrize("request_", ["8.9", "8.0 9.0+PTX", "Hopper"])
def test_requested_architectures(
    setup: ModuleType, toolkit: Path, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", request_)
    assert setup.architectures(toolkit) == request_


def test_native_architectures(setup: ModuleType, toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The architectures of the GPUs present; without a GPU there is none."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "native")
    reason = "TORCH_CUDA_ARCH_LIST=native builds for the GPUs here, and there is none"
    assert setup.toolkit_or_reason() == (None, reason)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: (8, 6))
    assert setup.find_toolkit().architectures == "8.6"


def test_architectures_of_a_release(setup: ModuleType, toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever GPUs the machine that builds a wheel has."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "release")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: (9, 0))
    assert setup.find_toolkit().architectures == "7.5;8.0;8.6;9.0;10.0;12.0+PTX"


NO_CUDA = [
    ({"ROIALIGN_EXT_CUDA": "0"}, "ROIALIGN_EXT_CUDA=0 leaves them out"),
    ({"ROIALIGN_EXT_SANITIZE": "1"}, "ROIALIGN_EXT_SANITIZE=1 builds for the CPU alone"),
    (
        {"CUDA_HOME": "/no/such/folder"},
        "no toolkit of CUDA 13.0 was found: /no/such/folder (CUDA_HOME) has no bin/nvcc",
    ),
]


@pytest.mark.parametrize(("variables", "words"), NO_CUDA, ids=["left out", "sanitizers", "no toolkit"])
def test_reasons_for_no_kernels(
    setup: ModuleType,
    toolkit: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    words: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(setup, "SANITIZE", "ROIALIGN_EXT_SANITIZE" in variables)
    assert setup.toolkit_or_reason() == (None, words)
    monkeypatch.setenv("FORCE_CUDA", "1")
    with pytest.raises(SystemExit) as info:
        setup.toolkit_or_reason()
    assert str(info.value) == f"roialign_ext: FORCE_CUDA=1 asks for CUDA kernels, but {words}."


def test_torch_without_cuda(setup: ModuleType, toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert setup.toolkit_or_reason() == (None, f"torch {torch.__version__} was built without CUDA")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"without": "bin/nvcc"}, "no bin/nvcc"),
        ({"without": "include/cuda_runtime.h"}, "no include/cuda_runtime.h"),
        ({"without": "lib64/libcudart_static.a"}, "no lib64/libcudart_static.a"),
        ({"version": "12.8"}, "CUDA 12.8 where torch has 13.0"),
        ({"version": "unknown"}, "an nvcc that does not run"),
    ],
)
def test_what_a_folder_lacks(setup: ModuleType, tmp_path: Path, change: dict[str, str], words: str) -> None:
    assert setup.lacks(make_toolkit(tmp_path, **change)) == words


def test_everything_that_was_looked_at_is_listed(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_CUDA", "1")
    monkeypatch.setattr(setup, "lacks", lambda home: "no bin/nvcc")
    with pytest.raises(SystemExit) as info:
        setup.toolkit_or_reason()
    assert "/usr/local/cuda (the usual place) has no bin/nvcc" in str(info.value)
    assert "nvidia/cu13 (torch's packages) has no bin/nvcc" in str(info.value)


def test_the_library_for_cuda(setup: ModuleType, toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    library = setup.cuda_library(setup.find_toolkit())
    kernels = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc" / "cuda").glob("*.cu")}
    assert kernels | {"csrc/cuda/operators.cpp"} < set(library.sources)
    assert not [source for source in library.sources if source.startswith("csrc/cpu/")]
    assert str(toolkit) == cpp_extension.CUDA_HOME
    assert library.extra_compile_args["cxx"] == setup.cpu_library().extra_compile_args
    assert {"torch_cpu", "torch_cuda", "cudart_static"} <= set(library.libraries)
    assert str(toolkit / "lib64") in library.library_dirs


@pytest.mark.parametrize("has_cuda", [False, True])
def test_a_cuda_tensor_needs_cuda_kernels(monkeypatch: pytest.MonkeyPatch, has_cuda: bool) -> None:
    """Without kernels an error says how to get them; with kernels shapes are known without a GPU."""
    monkeypatch.setattr(_checks, "HAS_CUDA", has_cuda)
    with FakeTensorMode():
        features, boxes = torch.empty(1, 3, 8, 8, device="cuda"), torch.empty(4, 5, device="cuda")
        if has_cuda:
            out = roialign_ext.roi_align(features, boxes, 2)
            assert (out.shape, out.device) == ((4, 3, 2, 2), torch.device("cuda:0"))
            return
        with pytest.raises(ValueError, match="without CUDA kernels, got a tensor on cuda:0") as info:
            roialign_ext.roi_align(features, boxes, 2)
    (sentence,) = str(info.value).splitlines()
    assert "`FORCE_CUDA=1 pip install --no-build-isolation" in sentence


def test_has_cuda_is_what_was_built_for_this_torch() -> None:
    assert bool(_build_info.CUDA and torch.version.cuda) == _checks.HAS_CUDA


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.gpu.variants")


def test_variants_of_the_kernels_are_of_these_kernels(tmp_path: Path, variants: ModuleType) -> None:
    """Every expression that benchmarks/gpu/variants.py replaces occurs exactly once."""
    for variant in variants.VARIANTS.values():
        shutil.copytree(ROOT / "csrc" / "cuda", tmp_path / "cuda", dirs_exist_ok=True)
        variants.apply(variant, tmp_path)
        changed, source = ((folder / "cuda" / "tuning.cuh").read_text() for folder in (tmp_path, ROOT / "csrc"))
        assert variant.new in changed
        assert changed != source
        with pytest.raises(variants.BuildError, match=" 0 times "):
            variants.apply(variant, tmp_path)


def test_a_variant_is_one_file_compiled_as_the_package_was(
    tmp_path: Path, variants: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package's command runs on the edited copy; the library takes the other objects from the package."""
    for name, folder in (("SOURCES", "sources"), ("OBJECTS", "objects"), ("FOLDER", "variants")):
        monkeypatch.setattr(variants, name, tmp_path / folder)
    shutil.copytree(ROOT / "csrc", tmp_path / "sources" / "csrc")
    unit = "average_pool_channels_last"
    source, target = tmp_path / f"sources/csrc/cuda/{unit}.cu", tmp_path / f"objects/csrc/cuda/{unit}.o"
    target.parent.mkdir(parents=True)
    for other in (unit, "axis_tables", "operators"):
        (target.parent / f"{other}.o").write_text(f"the package's {other}")
    for other in variants.ANY_DEVICE:
        (tmp_path / "objects/csrc" / other).write_text(f"the package's {other}")
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin" / "nvcc"  # whose objects are a source and the constants beside it
    nvcc.write_text('#!/bin/sh\nwhile [ "$1" != -c ]; do shift; done\ncat "$2" "${2%/*}/tuning.cuh" > "$4"\n')
    nvcc.chmod(0o755)
    rule = f"rule cuda\n  command = {nvcc} -DX=1 -c $in -o $out\nbuild {target}: cuda {source}\n"
    (tmp_path / "objects" / "build.ninja").write_text(rule)
    linked: list[Path] = []

    def link(objects: list[Path], output: Path, compiler: str) -> list[str]:
        assert compiler == str(nvcc)
        linked.extend(objects)
        return ["cp", str(objects[0]), str(output)]

    monkeypatch.setattr(variants, "link_command", link)
    name = "forward, channels_last: 3 blocks"
    variants.build(name)
    library = variants.library(name).read_text()
    constants = source.with_name("tuning.cuh").read_text()
    assert "kAveragePoolBlocks = 4" in constants
    assert library == source.read_text() + constants.replace("kAveragePoolBlocks = 4", "kAveragePoolBlocks = 3")
    assert [path.name for path in linked] == [f"{unit}.o", "axis_tables.o", "operators.o", *variants.ANY_DEVICE]
    assert not linked[0].is_relative_to(tmp_path / "objects")
    assert all(path.is_relative_to(tmp_path / "objects") for path in linked[1:])
    nvcc.write_text("#!/bin/sh\necho error: expected a semicolon >&2\nexit 3\n")
    with pytest.raises(variants.BuildError, match="ended with 3: error: expected a semicolon"):
        variants.build(name)
    assert not variants.library(name).exists()
    with pytest.raises(variants.BuildError, match="ninja knows no command"):
        variants.build("grad_input: 4 blocks")
