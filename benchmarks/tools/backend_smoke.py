"""Runs every backend of this machine once through the command line, and compares its images with those of ONNX Runtime.

    python benchmarks/tools/backend_smoke.py [--json FILE] [--dry-run]

The network is examples/cats64.safetensors. A backend that needs engines builds them first. The exit status is 1 if a backend fails
or its images are far from those of ONNX Runtime in float32. `--dry-run` takes the backends that need no GPU, in float32.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.child_processes import python_command
from stylert.core.errors import StylertError, printable
from stylert.core.files.atomic import atomic_file, check_writable
from stylert.core.files.temporary import temporary_folder
from stylert.core.images.similarity import psnr
from stylert.core.programs.runner import run_program
from stylert.runtime.backends import available_backends, backend

CHECKPOINT = Path(__file__).parents[2] / "examples" / "cats64.safetensors"
#: Least PSNR in dB to the images of ONNX Runtime in float32, which are in bytes.
LEAST_PSNR = {"fp32": 50.0, "fp16": 38.0, "bf16": 28.0, "int8": 24.0, "fp8": 20.0}
SEEDS = "0-3"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this tool. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results to this file, after each backend")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU, in float32")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    try:
        check_writable(options.json)
        with temporary_folder("smoke") as folder:
            bundle, reference = folder / "bundle", folder / "reference"
            precisions = ["fp32"] if options.dry_run else list(LEAST_PSNR)
            exported = [name for name in precisions if name != "bf16"]  # bf16 runs the float32 network
            run("export", CHECKPOINT, "--out", bundle, "--precision", ",".join(exported), "--verify-seeds", "0")
            run("generate", bundle, "--seeds", SEEDS, "--out", reference, "--no-sign")
            names = ["onnxruntime", "torch"] if options.dry_run else available_backends()
            for name in names:
                for precision in (p for p in precisions if p in backend(name).facts.precisions):
                    rows.append(checked(bundle, reference, name, precision, folder / f"{name}-{precision}"))
                    print({key: value for key, value in rows[-1].items() if value is not None}, flush=True)
                    if options.json is not None:
                        with atomic_file(options.json) as temporary:
                            temporary.write_text(json.dumps({"backends": rows}, indent=1) + "\n", encoding="utf-8")
    except (StylertError, CommandError) as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    return 0 if rows and all(row["ok"] for row in rows) else 1


class CommandError(Exception):
    """A command of stylert failed. The message is what it printed last."""


def run(*arguments: object) -> None:
    """Run a command of stylert. Raises CommandError if it fails."""
    command = python_command("-m", "stylert.cli.main", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=600)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise CommandError(lines[-1] if lines else f"exit status {done.returncode}")


def checked(bundle: Path, reference: Path, name: str, precision: str, out: Path) -> dict[str, Any]:
    """The result of one backend and precision: seconds of the command, PSNR, and what was wrong or None."""
    begin, psnr_db, fault = time.perf_counter(), None, None
    try:
        if backend(name).facts.needs_engine:
            run("build", bundle, "--backend", name, "--precision", precision)
        run("generate", bundle, "--seeds", SEEDS, "--out", out, "--backend", name, "--precision", precision, "--no-sign")
        psnr_db = psnr(pictures(out), pictures(reference))
    except (CommandError, subprocess.TimeoutExpired) as error:
        fault = str(error)
    ok = psnr_db is not None and psnr_db >= LEAST_PSNR[precision]
    seconds = round(time.perf_counter() - begin, 1)
    return {"backend": name, "precision": precision, "ok": ok, "psnr_db": psnr_db, "seconds": seconds, "fault": fault}


def pictures(folder: Path) -> np.ndarray:
    """The images of a folder, in the order of their names, `[N, H, W, 3]`."""
    from PIL import Image

    return np.stack([np.asarray(Image.open(path, formats=["PNG"])) for path in sorted(folder.glob("*.png"))])


if __name__ == "__main__":
    run_program("backend_smoke", main)
