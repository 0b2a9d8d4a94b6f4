#!/usr/bin/env bash
# The source archive and wheels that are made from it, in an empty folder.
# usage: wheel.sh PYTHON FOLDER              one wheel, with what setup.py finds here
#        wheel.sh PYTHON FOLDER DEVICE...    a wheel to hand out for each of cpu, cuda, and index pages for pip
# PYTHON has torch, build, setuptools and ninja. The second form needs auditwheel and patchelf on the PATH; it compiles
# the CUDA kernels for the architectures of a release, or for TORCH_CUDA_ARCH_LIST.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "$1")
folder=$2
shift 2
PATH=$(dirname "$python"):$PATH
export PATH
rm -rf "$folder"
"$python" -m build --no-isolation --sdist --outdir "$folder" .
archive=$(echo "$folder"/*.tar.gz)
missing=$(comm -23 \
  <(git ls-files csrc roialign_ext tests docs examples setup.py pyproject.toml requirements.txt README.md LICENSE CHANGELOG.md Makefile | sort) \
  <(tar -tzf "$archive" | cut -d / -f 2- | sort))
if [ -n "$missing" ]; then
  echo "missing in the source archive: $missing"
  exit 1
fi

sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT
tar -xzf "$archive" --strip-components 1 -C "$sources"
if [ $# -eq 0 ]; then
  "$python" -m build --no-isolation --wheel --outdir "$folder" "$sources"
else
  for device; do
    case $device in
      cpu) choice=(ROIALIGN_EXT_CUDA=0) ;;
      cuda) choice=(FORCE_CUDA=1 "TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-release}") ;;
      *) echo "wheel.sh: expected cpu or cuda, got $device" && exit 2 ;;
    esac
    env "${choice[@]}" "$python" -m build --no-isolation --wheel --outdir "$sources/dist" "$sources"
  done
  # auditwheel names the oldest Linux that a wheel runs on, and refuses what not every Linux has. torch is a dependency.
  for wheel in "$sources"/dist/*.whl; do
    auditwheel repair --exclude 'libtorch*.so' --exclude 'libc10*.so' --wheel-dir "$folder" "$wheel"
  done
  "$python" .ci/index.py "$folder"
fi
ls -l "$folder"
