"""How the libraries of the backends are imported: in one place each, with one core of OpenVINO, and without telemetry."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stylert.runtime import Bundle
from stylert.runtime.backends import backend

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("benchmarks", "cli", "core", "export", "models", "plugins", "runtime", "train")


def lines_with(pattern: str) -> list[str]:
    found = []
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            found += [str(file.relative_to(ROOT)) for line in file.read_text().splitlines() if re.search(pattern, line)]
    return found


def test_each_library_is_imported_by_its_backend_alone() -> None:
    assert set(lines_with(r"^\s*(import|from) onnxruntime\b")) == {"runtime/backends/onnxruntime.py"}
    assert set(lines_with(r"^\s*(import|from) openvino\b")) == {"runtime/backends/openvino.py"}
    assert set(lines_with(r"^\s*(import|from) MNN\b")) == {"runtime/backends/mnn.py"}


def test_the_process_has_one_core_of_openvino() -> None:
    assert lines_with(r"\bCore\(\)") == ["runtime/backends/openvino.py"]


USE = """
import sys
from stylert.runtime import Generator
with Generator.load(sys.argv[1], sys.argv[2], threads=1) as g:
    g([0, 1, 2, 3])
print(" ".join(m for m in sys.modules if m.startswith("openvino_telemetry")))
"""


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "mnn"])
def test_the_libraries_write_nothing_into_the_home_folder(bundle: Bundle, tmp_path: Path, name: str) -> None:
    """ONNX Runtime would write an identity and a database of events, and OpenVINO an identity and a count of imports."""
    if not backend(name).available():
        pytest.skip(f"{name} is not installed")
    own = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "CI", "TF_BUILD", "JENKINS_URL"}
    environment = {key: value for key, value in os.environ.items() if key not in own} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", USE, str(bundle.path), name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
    assert list(tmp_path.rglob("*")) == []
