"""Compiles the kernels ahead of time, without a GPU: `python -m stylert.plugins.aot --out DIR`.

Out: PTX and cubin of every specialisation (`triton/variants.py`) for every architecture, and `manifest.json`. The
manifest states registers and spilled bytes per thread, shared memory per program, and the matrix instructions of the
PTX.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stylert.core.files.atomic import atomic_file
from stylert.core.programs.runner import run_program
from stylert.plugins.triton.compiler import capability, compile_kernel, resource_usage
from stylert.plugins.triton.variants import Variant, constants_for, kernels, variants

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_120")


def compile_all(architectures: Sequence[str] = ARCHITECTURES, out: Path | None = None, only: str = "*") -> list[dict[str, Any]]:
    """Compile every specialisation that an architecture can run, for every architecture.

    Args:
        architectures: Names of `ARCHITECTURES`.
        out: Folder for `<variant>.<arch>.ptx`, `.cubin` and `manifest.json`. None writes nothing.
        only: Shell pattern of the names of specialisations.

    Returns:
        The entries of the manifest.

    Raises:
        ValueError: An unknown architecture, a pattern that matches nothing, a folder that cannot be written, or
            specialisations that none of the architectures can run.
        RuntimeError: `TRITON_INTERPRET` is set. Triton's interpreter does not compile.
    """
    unknown = [arch for arch in architectures if arch not in ARCHITECTURES]
    if unknown or not architectures:
        raise ValueError(f"unknown architecture {', '.join(unknown) or '(none given)'}: choose from {', '.join(ARCHITECTURES)}")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise RuntimeError("TRITON_INTERPRET is set: unset it to compile kernels")
    matching = [variant for variant in variants() if fnmatch(variant.name, only)]
    if not matching:
        raise ValueError(f"no variant matches {only!r}: there are {', '.join(variant.name for variant in variants())}")
    jobs = [(arch, variant) for arch in architectures for variant in matching if capability(arch) >= variant.min_capability]
    if not jobs:
        needed = min(variant.min_capability for variant in matching)
        raise ValueError(f"{only!r} needs sm_{needed} or later, not {', '.join(architectures)}")

    if out is not None:
        _make_writable(out)
    entries = []
    for arch, variant in jobs:
        ptx, cubin, entry = compile_variant(variant, arch)
        if out is not None:
            stem = f"{variant.name}.{arch}"
            with atomic_file(out / f"{stem}.ptx") as partial:
                partial.write_text(ptx, encoding="utf-8")
            with atomic_file(out / f"{stem}.cubin") as partial:
                partial.write_bytes(cubin)
            digest = hashlib.sha256(ptx.encode()).hexdigest()
            entry |= {"ptx": f"{stem}.ptx", "cubin": f"{stem}.cubin", "ptx_sha256": digest}
        entries.append(entry)
    if out is not None:
        manifest = {"schema": 1, "triton": version("triton"), "kernels": entries}
        with atomic_file(out / "manifest.json") as partial:
            partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return entries


def compile_variant(variant: Variant, arch: str) -> tuple[str, bytes, dict[str, Any]]:
    """PTX, cubin and manifest entry of one specialisation for one architecture, such as "sm_90"."""
    constants = constants_for(variant, capability(arch))
    compiled, arguments = compile_kernel(
        kernels()[variant.kernel], variant.pointers, constants, variant.aligned, arch,
        num_warps=variant.num_warps, num_stages=variant.num_stages,
    )  # fmt: skip
    ptx, cubin = compiled.asm["ptx"], compiled.asm["cubin"]
    usage = resource_usage(cubin)
    entry = {
        "variant": variant.name,
        "kernel": variant.kernel,
        "entry": compiled.metadata.name,
        "arch": arch,
        "dtype": variant.dtype,
        "tile": variant.tile,
        "hot": variant.hot,
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "registers": usage["REG"],
        "spill_bytes": usage["STACK"] + usage["LOCAL"],
        "shared_bytes": compiled.metadata.shared,
        "matrix_instructions": sorted(set(re.findall(r"\b(?:wgmma\.mma_async|mma)\.sync\.aligned\.m\w+", ptx))),
        "arguments": arguments,
        # Triton appends pointers of its own (scratch memory, profiler). A launcher sets them to null.
        "hidden_pointers": ptx[: ptx.index(")")].count(".param") - len(arguments),
        "constants": constants,
    }
    return ptx, cubin, entry


def table(entries: Sequence[dict[str, Any]]) -> str:
    """The manifest as text: a line per specialisation, and per architecture `registers / spilled bytes / KiB`."""
    architectures = list(dict.fromkeys(entry["arch"] for entry in entries))
    rows = [["variant", "tile", *architectures]]
    for name in dict.fromkeys(entry["variant"] for entry in entries):
        by_arch = {entry["arch"]: entry for entry in entries if entry["variant"] == name}
        tile = next(iter(by_arch.values()))["tile"]
        rows.append([name, tile, *(_cell(by_arch.get(arch)) for arch in architectures)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "-"
    return f"{entry['registers']} / {entry['spill_bytes']} / {entry['shared_bytes'] / 1024:.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit status 1 if a hot kernel spills registers, 2 on a wrong argument."""
    parser = argparse.ArgumentParser(prog="python -m stylert.plugins.aot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", default=",".join(ARCHITECTURES), help="comma-separated, default: all")
    parser.add_argument("--out", type=Path, required=True, help="folder for PTX, cubins and manifest.json")
    parser.add_argument("--only", default="*", help="shell pattern of variant names")
    options = parser.parse_args(arguments)
    try:
        entries = compile_all(options.arch.split(","), options.out, options.only)
    except (ImportError, RuntimeError, ValueError) as error:
        message = "compiling kernels needs Triton: pip install triton" if isinstance(error, ImportError) else error
        print(f"error: {message}", file=sys.stderr)
        return 2
    print(table(entries))
    spilling = [f"{entry['variant']} on {entry['arch']}" for entry in entries if entry["hot"] and entry["spill_bytes"]]
    if spilling:
        print(f"error: registers spill in {', '.join(spilling)}", file=sys.stderr)
    return 1 if spilling else 0


def _make_writable(folder: Path) -> None:
    """Make the folder, and refuse one that cannot be written before any kernel is compiled."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"cannot write into {folder}: {error.strerror}") from None


if __name__ == "__main__":
    run_program("aot", main)
