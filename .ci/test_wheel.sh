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
[ $# -gt 0 ] || set -- test_environment.py test_forward.py test_gradients.py test_bad_input.py test_functorch.py \
  test_functionalize.py test_compile.py test_operators.py test_registration.py test_family_transforms.py \
  test_family_integration.py test_onnx.py test_cpp.py
# shellcheck disable=SC2086
"$python" -m pytest -q ${TEST_OPTIONS:-} "$@"
