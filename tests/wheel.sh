#!/bin/sh
# usage: tests/wheel.sh PYTHON WHEEL: the wheel alone, in an empty environment, from a folder that is not the checkout.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
wheel=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$1" -m venv "$work/env"
"$work/env/bin/python" -m pip --disable-pip-version-check install --quiet --constraint "$here/constraints.txt" "$wheel"
cd "$work"
cp "$here/examples/cats64.safetensors" .
env/bin/stylert export cats64.safetensors --out bundle
env/bin/stylert generate bundle --seeds 0-3 --psi 0.7 --precision int8 --out images
env/bin/stylert verify bundle
test "$(ls images | wc -l)" -eq 4
env/bin/python - <<'PY'
import importlib.metadata, sys

import stylert.runtime

assert "torch" not in sys.modules, "importing stylert.runtime must not import torch"
files = [f for f in importlib.metadata.files("stylert") if ".." not in f.parts]
tops = {f.parts[0] for f in files}
assert all(t == "stylert" or t.startswith("stylert-") for t in tops), tops
rooms = {f.parts[1] for f in files if f.suffix == ".py"}
assert rooms == {f.parts[1] for f in files if f.name == "py.typed"}, "every room tells type checkers that it is typed"
assert not any("tools" in f.parts for f in files), "tools of the repository are not part of the package"
PY
echo "the wheel works alone"
