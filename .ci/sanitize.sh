#!/usr/bin/env bash
# Runs test files against a build with the address and undefined-behaviour sanitizers: all of them with the widest
# instruction set, and those that reach every kernel with the others too.
# usage: sanitize.sh PYTHON FOLDER_OF_THE_SANITIZED_PACKAGE TEST_FILE...
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath --no-symlinks "$1")
package=$(realpath "$2")
shift 2

compiler=${CXX:-c++}
libraries="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libubsan.so) $($compiler -print-file-name=libstdc++.so)"
# Python and torch keep memory until exit, so a leak report would speak of them.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export PYTHONPATH=$package
cd tests
widest=$(env -u ATEN_CPU_CAPABILITY LD_PRELOAD="$libraries" "$python" -c '
import roialign_ext
from roialign_ext import _build_info
assert "-fsanitize=address" in _build_info.FLAGS, "this build has no sanitizers"
print(roialign_ext.cpu_capability().lower())')

# run CAPABILITY PYTEST_ARGUMENT...
run() {
  echo "== Sanitizers, ATEN_CPU_CAPABILITY=$1"
  # shellcheck disable=SC2086
  ATEN_CPU_CAPABILITY=$1 LD_PRELOAD=$libraries "$python" -m pytest -q ${TEST_OPTIONS:-} -p no:cacheprovider "${@:2}"
}

run "$widest" "$@"
# Blocks of channels and their remainders, packing of every layout, maps beyond a block; side by side, in one process
# for each instruction set.
capabilities="avx512 avx2 default"
others=()
for capability in ${capabilities#*"$widest"}; do
  run "$capability" -n 0 numbers/test_layouts.py::test_{every_layout,many_channels} numbers/test_maximum.py::test_layouts \
    numbers/test_gradients.py::test_{every_channel_count,large_map} &
  others+=($!)
done
for other in "${others[@]}"; do wait "$other"; done
