"""`python -m roialign_ext.viz [--out FOLDER] [--format png|svg]` writes the gallery and prints the paths."""

from __future__ import annotations

import argparse
from pathlib import Path

from .gallery import FORMATS, write_gallery


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m roialign_ext.viz", description="Writes the gallery.")
    parser.add_argument("--out", type=Path, default=Path("gallery"), help="the folder (default: gallery)")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the files (default: png)")
    arguments = parser.parse_args()
    for path in write_gallery(arguments.out, arguments.format):
        print(path)


if __name__ == "__main__":
    main()
