"""ONNX Runtime prints nothing of its own beside the errors that it raises, and no escape codes into files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stylert.core.errors import BackendError
from stylert.runtime.backends.onnxruntime import OrtSession, open_session, session_options

#: A system that does not tell its processor, of which ONNX Runtime warns.
WITHOUT_PROC = (
    "mount -t tmpfs none /proc && exec {python} -c 'from stylert.runtime.backends.onnxruntime import library; library()'"
)


def test_an_error_of_a_run_is_an_exception_and_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m"]) for name in ("a", "b")]
    output = helper.make_tensor_value_info("c", TensorProto.FLOAT, ["n", "m"])
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "g", inputs, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "x.onnx")
    session = OrtSession(open_session(tmp_path / "x.onnx", session_options(1)))
    with pytest.raises(BackendError, match="cannot run this network"):
        session.run({"a": np.ones((1, 2), np.float32), "b": np.ones((3, 1), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_a_closed_standard_error_is_left_closed() -> None:
    code = "from stylert.runtime.backends.onnxruntime import library; library(); print('works')"
    done = subprocess.run(["sh", "-c", f'exec {sys.executable} -c "{code}" 2>&-'], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "works\n")


def test_the_warnings_of_the_import_are_plain_in_a_file() -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this process may not mount file systems")
    command = ["unshare", "-m", "sh", "-c", WITHOUT_PROC.format(python=sys.executable)]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0
    assert b"Unknown CPU vendor" in done.stderr
    assert b"\x1b" not in done.stderr
