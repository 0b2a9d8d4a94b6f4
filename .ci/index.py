"""Writes index pages for pip (PEP 503) beside wheels: one index for each device of the wheels.

    python .ci/index.py FOLDER
    pip install --no-deps --index-url file:///FOLDER/index/cpu roialign_ext     # or the address that serves FOLDER

The device is the local part of a wheel's version: cpu, cu130.
"""

import hashlib
import html
import re
import sys
import zipfile
from pathlib import Path
from urllib.parse import quote

PROJECT = "roialign-ext"


def page(title: str, links: list[str]) -> str:
    head = f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{title}</title></head>\n<body>\n'
    return head + "<br>\n".join(links) + "\n</body></html>\n"


def required_python(wheel: Path) -> str:
    """The versions of Python that the metadata of a wheel require, as in ``>=3.10``."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        found = re.search(r"^Requires-Python: (.+)$", archive.read(name).decode(), re.MULTILINE)
    if found is None:
        sys.exit(f"index.py: {wheel} does not say which Python it requires")
    return found[1]


def link(wheel: Path) -> str:
    """From FOLDER/index/DEVICE/PROJECT/index.html to the wheel, with its hash."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    address = f"../../../{quote(wheel.name)}#sha256={digest}"
    return f'<a href="{address}" data-requires-python="{html.escape(required_python(wheel))}">{wheel.name}</a>'


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: index.py FOLDER")
    folder = Path(sys.argv[1])
    devices: dict[str, list[Path]] = {}
    for wheel in sorted(folder.glob("*.whl")):
        named = re.match(r"roialign_ext-[^-+]+\+(\w+)-", wheel.name)
        if named is None:
            sys.exit(f"index.py: {wheel.name} has no device in its version")
        devices.setdefault(named[1], []).append(wheel)
    if not devices:
        sys.exit(f"index.py: {folder} has no wheels")
    for device, wheels in devices.items():
        index = folder / "index" / device
        (index / PROJECT).mkdir(parents=True, exist_ok=True)
        (index / "index.html").write_text(page("Packages", [f'<a href="{PROJECT}/">{PROJECT}</a>']))
        (index / PROJECT / "index.html").write_text(page(PROJECT, [link(wheel) for wheel in wheels]))
        print(f"{index}: {', '.join(wheel.name for wheel in wheels)}")


if __name__ == "__main__":
    main()
