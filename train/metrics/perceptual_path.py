"""Perceptual path length (PPL): how much an image changes per step in latent space (Karras et al. 2018, section 4.1).

    PPL = E [ d(g(t), g(t + epsilon)) / epsilon^2 ]

d is a perceptual distance, and g(t) the image at share t of a path between two random latents. The mean leaves out the
lowest and the highest percent of the values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stylert.core.progress import Progress
from stylert.models.features.perceptual import Distance
from stylert.models.stylegan2.generator import NoiseMode
from stylert.models.stylegan2.networks import Generator, SynthesisLayer
from stylert.train.sampling import labels_of_seeds

EPSILON = 1e-4
BATCH = 16
#: Larger images are averaged down to this size before they are compared.
COMPARED_SIZE = 256
#: Percent of the values that are left out at each end.
OUTLIERS = 1.0


@dataclass(frozen=True)
class PathSampling:
    """Which steps PPL measures.

    Attributes:
        space: `z`, along great circles, or `w`, along lines.
        full: Whether t is uniform in [0, 1]. Otherwise t is 0, the end of the path.
        crop: Whether to compare only the middle of the images, where FFHQ shows the face (rows 3/8 to 7/8, columns 2/8
            to 6/8). Images of 512 and 1024 px are then compared at 256 px: `COMPARED_SIZE` limits the cropped image, as
            in the code of the paper. The official PyTorch code divides by the factor of the whole image, to 128 px.
        noise_mode: `random` draws new noise for each batch, which both ends of a step share, as in the official code.
            `const` is the noise that the generator stores.
    """

    space: str = "w"
    full: bool = True
    crop: bool = False
    noise_mode: NoiseMode = "const"


@torch.no_grad()
def path_distances(
    generator: Generator,
    distance: Distance,
    sampling: PathSampling,
    count: int,
    seed: int = 0,
    epsilon: float = EPSILON,
    progress: Progress | None = None,
    stage: str = "path length",
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """The values `d(g(t), g(t + epsilon)) / epsilon^2` of random paths. Both ends of a path have the same label.

    Args:
        generator: The generator, on a CPU.
        distance: d.
        sampling: Which steps are measured.
        count: Number of paths.
        seed: Seed of the latents and of t.
        epsilon: Length of the step.
        progress: Called after each batch with `stage`.
        stage: Name for `progress`.
        labels: As in `sampling.labels_of_seeds`; the seeds are 0 and on.

    Returns:
        float64 `[count]`.
    """
    random = torch.Generator().manual_seed(seed)
    values = []
    for start in range(0, count, BATCH):
        n = min(BATCH, count - start)
        # In float64 up to the network: a step of 1e-4 in float32 would be wrong by up to a thousandth.
        z = torch.randn(2, n, generator.cfg.z_dim, generator=random).double()
        t = torch.zeros(n, 1, dtype=torch.float64)
        if sampling.full:
            t.uniform_(generator=random)
        c = labels_of_seeds(generator, range(start, start + n), labels)
        if sampling.space == "z":
            ws = [generator.mapping(slerp(z[0], z[1], s), c) for s in (t, t + epsilon)]
        else:
            first, second = (generator.mapping(end, c).double() for end in z)
            ws = [first.lerp(second, s[:, :, None]) for s in (t, t + epsilon)]
        with _noise(generator, sampling.noise_mode, random):
            images = generator.synthesis(torch.cat(ws), noise_mode="const")
        a, b = _compared(images, sampling.crop).chunk(2)
        values.append((distance(a, b).double() / epsilon**2).numpy())
        if progress is not None:
            progress(stage, start + n, count)
    return np.concatenate(values)


def mean_without_outliers(distances: np.ndarray) -> float:
    """Mean of the values from the 1st to the 99th percentile, both included."""
    low = np.percentile(distances, OUTLIERS, method="lower")
    high = np.percentile(distances, 100 - OUTLIERS, method="higher")
    return float(distances[(distances >= low) & (distances <= high)].mean())


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation on the unit sphere (Shoemake 1985).

    Args:
        a: Start points `[N, D]`, of any length.
        b: End points `[N, D]`, of any length.
        t: Shares of the great circles `[N, 1]`.

    Returns:
        Unit vectors `[N, D]`.
    """
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
    cosine = (a * b).sum(1, keepdim=True)
    angle = t * cosine.clamp(-1, 1).acos()
    across = b - cosine * a  # the part of b that is orthogonal to a
    return a * angle.cos() + across / across.norm(dim=1, keepdim=True) * angle.sin()


@contextmanager
def _noise(generator: Generator, mode: NoiseMode, random: torch.Generator) -> Iterator[None]:
    """With `random`, replace the stored noise of all layers while the context lasts."""
    layers = [m for m in generator.modules() if isinstance(m, SynthesisLayer)] if mode == "random" else []
    stored = [layer.noise_const.clone() for layer in layers]
    for layer in layers:
        layer.noise_const.normal_(generator=random)
    try:
        yield
    finally:
        for layer, noise in zip(layers, stored, strict=True):
            layer.noise_const.copy_(noise)


def _compared(images: Tensor, crop: bool) -> Tensor:
    """The RGB images that are compared: cropped and averaged down."""
    if crop:
        eighth = images.shape[2] // 8
        images = images[:, :, 3 * eighth : 7 * eighth, 2 * eighth : 6 * eighth]
    factor = images.shape[2] // COMPARED_SIZE
    if factor > 1:
        images = torch.nn.functional.avg_pool2d(images, factor)
    return images.expand(-1, 3, -1, -1)
