"""Importing the runtime loads NumPy and the standard library only."""

from __future__ import annotations

import subprocess
import sys


def loaded_by(code: str) -> set[str]:
    code = f"import sys; before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout.split())


def test_the_runtime_imports_numpy_msgspec_and_the_standard_library_alone() -> None:
    packages = {name.split(".")[0] for name in loaded_by("import stylert.runtime")}
    foreign = {p for p in packages if p not in sys.stdlib_module_names and not p.startswith("_")}
    assert foreign <= {"numpy", "msgspec", "typing_extensions", "stylert"}
    assert "asyncio" not in packages  # it takes as long to import as the rest of the standard library here


def test_listing_backends_and_devices_imports_no_library() -> None:
    code = (
        "from stylert.runtime.backends import BACKENDS, backend\n[(backend(n).facts, backend(n).available()) for n in BACKENDS]"
    )
    modules = loaded_by(code + "\nfrom stylert.core.machine.devices import find_gpus; find_gpus()")
    assert not modules & {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda", "onnx", "torch", "PIL", "rich"}
