#!/usr/bin/env bash
# Another torch than requirements.txt pins, in a fresh environment: packages built against it, and a selection of the
# tests, those that depend on torch most.
# usage: other_torch.sh VERSION [PYTEST_ARGUMENT...]
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1
shift
venv=.venv-torch-$version
export MAX_JOBS=${MAX_JOBS:-2} ROIALIGN_EXT_CUDA=${ROIALIGN_EXT_CUDA:-0}
[ $# -gt 0 ] || set -- test_environment.py test_functorch.py test_functionalize.py test_compile.py test_operators.py \
  test_registration.py test_family_transforms.py test_family_integration.py test_onnx.py

echo "== Creating $venv"
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet "torch==$version" \
  -r <(grep -E '^(ninja|setuptools|numpy|pytest|hypothesis|expecttest|onnx)' requirements.txt)
bash .ci/package.sh "$venv/bin/python"
cd tests
"../$venv/bin/python" -c "import torch; assert torch.__version__.split('+')[0] == '$version', torch.__version__"
# shellcheck disable=SC2086
"../$venv/bin/python" -m pytest -q ${TEST_OPTIONS:-} "$@"
