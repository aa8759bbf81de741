#!/usr/bin/env bash
# Runs on the GPU machine, from the tree, with what bench/gpu_kit.py made and what was carried there.
#
#   bash bench/gpu_kit_run.sh ours [SECONDS] [more for gpu_check.py]     560 s by itself
#   bash bench/gpu_kit_run.sh gather [NUMBER]                            keep the base, or a part of vLLM
#   bash bench/gpu_kit_run.sh vllm [SECONDS] [more for gpu_vllm.py]      250 s by itself
#
# Whatever was carried in is copied to GPU_KIT_LOCAL first, so that parts that do not fit into one
# call come together as long as the machine is kept. Results: a table and an archive in OUT, in
# pieces where it passes 16 MiB. Exit 2, with a line, if something is missing.
#
# GPU_KIT: what was carried. GPU_KIT_LOCAL: a folder on the machine. OUT: for results. PYTHON.
set -euo pipefail

tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kit=${GPU_KIT:-$tree/build/gpu-kit}
place=${GPU_KIT_LOCAL:-/tmp/gpu-kit}
out=${OUT:-$PWD/gpu-out}
python=${PYTHON:-python3}
largest=$((16 * 1024 * 1024 - 1)) # of a file in OUT
asked=(--plans "$place/base/plans" --pool trace1-filled --policy dfs paced search
  --scheduler plan vllm --budget 8192 -o "$place/gpu-vllm") # of gpu_vllm.py
# Compiles what the runs call of blendsim, which takes a minute and no GPU. One process at a time: the
# next one finds it done.
preparing=(env "PYTHONPATH=$tree:$tree/runtime" flock "$place/prepare.lock" "$python"
  "$tree/bench/gpu_vllm.py" "${asked[@]}" --prepare)

fail() {
  echo "error: $*" >&2
  exit 2
}

usage() {
  fail "expected ours [SECONDS], gather [NUMBER] or vllm [SECONDS], not: $*"
}

# Copy what was carried in, each folder as a whole.
gather() {
  mkdir -p "$place"
  local from name
  for from in "$kit"/base "$kit"/part-*; do
    [ -d "$from" ] || continue
    name=$(basename "$from")
    rm -rf "$place/.coming"
    cp -r "$from" "$place/.coming"
    rm -rf "${place:?}/$name"
    mv "$place/.coming" "$place/$name"
  done
}

require_base() {
  [ -d "$place/base/packages/flashinfer" ] && [ -d "$place/base/plans" ] ||
    fail "the base is not in $kit, nor was it before; make it with bench/gpu_kit.py and carry it in"
}

# All of vLLM's parts, in their order, as `parts`.
require_vllm() {
  local found=("$place"/part-*/vllm.tar.xz.*-of-*) number count lacking=()
  [ -f "${found[0]}" ] || fail "no part of vLLM is in $kit or $place; carry them in and gather them"
  count=${found[0]##*-of-}
  parts=()
  for number in $(seq 1 "$count"); do
    parts+=("$place/part-$number/vllm.tar.xz.$number-of-$count")
    [ -f "${parts[-1]}" ] || lacking+=("$number")
  done
  [ ${#lacking[@]} -eq 0 ] ||
    fail "of vLLM's $count parts, ${lacking[*]} are not in $place; carry them in and gather them"
  [ "$(cat "${parts[@]}" | sha256sum | cut -c -64)" = "$(cat "$place/part-1/vllm.tar.xz.sha256")" ] ||
    fail "vLLM's parts in $place are not of one kit; carry all of them in again"
}

unpack_vllm() {
  rm -rf "$place/.vllm"
  cat "${parts[@]}" | "$python" -c '
import sys, tarfile
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|xz") as packed:
    packed.extractall(sys.argv[1], filter="data")' "$place/.vllm"
  mv "$place/.vllm" "$place/vllm"
}

# Cut a file of OUT in pieces if it is too large for one.
fit() {
  if [ "$(stat -c %s "$1")" -gt "$largest" ]; then
    split -b "$largest" -d "$1" "$1."
    rm "$1"
  fi
}

ours() {
  local total=$((10#${1:-560}))
  require_base
  mkdir -p "$out"
  rm -f "$out"/gpu-check.md "$out"/gpu-check.tar.gz*
  local status=0
  PYTHONPATH="$tree:$tree/runtime:$place/base/packages" FLASHINFER_DISABLE_JIT=1 \
    "$python" "$tree/bench/gpu_check.py" --plans "$place/base/plans" --policy dfs paced search \
    --overlap-only --minutes 1.5 --within $((total - SECONDS)) \
    -o "$place/gpu-check" --pack "$out/gpu-check.tar.gz" "${@:2}" || status=$?
  [ -f "$out/gpu-check.tar.gz" ] || exit $((status ? status : 1)) # it says why
  cp "$place/gpu-check/summary.md" "$out/gpu-check.md"
  fit "$out/gpu-check.tar.gz"
  exit "$status"
}

vllm() {
  local total=$((10#${1:-250})) status=0
  asked+=("${@:2}")
  require_base
  [ -d "$place/vllm" ] || require_vllm
  mkdir -p "$out"
  rm -f "$out"/gpu-vllm.md "$out"/gpu-vllm.tar.gz*
  # vLLM must not find FlashInfer: it would compile it.
  export PYTHONPATH="$tree:$tree/runtime:$place/vllm" HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
  if [ ! -d "$place/vllm" ]; then
    # Goes on while vLLM starts, which takes longer; by its first run it is done.
    "${preparing[@]}" >"$place/prepare.log" 2>&1 &
    unpack_vllm
  fi
  "$python" "$tree/bench/gpu_vllm.py" "${asked[@]}" --within $((total - SECONDS)) || status=$?
  [ -f "$place/gpu-vllm/summary.md" ] || exit "$status" # it says why
  cp "$place/gpu-vllm/summary.md" "$out/gpu-vllm.md"
  tar -czf "$out/gpu-vllm.tar.gz" -C "$place" gpu-vllm
  fit "$out/gpu-vllm.tar.gz"
  exit "$status"
}

verb=${1:-nothing}
seconds=${2:-}
case $verb in
  ours | vllm | gather) [[ $seconds =~ ^[0-9]*$ ]] || usage "$@" ;;
  *) usage "$@" ;;
esac
gather
case $verb in
  gather)
    [ -z "$seconds" ] || [ -d "$place/part-$seconds" ] ||
      fail "part $seconds of vLLM is neither in $kit nor in $place"
    require_base
    # In a session of its own, so that it goes on while the next part is on its way.
    setsid "${preparing[@]}" >"$place/prepare.log" 2>&1 </dev/null &
    echo "in $place: $(cd "$place" && shopt -s nullglob && echo base part-*)"
    ;;
  *) "$@" ;;
esac
