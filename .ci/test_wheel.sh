#!/usr/bin/env bash
# A wheel that was built beside another torch, with the torch of PYTHON: what depends on torch, errors that cross the
# boundary of the libraries, and every operator in every type, forward and backward.
# usage: test_wheel.sh PYTHON WHEEL [PYTEST_ARGUMENT...]
set -euo pipefail
python=$(realpath --no-symlinks "$1")
wheel=$(realpath "$2")
shift 2
cd "$(dirname "$0")/../tests"
"$python" -m pip install --quiet --no-deps --force-reinstall "$wheel"
"$python" -m roialign_ext
[ $# -gt 0 ] || set -- torch package/test_environment.py package/test_cpp.py \
  robustness/test_bad_boxes.py robustness/test_bad_arguments.py \
  numbers/test_forward.py::test_matches_oracle numbers/test_gradients.py::test_matches_oracle
# shellcheck disable=SC2086
"$python" -m pytest -q ${TEST_OPTIONS:-} "$@"
