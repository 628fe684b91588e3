"""Cold start: from the start of a process to its first image, stage by stage, each run in a process of its own.

    python -m stylert.benchmarks.scenarios.cold_start out/demo/bundle --precision int8 --backend onnxruntime

The total is timed from outside, from the moment before the process is made to the moment when it says that the image is
there; the stages are timed inside, and what is missing between their sum and the total is the interpreter's own start. Files
come from the page cache from the second run on, so the first run is shown apart.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.benchmarks.distribution import describe
from stylert.benchmarks.machine.interference import Disturbance, as_values, remarks, watch
from stylert.benchmarks.models import model_facts, work_of
from stylert.benchmarks.scenarios.measure import Configuration
from stylert.benchmarks.schema import Results, Row, write_results
from stylert.core.errors import BackendError, StylertError
from stylert.runtime.bundle import Bundle

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
from stylert.benchmarks.machine.facts import peak_memory_mib
print(peak_memory_mib(), generator.engine is not None, flush=True)
import os
os._exit(0)  # how libraries take themselves down is not measured here
"""


@dataclass(frozen=True)
class ColdStart:
    """One process. Times are milliseconds; `total_ms` is from outside, up to the second image."""

    import_ms: float
    load_ms: float
    first_image_ms: float
    next_image_ms: float
    total_ms: float
    peak_memory_mib: float
    engine: bool  # from a built engine, or straight from the ONNX file

    @property
    def to_first_image_ms(self) -> float:
        """From before the process is made to its first image."""
        return self.total_ms - self.next_image_ms


def cold_start(path: Path, backend: str, precision: str, threads: int | None = None) -> ColdStart:
    """Start one process and time it. Raises BackendError with the process's last line when it fails."""
    command = [sys.executable, "-c", CHILD, str(path), backend, precision, str(threads or 0)]
    start = time.perf_counter()
    # Its errors go into a file: `communicate` would lose the second line where both come at once.
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        total = time.perf_counter() - start
        rest = process.stdout.read()
        process.wait()
        said.seek(0)
        errors = said.read()
    if process.returncode != 0 or not rest:
        word = errors.strip().splitlines()[-1] if errors.strip() else f"exit status {process.returncode}, and no word"
        raise BackendError(f"the process that starts {backend} {precision} failed: {word}")
    memory, engine = rest.split()
    imported, loaded, first, following = map(float, line.split())
    return ColdStart(imported, loaded, first, following, round(1000 * total, 3), float(memory), engine == "True")


def row(configuration: Configuration, work: dict[str, Any], starts: Sequence[ColdStart], disturbance: Disturbance) -> Row:
    """Median time to the first image; the first start, whose files may not have been in memory yet, counts with the others."""
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
        remarks(None, disturbance),
        peak_memory_mib=max(s.peak_memory_mib for s in starts),
        disturbance=as_values(disturbance),
        phases_ms={name.removesuffix("_ms"): statistics.median(getattr(s, name) for s in starts) for name in stages},
        details={"first_start_ms": starts[0].to_first_image_ms},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="From the start of a process to its first image.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs is at least 1")
    try:
        with watch() as watched:
            runs = [
                cold_start(options.bundle, options.backend, options.precision, options.threads) for _ in range(options.runs)
            ]
    except StylertError as e:
        sys.exit(f"cold start: {e}")
    print("ms: to first image = interpreter + import + load + first image; then the next image; peak MiB")
    for name, some in (("first run", runs[:1]), (f"median of {len(runs) - 1} more", runs[1:])):
        if some:
            print(f"{name}: {_line(some)}")
    if options.json is not None:
        assert watched.disturbance is not None
        bundle = Bundle.load(options.bundle)
        name = options.bundle.name
        configuration = Configuration(name, options.bundle, options.backend, options.precision, 1, options.threads)
        work = work_of(name, bundle) | {"precision": options.precision, "batch": 1}
        found = row(configuration, work, runs, watched.disturbance)
        write_results(Results(f"cold start of {name}", [found], {name: model_facts(bundle)}), options.json)


def _line(runs: Sequence[ColdStart]) -> str:
    def middle(name: str) -> float:
        return statistics.median(getattr(run, name) for run in runs)

    inside = [middle(n) for n in ("import_ms", "load_ms", "first_image_ms")]
    total = middle("to_first_image_ms")
    stages = " + ".join(f"{ms:.0f}" for ms in (total - sum(inside), *inside))
    source = "from a built engine" if runs[0].engine else "from the ONNX file"
    return f"{total:.0f} = {stages}; {middle('next_image_ms'):.1f}; {middle('peak_memory_mib'):.0f}, {source}"


if __name__ == "__main__":
    main()
