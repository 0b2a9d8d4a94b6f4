"""Other choices for the constants of the CUDA kernels: `python -m benchmarks.gpu.variants --work FOLDER --output FILE`.

Each variant is a copy of the sources with one expression replaced, built beside the package (FOLDER/site) and measured
on the same workloads, after all of them are built; the package itself comes first and last, which shows the noise. The
product has no switch for them: what a sweep shows to be better is written into the sources.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ("csrc", "roialign_ext", "setup.py", "pyproject.toml", "README.md", "LICENSE")
MEASURED = ("--workloads", "box head", "C4 head", "--dtypes", "f32", "bf16", "--calls", "kernel")
BUILDS_AT_ONCE = 4
JOBS_OF_A_BUILD = max(1, (os.cpu_count() or 1) // BUILDS_AT_ONCE)


class Variant(NamedTuple):
    """One expression of one file of csrc/cuda, and what stands there instead."""

    file: str
    old: str
    new: str


VARIANTS = {
    "forward, channels together: 2 rows at once": Variant("average.cu", "kRowsAtOnce = 4", "kRowsAtOnce = 2"),
    "forward, channels together: 8 rows at once": Variant("average.cu", "kRowsAtOnce = 4", "kRowsAtOnce = 8"),
    "forward, channels apart: 4 channels of a lane": Variant("average.cu", "kChannels = 8", "kChannels = 4"),
    "forward, channels apart: 1 row at once": Variant("average.cu", "add_rows<2>", "add_rows<1>"),
    "forward, channels apart: 4 rows at once": Variant("average.cu", "add_rows<2>", "add_rows<4>"),
    "gradient, channels together: 4 columns": Variant("average_gradient.cu", "kTileColumns = 8", "kTileColumns = 4"),
    "gradient, channels together: 16 columns": Variant("average_gradient.cu", "kTileColumns = 8", "kTileColumns = 16"),
    "gradient, channels apart: 16 channels": Variant("average_gradient.cu", "8 ? 16 : 32", "8 ? 8 : 16"),
    "packs of 16 bytes": Variant("work.cuh", "kVec = sizeof(S) == 8 ? 2 : 4", "kVec = 16 / sizeof(S)"),
    "2 blocks of a multiprocessor": Variant("work.cuh", "sizeof(Offset) == 8 ? 2 : 3", "sizeof(Offset) == 8 ? 2 : 2"),
    "4 blocks of a multiprocessor": Variant("work.cuh", "sizeof(Offset) == 8 ? 2 : 3", "sizeof(Offset) == 8 ? 2 : 4"),
}


class BuildError(Exception):
    """Why there is no build of a variant."""


def apply(variant: Variant, root: Path) -> None:
    """Replaces the expression, which has to be there."""
    path = root / "csrc" / "cuda" / variant.file
    source = path.read_text()
    if variant.old not in source:
        raise BuildError(f"{variant.file} has no {variant.old!r}: benchmarks/gpu/variants.py is older than the kernels")
    path.write_text(source.replace(variant.old, variant.new))


def build(variant: Variant, site: Path) -> None:
    """The package with that variant, installed into ``site``."""
    shutil.rmtree(site, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in PACKAGE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(folder, name), ignore=shutil.ignore_patterns("*.so", "__pycache__"))
            else:
                shutil.copy(source, folder)
        apply(variant, Path(folder))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps"]
        environment = {**os.environ, "FORCE_CUDA": "1", "MAX_JOBS": str(JOBS_OF_A_BUILD)}
        done = subprocess.run(
            [*command, "--target", str(site), "."], cwd=folder, env=environment, capture_output=True, text=True
        )
    if done.returncode != 0:
        raise BuildError(f"the build ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")


def measure(site: Path, output: Path) -> Any:
    """What `benchmarks.gpu.measure ours` writes with the package of ``site``; unfinished workloads as cells too."""
    command = [sys.executable, "-m", "benchmarks.gpu.measure", "ours", "--output", str(output), *MEASURED]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    found = json.loads(output.read_text())
    found["cells"] += [{"error": f"{workload} was not finished"} for workload in found["unfinished"]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="where run_all.sh built the package (site)")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    arguments = parser.parse_args()
    work, output = arguments.work.resolve(), arguments.output.resolve()
    results: dict[str, Any] = {"variants": {}}

    def measured(name: str, site: Path) -> None:
        found = measure(site, work / "variant.json")
        results.setdefault("environment", found.get("environment"))
        add(name, found["cells"])

    def add(name: str, cells: list[dict[str, Any]]) -> None:
        times = (f"{cell.get('forward', {}).get('us')}/{cell.get('backward', {}).get('us')}" for cell in cells)
        print(name, *(cell.get("error", time) for cell, time in zip(cells, times, strict=True)), flush=True)
        results["variants"][name] = cells
        part = output.with_name(output.name + ".part")
        part.write_text(json.dumps(results, indent=1) + "\n")
        part.replace(output)

    measured("as it is", work / "site")
    sites = {name: work / f"variant_{i}" for i, name in enumerate(VARIANTS)}
    with ThreadPoolExecutor(BUILDS_AT_ONCE) as pool:
        builds = {name: pool.submit(build, VARIANTS[name], site) for name, site in sites.items()}
    for name, done in builds.items():
        if (error := done.exception()) is None:
            measured(name, sites[name])
        else:
            add(name, [{"error": str(error)}])
    measured("as it is, again", work / "site")


if __name__ == "__main__":
    main()
