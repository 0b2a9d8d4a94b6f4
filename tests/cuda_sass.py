"""What ptxas made of the kernels: registers and spills as it reports them, inner loops as cuobjdump lists them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

NAMESPACES = re.compile(r"\(anonymous namespace\)::|roialign_ext::cuda::")
FEATURES = re.compile(r"\bLDG\.\S*CONSTANT")  # __ldg: maps and bins, which kernels do not write
BRANCH = re.compile(r"\bBRA\S*\s+(?:!?U?P\d+,\s*)*(0x[0-9a-f]+)")
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.+?)\s*;", re.MULTILINE)
REPORT = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<architecture>\w+)'"
    r".*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


class Loop(NamedTuple):
    """An innermost loop that loads features: instructions of its code, and how many of them load features."""

    instructions: int
    loads: int


class Kernel(NamedTuple):
    """One kernel for one architecture."""

    name: str  # with its template arguments
    architecture: str  # "90"
    registers: int
    spilled_bytes: int  # stored plus loaded


def compile_kernels(source: Path, architectures: Iterable[str], target: Path) -> list[Kernel]:
    """Compiles a file of kernels for all architectures ("9.0") at once; a warning is an error."""
    command = ["nvcc", "-c", "-std=c++17", "-O3", "--Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra"]
    for number in (architecture.replace(".", "") for architecture in architectures):
        command.append(f"-gencode=arch=compute_{number},code=sm_{number}")
    command += ["-Xptxas", "-v", str(source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = [match.groupdict() for match in REPORT.finditer(result.stderr)]
    assert len(found) == result.stderr.count("Compiling entry function")
    names = demangled(kernel["name"] for kernel in found)
    return [
        Kernel(name, one["architecture"], int(one["registers"]), int(one["stores"]) + int(one["loads"]))
        for name, one in zip(names, found, strict=True)
    ]


def demangled(symbols: Iterable[str]) -> list[str]:
    """`f<int>` for the symbol of `void roialign_ext::cuda::(anonymous namespace)::f<int>(int, float)`."""
    listed = "\n".join(symbols)
    text = subprocess.run(["c++filt"], input=listed, capture_output=True, text=True, check=True).stdout
    return [without_parameters(line) for line in text.splitlines()]


def without_parameters(function: str) -> str:
    """The name and template arguments of a demangled function."""
    name = NAMESPACES.sub("", function).removeprefix("void ").replace("> >", ">>")
    depth = 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:i]
    return name


def cuobjdump() -> str | None:
    """Nvidia's tool of that name: the toolkit's or, where that has none, the one of the package of Triton."""
    nvcc = shutil.which("nvcc")
    triton = importlib.util.find_spec("triton")
    folders = [Path(nvcc).resolve().parent] if nvcc else []
    if triton is not None and triton.origin is not None:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    return next(filter(None, (shutil.which("cuobjdump", path=str(folder)) for folder in folders)), None)


def loops_of_kernels(tool: str, target: Path) -> Iterator[tuple[str, str, list[Loop]]]:
    """The kernels of an object, for each architecture in it: name, architecture, loops."""
    text = subprocess.run([tool, "--dump-sass", str(target)], capture_output=True, text=True, check=True).stdout
    functions: list[tuple[str, str, str]] = []
    for part in re.split(r"^\s+code for sm_", text, flags=re.MULTILINE)[1:]:
        architecture = part.split()[0]
        for function in re.split(r"^\s+Function : ", part, flags=re.MULTILINE)[1:]:
            symbol, code = function.split("\n", 1)
            functions.append((symbol, architecture, code))
    for name, (_, architecture, code) in zip(demangled(one[0] for one in functions), functions, strict=True):
        yield name, architecture, innermost_loops(code)


def innermost_loops(code: str) -> list[Loop]:
    """A loop reaches from where a branch leads back to up to the last such branch."""
    listed = [(int(place, 16), text) for place, text in INSTRUCTION.findall(code)]
    ends: dict[int, int] = {}
    for place, text in listed:
        branch = BRANCH.search(text)
        if branch is not None and int(branch[1], 16) <= place:
            ends[int(branch[1], 16)] = place
    result = []
    for begin, end in ends.items():
        if any((begin, end) != other and begin <= other[0] and other[1] <= end for other in ends.items()):
            continue
        inside = [text for place, text in listed if begin <= place <= end]
        loads = sum(FEATURES.search(text) is not None for text in inside)
        if loads > 0:
            result.append(Loop(len(inside), loads))
    return sorted(result)
