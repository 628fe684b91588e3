"""Runs every check and benchmark that needs an NVIDIA GPU, within 15 minutes: `benchmarks/gpu_suite.sh`.

    benchmarks/gpu_suite.sh [OUT] [--seconds 840] [--dry-run]

Stages run in the order of their worth. Each has a time limit, and none begins that could not do anything useful in the time that
is left. A stage that ends at its limit is not done: its figures count, and the next call begins it again, after those that have
not run. So an interrupted suite is continued by calling it again. After every stage these files in OUT are complete:

- `results.json`: the rows of all stages, for `stylert bench compare` and `stylert bench report`.
- `suite.json`: the state of every stage.
- `log.txt`: what the stages printed.
- `tiles/`: the measured tiles. Stages after `tiles` use them.
- `stages/`: the JSON file and the log of each stage.

`--dry-run` runs every stage on the CPU with tiny networks, in Triton's interpreter. Its figures mean nothing.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.benchmarks.schema import to_json
from stylert.benchmarks.tools.gpu_results import merged
from stylert.core.child_processes import python_command
from stylert.core.errors import InputError, StylertError, printable
from stylert.core.files.atomic import atomic_file
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import MAX_BYTES, read_document
from stylert.core.programs.runner import run_program

#: Seconds that a stage may take to end after its limit, and that saving may take.
RESERVE = 8.0

DONE, TIMED_OUT, FAILED, SKIPPED = "done", "timed out", "failed", "skipped"


@dataclass(frozen=True)
class Stage:
    """One command of the suite.

    Attributes:
        name: Its name, and that of its files.
        limit: The most seconds that it may take.
        least: Seconds without which it is not begun.
        command: The arguments of Python. `{json}` stands for the file that the command writes while it runs.
        program: A program that the command runs under, or None. Without it the stage is skipped.
    """

    name: str
    limit: float
    least: float
    command: tuple[str, ...]
    program: tuple[str, ...] = ()


#: Runs a command for at most some seconds. Returns its exit status, or None if it was stopped.
Run = Callable[[Stage, Sequence[str], float], int | None]


class Suite:
    """The stages, their state and their files.

    Args:
        stages: The stages, in the order in which they are to run.
        out: The folder of all files.
        run: Runs a command.
        clock: Seconds since any moment.
    """

    def __init__(self, stages: Sequence[Stage], out: Path, run: Run, clock: Callable[[], float] = time.monotonic) -> None:
        self._stages, self._out, self._run, self._clock = stages, out, run, clock
        (out / "stages").mkdir(parents=True, exist_ok=True)
        self.state: dict[str, dict[str, Any]] = _read_state(out / "suite.json")

    def run_all(self, seconds: float) -> bool:
        """Run the stages that are not done. Returns whether none failed and none is left."""
        deadline = self._clock() + seconds
        for stage in self._stages:
            self._adopt(stage)  # what a suite that was killed had measured
        # Those that have not run come before those that were stopped.
        for stage in sorted(self._stages, key=lambda stage: stage.name in self.state):
            status = self.state.get(stage.name, {}).get("status")
            left = deadline - self._clock() - RESERVE
            if status in (DONE, SKIPPED):
                print(f"== {stage.name}: {status} before", flush=True)
            elif left < stage.least:
                print(f"== {stage.name}: not begun, {max(left, 0):.0f} s are left and it needs {stage.least:.0f}", flush=True)
            else:
                self._run_stage(stage, min(stage.limit, left))
        return all(self.state.get(stage.name, {}).get("status") in (DONE, SKIPPED) for stage in self._stages)

    def _run_stage(self, stage: Stage, limit: float) -> None:
        if stage.program and shutil.which(stage.program[0]) is None:
            print(f"== {stage.name}: skipped, {stage.program[0]} is not installed", flush=True)
            self._save(stage, SKIPPED, 0.0)
            return
        print(f"== {stage.name} (at most {limit:.0f} s)", flush=True)
        begin = self._clock()
        command = [part.format(json=self._part(stage)) for part in stage.command]
        exit_status = self._run(stage, [*stage.program, *python_command(*command)], limit)
        status = TIMED_OUT if exit_status is None else FAILED if exit_status else DONE
        took = self._clock() - begin
        print(f"== {stage.name}: {status}, {took:.0f} s", flush=True)
        self._adopt(stage, replace=status == DONE)
        self._save(stage, status, took)

    def _adopt(self, stage: Stage, replace: bool = False) -> None:
        """Keep what a stage wrote while it ran. Without `replace`, only if it is more than what is there."""
        part, kept = self._part(stage), self._out / "stages" / f"{stage.name}.json"
        if part.is_file():
            if replace or _length(part) > _length(kept):
                os.replace(part, kept)
            else:
                part.unlink()

    def _save(self, stage: Stage, status: str, seconds: float) -> None:
        self.state[stage.name] = {"status": status, "seconds": round(seconds, 1)}
        with atomic_file(self._out / "suite.json") as temporary:
            temporary.write_text(json.dumps(self.state, indent=1) + "\n", encoding="utf-8")
        save_results(self._out)
        logs = [self._out / "stages" / f"{s.name}.log" for s in self._stages]
        with atomic_file(self._out / "log.txt") as temporary:
            temporary.write_text("".join(f"== {log.stem}\n{_text(log)}\n" for log in logs if log.is_file()), encoding="utf-8")

    def _part(self, stage: Stage) -> Path:
        return self._out / "stages" / f"{stage.name}.part.json"


def save_results(out: Path) -> None:
    """Write `results.json` from the stages that have rows, if any has."""
    try:
        document = merged(out / "stages")
    except InputError:
        return
    with atomic_file(out / "results.json") as temporary:
        temporary.write_text(to_json(document), encoding="utf-8")


def gpu_stages(out: Path) -> list[Stage]:
    """The stages on a GPU."""
    network = ("--resolutions", "1024", "--seconds", "0.3")
    return [
        _stage("compile", 75, 30, "kernels.warm_up", "--batches", "1,8,32", "--precisions", "fp16,int8,fp8"),
        _stage(
            "generator", 150, 40, "kernels.whole_network", *network, "--precisions", "fp16", "--batches", "1,8,32",
            "--json", "{json}",
        ),
        _stage("parity", 70, 20, "kernels.parity", "--cases", "2", "--seed", "1", "--budget", "60", "--json", "{json}"),
        _stage("trace", 40, 20, "kernels.trace", "--batches", "1,8", "--json", "{json}"),
        _stage(
            "kernels", 70, 25, "kernels.layers", "--resolutions", "1024,256,64", "--batches", "1", "--dtypes", "float16,int8,fp8",
            "--seconds", "0.05", "--budget", "60", "--json", "{json}",
        ),
        Stage("backends", 70, 30, ("benchmarks/tools/backend_smoke.py", "--json", "{json}")),
        _stage(
            "tiles", 90, 40, "kernels.autotune", "--out", str(out / "tiles"), "--seconds", "70", "--each", "0.01",
            "--batches", "1,8", "--dtypes", "float16,int8",
        ),
        _stage(
            "tuned", 50, 25, "kernels.whole_network", *network, "--precisions", "fp16", "--batches", "1,8,32", "--peers", "",
            "--json", "{json}",
        ),
        _stage(
            "eight_bit", 60, 30, "kernels.whole_network", *network, "--precisions", "int8,fp8", "--batches", "1,8", "--peers", "",
            "--json", "{json}",
        ),
        _stage(
            "training", 50, 25, "training", "--preset", "auto", "--resolution", "256", "--batch", "16", "--device", "cuda",
            "--half", "fp16", "--steps", "3", "--rounds", "1", "--json", "{json}",
        ),
        Stage(
            "sanitizer", 80, 40,
            ("-m", "stylert.benchmarks.kernels.parity", "--cases", "1", "--seed", "0", "--budget", "60", "--json", "{json}"),
            ("compute-sanitizer", "--error-exitcode", "3"),
        ),
    ]  # fmt: skip


def dry_stages(out: Path) -> list[Stage]:
    """The same stages on a CPU, tiny."""
    network = ("--dry-run", "--seconds", "0.001", "--batches", "1")
    return [
        _stage("compile", 300, 1, "kernels.warm_up", "--dry-run", "--batches", "1", "--precisions", "fp16", "--jobs", "2"),
        _stage("generator", 300, 1, "kernels.whole_network", *network, "--precisions", "fp16", "--json", "{json}"),
        _stage("parity", 300, 1, "kernels.parity", "--dry-run", "--cases", "1", "--seed", "1", "--json", "{json}"),
        _stage("trace", 300, 1, "kernels.trace", "--dry-run", "--batches", "1", "--json", "{json}"),
        _stage(
            "kernels", 300, 1, "kernels.layers", "--dry-run", "--seconds", "0.001", "--resolutions", "8", "--batches", "1",
            "--dtypes", "float16,int8,fp8", "--json", "{json}",
        ),
        Stage("backends", 300, 1, ("benchmarks/tools/backend_smoke.py", "--dry-run", "--json", "{json}")),
        _stage(
            "tiles", 300, 1, "kernels.autotune", "--dry-run", "--out", str(out / "tiles"), "--seconds", "1", "--each", "0.001",
            "--batches", "1", "--dtypes", "float16",
        ),
        _stage("tuned", 300, 1, "kernels.whole_network", *network, "--precisions", "fp16", "--peers", "", "--json", "{json}"),
        _stage("eight_bit", 300, 1, "kernels.whole_network", *network, "--precisions", "int8", "--peers", "", "--json", "{json}"),
        _stage(
            "training", 300, 1, "training", "--preset", "cpu", "--resolution", "16", "--batch", "2", "--channel-base", "128",
            "--steps", "1", "--rounds", "1", "--json", "{json}",
        ),
        Stage(
            "sanitizer", 300, 1,
            ("-m", "stylert.benchmarks.kernels.parity", "--dry-run", "--cases", "1", "--seed", "0", "--json", "{json}"),
            ("compute-sanitizer", "--error-exitcode", "3"),
        ),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exit status 1 if a stage failed or is left, 2 on a wrong argument or without a GPU."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu_suite.sh", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=Path("gpu-results"), help="default: gpu-results")
    parser.add_argument("--seconds", type=float, default=840, help="for all stages; default: 840")
    parser.add_argument("--dry-run", action="store_true", help="tiny and on the CPU; the figures mean nothing")
    options = parser.parse_args(arguments)
    if not options.dry_run and not _has_gpu():
        print("error: no CUDA GPU: use --dry-run", file=sys.stderr)
        return 2
    out = Path(os.path.realpath(options.out))
    try:
        suite = Suite(dry_stages(out) if options.dry_run else gpu_stages(out), out, _runner(out))
        complete = suite.run_all(options.seconds)
    except (StylertError, OSError) as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    for stage, state in suite.state.items():
        print(f"{stage:12} {state['status']:10} {state['seconds']:6.1f} s")
    end = "every stage is done" if complete else "some stages are left or failed: call again"
    print(printable(f"{out / 'results.json'}: {end}"))
    return 0 if complete else 1


def _stage(name: str, limit: float, least: float, module: str, *arguments: str) -> Stage:
    return Stage(name, limit, least, ("-m", f"stylert.benchmarks.{module}", *arguments))


def _runner(out: Path) -> Run:
    """Runs commands with their output in `stages/NAME.log`."""
    environment = os.environ | {"STYLERT_TILES": str(out / "tiles"), "PYTHONUNBUFFERED": "1"}

    def run(stage: Stage, command: Sequence[str], limit: float) -> int | None:
        path = out / "stages" / f"{stage.name}.log"
        with path.open("w") as log:
            # A process group of its own, so that the processes that a command starts end with it.
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, process_group=0)
            try:
                status: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for line in _text(path).splitlines()[-25:]:
            print(printable(line), flush=True)
        return status

    return run


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _read_state(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    return read_document(read_file(path, InputError, MAX_BYTES), dict[str, dict[str, Any]], str(path), InputError)


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


if __name__ == "__main__":
    run_program("gpu_suite", main)
