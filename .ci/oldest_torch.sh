#!/usr/bin/env bash
# Builds against the oldest torch that is supported, in a fresh environment, and tries the package out.
# usage: oldest_torch.sh [PYTEST_ARGUMENT...], by default a quick selection
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-test-oldest
export MAX_JOBS=${MAX_JOBS:-2} TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}
[ $# -gt 0 ] || set -- test_environment.py test_adjoint.py test_bad_input.py test_gradients.py \
  test_functorch.py test_functionalize.py test_compile.py test_operators.py test_registration.py \
  test_family_forward.py test_family_transforms.py test_family_integration.py test_onnx.py

echo "== Creating $venv"
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet torch==2.11.0 -r <(grep -v '^torch==' tests/requirements.txt)

echo "== Building roialign_ext"
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/pip" install --quiet --no-build-isolation --no-deps .
cd tests
"../$venv/bin/python" -c 'import torch; assert torch.__version__.startswith("2.11."), torch.__version__'
"../$venv/bin/python" -m roialign_ext
# shellcheck disable=SC2086
"../$venv/bin/pytest" -q ${AT_ONCE:-} "$@"
