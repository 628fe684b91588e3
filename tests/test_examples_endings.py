"""The examples end as the commands do: by a signal with its exit code, and after a refusal of a child process in its one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from stylert.runtime.bundle import Bundle
from tests.test_examples import EXAMPLES


def started(example: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(EXAMPLES / example), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_walk_that_a_signal_ends_has_its_exit_code_after_the_frame_times_and_the_screenshot(
    number: signal.Signals, bundle: Bundle, tmp_path: Path
) -> None:
    screenshot = tmp_path / "a.png"
    with started("morph.py", bundle.path, "--backend", "onnxruntime", "--screenshot", screenshot) as process:
        try:
            assert process.stdout is not None
            shown = b""
            while shown.count(b"\x1b[H") < 3 and (part := os.read(process.stdout.fileno(), 2**16)):
                shown += part
            process.send_signal(number)
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
    lines = err.decode().splitlines()
    assert (process.returncode, len(lines), lines[-1]) == (128 + number, 3, "stopped"), lines
    assert " frames at " in lines[1]
    assert out.endswith(b"\x1b[?25h\n")  # the cursor is back
    with Image.open(screenshot, formats=["PNG"]) as picture:
        assert picture.width == picture.height


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(16):
        Image.new("RGB", (16, 16), (16 * i, 0, 0)).save(folder / f"{i}.png")
    return folder


def refusal(example: str, *arguments: object) -> str:
    """The only line of an example that ends with exit code 2."""
    with started(example, *arguments) as process:
        err = process.communicate(timeout=600)[1].decode()
    assert process.returncode == 2
    (line,) = err.splitlines()
    return line


def test_a_server_that_refuses_its_options_says_so_in_its_own_line(bundle: Bundle) -> None:
    options = ("--precision", "fp32", "--seconds", 0.1, "--max-batch", 10**6)
    line = refusal("serve_load.py", bundle.path, *options)
    assert line.startswith("stylert: ")
    assert "max-batch" in line


def test_a_training_that_refuses_its_options_says_so_in_its_own_line(images: Path, tmp_path: Path) -> None:
    options = ("--cpu-seconds", 60, "--metrics", "fd12", "--out", tmp_path / "out", "--run", "a=--gamma x")
    line = refusal("compare_training.py", "--data", images, *options)
    assert line.startswith("stylert: ")
    assert "gamma" in line


def test_a_time_in_which_no_training_begins_is_named(images: Path, tmp_path: Path) -> None:
    options = ("--cpu-seconds", 0.01, "--metrics", "fd12", "--out", tmp_path / "out", "--run", "a")
    with started("compare_training.py", "--data", images, *options) as process:
        err = process.communicate(timeout=600)[1].decode()
    assert process.returncode == 2
    assert err.splitlines()[-1].endswith("after 0.01 s of the processor: give more --cpu-seconds")
    assert "Traceback" not in err


def test_a_child_that_a_signal_ended_is_named() -> None:
    code = "from stylert.core.child_processes import check_status\ncheck_status('the server', {status})\nprint('right')"
    for status, expected in ((0, (0, "right\n", "")), (3, (3, "", ""))):
        done = subprocess.run([sys.executable, "-c", code.format(status=status)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == expected
    from stylert.core.child_processes import check_status
    from stylert.core.errors import BackendError

    with pytest.raises(BackendError, match="the server was ended by a signal: Killed"):
        check_status("the server", -signal.SIGKILL)
