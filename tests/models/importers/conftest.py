"""Writers of other projects' checkpoints, and the float64 reference for every architecture."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.networks import Discriminator, Generator
from tests.models.importers import official_files, pickle_writer, rosinality_files, tensorflow_files


@pytest.fixture
def paper(reference: Any) -> type[Any]:
    """The float64 reference, with the generator's "resnet" and "orig" architectures too."""

    class Paper(reference):
        def synthesis(self, ws: np.ndarray, resolution: int, noise: bool = True) -> np.ndarray:
            if "synthesis.b4.torgb.weight" in self.p and resolution > 4:
                return super().synthesis(ws, resolution, noise)
            x, i = np.repeat(self.p["synthesis.b4.const"][None], len(ws), 0), 0
            for res in [2**k for k in range(2, int(math.log2(resolution)) + 1)]:
                before, block = x, f"synthesis.b{res}"
                if res > 4:
                    x, i = self.layer(f"{block}.conv0", x, ws[:, i], True, noise), i + 1
                x, i = self.layer(f"{block}.conv1", x, ws[:, i], False, noise), i + 1
                if f"{block}.skip.weight" in self.p:
                    weight = self.p[f"{block}.skip.weight"][:, :, 0, 0]
                    mixed = np.einsum("oi,nihw->nohw", weight / math.sqrt(weight.shape[1]), before)
                    x = (x + upsampled(mixed)) / math.sqrt(2)
            weight, style = self.p[f"{block}.torgb.weight"], self.linear(f"{block}.torgb.affine", ws[:, i])
            y = np.einsum("oi,ni,nihw->nohw", weight[:, :, 0, 0] / math.sqrt(weight.shape[1]), style, x)
            return y + self.p[f"{block}.torgb.bias"][:, None, None]

    return Paper


def upsampled(image: np.ndarray) -> np.ndarray:
    """2x up: zeros are inserted, then filtered with outer([1, 3, 3, 1]) / 16."""
    n, c, h, w = image.shape
    x = np.zeros((n, c, 2 * h + 3, 2 * w + 3))
    x[:, :, 2:-1:2, 2:-1:2] = image
    taps = np.array([1, 3, 3, 1]) / 4
    rows = sum(t * x[:, :, k : k + 2 * h] for k, t in enumerate(taps))
    return sum(t * rows[..., k : k + 2 * w] for k, t in enumerate(taps))


@pytest.fixture(scope="session")
def foreign() -> SimpleNamespace:
    """Every function and class of the writers, as attributes of one object."""
    modules = (pickle_writer, official_files, rosinality_files, tensorflow_files)
    return SimpleNamespace(**{k: v for m in modules for k, v in vars(m).items() if not k.startswith("_")})


@pytest.fixture
def nets(randomize: Any) -> Any:
    """`nets(d, **changes)` makes a small averaged generator, a raw one and a discriminator, with no weight left at zero.

    `changes` are fields of the generator's configuration, `d` those of the discriminator's alone.
    """

    def make(d: Any = None, **changes: Any) -> tuple[Any, Any, Any]:
        small = {"channel_base": 64, "channel_max": 8, "mapping_layers": 2}
        cfg = GeneratorConfig(**{"resolution": 8, "z_dim": 5, "w_dim": 7, **small, **changes})
        shared = {"resolution": max(cfg.resolution, 8), "c_dim": cfg.c_dim, "img_channels": cfg.img_channels}
        shared |= {"channel_base": cfg.channel_base, "channel_max": cfg.channel_max, "mbstd_group_size": 2}
        d_cfg = DiscriminatorConfig(**{**shared, "mapping_layers": 2, **(d or {})})
        nets = (Generator(cfg), Generator(cfg), Discriminator(d_cfg))
        return tuple(randomize(n).eval() for n in nets)  # type: ignore[return-value]

    return make
