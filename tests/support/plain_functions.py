"""Parts of csrc as plain C++ functions: a library that is loaded with ctypes."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

from support.cache import ROOT, cached, compiler, compiler_version, headers

FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fPIC", "-shared")
SANITIZER = ("-fsanitize=undefined", "-fno-sanitize-recover")


def load(name: str, sources: list[Path], folder: str, *flags: str) -> ctypes.CDLL:
    """Compiles sources that include headers of that folder of csrc."""
    command = [*compiler(), *FLAGS, *SANITIZER, f"-I{ROOT / 'csrc' / folder}", *map(str, sources), *flags]

    def make(target: Path) -> None:
        subprocess.run([*command, "-o", str(target / "library.so")], check=True)

    files = [*sources, *headers(), *sorted((ROOT / "csrc" / folder).glob("*.h"))]
    return ctypes.CDLL(str(cached(name, [compiler_version(), *command, *files], make) / "library.so"))
