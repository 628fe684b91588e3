"""Runs `stylert build`: builds engines for this machine, or ahead of time for other GPUs, and prints their table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stylert.cli.console import print_note, print_table, progress
from stylert.core.errors import BackendError, BundleError, InputError
from stylert.core.machine.gpu_specs import GPU_SPECS
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.backends.kernel_table import engine_lower_bound_ms, kernels_of
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.bundle import Bundle
from stylert.runtime.choice.precision import choose_precision
from stylert.runtime.engines import build_engine, check_network_kind, engine_key


def build_all(
    bundle: Bundle,
    backends: list[str] | None,
    precisions: list[str] | None,
    targets: Sequence[str] = ("current",),
    options: dict[str, Any] | None = None,
    force: bool = False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Build one engine per backend, precision and target. Mistakes in the options are found before the first build.

    Args:
        bundle: The bundle, which receives the engines.
        backends: Names, or None for all that are available and build engines.
        precisions: Names, or None for all of the bundle that the backend runs.
        targets: `current`, or architectures such as `sm_89`.
        options: Fields of `BuildOptions`, without the target.
        force: Whether to build again where a matching engine exists.

    Returns:
        The facts of each engine, and the messages of those that were refused. A refusal does not stop the others.

    Raises:
        InputError: A precision that the caller named cannot be built with these options, or none can.
        BackendError: A backend that the caller named does not run this network, its library does not load or its device is
            missing, or so for all.
    """
    for name in backends or ():
        check_network_kind(backend(name), bundle)
    wanted = [
        (b, p, BuildOptions(**(options or {}), target=t))
        for b in backends or [name for name in available_backends() if backend(name).facts.engine_suffix is not None]
        for t in targets
        for p in precisions or bundle.precisions
        if precisions is not None or backend(b).facts.runs(bundle.kind, p)
    ]
    possible, refused = [], []
    first_refusal: BackendError | InputError | None = None
    for name, precision, chosen in wanted:
        try:
            engine_key(bundle, name, precision, chosen)
            possible.append((name, precision, chosen))
        except (BackendError, InputError) as e:
            if (backends if isinstance(e, BackendError) else precisions) is not None:
                raise
            first_refusal = first_refusal or e
            refused.append(str(e))
    if first_refusal is not None and not possible:
        raise first_refusal
    facts: list[dict[str, Any]] = []
    with progress() as report:
        for name, precision, chosen in possible:
            report("build engines", len(facts), len(possible))  # those that are refused do not count
            try:
                facts.append(build_engine(bundle, name, precision, chosen, force, report))
            except (BackendError, BundleError) as e:
                refused.append(str(e))
        report("build engines", len(facts), len(possible))
    return facts, refused


def fastest_accurate(
    bundle: Bundle, backends: list[str] | None, threads: int | None, min_psnr: float | None
) -> tuple[list[str], list[str]]:
    """The one backend and the one precision of `--precision auto`, as lists. Prints the reason."""
    choice = choose_precision(bundle, backends, threads, min_psnr)
    print_note(f"auto: {choice.why}")
    return [choice.backend], [choice.precision]


def show_engines(facts: Sequence[dict[str, Any]]) -> None:
    """Print a table of engines, from the facts that `build_all` returns."""
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
    if spec is None or not {"moved_bytes", "layers", "range"} <= facts.keys():
        return ""
    kernels = kernels_of(facts["layers"], facts["range"])
    return f"{engine_lower_bound_ms(kernels, spec.data_sheet_rates()):.2g} ({spec.name})"
