"""Instructions of the loops that load features: `python -m benchmarks.gpu.loops --json FILE`. Needs nvcc and cuobjdump
(the toolkit's or Triton's), no GPU.

The kernels of averages in float32 and bfloat16, with 32-bit offsets, compiled for one architecture.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..markdown import table

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

from support import cuda_sass  # noqa: E402

SOURCES = ("average*.cu", "transpose.cu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="9.0")
    parser.add_argument("--json", type=Path, help="write the loops to this file")
    options = parser.parse_args()
    tool = cuda_sass.cuobjdump()
    if tool is None:
        raise SystemExit("there is no cuobjdump, neither beside nvcc nor in a package of Triton")
    found: dict[str, list[list[int]]] = {}
    for source in sorted(path for pattern in SOURCES for path in (ROOT / "csrc" / "cuda").glob(pattern)):
        target, kernels = cuda_sass.compile_kernels(source, [options.architecture])
        wanted = [kernel for kernel in kernels if not cuda_sass.RARE.search(kernel.name)]
        for kernel, loops in cuda_sass.loops_of_kernels(tool, target, wanted):
            if loops:
                found[kernel.name] = [list(loop) for loop in loops]
    if options.json:
        lines = (f" {json.dumps(name)}: {json.dumps(loops)}" for name, loops in sorted(found.items()))
        options.json.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(loop_table(found))


def loop_table(found: dict[str, list[list[int]]]) -> str:
    rows = [[f"`{name}`", ", ".join(f"{size} / {loads}" for size, loads in loops)] for name, loops in found.items()]
    return table(["kernel", "instructions / loads of features"], rows)


if __name__ == "__main__":
    main()
