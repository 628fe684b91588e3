"""The cold-start scenario: time from the start of a process to its first image, stage by stage.

    python -m stylert.benchmarks.scenarios.cold_start out/demo/bundle --precision int8 --backend onnxruntime

The parent process measures the total time. The child process measures its stages. The rest of the total is the start of the
Python interpreter. The first run is shown separately, because later runs read their files from the page cache.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.benchmarks.machine.interference import Interference, as_json_values, instability_remarks, watch
from stylert.benchmarks.models import model_facts, model_work
from stylert.benchmarks.sample_statistics import describe
from stylert.benchmarks.scenarios.measure import Configuration
from stylert.benchmarks.schema import Results, Row, write_results
from stylert.core.child_processes import python_command
from stylert.core.errors import BackendError
from stylert.core.programs.runner import run_program
from stylert.runtime.bundle import Bundle

#: Program of the child process. Its first line of output holds the milliseconds of the stages, in the order of `ColdStart`.
#: The second line holds the peak memory and whether an engine was used.
CHILD = """
import sys, time
start = time.perf_counter()
from stylert.runtime import Generator
imported = time.perf_counter()
path, backend, precision, threads = sys.argv[1:]
generator = Generator.load(path, backend, precision, int(threads) or None)
loaded = time.perf_counter()
first = generator([0])
made = time.perf_counter()
generator([0])
again = time.perf_counter()
stages = [imported - start, loaded - imported, made - loaded, again - made]
print(*[f"{1000 * s:.3f}" for s in stages], flush=True)
from stylert.core.machine.host import peak_memory_mib
print(peak_memory_mib(), generator.engine is not None, flush=True)
import os
os._exit(0)  # skip the shutdown of the libraries, which is not measured
"""


@dataclass(frozen=True)
class ColdStart:
    """Measurements of one process.

    Attributes:
        import_ms: Milliseconds for `from stylert.runtime import Generator`.
        load_ms: Milliseconds for `Generator.load`.
        first_image_ms: Milliseconds of the first call.
        next_image_ms: Milliseconds of the second call.
        total_ms: Milliseconds from before the process starts until after the second call, as the parent sees it.
        peak_memory_mib: Peak memory of the process, in MiB.
        engine: Whether the generator was loaded from a built engine, and not from the ONNX file.
    """

    import_ms: float
    load_ms: float
    first_image_ms: float
    next_image_ms: float
    total_ms: float
    peak_memory_mib: float
    engine: bool

    @property
    def to_first_image_ms(self) -> float:
        """Milliseconds from before the process starts until its first image."""
        return self.total_ms - self.next_image_ms


def cold_start(path: Path, backend: str, precision: str, threads: int | None = None) -> ColdStart:
    """Start one process and time it.

    Args:
        path: Folder of the bundle.
        backend: Name of the backend.
        precision: Name of the precision.
        threads: Threads of the backend, or None for its default.

    Raises:
        BackendError: The process failed. The message ends with its last line of output.
    """
    command = python_command("-c", CHILD, path, backend, precision, threads or 0)
    start = time.perf_counter()
    # Errors go to a file: `communicate` would lose the second line if both lines were read at once.
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as error_file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=error_file, encoding="utf-8", errors="replace") as process,
    ):
        assert process.stdout is not None
        stages = process.stdout.readline()
        total = time.perf_counter() - start
        facts = process.stdout.read()
        process.wait()
        error_file.seek(0)
        errors = error_file.read().strip()
    if process.returncode != 0 or not facts:
        reason = errors.splitlines()[-1] if errors else f"exit status {process.returncode} without a message"
        raise BackendError(f"the process that starts {backend} {precision} failed: {reason}")
    memory, engine = facts.split()
    import_ms, load_ms, first_ms, next_ms = map(float, stages.split())
    return ColdStart(import_ms, load_ms, first_ms, next_ms, round(1000 * total, 3), float(memory), engine == "True")


def row(configuration: Configuration, work: dict[str, Any], starts: Sequence[ColdStart], interference: Interference) -> Row:
    """The row of a cold start. Its value is the median time to the first image over all starts, the first one included."""
    rounds = [[s.to_first_image_ms] for s in starts]
    stages = ("import_ms", "load_ms", "first_image_ms", "next_image_ms")
    return Row(
        "cold-start",
        work,
        {"backend": configuration.backend, "form": "stylert", "threads": configuration.threads, "engine": starts[0].engine},
        "time to first image",
        "ms",
        "lower",
        statistics.median(s.to_first_image_ms for s in starts),
        rounds,
        describe(rounds),
        instability_remarks(None, interference),
        peak_memory_mib=max(s.peak_memory_mib for s in starts),
        disturbance=as_json_values(interference),
        phases_ms={name.removesuffix("_ms"): statistics.median(getattr(s, name) for s in starts) for name in stages},
        details={"first_start_ms": starts[0].to_first_image_ms},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of this scenario."""
    parser = argparse.ArgumentParser(description="Measure the time from the start of a process to its first image.")
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--threads", type=int, help="threads of the backend; default: chosen by the backend")
    parser.add_argument("--runs", type=int, default=10, help="processes to start; default: 10")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs is at least 1")
    with watch() as watched:
        starts = [cold_start(options.bundle, options.backend, options.precision, options.threads) for _ in range(options.runs)]
    print("ms: to first image = interpreter + import + load + first image; then the next image; peak MiB")
    print(f"first run: {_summary(starts[:1])}")
    if len(starts) > 1:
        print(f"median of {len(starts) - 1} more: {_summary(starts[1:])}")
    if options.json is not None:
        assert watched.interference is not None
        bundle, name = Bundle.load(options.bundle), options.bundle.name
        configuration = Configuration(name, options.bundle, options.backend, options.precision, 1, options.threads)
        work = model_work(name, bundle) | {"precision": options.precision, "batch": 1}
        rows = [row(configuration, work, starts, watched.interference)]
        write_results(Results(f"cold start of {name}", rows, {name: model_facts(bundle)}), options.json)


def _summary(starts: Sequence[ColdStart]) -> str:
    """The medians over some starts, in the order of the headline that `main` prints."""

    def median(name: str) -> float:
        return statistics.median(getattr(start, name) for start in starts)

    stages_ms = [median(name) for name in ("import_ms", "load_ms", "first_image_ms")]
    total_ms = median("to_first_image_ms")
    parts = " + ".join(f"{ms:.0f}" for ms in (total_ms - sum(stages_ms), *stages_ms))
    source = "from a built engine" if starts[0].engine else "from the ONNX file"
    return f"{total_ms:.0f} = {parts}; {median('next_image_ms'):.1f}; {median('peak_memory_mib'):.0f}, {source}"


if __name__ == "__main__":
    run_program("cold start", main)
