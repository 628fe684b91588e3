"""Every folder is packaged, imports stay light, and files are named for their content."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("core", "plugins", "models", "train", "runtime", "export", "benchmarks", "cli")


def test_every_folder_with_an_init_is_packaged() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {p.parent.relative_to(ROOT).as_posix() for room in ROOMS for p in (ROOT / room).rglob("__init__.py")}
    assert {d.replace("stylert.", "").replace(".", "/") for d in tool["packages"]} == folders
    assert tool["package-dir"] == {f"stylert.{folder.replace('/', '.')}": folder for folder in folders}


@pytest.mark.parametrize(
    "module",
    [
        "stylert.runtime",
        "stylert.cli.main",
        "stylert.cli.bench.commands",
        "stylert.cli.pipeline.commands",
        "stylert.cli.doctor",
        "stylert.cli.latents.commands",
        "stylert.cli.training.commands",
        "stylert.export.pipeline",
        "stylert.models.checkpoint",
        "stylert.benchmarks.suite",
    ],
)
def test_importing_a_module_imports_no_heavy_library(module: str) -> None:
    heavy = ("torch", "openvino", "tensorrt", "tensorrt_rtx", "triton", "matplotlib", "scipy", "av")
    code = f"import sys, {module}; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == []


def test_no_module_has_a_name_without_meaning() -> None:
    names = {p.name for room in ROOMS for p in (ROOT / room).rglob("*.py")}
    assert not names & {"utils.py", "common.py", "helpers.py", "misc.py"}
