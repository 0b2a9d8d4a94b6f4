#!/usr/bin/env bash
# Runs the tests on the CPU of a torch that was built with CUDA, beside torchvision: the pins of the examples.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-test-cuda

echo "== Creating $venv"
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet \
  -r <(grep -E '^torch(vision)?==' examples/requirements.txt) -r <(grep -v '^torch==' tests/requirements.txt)

echo "== Building roialign_ext"
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/pip" install --quiet --no-build-isolation --no-deps .
cd tests
"../$venv/bin/python" -m roialign_ext
"../$venv/bin/python" -c 'import torch; assert torch.version.cuda, "this torch has no CUDA"'
"../$venv/bin/pytest" -q "$@"
