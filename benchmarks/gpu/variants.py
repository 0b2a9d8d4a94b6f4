"""Other choices for the constants of the CUDA kernels: `python -m benchmarks.gpu.variants FOLDER`.

Each variant is a copy of the sources with one expression replaced, built beside the package and measured on the same
workloads. The product has no switch for them: what a sweep shows to be better is written into the sources.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ("csrc", "roialign_ext", "setup.py", "pyproject.toml", "README.md", "LICENSE")
MEASURED = ("--workloads", "box head", "C4 head", "--dtypes", "f32", "bf16")


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


def apply(variant: Variant, root: Path) -> None:
    """Replaces the expression, which has to be there."""
    path = root / "csrc" / "cuda" / variant.file
    source = path.read_text()
    if variant.old not in source:
        raise SystemExit(f"{variant.file} has no {variant.old!r}: benchmarks/gpu/variants.py is older than the kernels")
    path.write_text(source.replace(variant.old, variant.new))


def build(variant: Variant, site: Path) -> None:
    """The package with that variant, installed into ``site``."""
    with tempfile.TemporaryDirectory() as folder:
        for name in PACKAGE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, Path(folder, name), ignore=shutil.ignore_patterns("*.so", "__pycache__"))
            else:
                shutil.copy(source, folder)
        apply(variant, Path(folder))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps"]
        environment = {**os.environ, "FORCE_CUDA": "1"}
        subprocess.run([*command, "--target", str(site), "."], cwd=folder, env=environment, check=True)


def measure(site: Path, output: Path, *arguments: str) -> Any:
    """The cells of `benchmarks.gpu.measure ours` with the package of ``site``."""
    command = [sys.executable, "-m", "benchmarks.gpu.measure", "ours", "--output", str(output), *MEASURED, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return json.loads(output.read_text())["cells"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where run_all.sh put the package (site) and results go")
    folder = parser.parse_args().folder.resolve()
    results = {"as it is": measure(folder / "site", folder / "variant.json")}
    results["boxes in spatial order"] = measure(folder / "site", folder / "variant.json", "--sorted-boxes")
    for name, variant in VARIANTS.items():
        site = folder / "variant"
        shutil.rmtree(site, ignore_errors=True)
        try:
            build(variant, site)
            results[name] = measure(site, folder / "variant.json")
        except subprocess.CalledProcessError as error:
            results[name] = [{"error": str(error)}]
        print(name, *(f"{cell.get('forward', {}).get('us')}/{cell.get('backward', {}).get('us')}"
                      for cell in results[name]), flush=True)  # fmt: skip
        (folder / "variants.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
