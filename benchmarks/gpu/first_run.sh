#!/usr/bin/env bash
# Tests and times the CUDA kernels on this machine's GPU, in eight minutes.
# usage: bash benchmarks/gpu/first_run.sh FOLDER [--dry-run] [--seconds N] [--table sweep]
#
# --dry-run prints the phases with their time boxes. FOLDER gets results.json and log.tar.gz, both up to date at any
# moment; the summary is printed last, also after an interrupt. `--table sweep` is the second command, for more time:
# more workloads and dtypes, graphs, the other sanitizers.
#
# Needs an interpreter (PYTHON, default python3) with torch for CUDA; the first lines name other missing requirements.
# Builds into build/gpu, or the folder that BENCHMARK_WORK names. Exit status: 0 all phases passed, 1 one did not,
# 2 nothing was started, 3 there is no GPU. Details: benchmarks/README.md.
set -euo pipefail
python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
  echo "there is no $python: set PYTHON to an interpreter with torch"
  exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "$python is older than 3.10: set PYTHON to another one"
  exit 2
fi
folder=()
# FOLDER is relative to the caller's folder; the module is found from the sources.
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
  folder=("$(realpath -m -- "$1")")
  shift
fi
python=$(realpath --no-symlinks -- "$(command -v "$python")")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec "$python" -m benchmarks.gpu.driver "${folder[@]}" "$@"
