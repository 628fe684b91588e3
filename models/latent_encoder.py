"""The encoder of a generator: an image to the latents `ws` whose image looks like it, in one pass (pSp, Richardson et al. 2021).

    image ─▶ EfficientNet-Lite0 ─▶ maps at strides 8, 16 and 32
                                       │    │    └─▶ head ─▶ coarse latents
                                       │    └──(+ coarser)─▶ head ─▶ middle latents
                                       └───────(+ coarser)─▶ head ─▶ fine latents

The coarser map is enlarged and added to the finer one, as in a feature pyramid. A head puts out the principal components of w in
units of their deviation. So a new encoder gives the average w for every image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylert.core.errors import InputError, shown_line
from stylert.models.features.pyramid import CHANNELS, EffNetLite0Pyramid

#: Side at which the trunk sees images of up to 64 px, and the greatest one.
LEAST_SIDE, GREATEST_SIDE = 96, 256
#: The greatest blocks of the coarse and of the middle latents, in pixels, as in the StyleGAN paper.
COARSE, MIDDLE = 8, 32
#: Channels of the pyramid, and features between the two layers of a head.
PYRAMID_CHANNELS, HEAD_FEATURES = 64, 512
NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes of an encoder, which are those of its generator.

    Attributes:
        resolution: Side of the images.
        img_channels: Channels of the images: 1 or 3.
        num_ws: Number of latents.
        w_dim: Numbers in a latent.
    """

    resolution: int
    img_channels: int
    num_ws: int
    w_dim: int

    @property
    def side(self) -> int:
        """Side at which the trunk sees an image: a multiple of 32 pixels."""
        return LEAST_SIDE if self.resolution < LEAST_SIDE else min(self.resolution, GREATEST_SIDE)

    @property
    def levels(self) -> tuple[int, ...]:
        """Numbers of coarse, middle and fine latents. A small network lacks the last ones."""
        # The first convolution of a block and the torgb of the block before it share a latent. The last torgb has its own.
        blocks = [min(4 * 2 ** ((i + 1) // 2), self.resolution) for i in range(self.num_ws)]
        coarse = sum(block <= COARSE for block in blocks)
        middle = sum(COARSE < block <= MIDDLE for block in blocks)
        return tuple(count for count in (coarse, middle, self.num_ws - coarse - middle) if count)


class LatentEncoder(nn.Module):
    """An encoder. Needs the `metrics` extra.

    Args:
        config: See `EncoderConfig`.

    Raises:
        BackendError: The packages of EfficientNet-Lite0 or of its weights are not installed.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = EffNetLite0Pyramid(config.side)
        for unused in ("_conv_head", "_fc"):
            setattr(self.trunk.network, unused, nn.Identity())
        channels = CHANNELS[::-1][: len(config.levels)]
        self.lateral = nn.ModuleList(nn.Conv2d(c, PYRAMID_CHANNELS, 1) for c in channels)
        self.heads = nn.ModuleList(_Head(config.side // 32, count * config.w_dim) for count in config.levels)
        self.mean: Tensor
        self.components: Tensor
        self.register_buffer("mean", torch.zeros(config.w_dim))
        self.register_buffer("components", torch.eye(config.w_dim))

    @torch.no_grad()
    def set_statistics(self, w: Tensor) -> None:
        """Take mean and principal components from random latents `[N, w_dim]`. A component's length is its deviation."""
        self.mean.copy_(w.mean(0))
        variances, axes = torch.linalg.eigh(torch.cov(w.T.double()))
        self.components.copy_((axes * variances.clamp_min(0).sqrt()).T)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C, R, R]` in [-1, 1] to ws `[N, num_ws, w_dim]`."""
        if self.config.resolution > self.config.side:
            images = F.avg_pool2d(images, self.config.resolution // self.config.side)
        maps = self.trunk(images)[::-1]
        pyramid, latents = None, []
        for maps_of_stride, lateral, head in zip(maps, self.lateral, self.heads, strict=False):
            x = lateral(maps_of_stride)
            pyramid = x if pyramid is None else x + F.interpolate(pyramid, scale_factor=2.0, mode="nearest")
            latents.append(head(pyramid).unflatten(1, (-1, self.config.w_dim)))
        return self.mean + torch.cat(latents, 1) @ self.components


def encoder_module(config: EncoderConfig, arrays: Mapping[str, np.ndarray]) -> LatentEncoder:
    """Make an encoder from its weights, frozen.

    Raises:
        InputError: A tensor is missing, unknown, or of another shape.
        BackendError: As `LatentEncoder`.
    """
    encoder = LatentEncoder(config)
    try:
        encoder.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    except RuntimeError as e:
        raise InputError(f"the encoder is damaged: {shown_line(str(e))}") from None
    return encoder.eval().requires_grad_(False)


class _Head(nn.Module):
    """A map `[N, PYRAMID_CHANNELS, h, h]` to numbers `[N, outputs]`. It is averaged to `side` x `side` pixels."""

    def __init__(self, side: int, outputs: int) -> None:
        super().__init__()
        self.side = side
        self.conv = nn.Conv2d(PYRAMID_CHANNELS, PYRAMID_CHANNELS, 3, padding=1)
        self.hidden = nn.Linear(PYRAMID_CHANNELS * side**2, HEAD_FEATURES)
        self.out = nn.Linear(HEAD_FEATURES, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv(x), NEGATIVE_SLOPE)
        if x.shape[2] > self.side:
            x = F.avg_pool2d(x, x.shape[2] // self.side)
        return self.out(F.leaky_relu(self.hidden(x.flatten(1)), NEGATIVE_SLOPE))
