#!/usr/bin/env bash
# The libraries of a wheel take from torch what its stable ABI has since 2.11, and nothing else.
# usage: audit.sh TORCH_ABI_AUDIT WHEEL
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m zipfile -e "$2" "$folder"
report=$("$1" "$folder/roialign_ext" --check torch)
echo "$report"
grep -q "Torch ABI: *STABLE" <<<"$report"
grep -q "Min torch: *2.11.0" <<<"$report"
