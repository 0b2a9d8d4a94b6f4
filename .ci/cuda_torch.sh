#!/usr/bin/env bash
# Runs the tests on a torch that was built with CUDA, beside torchvision: the pins of the examples. Where nvcc is found
# the CUDA kernels are built too, for one architecture; the tests that need a GPU skip themselves where there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-test-cuda
export MAX_JOBS=${MAX_JOBS:-2} TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}

echo "== Creating $venv"
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet \
  -r <(grep -E '^torch(vision)?==' examples/requirements.txt) -r <(grep -v '^torch==' tests/requirements.txt)

echo "== Building roialign_ext"
started=$SECONDS
if command -v nvcc; then export FORCE_CUDA=1; fi
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/pip" install --quiet --no-build-isolation --no-deps .
echo "built in $((SECONDS - started)) s"
cd tests
"../$venv/bin/python" -m roialign_ext
"../$venv/bin/python" -c 'import torch; assert torch.version.cuda, "this torch has no CUDA"'
# The kernels compiled for the CPU, and their registers, were tested with the other torch: they are the same here.
# shellcheck disable=SC2086
"../$venv/bin/pytest" -q ${AT_ONCE:-} --ignore=test_cuda_kernels.py --ignore=test_cuda_budget.py --ignore=test_cuda_shim.py "$@"
