#!/usr/bin/env python3
"""Train the same data in several ways, each for the same processor time, and measure the generators.

    python examples/make_cats.py --count 40000 --resolution 32 --out cats32.zip
    python examples/compare_training.py --data cats32.zip --cpu-seconds 500 --out compared \\
        --run logistic="" --run relativistic="--loss relativistic" --run projected="--projected 64"

Each run has the preset `cpu` and the options of its name. It gets SIGTERM when its process has used the time, start-up
included, and then saves its networks. The metrics are written to `compared/results.json` and printed. A run whose
folder holds a generator is measured and not trained again. Needs the extras `train`, `metrics`, `st-lpips` and `bench`.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import json
import math
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from stylert.core.child_processes import check_status, python_command
from stylert.core.errors import InputError, shown
from stylert.core.files.outputs import check_output, write_json
from stylert.core.programs.runner import run_program
from stylert.models.checkpoint import SNAPSHOT_FILE, load_generator, trained_kimg
from stylert.train.data.dataset import ImageDataset
from stylert.train.loop import TrainingError
from stylert.train.metrics.evaluation_inputs import EvaluationInputs
from stylert.train.metrics.evaluator import Evaluator
from stylert.train.metrics.metric import Metric
from stylert.train.snapshots.run_folder import GENERATOR_FILE

#: Longer than any budget: the time ends a run.
ENDLESS = ("--kimg", "1e6", "--snap", "1e6")
POLL_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="zip or folder of images")
    parser.add_argument("--cpu-seconds", type=float, required=True, help="processor time of each run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--run", action="append", required=True, metavar="NAME=OPTIONS", help="options of `stylert train`")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--metrics", default="fd_vgg2k,fd2k,modes2k", help="as `stylert metrics` takes them")
    args = parser.parse_args()
    if not 0 < args.cpu_seconds < math.inf:
        parser.error("--cpu-seconds is a number of more than 0")
    runs = dict(map(named_options, args.run))
    check_output(args.out / "results.json", "JSON", (args.data,))
    metrics = [Metric.parse(name, 2000) for name in args.metrics.split(",")]
    ImageDataset(args.data, limit=1)  # refuses what no training could read, before the first one starts
    evaluator = Evaluator(metrics, EvaluationInputs(args.data))
    rows = []
    for name, options in runs.items():
        folder = args.out / name
        if not (folder / GENERATOR_FILE).exists():
            command = ["train", "--data", args.data, "--out", folder, "--preset", args.preset, *ENDLESS]
            run_for([*command, *options], args.cpu_seconds)
        kimg = trained_kimg(folder / SNAPSHOT_FILE)
        row = {"run": name, "options": shlex.join(options), "kimg": kimg}
        row |= evaluator.evaluate(load_generator(folder / GENERATOR_FILE))
        print(json.dumps(row), flush=True)
        rows.append(row)
    document = {"cpu seconds": args.cpu_seconds, "preset": args.preset, "data": args.data.name, "runs": rows}
    write_json(args.out / "results.json", document)


def named_options(text: str) -> tuple[str, list[str]]:
    """The name of a run, which is that of its folder, and its options."""
    name, _, options = text.partition("=")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"--run takes NAME=OPTIONS with a name of letters, digits, dots and hyphens, not {shown(text)}")
    try:
        return name, shlex.split(options)
    except ValueError as e:
        raise InputError(f"--run {name}: {e}") from None


def run_for(command: list[Any], cpu_seconds: float) -> None:
    """Run `stylert` until it has used this processor time. SIGTERM then lets it save and end."""
    child = subprocess.Popen(python_command("-m", "stylert.cli.main", *map(str, command)))
    try:
        process = psutil.Process(child.pid)
        while child.poll() is None and used_seconds(process) < cpu_seconds:
            time.sleep(POLL_SECONDS)
    finally:
        child.terminate()
        child.wait()
    if child.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM):  # the first before Python has handlers
        raise TrainingError(f"training had nothing to save after {cpu_seconds:g} s of the processor: give more --cpu-seconds")
    check_status("training", child.returncode)


def used_seconds(process: psutil.Process) -> float:
    """Processor time of a process, in user and kernel mode. Infinite for one that has ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return float("inf")
    return float(times.user + times.system)


if __name__ == "__main__":
    run_program("compare_training", main)
