"""Sections of the README generated from results."""

from __future__ import annotations

from pathlib import Path


def fill(readme: Path, name: str, section: str) -> None:
    """Replace the text between the two markers of that name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = readme.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise SystemExit(f"{readme.name} must hold {begin} and, after it, {end}, once each")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    readme.write_text(f"{before}{begin}\n{section}\n{end}{after}")
