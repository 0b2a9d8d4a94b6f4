#!/usr/bin/env bash
# Everything worth doing with half an hour of a GPU, in phases of at most eight and a half minutes:
#   build        the package, for the GPU that is here
#   limits       bandwidths that the results are held against
#   torchvision  its kernels and layers on the workloads of benchmarks/gpu/workloads.py
#   ours         this package on the same ones, after a comparison of the results
#   tests        tests/test_cuda_device.py
#   sanitizers   compute-sanitizer's four tools on small cases
#   profile      ncu on one pass of each kernel over the box head
#   variants     other constants of the kernels, each built and measured
#   table        all of the above as tables: benchmarks/results/gpu.json and gpu.md, and the README. Needs no GPU.
# usage: benchmarks/gpu/run_all.sh [--out FOLDER] [PHASE...]     by default every phase, in this order
#
# About 25 minutes in all (estimated, not yet timed), numbers before tests, so that a test that hangs costs none. Where
# a command may take ten minutes at most, three of them:
#   build limits torchvision ours        tests sanitizers        profile variants
# A phase that fails does not stop the others, and each can be run again alone. All but `limits`, `torchvision` and
# `table` need the build, which stays in build/gpu: on a fresh machine ask for `build` too. Into FOLDER (default
# outputs/gpu) go PHASE.log and PHASE.json (profile: profile.csv; build and table: no more than the log), a few hundred
# kilobytes in all; what an earlier run of a phase left there is deleted first. `table` wants limits, torchvision and
# ours of the same kind of machine in FOLDER, finished, and says so otherwise.
#
# PYTHON names an interpreter with torch for CUDA, torchvision, triton, pytest, hypothesis, numpy, setuptools and ninja.
# COMMIT says what is measured where this is no git checkout.
set -uo pipefail
python=$(command -v "${PYTHON:-python3}") || { echo "there is no ${PYTHON:-python3}: set PYTHON"; exit 2; }
python=$(realpath --no-symlinks "$python")
root=$(realpath "$(dirname "$0")/../..")
out=$root/outputs/gpu
if [ "${1:-}" = --out ]; then
  [ $# -ge 2 ] || { echo "--out needs a folder"; exit 2; }
  out=$2
  shift 2
fi
phases="build limits torchvision ours tests sanitizers profile variants table"
# shellcheck disable=SC2086
[ $# -gt 0 ] || set -- $phases
work=$root/build/gpu
mkdir -p "$out" "$work" || exit 2
out=$(realpath "$out")
site=$work/site
cd "$root" || exit 2
# ninja lies beside the interpreter, Nvidia's tools in these places if not on the PATH, of ncu the newest first.
tools=
for folder in /opt/nvidia/nsight-compute/*/; do tools=${folder%/}:$tools; done
PATH=$(dirname "$python"):$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer:$tools
cores=$(env -u OMP_NUM_THREADS nproc)
export PATH PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 MAX_JOBS=${MAX_JOBS:-$cores}
COMMIT=${COMMIT:-$(git describe --always --dirty 2>/dev/null || echo unknown)}
export COMMIT

# One architecture, whatever the machine presets: that of the device.
choose_architecture() {
  TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || return
  export TORCH_CUDA_ARCH_LIST
}

need_build() {
  [ -d "$site/roialign_ext" ] || { echo "there is no build in $site: run the phase build first"; return 1; }
}

build() {
  rm -rf "$site"
  choose_architecture &&
    FORCE_CUDA=1 "$python" -m pip install --quiet --no-build-isolation --no-deps --target "$site" . &&
    cd tests && "$python" -m roialign_ext
}

measure() {
  nvidia-smi -q -d CLOCK,PERFORMANCE
  "$python" -m benchmarks.gpu.measure "$1" --output "$out/$1.json"
  local status=$?
  nvidia-smi -q -d CLOCK,PERFORMANCE
  return $status
}

limits() { measure limits; }
torchvision() { measure torchvision; }
ours() { need_build && measure ours; }

# Says in words how a command under `timeout` ended; the second argument is the status of findings, if there is one.
words() {
  case $1 in
  0) echo passed ;;
  124 | 137) echo "ran out of time" ;;
  "${2:-}") echo "found errors" ;;
  *) echo "failed ($1)" ;;
  esac
}

# Waits for runs of pytest named and numbered in the arguments (NAME PID NAME PID ...), prints the end of each one's
# output, and writes how they ended. `findings` is the status by which they report findings.
collect() {
  local status=0 result json="" said name
  while [ $# -gt 0 ]; do
    name=$1
    wait "$2"
    result=$?
    shift 2
    said=$(words $result "$findings")
    if [ $result -eq 0 ] && ! grep -Eq '[0-9]+ passed' "$work/$name.log"; then said="ran nothing"; fi
    [ "$said" = passed ] || status=1
    echo "== $name: $said (status $result)"
    grep -v ' PASSED ' "$work/$name.log" | tail -n 150
    json+="${json:+, }\"$name\": \"$said\""
  done
  echo "{$json}" >"$out/$phase.json"
  cat "$out/$phase.json"
  return $status
}

# After an error that costs the device every later test of the process fails, so the kernels have one of their own, and
# few failures are enough. INT lets pytest print what it has; a hung kernel needs KILL, which -k sends: the last line
# then names the test.
tests() {
  need_build && cd tests || return
  local pytest=(timeout --foreground -s INT -k 15 200 "$python" -m pytest -v --tb=short --maxfail=20 -p no:cacheprovider
    test_cuda_device.py)
  export OMP_NUM_THREADS=$(((cores + 1) / 2))
  "${pytest[@]}" -k test_kernels_agree >"$work/kernels.log" 2>&1 &
  local kernels=$!
  "${pytest[@]}" -k "not test_kernels_agree" >"$work/device.log" 2>&1 &
  findings="" collect kernels $kernels device $!
}

# The tools look at this package's kernels alone, but for initcheck, which has to see who wrote what they read. The
# cases: every dtype, and channels that lie together. Each timeout has its own group of processes, for a tool and what
# it started, and ends before the phase does.
sanitizers() {
  need_build && cd tests || return
  command -v compute-sanitizer || { echo "no compute-sanitizer on the PATH"; return 1; }
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1 OMP_NUM_THREADS=$(((cores + 3) / 4))
  local tool filter started=()
  for tool in memcheck racecheck synccheck initcheck; do
    filter=(--kernel-name kns=roialign_ext)
    [ $tool != initcheck ] || filter=()
    timeout -s INT -k 15 340 compute-sanitizer --tool $tool "${filter[@]}" --print-limit 20 --error-exitcode 42 \
      "$python" -m pytest -v --tb=short --maxfail=5 -p no:cacheprovider test_cuda_device.py \
      -k "test_kernels_agree and (dtype or channels_last)" >"$work/$tool.log" 2>&1 &
    started+=("$tool" $!)
  done
  findings=42 collect "${started[@]}"
}

profile() {
  need_build || return
  command -v ncu || { echo "no ncu on the PATH"; return 1; }
  local metrics=gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum,smsp__inst_executed.sum
  metrics+=,lts__t_sectors_op_read.sum,lts__t_sectors_op_write.sum,lts__t_sectors_op_red.sum,lts__t_sectors_op_atom.sum
  local sections=() section
  for section in LaunchStats Occupancy SpeedOfLight SchedulerStats WarpStateStats MemoryWorkloadAnalysis; do
    sections+=(--section $section)
  done
  # torchvision's kernels are in the namespace vision, named roi_align_... .
  timeout -s INT -k 15 100 ncu --clock-control none --kernel-name-base demangled \
    --kernel-name "regex:roialign_ext|roi_align" "${sections[@]}" --metrics "$metrics" --page raw --csv \
    --log-file "$out/profile.csv" "$python" -m benchmarks.gpu.once &&
    grep -c roialign_ext "$out/profile.csv"
}

variants() {
  need_build && choose_architecture && "$python" -m benchmarks.gpu.variants --work "$work" --output "$out/variants.json"
}

table() {
  "$python" -m benchmarks.gpu.table "$out" --publish benchmarks/results --readme README.md
}

for phase in "$@"; do
  case " $phases " in
  *" $phase "*) ;;
  *)
    echo "unknown phase $phase: one of $phases"
    exit 2
    ;;
  esac
done
export -f choose_architecture need_build build measure limits torchvision ours words collect tests sanitizers profile
export -f variants table
export python out site work cores
failures=0
for phase in "$@"; do
  export phase
  rm -f "$out/$phase".{json,csv,log}
  started=$SECONDS
  echo "#### $phase"
  if timeout -s INT -k 15 480 bash -uo pipefail -c "$phase" 2>&1 | tee "$out/$phase.log"; then
    echo "#### $phase: done in $((SECONDS - started)) s"
  else
    echo "#### $phase: FAILED after $((SECONDS - started)) s, see $out/$phase.log"
    failures=$((failures + 1))
  fi
done
exit $((failures > 0))
