"""The example that measures the server leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stylert.runtime.bundle import Bundle

SERVE_LOAD = Path(__file__).parents[3] / "examples" / "serve_load.py"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("when", ["starting", "measuring"])
def test_a_signal_ends_the_servers_with_it(bundle: Bundle, when: str) -> None:
    command = [sys.executable, str(SERVE_LOAD), str(bundle.path), "--precision", "fp32", "--threads", "1", "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        deadline = time.monotonic() + 60
        while not (started := children(load.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if when == "measuring":
            time.sleep(5)
        load.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        load.send_signal(signal.SIGINT)  # changes nothing: the first is on its way
        assert load.wait(60) == 128 + signal.SIGTERM
        assert load.stderr is not None
        assert load.stderr.read() == "stopped\n"
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
