"""The images of a restorer's bundle, compared with those of PyTorch in float32, or of the bundle's own float32 network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylert.core.errors import missing_extra
from stylert.core.images.grids import as_uint8
from stylert.core.images.similarity import psnr_each
from stylert.core.progress import Progress
from stylert.models.restoration.checkpoints import RestorerWeights
from stylert.models.restoration.gfpgan.config import GfpganConfig
from stylert.runtime.backends import backend
from stylert.runtime.restoration.bundle import RestorerBundle
from stylert.runtime.restoration.restorer import BACKENDS, Restorer


@dataclass(frozen=True)
class RestorerAccuracy:
    """The accuracy of one precision on one backend.

    Attributes:
        backend: The backend's name.
        precision: The precision's name.
        photographs: The number of photographs.
        psnr_db: Mean PSNR of the images, in dB.
        worst_psnr_db: The least PSNR of an image, in dB.
        min_psnr_db: What the bundle promises.
    """

    backend: str
    precision: str
    photographs: int
    psnr_db: float
    worst_psnr_db: float
    min_psnr_db: float

    @property
    def passed(self) -> bool:
        return self.psnr_db >= self.min_psnr_db


def verify_restorer(
    bundle: RestorerBundle,
    photos: np.ndarray,
    reference: np.ndarray,
    backends: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[RestorerAccuracy]:
    """Compare the images of every precision on every backend.

    Args:
        bundle: The bundle.
        photos: uint8 `[N, R, R, 3]`.
        reference: Their images, uint8 of the same shape (`torch_images`).
        backends: The backends, by default all that are installed.
        progress: Called after each network.

    Raises:
        BackendError: A backend that is named does not run here.
    """
    usable = [name for name in BACKENDS if backend(name).unavailable_reason() is None] if backends is None else backends
    runs = [
        (name, precision) for name in usable for precision in bundle.precisions if precision in backend(name).facts.precisions
    ]
    return list(_rows(bundle, photos, reference, runs, progress))


def torch_images(weights: RestorerWeights, photos: np.ndarray) -> np.ndarray:
    """The images of the network in PyTorch float32, uint8 `[N, R, R, 3]`. Raises BackendError without PyTorch."""
    try:
        import torch
    except ImportError:
        raise missing_extra("PyTorch", "export") from None
    network = torch_network(weights)
    with torch.no_grad():
        images = [network(torch.from_numpy(p[None]).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy() for p in photos]
    return as_uint8(np.concatenate(images))


def torch_network(weights: RestorerWeights) -> Any:
    """The network as a PyTorch module in evaluation mode. Needs torch."""
    import torch

    cfg = weights.config
    if isinstance(cfg, GfpganConfig):
        from stylert.models.restoration.gfpgan.networks import Gfpgan

        network: torch.nn.Module = Gfpgan(cfg)
    else:
        from stylert.models.restoration.gpen.networks import Gpen

        network = Gpen(cfg)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.arrays.items()})
    return network.eval().requires_grad_(False)


def _rows(
    bundle: RestorerBundle,
    photos: np.ndarray,
    reference: np.ndarray,
    runs: Sequence[tuple[str, str]],
    progress: Progress | None,
) -> Iterator[RestorerAccuracy]:
    for done, (name, precision) in enumerate(runs, 1):
        with Restorer.load(bundle, name, precision) as restorer:
            psnr = psnr_each(restorer.restore(photos), reference)
        promised = bundle.precision(precision).min_psnr_db
        yield RestorerAccuracy(name, precision, len(photos), float(psnr.mean()), float(psnr.min()), promised)
        if progress is not None:
            progress("verify", done, len(runs))
