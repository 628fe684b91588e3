"""Two real processes, as torchrun starts them: signals, metrics that take longer than the time-out, and a lost process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from stylert.models.checkpoint import read_metadata

pytestmark = pytest.mark.slow

#: Runs `stylert train` with metrics that take `SECONDS`, and a time-out of collective calls.
SCRIPT = """
import functools, os, sys, time
from datetime import timedelta
import torch
from stylert.cli import main as cli
from stylert.cli.training import train as command
from stylert.train import loop

def evaluate(generator):
    print("evaluates", flush=True)
    time.sleep(float(os.environ["SECONDS"]))
    return {"FD": 1.0}

def fail(*arguments):
    raise loop.StylertError("the disk is full")

torch.set_num_threads(1)
command._evaluate = lambda options: evaluate
if os.environ["SECONDS"] == "fail":
    loop.save = fail
connect = torch.distributed.init_process_group
torch.distributed.init_process_group = functools.partial(connect, timeout=timedelta(seconds=float(os.environ["TIMEOUT"])))
cli.main()
"""


class TwoProcesses:
    """Two processes of one run, with their output."""

    def __init__(self, words, folder, seconds, timeout=300):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        script = folder / "run.py"
        script.write_text(SCRIPT)
        self.outputs = [folder / f"rank{rank}.log" for rank in range(2)]
        self.processes = []
        for rank, output in enumerate(self.outputs):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            limits = {"SECONDS": seconds, "TIMEOUT": timeout, "OMP_NUM_THREADS": 1}
            environment = os.environ | {name: str(value) for name, value in (place | limits).items()}
            with open(output, "w") as file:
                command = [sys.executable, "-u", script, *map(str, words)]
                self.processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file))

    def wait_for(self, text):
        """Wait until rank 0 has printed a text."""
        deadline = time.monotonic() + 300
        while text not in self.outputs[0].read_text():
            assert time.monotonic() < deadline, self.outputs[0].read_text()
            assert self.processes[0].poll() is None, self.outputs[0].read_text()
            time.sleep(0.05)

    def signal(self, number):
        for process in self.processes:
            process.send_signal(number)

    def finish(self):
        """The exit codes and outputs of both."""
        codes = [process.wait(300) for process in self.processes]
        texts = [output.read_text() for output in self.outputs]
        assert not any("Traceback" in text for text in texts), texts
        return codes, texts


@pytest.fixture
def words(rng, write_dataset, tmp_path):
    """A command that trains on 8 px."""
    data = write_dataset({f"{i}.png": rng.integers(0, 256, (8, 8, 3), np.uint8) for i in range(9)})
    small = ("--preset", "cpu", "--channel-base", 64, "--channel-max", 8, "--batch", 8, "--metrics", "fd9")
    return ("train", "--data", data, "--out", tmp_path / "run", *small)


@pytest.mark.parametrize("phase", ["steps", "metrics"])
def test_a_signal_saves_one_snapshot_and_ends_both_processes(words, tmp_path, phase):
    out = tmp_path / "run"
    snap = 1000 if phase == "steps" else 0.016
    run = TwoProcesses((*words, "--kimg", 1000, "--snap", snap), tmp_path, seconds=1000)
    run.wait_for("s/kimg" if phase == "steps" else "evaluates")
    run.signal(signal.SIGTERM)
    codes, texts = run.finish()
    assert codes == [0, 0], texts
    assert "--resume continues" in texts[0]
    assert "--resume" not in texts[1]
    nimg = read_metadata(out / "snapshot.safetensors")["facts"]["nimg"]
    assert nimg == 16 if phase == "metrics" else nimg > 0
    assert len(list(out.glob("fakes-0*.png"))) == 1
    assert not (out / "metrics.jsonl").exists()
    last = json.loads((out / "stats.jsonl").read_text().splitlines()[-1])
    assert last["kimg"] * 1000 == nimg


@pytest.mark.long
def test_metrics_may_take_longer_than_the_time_out_of_the_collective_calls(words, tmp_path):
    run = TwoProcesses((*words, "--kimg", 0.016), tmp_path, seconds=20, timeout=15)
    codes, texts = run.finish()
    assert codes == [0, 0], texts
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_process_that_is_left_alone_says_so_in_one_line(words, tmp_path):
    run = TwoProcesses((*words, "--kimg", 1, "--snap", 0.016), tmp_path, seconds="fail")
    codes, texts = run.finish()
    assert codes == [2, 2], texts
    assert "the disk is full" in texts[0]
    assert [line for line in texts[1].splitlines() if line.startswith("stylert: another process of this run ended")]
