"""The discriminator of Projected GANs (Sauer et al. 2021): it judges features of a frozen network, not pixels.

    image ─▶ EfficientNet-Lite0 ─▶ 4 maps ─▶ fixed random mixing ─▶ 4 mixed maps ─▶ 4 heads ─▶ 4 logits
      └────▶ smaller image ─▶ StyleGAN2's discriminator ─▶ 1 logit                      (optional)

The mixing is random and never trained (section 3.2 of the paper). First, each map is mixed across its channels by a
1x1 convolution. Then each map is mixed across scales: the coarser map passes a 3x3 convolution, is upsampled, and is
added to the finer one. Without it, the heads would attend to a part of the features only.

Only the heads are trained. Each is a small convolutional network with spectral normalisation (Miyato et al. 2018). Unlike
in the paper, it has StyleGAN2's minibatch standard deviation instead of batch normalisation. R1 is taken with respect to
the mixed maps (`maps`, `judge`), as in Sauer et al. 2023 (ADD, section 3.2): see docs/decisions/train-projected.md.

Features of a classifier hold little of colors. So a discriminator of pixels can judge beside the heads, as in
vision-aided training (Kumari et al. 2022). Here it sees a smaller image, because the heads judge the details.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from stylert.models.features.pyramid import CHANNELS, STRIDES, EffNetLite0Pyramid
from stylert.models.stylegan2.config import DiscriminatorConfig
from stylert.models.stylegan2.discriminator import Discriminator, minibatch_std
from stylert.models.stylegan2.layers import FullyConnected

#: Channels of the mixed maps, from the finest to the coarsest.
MIXED_CHANNELS = (32, 64, 128, 192)
#: Most channels inside a head.
HEAD_CHANNELS = 192
#: A head halves its map down to this side. Its last convolution then sees the whole map.
LAST_SIDE = 4
NEGATIVE_SLOPE = 0.2


class ProjectedDiscriminator(nn.Module):
    """Four heads on the features of EfficientNet-Lite0. Needs the `metrics` extra.

    The state dict holds the frozen weights as well, so a snapshot does not depend on the package that they came from.

    Args:
        size: Side to which images are resized, a multiple of 32 pixels.
        c_dim: Label dimensions; 0 for none. A label enters as in StyleGAN2's discriminator: its embedding is multiplied
            with the last features of each head (projection, Miyato and Koyama 2018).
        mbstd_group_size: Images per group of the minibatch standard deviation; None groups the whole batch.
        pixels: The discriminator of pixels. Images are averaged down to its resolution. None for heads alone.

    Raises:
        BackendError: The packages of EfficientNet-Lite0 or of its weights are not installed.
    """

    def __init__(
        self, size: int, c_dim: int = 0, mbstd_group_size: int | None = 4, pixels: DiscriminatorConfig | None = None
    ) -> None:
        super().__init__()
        self.c_dim = c_dim
        self.pyramid = EffNetLite0Pyramid(size)
        self.mixing = FixedMixing()
        self.heads = nn.ModuleList(
            Head(channels, size // stride, c_dim, mbstd_group_size)
            for channels, stride in zip(MIXED_CHANNELS, STRIDES, strict=True)
        )
        self.pixels = None if pixels is None else Discriminator(pixels)
        # Training mode would make every access to a weight one more power iteration. `update_spectral_norms` makes them.
        self.eval()

    def forward(self, images: Tensor, c: Tensor | None = None, half: torch.dtype | None = None) -> Tensor:
        """Judge images.

        Args:
            images: Grey or RGB, `[N, 1 or 3, R, R]` in [-1, 1].
            c: Labels `[N, c_dim]`, or None without labels.
            half: float16 or bfloat16 for convolutions, or None for float32.

        Returns:
            The logit of each head, and last that of the pixels if they are judged, float32 `[N, 4 or 5]`. Higher is
            more like a real image.
        """
        return self.judge(self.maps(images, half), c, half)

    def maps(self, images: Tensor, half: torch.dtype | None = None) -> list[Tensor]:
        """Images as for `forward` to all that is judged.

        Returns:
            The mixed maps from the finest to the coarsest, `[N, MIXED_CHANNELS[i], S_i, S_i]`. If pixels are judged, the
            smaller image is the last, `[N, 1 or 3, S, S]`.
        """
        with _precision(images.device, half):
            maps = self.mixing(self.pyramid(images))
        if self.pixels is not None:
            maps.append(F.interpolate(images, (self.pixels.cfg.resolution,) * 2, mode="area"))
        return maps

    def judge(self, maps: list[Tensor], c: Tensor | None = None, half: torch.dtype | None = None) -> Tensor:
        """The maps of images, as `maps` returns them, and their labels to logits, as `forward` returns them."""
        with _precision(maps[0].device, half):
            logits = [head(x, c) for head, x in zip(self.heads, maps[: len(self.heads)], strict=True)]
        if self.pixels is not None:
            logits.append(self.pixels(maps[-1], c, half))
        return torch.cat(logits, dim=1).float()

    def update_spectral_norms(self) -> None:
        """Make one power iteration for the largest singular value of each weight.

        Training calls it once per step. So all micro-batches and processes of a step see the same weights.
        """
        for module in self.heads.modules():
            if hasattr(module, "parametrizations"):
                module.train()
                _ = module.weight
                module.eval()


class FixedMixing(nn.Module):
    """Random mixing of the maps across channels and scales, with He's initialisation. It is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.across_channels = nn.ModuleList(
            _fixed_conv(inner, outer, 1) for inner, outer in zip(CHANNELS, MIXED_CHANNELS, strict=True)
        )
        self.across_scales = nn.ModuleList(_fixed_conv(coarse, fine, 3) for fine, coarse in pairwise(MIXED_CHANNELS))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps from the finest to the coarsest, `[N, CHANNELS[i], S_i, S_i]`, to `[N, MIXED_CHANNELS[i], S_i, S_i]`."""
        mixed = [conv(x) for conv, x in zip(self.across_channels, maps, strict=True)]
        for i in reversed(range(len(mixed) - 1)):
            coarse = self.across_scales[i](mixed[i + 1])
            mixed[i] = mixed[i] + F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        return mixed


class Head(nn.Module):
    """One map to one logit per image. It sees how much the images of a group differ, so a collapse shows."""

    def __init__(self, channels: int, side: int, c_dim: int, mbstd_group_size: int | None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if side <= LAST_SIDE:
            layers += _layer(nn.Conv2d(channels, channels, 3, padding=1))
        while side > LAST_SIDE:
            outer = min(2 * channels, HEAD_CHANNELS)
            layers += _layer(nn.Conv2d(channels, outer, 4, stride=2, padding=1))
            channels, side = outer, side // 2
        self.features = nn.Sequential(*layers)
        self.mbstd_group_size = mbstd_group_size
        self.embed_dim = channels if c_dim else 0
        self.out = spectral_norm(nn.Conv2d(channels + 1, self.embed_dim or 1, side))
        if c_dim:
            self.embed = FullyConnected(c_dim, self.embed_dim)

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        """A map `[N, channels, side, side]` and labels `[N, c_dim]` or None to logits `[N, 1]`."""
        x = minibatch_std(self.features(x), self.mbstd_group_size, 1)
        logits = cast(Tensor, self.out(x)).flatten(1)
        if self.embed_dim:
            assert c is not None
            logits = (logits * self.embed(c)).sum(dim=1, keepdim=True) / self.embed_dim**0.5
        return logits


def _layer(conv: nn.Conv2d) -> list[nn.Module]:
    return [spectral_norm(conv), nn.LeakyReLU(NEGATIVE_SLOPE)]


def _precision(device: torch.device, half: torch.dtype | None) -> AbstractContextManager[None]:
    return nullcontext() if half is None else torch.autocast(device.type, dtype=half)


def _fixed_conv(inner: int, outer: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(inner, outer, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(conv.weight)
    nn.init.zeros_(cast(Tensor, conv.bias))
    return conv.requires_grad_(False)
