#!/usr/bin/env bash
# The source archive, and the wheel that is made from it, in an empty folder.
# usage: wheel.sh PYTHON FOLDER (PYTHON has torch, build, setuptools and ninja)
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "$1")
PATH=$(dirname "$python"):$PATH
export PATH
rm -rf "$2"
"$python" -m build --no-isolation --outdir "$2" .
archive=$(echo "$2"/*.tar.gz)
missing=$(comm -23 \
  <(git ls-files csrc roialign_ext tests docs examples setup.py pyproject.toml requirements.txt README.md LICENSE CHANGELOG.md Makefile | sort) \
  <(tar -tzf "$archive" | cut -d / -f 2- | sort))
if [ -n "$missing" ]; then
  echo "missing in the source archive: $missing"
  exit 1
fi
ls -l "$2"
