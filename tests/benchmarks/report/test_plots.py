"""Plots obey no file that lies in the working folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stylert.core.child_processes import python_command

DRAW = """
from stylert.benchmarks.report.plots import import_pyplot
pyplot = import_pyplot()
pyplot.figure().savefig("plot.png")
print(pyplot.rcParams["font.size"])
"""


@pytest.mark.parametrize("content", [b"text.usetex: True\nfont.size: 3\n", b"font.size: \xff\n"])
def test_settings_of_matplotlib_in_the_working_folder_are_passed_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "matplotlibrc").write_bytes(content)
    (tmp_path / "latex").write_text("#!/bin/sh\ntouch started\nexit 1\n")
    (tmp_path / "latex").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(python_command("-c", DRAW), cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "10.0\n"), done.stderr
    assert (tmp_path / "plot.png").is_file()
    assert not (tmp_path / "started").exists()
