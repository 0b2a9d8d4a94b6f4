#!/usr/bin/env bash
# A fresh environment with another torch than requirements.txt pins: .venv-torch-VERSION.
# usage: environment.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-torch-$1
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet "torch==$1" \
  -r <(grep -E '^(build|ninja|setuptools|numpy|pytest|hypothesis|expecttest|onnx)' requirements.txt)
"$venv/bin/python" -c "import torch; assert torch.__version__.split('+')[0] == '$1', torch.__version__"
