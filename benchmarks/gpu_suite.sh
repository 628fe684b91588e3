#!/bin/bash
# Runs every check and benchmark that needs an NVIDIA GPU, within 15 minutes: benchmarks/gpu_suite.sh [OUT] [--seconds 840] [--dry-run]
#
# benchmarks/tools/gpu_suite.py says what it writes to OUT. An interrupted suite is continued by calling it again. The machine needs
# CUDA, Python, PyTorch, Triton and the packages that stylert depends on. Nothing is downloaded.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

missing=$("$PYTHON" -c 'import importlib.util, sys; print(*(n for n in sys.argv[1:] if importlib.util.find_spec(n) is None))' \
  torch triton numpy onnx onnxruntime msgspec ml_dtypes platformdirs PIL rich safetensors typer) || exit 2
if [ -n "$missing" ]; then echo "error: these Python packages are missing: $missing" >&2; exit 2; fi

# Where stylert is not installed, links to its folders make the package.
if ! (cd / && "$PYTHON" -c 'import stylert.benchmarks, stylert.plugins') 2>/dev/null; then
  package=$(mktemp -d); trap 'rm -rf "$package"' EXIT; mkdir "$package/stylert"
  for room in core plugins models train runtime export benchmarks cli; do ln -s "$PWD/$room" "$package/stylert/$room"; done
  export PYTHONPATH=$package${PYTHONPATH:+:$PYTHONPATH}
fi
"$PYTHON" benchmarks/tools/gpu_suite.py "$@"
