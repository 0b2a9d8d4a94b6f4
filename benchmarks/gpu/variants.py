"""Variants of the CUDA kernels, each with one recompiled source file.

`python -m benchmarks.gpu.variants --results FILE [--build]`. A variant has another value of a constant in a copy of
csrc/cuda/tuning.cuh. With --build the command of the package's build compiles its .cu file. It is linked with the
package's other objects, to a library with its own kernels and operators. Without --build, every library is loaded
beside the package, in its own process. Its registration there replaces the package's, and it is timed on the cases that
it concerns. The package itself runs first and last, which shows the noise. The package has no switch for variants: the
better choice is written into the sources.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .environment import OBJECTS, WORK
from .store import Store
from .summary import AS_IT_IS

SOURCES = WORK / "sources"
FOLDER = WORK / "variants"
SECONDS_OF_A_COMPILER = 300
SAMPLES = 20
WORKLOADS = ("A", "D")
AGAIN = f"{AS_IT_IS}, again"
# The kernels over features: forward and backward of averages, channels_last and NCHW.
POOL_CHANNELS_LAST, POOL_NCHW, POOL = "average_pool_channels_last.cu", "average_pool_nchw.cu", "average_pool.cu"
FORWARD, GRAD_INPUT = (POOL_CHANNELS_LAST, POOL_NCHW, POOL), "average_grad_input.cu"
CHANNELS_LAST, NCHW = ("channels_last",), ("NCHW",)
BOTH = CHANNELS_LAST + NCHW


class Variant(NamedTuple):
    """The compiled file, the layouts concerned, and a piece of csrc/cuda/tuning.cuh with its replacement."""

    unit: str
    layouts: tuple[str, ...]
    old: str
    new: str

    @property
    def direction(self) -> str:
        return "forward" if self.unit in FORWARD else "backward"


VARIANTS = {
    "grad_input: 2 blocks": Variant(GRAD_INPUT, BOTH, "kFeatureBlocks = 3", "kFeatureBlocks = 2"),
    "grad_input: 4 blocks": Variant(GRAD_INPUT, BOTH, "kFeatureBlocks = 3", "kFeatureBlocks = 4"),
    "forward, channels_last: 3 blocks": Variant(
        POOL_CHANNELS_LAST, CHANNELS_LAST, "kAveragePoolBlocks = 4", "kAveragePoolBlocks = 3"
    ),
    "forward, channels_last: 5 blocks": Variant(
        POOL_CHANNELS_LAST, CHANNELS_LAST, "kAveragePoolBlocks = 4", "kAveragePoolBlocks = 5"
    ),
    "forward, NCHW: never copied": Variant(POOL, NCHW, "kCopyBelow = 0.35", "kCopyBelow = 0.0"),
    "forward, NCHW: pieces of 24 KB": Variant(
        POOL_CHANNELS_LAST, NCHW, "kAveragePoolPieceBytes = 36", "kAveragePoolPieceBytes = 24"
    ),
    "grad_input: 8 bins in tables": Variant(GRAD_INPUT, BOTH, "kTableBins = 16", "kTableBins = 8"),
    "grad_input: few blocks of many channels": Variant(GRAD_INPUT, BOTH, "kManyBlocks = 512", "kManyBlocks = 128"),
}


class BuildError(Exception):
    """The reason why a variant has no library."""


def apply(variant: Variant, csrc: Path) -> None:
    """Applies the replacement to a copy of csrc."""
    path = csrc / "cuda" / "tuning.cuh"
    source = path.read_text()
    if source.count(variant.old) != 1:
        raise BuildError(f"{path} has {source.count(variant.old)} times {variant.old!r}: it is newer than the variant")
    path.write_text(source.replace(variant.old, variant.new))


# Objects that setup.py links into the library of every device.
ANY_DEVICE = ("private_ops.o", "public_ops.o", "checks.o", "tensor.o")


def library(name: str) -> Path:
    return FOLDER / re.sub(r"\W+", "_", name) / "variant.so"


def run(command: list[str] | str, folder: Path, log: Path) -> None:
    with log.open("a") as file:
        file.write(f"{command if isinstance(command, str) else shlex.join(command)}\n")
        file.flush()
        shell = isinstance(command, str)
        done = subprocess.run(
            command, shell=shell, cwd=folder, stdout=file, stderr=subprocess.STDOUT, timeout=SECONDS_OF_A_COMPILER
        )
    if done.returncode != 0:
        lines = [line for line in log.read_text().splitlines() if "error" in line.lower()]
        raise BuildError(f"a compiler ended with {done.returncode}: {lines[0][:300] if lines else f'see {log}'}")


def compile_command(unit: str) -> str:
    """The command with which ninja compiled a .cu file of the package."""
    target = str(OBJECTS / "csrc" / "cuda" / unit.replace(".cu", ".o"))
    command = ["ninja", "-C", str(OBJECTS), "-t", "commands", "-s", target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = [line for line in done.stdout.splitlines() if target in line]
    if not lines:
        raise BuildError(f"ninja knows no command for {target}: {(done.stderr or done.stdout).strip()[:200]}")
    return lines[-1]


def link_command(objects: Iterable[Path], output: Path, nvcc: str) -> list[str]:
    """The command that links the objects with the libraries of torch and CUDA that setup.py names."""
    import torch
    from torch.utils import cpp_extension

    toolkit = Path(shutil.which(nvcc) or nvcc).parent.parent
    folders = [Path(torch.__file__).parent / "lib", *(toolkit / name for name in ("lib64", "lib"))]
    libraries = ["torch_cpu", "torch_cuda", "cudart_static", "dl", "rt", "pthread"]
    return [
        *shlex.split(cpp_extension.get_cxx_compiler()),  # type: ignore[no-untyped-call, unused-ignore]
        "-shared",
        *map(str, objects),
        *(f"-L{folder}" for folder in folders),
        *(f"-l{name}" for name in libraries),
        "-o",
        str(output),
    ]


def build(name: str) -> float:
    """Compiles the file of a variant and links its library. Returns the seconds taken."""
    started = time.monotonic()
    variant, output = VARIANTS[name], library(name)
    folder = output.parent
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SOURCES / "csrc", folder / "sources" / "csrc")
    apply(variant, folder / "sources" / "csrc")
    own = folder / "objects" / "csrc" / "cuda" / variant.unit.replace(".cu", ".o")
    own.parent.mkdir(parents=True)
    package = compile_command(variant.unit)
    command = package.replace(str(SOURCES), str(folder / "sources")).replace(str(OBJECTS), str(folder / "objects"))
    run(command, folder / "sources", folder / "log.txt")
    others = [path for path in sorted((OBJECTS / "csrc" / "cuda").glob("*.o")) if path.name != own.name]
    objects = [own, *others, *(OBJECTS / "csrc" / name for name in ANY_DEVICE)]
    nvcc = next(word for word in shlex.split(package) if Path(word).name == "nvcc")
    part = output.with_suffix(".part")
    run(link_command(objects, part, nvcc), folder, folder / "log.txt")
    part.replace(output)
    return round(time.monotonic() - started, 1)


def build_all(store: Store, names: list[str]) -> int:
    """Builds the variants side by side, as many as there are cores."""
    failed = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = {pool.submit(build, name): name for name in names}
        for job in as_completed(jobs):
            name, error = jobs[job], job.exception()
            failed += error is not None
            message = f"built in {job.result()} s" if error is None else f"{type(error).__name__}: {error}"
            print(f"{name}: {message}", flush=True)
            store.append("variants build", {"variant": name, "message": message, "built": error is None})
    return int(failed > 0)


def is_loaded(operator: str) -> bool:
    """Whether the kernel of another library has replaced the package's."""
    import torch

    lines = torch._C._dispatch_dump(f"roialign_ext::{operator}").splitlines()
    return any(line.startswith("CUDA (inactive)") for line in lines)


def measure_variant(name: str, variant: Variant | None, dtypes: list[str], store: Store, quick: bool) -> None:
    """The work of one process; without a variant, the unmodified package."""
    import torch

    from ..contestants import OURS
    from .device import open_device
    from .measure import ALL, Plan, line, measure_cases

    if variant is not None:
        torch.ops.load_library(str(library(name)))  # type: ignore[no-untyped-call, unused-ignore]
        if not is_loaded("_pool"):
            raise RuntimeError(f"{library(name)} did not take the place of the package's kernels")
    device = open_device()
    layouts, directions = (variant.layouts, (variant.direction,)) if variant else (BOTH, ("forward", "backward"))

    def add(cell: dict[str, Any]) -> None:
        print(f"{name}: {line(cell)}", flush=True)
        store.append("variants", {"variant": name, **cell})

    plan = Plan(OURS, dtypes, layouts, ["kernel"], SAMPLES, split=False, directions=directions)
    for key in WORKLOADS:
        measure_cases(device, plan, ALL[key].shrunk() if quick else ALL[key], add)


def turns(names: list[str]) -> Iterator[tuple[str, Variant | None]]:
    """The measurements, in order: the built variants, with the package first and last."""
    yield AS_IT_IS, None
    for name in names:
        if library(name).exists():
            yield name, VARIANTS[name]
    yield AGAIN, None


def measure_all(store: Store, names: list[str], dtypes: list[str], quick: bool) -> int:
    # Imported once for all processes; libraries register kernels for the package's operators.
    import roialign_ext  # noqa: F401

    from . import forked, measure  # noqa: F401

    failed = 0
    store.update("variants", quick=quick)
    for name, variant in turns(names):
        how = forked.run(partial(measure_variant, name, variant, dtypes, store, quick), seconds=15)
        if how:
            failed += 1
            print(f"{name}: {how}", flush=True)
            store.append("variants", {"variant": name, "error": how})
    return int(failed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--build", action="store_true", help="build the libraries; otherwise those built are measured")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--quick", action="store_true", help="small problems: shows that everything works")
    options = parser.parse_args()
    store = Store(options.results)
    if options.build:
        return build_all(store, options.only)
    return measure_all(store, options.only, options.dtypes, options.quick)


if __name__ == "__main__":
    sys.exit(main())
