"""The check of torch.compile gives the reason in one line if it does not work."""

import subprocess
import sys

import pytest
import torch

from stylert.train.compile_check import unavailable_reason


def test_the_reason_is_one_line(monkeypatch):
    for error, reason in (
        (RuntimeError("no compiler: try another.\n\nmuch more\n"), "no compiler: try another"),
        (ValueError(), "ValueError"),
        (RuntimeError("x" * 1000), "x" * 200),
    ):

        def fail(function, error=error):
            raise error

        monkeypatch.setattr(torch, "compile", fail)
        assert unavailable_reason() == reason


def test_there_is_no_reason_where_compilation_works(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert unavailable_reason() is None


@pytest.mark.long
def test_a_missing_compiler_is_named(tmp_path):
    code = "from stylert.train.compile_check import unavailable_reason; print(unavailable_reason())"
    missing = str(tmp_path / "g++")
    variables = {"CXX": missing, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PATH": str(tmp_path)}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, timeout=1000)
    assert missing in process.stdout.strip(), process.stderr
