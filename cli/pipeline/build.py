"""`stylert build`: engines for the CPU here, or ahead of time for GPUs that may be elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stylert.cli.console import progress, print_table
from stylert.core.errors import BackendError
from stylert.core.gpu_specs import GPU_SPECS
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.backends.kernel_table import engine_lower_bound_ms, kernels_of
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.bundle import Bundle
from stylert.runtime.engines import build_engine, engine_key


def build_all(
    bundle: Bundle,
    backends: list[str] | None,
    precisions: list[str] | None,
    targets: Sequence[str] = ("current",),
    options: dict[str, Any] | None = None,
    force: bool = False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Build every asked-for engine, with bars; `options` are those of `BuildOptions`, less the target.

    What was built, and why anything was not: a network that the compiler of one target refuses keeps no other from being built.
    Everything that can be wrong with the options is found before the first build begins.
    """
    wanted = [
        (b, p, BuildOptions(**(options or {}), target=t))
        for b in backends or [name for name in available_backends() if backend(name).ENGINE_SUFFIX is not None]
        for t in targets
        for p in precisions or bundle.precisions
        if precisions is not None or p in backend(b).PRECISIONS
    ]
    for name, precision, chosen in wanted:
        engine_key(bundle, name, precision, chosen)
    facts, refused = [], []
    with progress() as bar:
        for i, (name, precision, chosen) in enumerate(wanted):
            bar("build engines", i, len(wanted))
            try:
                facts.append(build_engine(bundle, name, precision, chosen, force, bar))
            except BackendError as e:
                refused.append(str(e))
        bar("build engines", len(wanted), len(wanted))
    return facts, refused


def show_engines(facts: Sequence[dict[str, Any]]) -> None:
    if not facts:
        return
    print_table(
        "engines",
        ["<backend", "<version", "<target", "<precision", "kernels", "MB moved", "least ms", "MiB", "build s", "<"],
        [
            (
                f["key"]["backend"],
                f["key"]["version"].split("-")[0],
                f["key"]["target"],
                f["key"]["precision"],
                f.get("kernels", ""),
                f"{f['moved_bytes'] / 1e6:.0f}" if "moved_bytes" in f else "",
                _lower_bound(f),
                f"{f['bytes'] / 2**20:.1f}",
                f"{f['build_seconds']:.2f}",
                "reused" if f["reused"] else "built",
            )
            for f in facts
        ],
    )


def _lower_bound(facts: dict[str, Any]) -> str:
    """The least time of a GPU engine for one image, by the data sheet of a GPU of its architecture; empty without one."""
    architecture = facts["key"]["target"].removeprefix("sm_")
    spec = GPU_SPECS.get(int(architecture)) if architecture.isdigit() else None
    if spec is None or "moved_bytes" not in facts:
        return ""
    kernels = kernels_of(facts["layers"], facts["range"])
    return f"{engine_lower_bound_ms(kernels, spec.data_sheet_rates()):.2g} ({spec.name})"
