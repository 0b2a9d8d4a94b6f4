"""Do the compiled operators take the arguments of their schemas? torch's stable ABI does not compare them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
TYPES = {
    "Tensor": "const Tensor&",
    "Tensor[]": "const Tensors&",
    "Tensor?": "const OptionalTensor&",
    "SymInt[]": "const Sizes&",
    "SymInt[2]": "const Sizes&",
    "float[]": "const std::vector<double>&",
    "float[]?": "const OptionalNumbers&",
    "float": "double",
    "int": "int64_t",
    "bool": "bool",
    "str": "StringHandle",
}
RESULTS = {"Tensor": "Tensor", "Tensor[]": "Tensors", "(Tensor, Tensor)": "std::tuple<Tensor, Tensor>"}


def schemas() -> dict[str, tuple[list[str], str]]:
    """Types of the arguments and of the result, by the name of the operator."""
    source = (CSRC / "schemas.cpp").read_text()
    found = {}
    for definition in re.findall(r"m\.def\((.*?)\);\n", source, re.DOTALL):
        text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', definition))
        name, arguments, result = re.fullmatch(r"(\w+)\((.*)\) -> (.*)", text).groups()
        found[name] = ([argument.split()[0] for argument in arguments.split(", ")], result)
    return found


SCHEMAS = schemas()


@pytest.mark.parametrize("name", SCHEMAS)
def test_kernel_has_the_types_of_the_schema(name: str) -> None:
    source = (CSRC / ("private_ops.cpp" if name.startswith("_") else "public_ops.cpp")).read_text()
    (function,) = re.findall(rf'library\.impl\("{name}", TORCH_BOX\(&(\w+)\)\)', source)
    ((result, parameters),) = re.findall(rf"^(\w[^;{{}}()]*) {function}\(([^)]*)\) {{$", source, re.MULTILINE)
    arguments, returned = SCHEMAS[name]
    assert [re.sub(r"\s+\w+$", "", one.strip()) for one in parameters.split(",")] == [TYPES[one] for one in arguments]
    assert result == RESULTS[returned]
