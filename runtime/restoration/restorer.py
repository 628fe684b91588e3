"""`Restorer`: from photographs to restored images, on any backend that runs ONNX files."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np

from stylert.core.errors import BackendError, BundleError, InputError, shown, shown_line
from stylert.core.images.grids import described
from stylert.runtime.backends import backend as backend_of
from stylert.runtime.backends.base import LoadOptions
from stylert.runtime.input_checks import whole_number
from stylert.runtime.restoration.bundle import MANIFEST, PHOTO, RestorerBundle
from stylert.runtime.session import Session

#: The backends that run restoration networks.
BACKENDS = ("onnxruntime", "openvino")
#: Photographs of one call of the network, at most.
MAX_BATCH = 256


class Restorer:
    """A restoration network, loaded and ready to run.

        with Restorer.load("bundle/") as restorer:
            images = restorer.restore(photographs)  # uint8 [N, R, R, 3] to uint8 [N, R, R, 3]

    Attributes:
        bundle: The bundle.
        backend: The name of the backend.
        precision: The precision of the network.
    """

    def __init__(self, bundle: RestorerBundle, backend: str, precision: str, session: Session) -> None:
        self.bundle, self.backend, self.precision = bundle, backend, precision
        self._session: Session | None = session

    @classmethod
    def load(
        cls,
        bundle: str | Path | RestorerBundle,
        backend: str = "onnxruntime",
        precision: str | None = None,
        threads: int | None = None,
    ) -> Restorer:
        """Load the network of a bundle.

        Args:
            bundle: The folder, or what `RestorerBundle.load` returns.
            backend: A name from `BACKENDS`.
            precision: One of the bundle's precisions, by default fp32 or its first.
            threads: CPU threads; None leaves the number to the backend.

        Raises:
            InputError: The backend is unknown, or the bundle lacks the precision.
            BundleError: The bundle is missing or damaged.
            BackendError: The backend is not installed, or has too little memory.
        """
        bundle = bundle if isinstance(bundle, RestorerBundle) else RestorerBundle.load(bundle)
        if backend not in BACKENDS:
            raise InputError(f"restorers run on {' and '.join(BACKENDS)}, not on {shown(backend)}")
        precision = bundle.default_precision if precision is None else precision
        chosen = backend_of(backend)
        bundle.precision(precision)
        if (reason := chosen.unavailable_reason()) is not None:
            raise BackendError(reason)
        if precision not in chosen.facts.precisions:
            raise BackendError(f"{backend} does not run {precision}")
        file = bundle.checked_file(precision, backend)
        session = chosen.load(file, LoadOptions(precision, threads))
        if {tensor.name: tensor for tensor in session.tensors} != {tensor.name: tensor for tensor in bundle.tensors}:
            found = shown_line(", ".join(map(str, session.tensors)))
            session.close()
            raise BundleError(f"{file} does not fit {MANIFEST}: it has {found}")
        return cls(bundle, backend, precision, session)

    def restore(self, photographs: np.ndarray, batch: int = 1) -> np.ndarray:
        """Restore photographs of aligned faces.

        Args:
            photographs: uint8 `[N, R, R, 3]`, R the bundle's resolution.
            batch: Photographs of one call of the network, at most.

        Returns:
            The images, uint8 `[N, R, R, 3]`.

        Raises:
            InputError: These are no such photographs.
            BackendError: The restorer is closed, or there is too little memory.
        """
        side = self.bundle.resolution
        batch = whole_number(batch, "batch", 1, MAX_BATCH)
        is_array = isinstance(photographs, np.ndarray) and photographs.dtype == np.uint8 and photographs.ndim == 4
        if not is_array or photographs.shape[1:] != (side, side, 3) or not len(photographs):
            raise InputError(f"photographs are uint8 [N, {side}, {side}, 3], not {described(photographs)}")
        if self._session is None:
            raise BackendError("this restorer is closed")
        parts = [
            self._session.run({PHOTO: np.ascontiguousarray(photographs[i : i + batch])})
            for i in range(0, len(photographs), batch)
        ]
        return np.concatenate(parts)

    def close(self) -> None:
        """Free the network's memory."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> Restorer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
