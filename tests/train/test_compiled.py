"""Without a compiler, torch.compile is not used, and one line says so."""

import subprocess
import sys

import pytest
import torch

from stylert.train.compiled import unavailable_reason


def test_what_fails_is_told_in_one_line(monkeypatch):
    for raised, told in (
        (RuntimeError("no compiler: try another.\n\nmuch more\n"), "no compiler: try another"),
        (ValueError(), "ValueError"),
        (RuntimeError("x" * 1000), "x" * 200),
    ):

        def fail(function, raised=raised):
            raise raised

        monkeypatch.setattr(torch, "compile", fail)
        assert unavailable_reason() == told


def test_what_works_is_no_obstacle(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert unavailable_reason() is None


@pytest.mark.slow
def test_a_missing_compiler_is_named(tmp_path):
    code = "from stylert.train.compiled import unavailable_reason; print(unavailable_reason())"
    nowhere = str(tmp_path / "g++")
    variables = {"CXX": nowhere, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, timeout=1000)
    assert nowhere in done.stdout.strip(), done.stderr
