"""`precision="auto"`: the fastest precision whose images are close enough to float32, on this machine.

A bundle's accuracy was measured where it was exported. Another backend or processor rounds in another way, so the images
are compared here. The user's cache folder keeps the times and the PSNR until something that they depend on changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stylert.core.errors import BackendError, InputError, StylertError, shown
from stylert.core.images.grids import as_uint8
from stylert.core.images.similarity import IDENTICAL_DB, psnr_each
from stylert.core.seeds import z_from_seeds
from stylert.runtime.backends import backend
from stylert.runtime.bundle import Bundle
from stylert.runtime.choice.backend import (
    Pair,
    cache_file,
    choice_facts,
    keep_numbers,
    kept_times,
    measure_pairs,
    read_numbers,
    runnable_backends,
)
from stylert.runtime.loading import open_mapping, open_synthesis

#: The reference of the comparisons
REFERENCE = ("onnxruntime", "fp32")
#: Images that are compared, of the seeds from 0 at psi 1, one at a time
SEEDS = 8


@dataclass(frozen=True)
class Choice:
    """A backend and a precision, and the reason for them in one line."""

    backend: str
    precision: str
    why: str


def choose_precision(
    bundle: Bundle,
    backend_names: list[str] | None = None,
    threads: int | None = None,
    min_psnr: float | None = None,
    cache: Path | None = None,
) -> Choice:
    """Choose the precision that is the fastest for one image among those that are accurate enough.

    The accuracy is the mean PSNR of `SEEDS` images to the bundle's float32 network on ONNX Runtime. The fastest accurate
    backend of each precision is timed against those of the others, in alternation.

    Args:
        bundle: The bundle.
        backend_names: The backends to choose from; None for all of this machine.
        threads: CPU threads; None leaves the number to the library.
        min_psnr: The least PSNR in dB, up to 100. None takes for each precision what the bundle promises for it.
        cache: The folder that keeps times and PSNR, by default in the user's cache folder.

    Raises:
        InputError: The bundle has no float32 network, `min_psnr` is out of range, or a backend is unknown or reaches it in
            no precision.
        BackendError: None of the backends loads a network of the bundle here.
    """
    check_min_psnr(min_psnr)
    for name in backend_names or []:
        if (reason := backend(name).unavailable_reason()) is not None:
            raise BackendError(reason)
    if REFERENCE[1] not in bundle.precisions:
        raise InputError(
            f"precision auto compares images with fp32, which {bundle.path} does not have; name one of {', '.join(bundle.precisions)}"
        )
    reference = _Reference(bundle, threads)
    finalists: dict[Pair, float] = {}
    inexact: list[str] = []
    for precision in bundle.precisions:
        names = [n for n in runnable_backends(bundle, precision, threads) if backend_names is None or n in backend_names]
        times = kept_times(bundle, names, precision, threads, cache)[0] if names else {}
        least_db = bundle.precision(precision).min_psnr_db if min_psnr is None else min_psnr
        for name in sorted(times, key=times.__getitem__):
            psnr_db = _kept_psnr(reference, name, precision, cache)
            if psnr_db >= least_db:
                finalists[name, precision] = psnr_db
                break
            inexact.append(f"{precision} on {name} has {psnr_db:.1f} of {least_db:g} dB")
    if finalists:
        return _fastest(bundle, finalists, inexact, threads, cache)
    if not inexact:
        raise BackendError(f"no backend here loads a network of {bundle.path}; stylert doctor says what is missing")
    raise InputError(f"no precision is accurate enough here: {', '.join(inexact)}")


def _fastest(
    bundle: Bundle, psnr_db: Mapping[Pair, float], inexact: Sequence[str], threads: int | None, cache: Path | None
) -> Choice:
    """The fastest of the best pairs of all precisions. Their times so far are of different minutes, so they run once more."""
    times = _kept_pair_times(bundle, list(psnr_db), threads, cache) if len(psnr_db) > 1 else {}
    order = sorted(times, key=times.__getitem__) or list(psnr_db)
    milliseconds = {pair: f"{times[pair]:.1f} ms, " if pair in times else "" for pair in order}
    lines = [
        f"{precision} on {name} ({milliseconds[name, precision]}{psnr_db[name, precision]:.1f} dB)" for name, precision in order
    ]
    why = f"the fastest accurate one for one image is {', then '.join(lines)}"
    return Choice(*order[0], "; ".join([why, *inexact]))


def _kept_pair_times(bundle: Bundle, pairs: Sequence[Pair], threads: int | None, cache: Path | None) -> dict[Pair, float]:
    """The times of `measure_pairs`, from the cache folder or measured now."""
    words = {" ".join(pair): pair for pair in pairs}
    facts = {word: choice_facts(bundle, [name], precision, threads) for word, (name, precision) in words.items()}
    file = cache_file(cache, facts)
    kept = read_numbers(file, list(words))
    if kept is None:
        kept = {" ".join(pair): ms for pair, ms in measure_pairs(bundle, pairs, threads).items()}
        keep_numbers(file, kept)
    return {words[word]: ms for word, ms in kept.items()}


def check_min_psnr(min_psnr: object) -> None:
    """Raise InputError unless this is None or a PSNR in dB that images can have."""
    is_number = isinstance(min_psnr, (int, float)) and not isinstance(min_psnr, bool)
    if min_psnr is not None and not (is_number and 0 < min_psnr <= IDENTICAL_DB):  # type: ignore[operator]
        raise InputError(f"min_psnr is above 0 and at most {IDENTICAL_DB:g} dB, not {shown(min_psnr)}")


class _Reference:
    """The images that others are compared with. They are made when they are first needed."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.bundle, self.threads = bundle, threads
        self._inputs: list[dict[str, np.ndarray]] = []
        self._images: np.ndarray | None = None

    def psnr_db(self, name: str, precision: str) -> float:
        """Mean PSNR of a backend's images, dB. It is 0 if the network does not run."""
        if self._images is None:
            self._inputs = _inputs(self.bundle, self.threads)
            self._images = self._drawn(*REFERENCE)
        try:
            return float(psnr_each(self._drawn(name, precision), self._images).mean())
        except StylertError:
            return 0.0

    def _drawn(self, name: str, precision: str) -> np.ndarray:
        session, _ = open_synthesis(self.bundle, name, precision, self.threads)
        try:
            return np.concatenate([as_uint8(session.run(inputs)) for inputs in self._inputs])
        finally:
            session.close()


def _kept_psnr(reference: _Reference, name: str, precision: str, cache: Path | None) -> float:
    """The PSNR of a backend's images, from the cache folder or measured now."""
    if (name, precision) == REFERENCE:
        return IDENTICAL_DB
    bundle, threads = reference.bundle, reference.threads
    facts = {
        "images": choice_facts(bundle, [name], precision, threads),
        "reference": choice_facts(bundle, [REFERENCE[0]], REFERENCE[1], threads),
        "seeds": SEEDS,
    }
    file = cache_file(cache, facts)
    kept = read_numbers(file, [precision])
    if kept is not None:
        return kept[precision]
    psnr_db = reference.psnr_db(name, precision)
    keep_numbers(file, {precision: psnr_db})
    return psnr_db


def _inputs(bundle: Bundle, threads: int | None) -> list[dict[str, np.ndarray]]:
    """The inputs of the synthesis network for each image: latents with labels in turn, and noise where it is an input."""
    z, c_dim = z_from_seeds(range(SEEDS), bundle.model["z_dim"]), bundle.model["c_dim"]
    inputs = {"z": z, "psi": np.ones((SEEDS, bundle.num_ws), np.float32)}
    if c_dim:
        inputs["c"] = np.eye(c_dim, dtype=np.float32)[np.arange(SEEDS) % c_dim]
    mapping = open_mapping(bundle, threads)
    try:
        ws = mapping.run(inputs)
    finally:
        mapping.close()
    rng = np.random.default_rng(0)
    return [
        {"ws": ws[i : i + 1]}
        | {n: rng.standard_normal((1, 1, *size), np.float32) for n, size in bundle.noise_sizes.items()}
        | bundle.unmoved_styles(1)
        for i in range(SEEDS)
    ]
