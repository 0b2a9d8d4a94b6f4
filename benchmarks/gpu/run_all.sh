#!/usr/bin/env bash
# Everything worth doing with half an hour of a GPU, in phases of at most nine minutes:
#   build        the package, for the GPU that is here
#   tests        tests/test_cuda_device.py
#   sanitizers   compute-sanitizer's four tools on small cases
#   limits       bandwidths that the results are held against
#   torchvision  its kernels on the workloads of benchmarks/gpu/measure.py
#   ours         this package on the same ones
#   variants     other constants of the kernels, each built and measured
#   profile      ncu on one launch each of the main workload, where ncu is found
#   table        all of the above as one table, in README.md too, and benchmarks/results/gpu.json
# usage: benchmarks/gpu/run_all.sh [--out FOLDER] [PHASE...]     by default every phase, in this order
# PYTHON names an interpreter with torch for CUDA, torchvision, pytest, numpy, setuptools and ninja. A phase that fails
# does not stop the others; logs and JSON files go to FOLDER (default outputs/gpu).
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
out=outputs/gpu
if [ "${1:-}" = --out ]; then
  out=$2
  shift 2
fi
[ $# -gt 0 ] || set -- build tests sanitizers limits torchvision ours variants profile table
mkdir -p "$out"
out=$(realpath "$out")
site=$out/site
export PYTHONPATH=$site PYTHONUNBUFFERED=1
failures=0

build() {
  rm -rf "$site"
  FORCE_CUDA=1 "$python" -m pip install --quiet --no-build-isolation --no-deps --target "$site" . &&
    cd tests && "$python" -m roialign_ext
}

tests() {
  cd tests && "$python" -m pytest -q -p no:cacheprovider test_cuda_device.py
}

sanitizers() {
  command -v compute-sanitizer || { echo "no compute-sanitizer on the PATH"; return 1; }
  cd tests || return 1
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  local tool status=0
  for tool in memcheck racecheck synccheck initcheck; do
    echo "== compute-sanitizer --tool $tool"
    timeout 130 compute-sanitizer --tool "$tool" --kernel-name regex=roialign_ext --error-exitcode 3 \
      "$python" -m pytest -q -x -p no:cacheprovider test_cuda_device.py -k "test_kernels_agree and dtype" || status=1
  done
  return $status
}

measure() {
  "$python" -m benchmarks.gpu.measure "$1" --output "$out/$1.json"
}

limits() { measure limits; }
torchvision() { measure torchvision; }
ours() { measure ours; }

variants() {
  "$python" -m benchmarks.gpu.variants "$out"
}

profile() {
  command -v ncu || { echo "no ncu on the PATH"; return 1; }
  local metrics=gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum,lts__t_sectors_op_read.sum
  metrics+=,lts__t_sectors_op_write.sum,l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum
  metrics+=,l1tex__data_bank_conflicts_pipe_lsu.sum,smsp__inst_executed.sum
  metrics+=,smsp__issue_active.avg.pct_of_peak_sustained_active,sm__warps_active.avg.pct_of_peak_sustained_active
  metrics+=,smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio
  metrics+=,smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio
  metrics+=,launch__registers_per_thread,launch__occupancy_limit_registers,launch__occupancy_limit_shared_mem
  ncu --clock-control none --kernel-name regex:roialign_ext --metrics "$metrics" --csv --log-file "$out/ncu.csv" \
    "$python" -m benchmarks.gpu.measure once --output "$out/once.json"
}

table() {
  "$python" -m benchmarks.gpu.table "$out" --output "$out/gpu.json" --readme README.md | tee "$out/table.md" &&
    cp "$out/gpu.json" benchmarks/results/gpu.json
}

for phase in "$@"; do
  case $phase in
  build | tests | sanitizers | limits | torchvision | ours | variants | profile | table) ;;
  *)
    echo "unknown phase $phase: one of build tests sanitizers limits torchvision ours variants profile table"
    exit 2
    ;;
  esac
done
export -f build tests sanitizers measure limits torchvision ours variants profile table
export python out site
for phase in "$@"; do
  started=$SECONDS
  echo "#### $phase"
  if timeout 540 bash -uo pipefail -c "$phase" 2>&1 | tee "$out/$phase.log"; then
    echo "#### $phase: done in $((SECONDS - started)) s"
  else
    echo "#### $phase: FAILED after $((SECONDS - started)) s, see $out/$phase.log"
    failures=$((failures + 1))
  fi
done
exit $((failures > 0))
