"""Checks every GPU kernel against a float64 reference on random shapes: `python -m stylert.benchmarks.kernels.parity`.

Shapes are random, with odd sizes and absent operands among them. Outputs are full of NaN before each launch, so an element that
is not written shows. Errors are relative to the largest value of the reference. The PyTorch ops are checked too: gradients,
`opcheck`, and a capture in a CUDA graph.

`--json` is complete after each check. With `--budget` no check begins after that many seconds. The exit status is 1 where
anything is wrong. `--dry-run` checks tiny shapes in Triton's interpreter.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stylert.benchmarks.kernels.device import select_device
from stylert.benchmarks.kernels.parity import convolutions, operators
from stylert.benchmarks.kernels.parity.check import Check, PlannedCheck
from stylert.core.errors import InputError, StylertError, printable
from stylert.core.files.atomic import atomic_file, check_writable
from stylert.core.programs.runner import run_program


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 where a kernel is wrong, 2 on a wrong argument or where there is no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m stylert.benchmarks.kernels.parity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--cases", type=int, default=6, help="random cases of each kernel and dtype")
    parser.add_argument("--seed", type=int, help="default: a fresh seed, which is printed")
    parser.add_argument("--json", type=Path, help="write every error to this file too")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds after which no further check begins")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, on the CPU")
    options = parser.parse_args(arguments)
    try:
        if options.cases < 1 or (options.seed or 0) < 0 or not options.budget > 0:
            raise InputError("give at least one case, a seed that is not negative, and a budget above 0")
        check_writable(options.json)
        device = select_device(options)
    except StylertError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    import torch

    torch.backends.cudnn.allow_tf32 = False  # the PyTorch ops compute float32 by it
    seed = options.seed if options.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
    deadline = time.monotonic() + options.budget
    planned = [*operators.planned_checks(device), *convolutions.planned_checks(device)] * options.cases
    planned += convolutions.planned_long_sums(device)
    checks: list[Check] = []
    for index, check in enumerate(planned):
        if time.monotonic() > deadline:
            print(f"the time is up: {len(planned) - index} of {len(planned)} checks are left")
            break
        # Each check has random numbers of its own, so that it is the same one after a fault before it.
        checks += _results(check, np.random.default_rng([seed, index]))
        if options.json is not None:
            _write_json(options.json, checks, seed, device)
    _print_summary(checks, seed)
    return 0 if all(check.ok for check in checks) else 1


def _results(planned: PlannedCheck, rng: np.random.Generator) -> list[Check]:
    """The results of a check. One that does not run is wrong, and those after it still run."""
    try:
        results = planned.run(rng)
        return [results] if isinstance(results, Check) else list(results)
    except MemoryError:
        raise
    except Exception as error:  # a compiler and a driver raise classes of their own
        text = " ".join(str(error).split())[:300]
        return [Check(planned.kernel, planned.dtype, f"did not run: {text}", math.nan, 0.0)]


def _print_summary(checks: Sequence[Check], seed: int) -> None:
    largest: dict[tuple[str, str], float] = {}
    for check in checks:
        key = check.kernel, check.dtype
        largest[key] = max(largest.get(key, 0.0), check.error if np.isfinite(check.error) else np.inf)
    for (kernel, dtype), error in largest.items():
        print(f"{kernel:28} {dtype:9} worst error {error:.2e}")
    wrong = [check for check in checks if not check.ok]
    for check in wrong:
        print(f"WRONG {check.kernel} {check.dtype} {check.case}: {check.error:.3g} > {check.tolerance:.3g}", file=sys.stderr)
    print(f"seed {seed}: {len(checks) - len(wrong)} of {len(checks)} right")


def _write_json(path: Path, checks: Sequence[Check], seed: int, device: str) -> None:
    rows = [
        {
            "kernel": check.kernel,
            "dtype": check.dtype,
            "case": check.case,
            "error": check.error if np.isfinite(check.error) else None,  # JSON has no NaN
            "tolerance": check.tolerance,
            "ok": check.ok,
        }
        for check in checks
    ]
    with atomic_file(path) as temporary:
        temporary.write_text(
            json.dumps({"schema": 1, "device": device, "seed": seed, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    run_program("kernels.parity", main)
