#!/usr/bin/env bash
# Source archive, wheel made from it, and the wheel installed where PYTHON is and used outside the source folder.
# usage: package.sh PYTHON (one that has torch, setuptools and ninja)
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "$1")
PATH=$(dirname "$python"):$PATH
export PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== Source archive"
"$python" setup.py --quiet sdist --dist-dir "$work/dist"
archive=$(echo "$work"/dist/*.tar.gz)
tar -xzf "$archive" -C "$work"
unpacked=${archive%.tar.gz}
unpacked=$work/${unpacked##*/}
missing=$(git ls-files csrc roialign_ext tests docs setup.py pyproject.toml requirements.txt README.md LICENSE CHANGELOG.md Makefile |
  while read -r file; do [ -e "$unpacked/$file" ] || echo "$file"; done)
if [ -n "$missing" ]; then
  echo "missing in the source archive: $missing"
  exit 1
fi

echo "== Wheel from the source archive"
"$python" -m pip wheel --quiet --no-build-isolation --no-deps --no-cache-dir --wheel-dir "$work/wheels" "$archive"
"$python" -m pip install --quiet --no-deps --force-reinstall "$work"/wheels/*.whl
ls -l "$work"/wheels

echo "== The wheel outside the source folder"
cd "$work"
"$python" -m roialign_ext
"$python" -c '
import importlib.metadata, pathlib, torch, roialign_ext
features = torch.randn(1, 3, 8, 8, requires_grad=True)
boxes = torch.tensor([[0.0, 1.0, 1.0, 6.0, 6.0]], requires_grad=True)
roialign_ext.roi_align(features, boxes, (2, 2), aligned=True).sum().backward()
assert features.grad is not None and boxes.grad is not None
assert (pathlib.Path(roialign_ext.__file__).parent / "py.typed").exists()
print("the wheel works:", roialign_ext.__version__, importlib.metadata.requires("roialign_ext"))'
