"""Instructions of the loops that load features: `python -m benchmarks.gpu.loops --json FILE`. Needs a build with CUDA
kernels and cuobjdump (the toolkit's or Triton's), no GPU.

The kernels of averages in float32 and bfloat16, with 32-bit offsets, as the installed library has them for one
architecture.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from roialign_ext import _build_info, _environment

from ..markdown import table

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

from support import cuda_sass  # noqa: E402

FILES = ("average", "transpose")  # how their names begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="9.0")
    parser.add_argument("--json", type=Path, help="write the loops to this file")
    options = parser.parse_args()
    tool = cuda_sass.cuobjdump()
    if tool is None:
        raise SystemExit("there is no cuobjdump, neither beside nvcc nor in a package of Triton")
    if options.architecture not in _build_info.CUDA_ARCHITECTURES:
        built = _build_info.CUDA_ARCHITECTURES or "the CPU alone"
        raise SystemExit(f"this build is for {built}: rebuild with TORCH_CUDA_ARCH_LIST={options.architecture}")
    library, architecture = _environment.library("cuda"), options.architecture.replace(".", "")
    kernels = [
        kernel
        for kernel in cuda_sass.kernels_of(tool, library)
        if kernel.architecture == architecture
        and kernel.file.startswith(FILES)
        and not cuda_sass.RARE.search(kernel.name)
    ]
    loops_of_each = cuda_sass.loops_of_kernels(tool, library, kernels)
    found = {kernel.name: [list(loop) for loop in loops] for kernel, loops in loops_of_each if loops}
    if options.json:
        lines = (f" {json.dumps(name)}: {json.dumps(loops)}" for name, loops in sorted(found.items()))
        options.json.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(loop_table(found))


def loop_table(found: dict[str, list[list[int]]]) -> str:
    rows = [[f"`{name}`", ", ".join(f"{size} / {loads}" for size, loads in loops)] for name, loops in found.items()]
    return table(["kernel", "instructions / loads of features"], rows)


if __name__ == "__main__":
    main()
