#!/bin/bash
# Everything that needs an NVIDIA GPU, in one command and under nine minutes: benchmarks/gpu_suite.sh [OUT] [--dry-run]
#
# Runs on a CUDA host with Python, PyTorch, Triton, NumPy, Pillow and safetensors; downloads nothing. Each stage has its own time, leaves its
# JSON and its log in OUT, and is skipped where its JSON is there already: after an interruption, call it again. OUT/results.json has all
# measurements in the one schema of stylert's benchmarks.
# --dry-run goes through every stage on the CPU with tiny networks, in Triton's interpreter; its figures mean nothing.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=gpu-results DRY=
for argument in "$@"; do
  case $argument in
    --dry-run) DRY=1 ;;
    -*) echo "error: unknown option $argument" >&2; exit 2 ;;
    *) OUT=$argument ;;
  esac
done
mkdir -p "$OUT" || exit 2

# Where stylert is not installed, its folders under one name are the package.
if ! (cd / && "$PYTHON" -c 'import stylert.benchmarks, stylert.plugins') 2>/dev/null; then
  package=$(mktemp -d); trap 'rm -rf "$package"' EXIT; mkdir "$package/stylert"
  for room in core plugins models train runtime export benchmarks cli; do ln -s "$PWD/$room" "$package/stylert/$room"; done
  export PYTHONPATH=$package${PYTHONPATH:+:$PYTHONPATH}
fi
if [ -z "$DRY" ] && ! "$PYTHON" -c 'import sys, torch, triton; sys.exit(not torch.cuda.is_available())'; then
  echo "error: no CUDA GPU, or no PyTorch with Triton: use --dry-run" >&2; exit 2
fi
# What is tuned here is read by the stages behind it.
export STYLERT_TILES=$OUT/tiles

failed=
stage() {  # stage NAME SECONDS COMMAND...: NAME.json is what says that it is done
  local name=$1 limit=$2; shift 2
  if [ -e "$OUT/$name.json" ]; then echo "== $name: done before"; return; fi
  echo "== $name (at most $limit s)"
  local begin=$SECONDS
  timeout -k 5 "$limit" "$@" >"$OUT/$name.log" 2>&1
  local status=$?
  [ -e "$OUT/$name.part.json" ] && mv "$OUT/$name.part.json" "$OUT/$name.json"
  tail -n "${LINES_SHOWN:-15}" "$OUT/$name.log"
  if [ $status = 0 ]; then
    echo "== $name: $((SECONDS - begin)) s"
  elif [ $status = 124 ] && [ -e "$OUT/$name.json" ]; then
    echo "== $name: stopped at its time limit; $name.json has what was done until then"
  else
    echo "== $name: FAILED with status $status, see $OUT/$name.log"; failed="$failed $name"
  fi
}
run() { "$PYTHON" -m "stylert.benchmarks.$@"; }
export -f run; export PYTHON

if [ -n "$DRY" ]; then
  few=(--dry-run --seconds 0.001)
  stage parity 300 bash -c 'run kernels.parity --dry-run --cases 1 --json "$0"' "$OUT/parity.part.json"
  stage tiles 300 bash -c 'run kernels.autotune --dry-run --seconds 1 --each 0.001 --batches 1 --dtypes float16 --out "$0" && echo "{}" >"$1"' "$OUT/tiles" "$OUT/tiles.part.json"
  stage kernels 300 bash -c 'run kernels.layers "${@:1}" --resolutions 8 --batches 1 --dtypes float16,int8,fp8 --json "$0"' "$OUT/kernels.part.json" "${few[@]}"
  stage generator 300 bash -c 'run kernels.generator "${@:1}" --batches 1 --precisions fp16,int8 --json "$0"' "$OUT/generator.part.json" "${few[@]}"
  stage training 300 bash -c 'run training --preset cpu --resolution 16 --batch 2 --channel-base 128 --steps 1 --rounds 1 --json "$0"' "$OUT/training.part.json"
else
  nvidia-smi >"$OUT/nvidia-smi.txt" 2>&1
  stage parity 120 bash -c 'run kernels.parity --cases 3 --json "$0"' "$OUT/parity.part.json"
  if command -v compute-sanitizer >/dev/null; then
    stage sanitizer 70 bash -c 'compute-sanitizer --error-exitcode 3 "$PYTHON" -m stylert.benchmarks.kernels.parity --cases 1 --seed 0 --json "$0"' "$OUT/sanitizer.part.json"
  else
    echo "== sanitizer: no compute-sanitizer on this machine, so nothing is known about accesses out of bounds"
  fi
  stage tiles 85 bash -c 'run kernels.autotune --seconds 65 --each 0.01 --batches 1,8 --dtypes float16,int8 --out "$0" && echo "{}" >"$1"' "$OUT/tiles" "$OUT/tiles.part.json"
  stage kernels 85 bash -c 'run kernels.layers --resolutions 1024,256,64 --batches 1 --dtypes float16,int8,fp8 --seconds 0.05 --budget 70 --json "$0"' "$OUT/kernels.part.json"
  stage generator 130 bash -c 'run kernels.generator --seconds 0.15 --budget 105 --resolutions 1024,256,512 --json "$0"' "$OUT/generator.part.json"
  stage training 40 bash -c 'run training --preset auto --resolution 256 --batch 16 --device cuda --half fp16 --steps 3 --rounds 1 --json "$0"' "$OUT/training.part.json"
fi
"$PYTHON" benchmarks/tools/gpu_results.py "$OUT" || failed="$failed results"
if [ -n "$failed" ]; then echo "failed:$failed" >&2; exit 1; fi
echo "all stages done: $OUT"
