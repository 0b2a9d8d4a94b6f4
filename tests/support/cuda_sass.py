"""Compiled kernels of a library, as cuobjdump lists them: registers, local memory, inner loops."""

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
BRANCH = re.compile(r"(?P<condition>@\S+ +)?BRA\S*\s+(?P<more>!?U?P\d+,\s*)*(?P<target>0x[0-9a-f]+)")
DIVERGENT = "BRA.DIV"  # to out-of-line code for divergent lanes
ENDS = re.compile(r"(EXIT|RET|BRX|JMX|BPT)\b")
RARE = re.compile(r"\b(double|__half|long)\b")  # types whose loops have no budget
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.+?)\s*;", re.MULTILINE)
SECTION = re.compile(r"^arch = sm_(?P<architecture>\w+)$", re.MULTILINE)
USAGE = re.compile(r"Function (?P<symbol>\w+):\s+REG:(?P<registers>\d+) STACK:(?P<stack>\d+) ")
# nvcc names unnamed namespaces after the file.
FILE = re.compile(r"_GLOBAL__N__[0-9a-f]{8}_\d+_(\w+)_cu_[0-9a-f]{8}")


class Loop(NamedTuple):
    """The innermost loop around loads of features: instructions of its code, and how many of them are such loads."""

    instructions: int
    loads: int


class Kernel(NamedTuple):
    """One kernel for one architecture."""

    symbol: str
    name: str  # with its template arguments
    architecture: str  # "90"
    registers: int
    stack_bytes: int  # of local memory: spilled values, arrays with computed indices, frames of calls

    @property
    def file(self) -> str:
        """The source, without its suffix."""
        found = FILE.search(self.symbol)
        assert found is not None, self.symbol
        return found[1]


def kernels_of(tool: str, library: Path) -> list[Kernel]:
    """The kernels of a library for all its architectures."""
    command = [tool, "--dump-resource-usage", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    _, *parts = SECTION.split(text)
    found = [
        (architecture, *usage.group("symbol", "registers", "stack"))
        for architecture, part in zip(parts[::2], parts[1::2], strict=True)
        for usage in USAGE.finditer(part)
    ]
    names = demangled(symbol for _, symbol, *_ in found)
    return [
        Kernel(symbol, name, architecture, int(registers), int(stack))
        for name, (architecture, symbol, registers, stack) in zip(names, found, strict=True)
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


def loops_of_kernels(tool: str, target: Path, kernels: Iterable[Kernel]) -> Iterator[tuple[Kernel, list[Loop]]]:
    """The innermost loops of these kernels of an object."""
    by_symbol = {(kernel.symbol, kernel.architecture): kernel for kernel in kernels}
    for architecture in sorted({architecture for _, architecture in by_symbol}):
        symbols = ",".join(symbol for symbol, own in by_symbol if own == architecture)
        command = [tool, "--dump-sass", "--gpu-architecture", f"sm_{architecture}", "--function", symbols, str(target)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for function in re.split(r"^\s+Function : ", text, flags=re.MULTILINE)[1:]:
            symbol, code = function.split("\n", 1)
            yield by_symbol[symbol, architecture], innermost_loops(code)


def innermost_loops(code: str) -> list[Loop]:
    """The natural loops of one function that are the innermost around a load of features."""
    listed = [(int(place, 16), text) for place, text in INSTRUCTION.findall(code)]
    blocks, successors = control_flow(listed)
    bodies: dict[int, set[int]] = {}
    dominators = dominators_of(successors)
    for block in dominators:
        for header in successors[block]:
            if header in dominators[block]:
                bodies.setdefault(header, {header}).update(reaching(block, header, dominators, successors))
    loads: dict[int, int] = {}
    for block, texts in enumerate(blocks):
        around = [header for header, body in bodies.items() if block in body]
        found = sum(FEATURES.search(text) is not None for text in texts)
        if found and around:
            innermost = min(around, key=lambda header: len(bodies[header]))
            loads[innermost] = loads.get(innermost, 0) + found
    return sorted(Loop(sum(len(blocks[body]) for body in bodies[header]), found) for header, found in loads.items())


def control_flow(listed: list[tuple[int, str]]) -> tuple[list[list[str]], list[list[int]]]:
    """Basic blocks, and the successors of each by number."""
    branches = {place: match for place, text in listed if (match := BRANCH.match(text)) and DIVERGENT not in text}
    ends = {place for place, text in listed if ENDS.match(text)}
    targets = {int(match["target"], 16) for match in branches.values()}
    blocks: list[list[str]] = []
    number: dict[int, int] = {}
    begins = True
    for place, text in listed:
        if begins or place in targets:
            number[place] = len(blocks)
            blocks.append([])
        blocks[-1].append(text)
        begins = place in branches or place in ends
    successors: list[list[int]] = [[] for _ in blocks]
    block = -1
    for i, (place, _) in enumerate(listed):
        block = number.get(place, block)
        following = listed[i + 1][0] if i + 1 < len(listed) else -1
        match = branches.get(place)
        if match is not None:
            successors[block].append(number[int(match["target"], 16)])
        if following in number and place not in ends and (match is None or match["condition"] or match["more"]):
            successors[block].append(number[following])
    return blocks, successors


def dominators_of(successors: list[list[int]]) -> dict[int, set[int]]:
    """The dominators of each block that can be reached."""
    order, left, seen = [], [0], {0}
    while left:
        block = left.pop()
        order.append(block)
        for following in successors[block]:
            if following not in seen:
                seen.add(following)
                left.append(following)
    before: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for following in successors[block]:
            before[following].append(block)
    result = {block: set(order) for block in order}
    result[0] = {0}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            common = set.intersection(*(result[previous] for previous in before[block])) | {block}
            if common != result[block]:
                result[block], changed = common, True
    return result


def reaching(block: int, header: int, dominators: dict[int, set[int]], successors: list[list[int]]) -> set[int]:
    """The blocks from which ``block`` can be reached without passing ``header``."""
    found, left = set(), [block]
    while left:
        member = left.pop()
        if member != header and member not in found:
            found.add(member)
            left += [other for other in dominators if member in successors[other]]
    return found
