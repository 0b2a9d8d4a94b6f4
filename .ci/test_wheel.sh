#!/usr/bin/env bash
# A wheel that was built beside another torch, with the torch of PYTHON: the tests that depend on torch most.
# usage: test_wheel.sh PYTHON WHEEL [PYTEST_ARGUMENT...]
set -euo pipefail
python=$(realpath --no-symlinks "$1")
wheel=$(realpath "$2")
shift 2
cd "$(dirname "$0")/../tests"
"$python" -m pip install --quiet --no-deps --force-reinstall "$wheel"
"$python" -m roialign_ext
[ $# -gt 0 ] || set -- package/test_environment.py numbers/test_forward.py numbers/test_gradients.py \
  robustness/test_bad_input.py torch/test_functorch.py torch/test_functionalize.py torch/test_compile.py \
  torch/test_operators.py torch/test_registration.py torch/test_transforms.py torch/test_integration.py \
  torch/test_onnx.py package/test_cpp.py
# shellcheck disable=SC2086
"$python" -m pytest -q ${TEST_OPTIONS:-} "$@"
