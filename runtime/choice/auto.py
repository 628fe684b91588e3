"""The meaning of `auto` when a bundle is loaded: a backend, a precision, or both."""

from __future__ import annotations

from collections.abc import Sequence

from stylert.core.errors import InputError, shown
from stylert.runtime.build_options import LATENCY
from stylert.runtime.bundle import Bundle

AUTO = "auto"


def resolved(
    bundle: Bundle,
    backend: str,
    precision: str,
    threads: int | None,
    hint: str,
    min_psnr: float | None,
    among: Sequence[str] | None = None,
) -> tuple[str, str, str]:
    """The backend and the precision to load, without `auto`.

    Args:
        bundle: The bundle to load.
        backend: The name of a backend, or `auto`.
        precision: A precision, or `auto`.
        threads: CPU threads of each network.
        hint: `latency` or `throughput`.
        min_psnr: With the precision `auto`, the least mean PSNR to float32 in dB.
        among: The backends of which `auto` is one; None for all of this machine.

    Returns:
        The backend, the precision, and in one line how they were chosen.

    Raises:
        InputError: An argument is no name, or does not go with the others; or nothing fits.
        BackendError: No backend runs here.
    """
    for name, value in (("backend", backend), ("precision", precision), ("hint", hint)):
        if not isinstance(value, str):
            raise InputError(f"{name} is a name, not {shown(value)}")
    if AUTO in (backend, precision) and hint != LATENCY:
        raise InputError("auto chooses by latency: name the backend, openvino, and the precision with another hint")
    if min_psnr is not None and precision != AUTO:
        raise InputError("min_psnr is for the precision auto")
    if precision == AUTO:
        from stylert.runtime.choice.precision import choose_precision  # measures, so it needs what a plain load does not

        names = [backend] if backend != AUTO else None if among is None else list(among)
        choice = choose_precision(bundle, names, threads, min_psnr)
        return choice.backend, choice.precision, choice.why
    if backend == AUTO:
        from stylert.runtime.choice.backend import choose_backend

        name, why = choose_backend(bundle, precision, threads, among=among)
        return name, precision, why
    return backend, precision, "asked for"
