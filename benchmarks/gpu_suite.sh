#!/bin/bash
# Runs every check and benchmark that needs an NVIDIA GPU, in less than nine minutes: benchmarks/gpu_suite.sh [OUT] [--dry-run]
#
# The machine needs CUDA, Python, PyTorch, Triton, NumPy, Pillow and safetensors. Nothing is downloaded. Each stage has a time limit
# and writes its log and its JSON file to OUT. A stage whose JSON file exists is skipped, so an interrupted suite is continued by
# calling it again. OUT/results.json holds the results of all stages, for stylert bench compare and stylert bench report.
# --dry-run runs every stage on the CPU with tiny networks, in Triton's interpreter; its figures mean nothing.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=gpu-results DRY_RUN=
for argument in "$@"; do
  case $argument in
    --dry-run) DRY_RUN=1 ;;
    -*) echo "error: unknown option $argument" >&2; exit 2 ;;
    *) OUT=$argument ;;
  esac
done
mkdir -p "$OUT" || exit 2

# Where stylert is not installed, links to its folders make the package.
if ! (cd / && "$PYTHON" -c 'import stylert.benchmarks, stylert.plugins') 2>/dev/null; then
  package=$(mktemp -d); trap 'rm -rf "$package"' EXIT; mkdir "$package/stylert"
  for room in core plugins models train runtime export benchmarks cli; do ln -s "$PWD/$room" "$package/stylert/$room"; done
  export PYTHONPATH=$package${PYTHONPATH:+:$PYTHONPATH}
fi
if [ -z "$DRY_RUN" ] && ! "$PYTHON" -c 'import sys, torch, triton; sys.exit(not torch.cuda.is_available())'; then
  echo "error: no CUDA GPU, or no PyTorch with Triton: use --dry-run" >&2; exit 2
fi
# The stage "tiles" writes its table here, and the kernels of later stages read it.
export STYLERT_TILES=$OUT/tiles

failed=
# stage NAME SECONDS COMMAND...
# NAME.json marks a stage as done. The command may write NAME.part.json while it runs, which becomes NAME.json at the end.
stage() {
  local name=$1 limit=$2; shift 2
  if [ -e "$OUT/$name.json" ]; then echo "== $name: done before"; return; fi
  echo "== $name (at most $limit s)"
  local begin=$SECONDS
  timeout -k 5 "$limit" "$@" >"$OUT/$name.log" 2>&1
  local status=$?
  if [ -e "$OUT/$name.part.json" ]; then
    mv "$OUT/$name.part.json" "$OUT/$name.json"
  elif [ $status = 0 ]; then
    echo "{}" >"$OUT/$name.json"
  fi
  tail -n "${LINES_SHOWN:-15}" "$OUT/$name.log"
  if [ $status = 0 ]; then
    echo "== $name: $((SECONDS - begin)) s"
  elif [ $status = 124 ] && [ -e "$OUT/$name.json" ]; then
    echo "== $name: stopped at its time limit; $name.json has the results until then"
  else
    echo "== $name: FAILED with status $status, see $OUT/$name.log"; failed="$failed $name"
  fi
}
# benchmark NAME SECONDS MODULE OPTIONS...
benchmark() {
  local name=$1 limit=$2 module=$3; shift 3
  stage "$name" "$limit" "$PYTHON" -m "stylert.benchmarks.$module" "$@" --json "$OUT/$name.part.json"
}
autotune=("$PYTHON" -m stylert.benchmarks.kernels.autotune --out "$OUT/tiles")

if [ -n "$DRY_RUN" ]; then
  benchmark parity 300 kernels.parity --dry-run --cases 1
  stage tiles 300 "${autotune[@]}" --dry-run --seconds 1 --each 0.001 --batches 1 --dtypes float16
  benchmark kernels 300 kernels.layers --dry-run --seconds 0.001 --resolutions 8 --batches 1 --dtypes float16,int8,fp8
  benchmark generator 300 kernels.whole_network --dry-run --seconds 0.001 --batches 1 --precisions fp16,int8
  benchmark training 300 training --preset cpu --resolution 16 --batch 2 --channel-base 128 --steps 1 --rounds 1
else
  nvidia-smi >"$OUT/nvidia-smi.txt" 2>&1
  benchmark parity 120 kernels.parity --cases 3
  if command -v compute-sanitizer >/dev/null; then
    stage sanitizer 70 compute-sanitizer --error-exitcode 3 "$PYTHON" -m stylert.benchmarks.kernels.parity \
      --cases 1 --seed 0 --json "$OUT/sanitizer.part.json"
  else
    echo "== sanitizer: skipped, compute-sanitizer is not installed; accesses out of bounds are not checked"
  fi
  stage tiles 85 "${autotune[@]}" --seconds 65 --each 0.01 --batches 1,8 --dtypes float16,int8
  benchmark kernels 85 kernels.layers --resolutions 1024,256,64 --batches 1 --dtypes float16,int8,fp8 --seconds 0.05 --budget 70
  benchmark generator 130 kernels.whole_network --seconds 0.15 --budget 105 --resolutions 1024,256,512
  benchmark training 40 training --preset auto --resolution 256 --batch 16 --device cuda --half fp16 --steps 3 --rounds 1
fi
"$PYTHON" benchmarks/tools/gpu_results.py "$OUT" || failed="$failed results"
if [ -n "$failed" ]; then echo "failed:$failed" >&2; exit 1; fi
echo "all stages done: $OUT"
