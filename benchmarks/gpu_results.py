"""What `gpu_suite.sh` left in a folder as one benchmark of stylert's schema: `python -m stylert.benchmarks.gpu_results OUT`.

Writes `OUT/results.json`, which `stylert.benchmarks.compare` and the reports read. It runs on the machine that was measured, where psutil
and jsonschema may be missing: what they would tell is left out, and the document is checked where it is next read.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stylert.benchmarks.distribution import describe
from stylert.benchmarks.gpu import gpu_facts
from stylert.benchmarks.results import KIND, SCHEMA, Row, validate
from stylert.runtime.atomic import atomic_file
from stylert.runtime.errors import InputError, StylertError
from stylert.runtime.host import cpu_identity, instruction_sets, usable_cores

PACKAGES = ("stylert", "torch", "triton", "numpy")


def document(folder: Path) -> dict[str, Any]:
    """The rows of `kernels.json` and `generator.json` in `folder`, of which one may be missing.

    Raises:
        InputError: both are missing, or one is not what the suite writes.
    """
    parts = {name: _read(folder / f"{name}.json") for name in ("kernels", "generator")}
    found = [part for part in parts.values() if part is not None]
    if not found:
        raise InputError(f"{folder} holds no results of gpu_suite.sh: neither kernels.json nor generator.json")
    try:
        rows = [*_kernel_rows(parts["kernels"] or {}), *_generator_rows(parts["generator"] or {})]
        device, ceiling = str(found[-1]["device"]), found[-1]["ceiling"]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder} holds results that gpu_suite.sh did not write: {error!r}") from None
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "schema": SCHEMA, "kind": KIND, "title": f"Kernels and generator on {device}", "created": now,
        "stylert": _version("stylert") or "from its sources", "command": ["benchmarks/gpu_suite.sh"], "machine": _machine(device),
        "conditions": {"notes": (parts["generator"] or {}).get("notes", [])}, "models": {}, "ceiling": ceiling,
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 where there is nothing to read."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1:
        print("error: name the folder that gpu_suite.sh wrote", file=sys.stderr)
        return 2
    path = Path(given[0]) / "results.json"
    try:
        made = document(Path(given[0]))
        if importlib.util.find_spec("jsonschema") is not None:
            validate(made, str(path))
    except StylertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(made, indent=1, allow_nan=False) + "\n")
    print(f"{path}: {len(made['rows'])} rows")
    return 0


def _kernel_rows(part: dict[str, Any]) -> Iterator[Row]:
    for row in part.get("rows", []):
        work = {"layer": row["layer"], "kernel": row["kernel"], "dtype": row["dtype"], "batch": row["batch"]}
        details = {
            "tflops": row["tflops"],
            "gbps": row["gbps"],
            "share": row["share"],
            "error": row["error"],
            "runs": row["runs"],
        }
        setup = {"backend": "torch", "form": row["form"]}
        yield Row(
            "kernel", work, setup, "time", "ms", "lower", row["ms"], [[row["ms"]]], None, floor=row["floor_ms"], details=details
        )


def _generator_rows(part: dict[str, Any]) -> Iterator[Row]:
    for row in part.get("rows", []):
        ours = row["form"].startswith("kernels ")
        precision = row["form"].removeprefix("kernels ") if ours else "fp16"
        work = {"model": row["model"], "batch": row["batch"], "precision": precision, "output": "image on the device"}
        setup = {"backend": "torch", "form": "kernels" if ours else row["form"]}
        details = {"psnr_db": row["psnr"], "share": row["share"]}
        samples = [row["samples_ms"]]
        yield Row(
            "single-stream", work, setup, "p50", "ms", "lower", row["p50_ms"], samples, describe(samples),
            images_per_s=1000 * row["batch"] / row["p50_ms"], floor=row["floor_ms"], details=details,
        )  # fmt: skip
        rate = row["images_per_s"]
        yield Row(
            "offline", work, setup, "rate", "images/s", "higher", rate, [[rate]], None, images_per_s=rate, details=details
        )


def _machine(device: str) -> dict[str, Any]:
    """As `machine_facts`, of the standard library alone."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu_identity(), "cores": usable_cores(), "isa": instruction_sets() or [], "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}", "python": platform.python_version(),
        "gpu": gpu_facts() or {"name": device}, "packages": {p: v for p in PACKAGES if (v := _version(p)) is not None},
    }  # fmt: skip


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not what gpu_suite.sh writes")
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
