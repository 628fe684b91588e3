"""StyleGAN2's discriminator: an image and a label to one logit, through blocks of falling resolution.

    image ─▶ bR ─▶ ... ─▶ b8 ─▶ b4 ─▶ logit        each block: conv0, conv1 (2x down), and a shortcut ("resnet")

The architectures are those of Karras et al. 2020a, figure 7. Parameters and buffers carry the names of the official
PyTorch implementation, so its state dicts load unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stylert.models.stylegan2.config import RESNET_GAIN, DiscriminatorConfig
from stylert.models.stylegan2.layers import Conv2d, FullyConnected, MappingNetwork
from stylert.plugins.ops import downsample2d
from stylert.plugins.reference.upfirdn2d import setup_filter


class DiscriminatorBlock(nn.Module):
    """The layers of one resolution: conv0 and conv1 (2x down), with fromrgb or a 1x1 shortcut as the architecture says.

    The first block has fromrgb in every architecture. In "skip", every block has it and the image is halved beside it.
    """

    def __init__(self, resolution: int, cfg: DiscriminatorConfig) -> None:
        super().__init__()
        inner, outer = cfg.channels(resolution), cfg.channels(resolution // 2)
        taps, clamp = cfg.resample_filter, cfg.conv_clamp
        self.architecture = cfg.architecture
        self.use_fp16 = cfg.is_fp16(resolution)
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", setup_filter(taps))
        self.has_fromrgb = resolution == cfg.resolution or cfg.architecture == "skip"
        if self.has_fromrgb:
            self.fromrgb = Conv2d(cfg.img_channels, inner, 1, taps, "lrelu", clamp=clamp)
        self.conv0 = Conv2d(inner, inner, 3, taps, "lrelu", clamp=clamp)
        self.conv1 = Conv2d(inner, outer, 3, taps, "lrelu", down=2, clamp=clamp)
        if cfg.architecture == "resnet":
            self.skip = Conv2d(inner, outer, 1, taps, bias=False, down=2)

    def forward(self, x: Tensor | None, img: Tensor | None, half: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
        """One block down.

        Args:
            x: Activations `[N, inner, H, W]`, or None in the first block.
            img: Image `[N, img_channels, H, W]` where this block has fromrgb, or None.
            half: float16 or bfloat16 for the blocks that may run in it, or None for float32.

        Returns:
            Activations `[N, outer, H / 2, W / 2]`, and for "skip" the image at half the size, else None.
        """
        dtype = half if self.use_fp16 and half is not None else torch.float32
        if x is not None:
            x = x.to(dtype, memory_format=torch.channels_last)
        if self.has_fromrgb:
            assert img is not None
            y = self.fromrgb(img.to(dtype, memory_format=torch.channels_last))
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        assert x is not None
        if self.architecture == "resnet":
            shortcut = self.skip(x, gain=RESNET_GAIN)
            return self.conv1(self.conv0(x), gain=RESNET_GAIN) + shortcut, img
        return self.conv1(self.conv0(x)), img


def minibatch_std(x: Tensor, group_size: int | None, num_channels: int) -> Tensor:
    """Append the standard deviation over groups of samples as constant feature maps (Karras et al. 2017, section 3).

    Args:
        x: `[N, C, H, W]`. N is a multiple of `group_size`, or smaller than it.
        group_size: Samples per group. None groups the whole batch.
        num_channels: Feature maps to append. Each averages the deviation over `C / num_channels` channels and all pixels.

    Returns:
        `[N, C + num_channels, H, W]` in the dtype of `x`.

    Raises:
        ValueError: The batch or the channels do not divide.
    """
    n, c, h, w = x.shape
    g = n if group_size is None else min(group_size, n)
    if n % g or c % num_channels:
        raise ValueError(f"minibatch_std: batch {n} and {c} channels do not divide into groups of {g} and {num_channels}")
    y = x.float().reshape(g, -1, num_channels, c // num_channels, h, w)
    y = y - y.mean(dim=0)
    y = (y.square().mean(dim=0) + 1e-8).sqrt().mean(dim=(2, 3, 4))
    y = y.reshape(-1, num_channels, 1, 1).repeat(g, 1, h, w)
    return torch.cat([x, y.to(x.dtype)], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """The 4 px block: minibatch standard deviation, convolution, two fully connected layers, and the label.

    With labels, the result is the inner product with the mapped label (projection, Miyato and Koyama 2018).
    """

    def __init__(self, cfg: DiscriminatorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        channels = cfg.channels(4)
        if cfg.architecture == "skip":
            self.fromrgb = Conv2d(cfg.img_channels, channels, 1, cfg.resample_filter, "lrelu")
        self.conv = Conv2d(channels + cfg.mbstd_num_channels, channels, 3, cfg.resample_filter, "lrelu", clamp=cfg.conv_clamp)
        self.fc = FullyConnected(channels * cfg.const_height * cfg.const_width, channels, "lrelu")
        self.out = FullyConnected(channels, cfg.cmap_dim or 1)

    def forward(self, x: Tensor, img: Tensor | None, cmap: Tensor | None) -> Tensor:
        """x `[N, C, H, W]`, for "skip" the image at 4 px, and mapped labels `[N, cmap_dim]` or None, to logits `[N, 1]`."""
        x = x.float()
        if self.cfg.architecture == "skip":
            assert img is not None
            x = x + self.fromrgb(img)
        if self.cfg.mbstd_num_channels:
            x = minibatch_std(x, self.cfg.mbstd_group_size, self.cfg.mbstd_num_channels)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is not None:
            x = (x * cmap).sum(dim=1, keepdim=True) / self.cfg.cmap_dim**0.5
        return x


class Discriminator(nn.Module):
    """The whole discriminator."""

    def __init__(self, cfg: DiscriminatorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        for res in cfg.block_resolutions:
            setattr(self, f"b{res}", DiscriminatorBlock(res, cfg))
        if cfg.c_dim:
            self.mapping = MappingNetwork(0, cfg.c_dim, cfg.cmap_dim, None, cfg.mapping_layers)
        self.b4 = DiscriminatorEpilogue(cfg)

    def forward(self, img: Tensor, c: Tensor | None = None, half: torch.dtype | None = None) -> Tensor:
        """Judge images.

        Args:
            img: `[N, img_channels, H, W]` in [-1, 1].
            c: One-hot labels `[N, c_dim]`, or None without labels.
            half: float16 or bfloat16 for the `num_fp16_res` highest blocks, or None for float32 throughout.

        Returns:
            Logits, float32 `[N, 1]`. Higher is more like a real image.

        Raises:
            ValueError: `img` has another shape, or labels are missing.
        """
        size = (self.cfg.img_channels, self.cfg.height, self.cfg.width)
        if img.ndim != 4 or img.shape[1:] != size:
            raise ValueError(f"the discriminator takes [N, {', '.join(map(str, size))}], not {list(img.shape)}")
        x: Tensor | None = None
        skip: Tensor | None = img
        for res in self.cfg.block_resolutions:
            x, skip = getattr(self, f"b{res}")(x, skip, half)
        cmap = self.mapping(None, c) if self.cfg.c_dim else None
        assert x is not None
        return self.b4(x, skip, cmap)
