"""The encoder in a bundle: from pictures to the latents whose images look like them, in one pass and without torch."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from stylert.core.errors import InputError
from stylert.core.images.grids import described
from stylert.runtime.bundle import Bundle
from stylert.runtime.loading import open_encoder
from stylert.runtime.session import Session

#: Pictures of one call of the network. More of them need more memory and are hardly faster.
BATCH = 16


class PictureEncoder:
    """Encodes pictures on ONNX Runtime, as the mapping network runs there. Calls may come from several threads."""

    def __init__(self, bundle: Bundle, session: Session) -> None:
        """Most callers use `load`."""
        self.bundle, self._session = bundle, session

    @classmethod
    def load(
        cls,
        path: str | Path | Bundle,
        precision: str = "fp32",
        threads: int | None = None,
        require_signature: str | Path | None = None,
    ) -> PictureEncoder:
        """Load the encoder of a bundle.

        Args:
            path: The bundle, or its folder.
            precision: fp32, fp16 or int8.
            threads: CPU threads; None leaves the number to the library.
            require_signature: As in `Bundle.load`.

        Raises:
            InputError: The bundle has no encoder, or not in this precision, or an argument is out of range.
            BundleError: A file of the bundle is damaged, or it lacks the required signature.
        """
        bundle = path if isinstance(path, Bundle) else Bundle.load(path, require_signature)
        if bundle is path and require_signature is not None:
            bundle = Bundle.load(bundle.path, require_signature)
        return cls(bundle, open_encoder(bundle, precision, threads))

    def __call__(self, images: Any) -> np.ndarray:
        """Encode pictures.

        Args:
            images: uint8 `[N, R, R, C]`, with the resolution and the channels of the network.

        Returns:
            ws, float32 `[N, num_ws, w_dim]`, as `Generator.synthesize` takes them.

        Raises:
            InputError: The array has another shape or type.
        """
        side, channels = self.bundle.resolution, self.bundle.model["img_channels"]
        is_array = isinstance(images, np.ndarray) and images.dtype == np.uint8
        if not is_array or images.ndim != 4 or images.shape[1:] != (side, side, channels) or not len(images):
            raise InputError(f"this encoder takes uint8 [N, {side}, {side}, {channels}], not {described(images)}")
        parts = [
            self._session.run({"images": np.ascontiguousarray(images[first : first + BATCH])})
            for first in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts)

    def close(self) -> None:
        """Free the network. The encoder must not be used afterwards."""
        self._session.close()

    def __enter__(self) -> PictureEncoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
