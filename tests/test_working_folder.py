"""No command runs code from the working folder, although Python puts it on the path of modules of processes that it starts."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylert.core.child_processes import python_command, safe_path
from stylert.runtime.bundle import Bundle
from tests.core.files.test_one_rule import sources

#: The command as an installed script starts it: the first entry of the path is the folder of the script.
SCRIPT = "from stylert.cli.main import main\nif __name__ == '__main__':\n    main()\n"
#: A module that says by a file that it ran.
TRAP = "open(__file__ + '.ran', 'w').close()\nraise ImportError('a module of the working folder was imported')\n"
LIBRARIES = (
    "MNN",
    "_tools",
    "lmdb",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "PIL",
    "psutil",
    "pyarrow",
    "stylert",
    "torch",
    "typer",
)

SMALL = "--backend onnxruntime --precision fp32 --batch 1 --rounds 1 --runs 1 --seconds 0.01 --seeds 0 --no-ceilings --out o"
COMMANDS = {
    "bench": f"bench b {SMALL} --scenario single-stream,cold-start,build",
    "bench server": f"bench b {SMALL} --scenario server --server-requests 2 --no-layers",
    "build": "build b --backend onnxruntime --precision fp32",
    "build mnn": "build b --backend mnn --precision fp32",
    "dataset": "dataset pictures.parquet --out o.zip --resolution 8",
    "doctor": "doctor",
    "generate": "generate b --seeds 0 --out o",
    "train": "train --data pictures --out o --preset cpu-small --channel-base 64 --batch 4 --kimg 0.004",
    "tune": "tune b --against m.safetensors --minutes 0.01 --backend onnxruntime --precision fp32",
}
NEEDS = {"build mnn": "MNN", "dataset": "pyarrow", "train": "torch", "bench": "psutil"}
LONG = ("bench server",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] if n in LONG else []) for n in COMMANDS])
def test_a_command_imports_no_module_of_the_working_folder(name: str, bundle: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    library = NEEDS.get(name.partition(" ")[0] if name != "build mnn" else name)
    if library is not None and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    script, folder = tmp_path / "bin" / "command.py", tmp_path / "folder"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    folder.mkdir()
    for module in {*sys.stdlib_module_names, *LIBRARIES}:
        (folder / f"{module}.py").write_text(TRAP)
    (folder / "b").symlink_to(_copy(bundle, tmp_path / "bundle"))
    (folder / "m.safetensors").symlink_to(checkpoint)
    _write_pictures(folder)
    command = [sys.executable, str(script), *COMMANDS[name].split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1500, env=_environment())
    assert [file.name for file in folder.glob("*.ran")] == []
    assert done.returncode == 0, done.stderr


def test_the_traps_close_where_python_looks_into_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(TRAP)
    subprocess.run([sys.executable, "-c", "import json"], cwd=tmp_path, capture_output=True, env=_environment())
    assert (tmp_path / "json.py.ran").exists()


def test_an_interpreter_of_ours_leaves_the_working_folder_out(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(TRAP)
    for command in (python_command("-c", "import json"), [sys.executable, "-c", "import json"]):
        with safe_path():
            subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run(python_command("-c", "import json"), cwd=tmp_path, check=True, env=_environment())


@pytest.mark.parametrize("before", [None, "1"])
def test_the_environment_is_as_before_after_the_block(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    if before is not None:
        monkeypatch.setenv("PYTHONSAFEPATH", before)
    with safe_path():
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert os.environ.get("PYTHONSAFEPATH") == before


def test_one_file_alone_starts_interpreters() -> None:
    """Others take the command line from it. Examples are programs by themselves, which write `-P`."""
    starts = ("sys.executable", "multiprocessing.Process", "multiprocessing.Pool", "ProcessPoolExecutor", "os.fork")
    faults = [
        f"{file}:{node.lineno}"
        for file, tree in sources()
        if file != "core/child_processes.py" and not file.startswith("examples/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name | ast.alias) and ast.unparse(node) in starts
    ]
    assert not faults
    unsafe = [
        f"{file}:{node.lineno}"
        for file, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.List | ast.Tuple)
        and any(ast.unparse(part) == "sys.executable" for part in node.elts)
        and "'-P'" not in ast.unparse(node)
    ]
    assert not unsafe
    contexts = {file for file, tree in sources() for node in ast.walk(tree) if "get_context" in getattr(node, "attr", "")}
    assert contexts == {"benchmarks/processes.py"}  # which starts its process within `safe_path`


def _environment() -> dict[str, str]:
    """The environment of a shell. Neither the tests nor their caller protect the processes."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "PYTHONPATH")}


def _copy(bundle: Bundle, to: Path) -> Path:
    shutil.copytree(bundle.path, to)
    return to


def _write_pictures(folder: Path) -> None:
    """A folder of pictures, and the same ones in a Parquet file where pyarrow is installed."""
    (folder / "pictures").mkdir()
    pictures = []
    for value in range(4):
        content = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), 40 * value, np.uint8)).save(content, "png")
        (folder / "pictures" / f"{value}.png").write_bytes(content.getvalue())
        pictures.append({"bytes": content.getvalue(), "path": f"{value}.png"})
    with contextlib.suppress(ImportError):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"image": pictures}), folder / "pictures.parquet")
