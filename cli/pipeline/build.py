"""`stylert build`: engines for the CPU here, or ahead of time for GPUs that may be elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stylert.cli.console import progress, table
from stylert.core.errors import BackendError
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.backends.kernel_table import kernels_of, least_ms
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
    table(
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
                _least_ms(f),
                f"{f['bytes'] / 2**20:.1f}",
                f"{f['build_seconds']:.2f}",
                "reused" if f["reused"] else "built",
            )
            for f in facts
        ],
    )


def _least_ms(facts: dict[str, Any]) -> str:
    """The roofline of a GPU engine for one image, on the GPU of its architecture whose data sheet is at hand."""
    from stylert.plugins.triton.cost_model import GPUS

    architecture = facts["key"]["target"].removeprefix("sm_")
    gpu = GPUS.get(int(architecture)) if architecture.isdigit() else None
    if gpu is None or "moved_bytes" not in facts:
        return ""
    # What the data sheet's float32 stands for there is three TF32 products, which no engine here uses.
    lanes = 64 if architecture == "80" else 128
    rates = gpu.tflops | {"float32": gpu.sms * lanes * 2 * gpu.clock / 1e3}
    kernels = kernels_of(facts["layers"], facts["range"])
    return f"{least_ms(kernels, rates, gpu.bandwidth):.2g} ({gpu.name})"
