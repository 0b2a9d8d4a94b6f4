"""Detection of loops in a listing of instructions (``cuda_sass``)."""

from __future__ import annotations

import pytest

from support import cuda_sass
from support.cuda_sass import Loop


def listing(*instructions: str) -> str:
    """A listing as cuobjdump prints it: one address and instruction per line, with the encoding behind and below."""
    lines = []
    for i, text in enumerate(instructions):
        lines += [f"        /*{16 * i:04x}*/    {text} ;    /* 0x000000ff00017b82 */", "    /* 0x000fe20000000800 */"]
    return "\n".join(lines)


LOAD = "LDG.E.128.CONSTANT R4, desc[UR4][R2.64]"


@pytest.mark.parametrize(
    ("code", "loops"),
    [
        ((LOAD, "EXIT", "BRA 0x20"), []),
        # A loop of three instructions, and the endless loop after the end.
        (("MOV R1, R2", LOAD, "IADD3 R1, R1, 0x1, RZ", "@P0 BRA 0x10", "EXIT", "BRA 0x50"), [Loop(3, 1)]),
        # The inner loop over tables loads no features: it is part of the loop around it.
        (("MOV R1, R2", "LDG.E R3, desc[UR4][R2.64]", "@P1 BRA 0x10", LOAD, "@P0 BRA 0x0", "EXIT"), [Loop(5, 1)]),
        # Two nested loops that both load features.
        ((LOAD, LOAD, LOAD, "@!P1 BRA 0x20", "@P0 BRA P1, 0x0", "EXIT"), [Loop(2, 1), Loop(5, 2)]),
        # Out-of-line code for divergent lanes is no part of the loop.
        (
            ("MOV R1, R2", "BRA.DIV UR5, 0x60", LOAD, "@P0 BRA 0x10", "EXIT", "NOP", "WARPSYNC.ALL", "BRA 0x20"),
            [Loop(3, 1)],
        ),
        # Two back edges make one loop.
        ((LOAD, "@P0 BRA 0x0", "MOV R1, R2", "@P1 BRA 0x0", "EXIT"), [Loop(4, 1)]),
        # Exit at the top, closed by an unconditional branch.
        (
            ("@P0 BRA 0x40", "@!P1 LDG.E.64.CONSTANT R4, desc[UR4][R2.64]", "MOV R1, R2", "BRA 0x0", "EXIT"),
            [Loop(4, 1)],
        ),
    ],
)
def test_innermost_loops(code: tuple[str, ...], loops: list[Loop]) -> None:
    assert cuda_sass.innermost_loops(listing(*code)) == loops


def test_names() -> None:
    function = "void roialign_ext::cuda::(anonymous namespace)::f<float, g<int (*)(int)> >(float, int)"
    assert cuda_sass.without_parameters(function) == "f<float, g<int (*)(int)>>"
