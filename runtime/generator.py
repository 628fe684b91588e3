"""`Generator`: seeds or latents in, images out, on any backend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from stylert.runtime.backends import Session, backend
from stylert.runtime.bundle import MAPPING_FILE, Bundle
from stylert.runtime.engines import engine_to_load
from stylert.runtime.errors import BackendError, InputError
from stylert.runtime.latents import z_from_seeds


class Generator:
    """A generator ready to run.

        with Generator.load("bundle/", precision="int8") as g:
            images = g(seeds=[0, 1, 2], psi=0.7)  # uint8 [3, H, W, 3]

    Calls may come from several threads. `z` for seed s is `RandomState(s).randn(1, z_dim)`, as in the official tools.
    """

    def __init__(
        self, bundle: Bundle, backend_name: str, precision: str, mapping: Session, synthesis: Session, engine: Path | None
    ) -> None:
        self.bundle, self.backend, self.precision, self.engine = bundle, backend_name, precision, engine
        self._mapping, self._synthesis = mapping, synthesis

    @classmethod
    def load(
        cls, path: str | Path | Bundle, backend: str = "onnxruntime", precision: str = "fp32", threads: int | None = None
    ) -> Generator:
        """Load a bundle's two networks, from a built engine where a matching one is there.

        Raises BundleError for damaged files, InputError for a precision that the bundle lacks or an unknown backend, and
        BackendError for a backend that is not installed.
        """
        bundle = path if isinstance(path, Bundle) else Bundle.load(path)
        module = _module(backend)
        engine = engine_to_load(bundle, backend, precision, threads)
        if engine is None and module.NEEDS_ENGINE:
            raise BackendError(
                f"{bundle.path} has no {precision} engine of this {backend} for the GPU here; "
                f"build one with: stylert build {bundle.path} --backend {backend} --precision {precision}"
            )
        source = engine or bundle.checked_file(bundle.precision(precision).file)
        synthesis = module.load(source, precision, threads, built=engine is not None)
        # The mapping network is a thousandth of the work and decides every pixel: always float32 on ONNX Runtime.
        mapping = _module("onnxruntime").load(bundle.checked_file(MAPPING_FILE), "fp32", threads)
        return cls(bundle, backend, precision, mapping, synthesis, engine)

    def __call__(
        self,
        seeds: Iterable[int],
        psi: float = 1.0,
        cutoff: int | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        noise: dict[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Images of `seeds`: uint8 `[N, H, W, C]`, or float32 `[N, C, H, W]` for a bundle with float output."""
        z = z_from_seeds(seeds, self.bundle.model["z_dim"])
        return self.synthesize(self.map(z, psi=psi, cutoff=cutoff, labels=labels), noise)

    def map(
        self, z: np.ndarray, psi: float = 1.0, cutoff: int | None = None, labels: Sequence[int] | np.ndarray | None = None
    ) -> np.ndarray:
        """z `[N, z_dim]` to ws `[N, num_ws, w_dim]`, truncated by `psi` on the first `cutoff` latents (all by default).

        `labels`: class indices `[N]` or vectors `[N, c_dim]`, for a conditional network.
        """
        model, num_ws = self.bundle.model, self.bundle.num_ws
        z = _float32(z, ("N", model["z_dim"]), "z")
        if isinstance(psi, bool) or not isinstance(psi, (int, float, np.floating, np.integer)) or not math.isfinite(psi):
            raise InputError(f"psi must be a finite number, not {psi!r}")
        if cutoff is not None and (
            isinstance(cutoff, bool) or not isinstance(cutoff, (int, np.integer)) or not 0 <= cutoff <= num_ws
        ):
            raise InputError(f"cutoff must be a whole number from 0 to {num_ws}, not {cutoff!r}")
        factors = np.ones((len(z), num_ws), np.float32)
        factors[:, :cutoff] = psi
        inputs = {"z": z, "psi": factors}
        if model["c_dim"]:
            inputs["c"] = _one_hot(labels, len(z), model["c_dim"])
        elif labels is not None:
            raise InputError("this network takes no labels")
        return self._mapping.run(inputs)

    def synthesize(self, ws: np.ndarray, noise: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """ws `[N, num_ws, w_dim]` to images. `noise` gives `noise_<resolution>_<layer>` for bundles that take it."""
        model = self.bundle.model
        inputs = {"ws": _float32(ws, ("N", self.bundle.num_ws, model["w_dim"]), "ws")}
        expected = self.bundle.noise_inputs
        if set(noise or {}) != set(expected):
            wanted = f"exactly the noise inputs {', '.join(sorted(expected))}" if expected else "no noise inputs"
            raise InputError(f"this bundle takes {wanted}")
        for name, value in (noise or {}).items():
            inputs[name] = _float32(value, (len(ws), 1, expected[name], expected[name]), name)
        return self._synthesis.run(inputs)

    def close(self) -> None:
        """Give back the networks; the generator is not used afterwards."""
        self._mapping.close()
        self._synthesis.close()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


# `Generator.load` has a parameter of the name `backend`, as the API promises.
_module = backend


def _float32(value: np.ndarray, shape: tuple[int | str, ...], name: str) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype not in (np.float32, np.float64, np.float16):
        kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(f"{name} must be a float array, not {kind}")
    fits = value.ndim == len(shape) and all(
        isinstance(want, str) or have == want for have, want in zip(value.shape, shape, strict=True)
    )
    if not fits or value.shape[0] == 0:
        raise InputError(f"{name} must have shape [{', '.join(map(str, shape))}] with N at least 1, not {list(value.shape)}")
    if not np.isfinite(value).all():
        raise InputError(f"{name} holds values that are not finite")
    return np.ascontiguousarray(value, dtype=np.float32)


def _one_hot(labels: Sequence[int] | np.ndarray | None, n: int, c_dim: int) -> np.ndarray:
    if labels is None:
        raise InputError(f"this network takes labels: one class from 0 to {c_dim - 1} per image")
    array = np.asarray(labels)
    if array.ndim == 2:
        return _float32(array.astype(np.float32), (n, c_dim), "labels")
    if array.shape != (n,) or array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= c_dim:
        raise InputError(f"labels must be {n} classes from 0 to {c_dim - 1}")
    return np.eye(c_dim, dtype=np.float32)[array]
