"""The layers of StyleGAN3's synthesis network: rates, bands, filters, sizes and padding. No torch.

A layer's signal is continuous and band-limited. Sampling rates count samples per unit of length, where the image has a
width of 1. Cutoffs and half-widths of transition bands count cycles per unit. The canvas is wider than the image by
`margin_size` samples on every side, so that the border of the padding stays outside of it.

Paper: Karras et al. 2021, "Alias-Free Generative Adversarial Networks", section 3.2 and appendices C and D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stylert.models.stylegan3.config import GeneratorConfig


@dataclass(frozen=True)
class LayerSpec:
    """One layer of the synthesis network: a modulated convolution, and a nonlinearity between two filters.

    The padded convolution makes `in_size + kernel - 1` samples per axis. They are upsampled to `inner_rate`, activated,
    and downsampled to `out_rate`.

    Attributes:
        index: Position in the network, from 0. The last layer is torgb.
        is_torgb: Whether this is the 1x1 convolution to the image, which has no filters and is linear.
        is_critical: Whether the layer's signal is critically sampled: its cutoff is half of the sampling rate.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        in_size: Height and width of the input in samples.
        out_size: Height and width of the output in samples.
        in_rate: Sampling rate of the input.
        out_rate: Sampling rate of the output.
        inner_rate: Sampling rate of the nonlinearity.
        in_cutoff: Cutoff of the upsampling filter.
        out_cutoff: Cutoff of the downsampling filter.
        in_half_width: Half-width of the transition band of the upsampling filter.
        out_half_width: Half-width of the transition band of the downsampling filter.
        kernel: Height and width of the convolution's kernel.
        up: Factor from `in_rate` to `inner_rate`.
        down: Factor from `inner_rate` to `out_rate`.
        up_taps: Taps of the upsampling filter, 1 without a filter.
        down_taps: Taps of the downsampling filter on one axis, 1 without a filter.
        is_radial: Whether the downsampling filter is radially symmetric, and not separable.
        padding: Before and after each axis, in samples of `inner_rate`. Negative crops.
        is_fp16: Whether the layer may run in half precision.
    """

    index: int
    is_torgb: bool
    is_critical: bool
    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    in_rate: int
    out_rate: int
    inner_rate: int
    in_cutoff: float
    out_cutoff: float
    in_half_width: float
    out_half_width: float
    kernel: int
    up: int
    down: int
    up_taps: int
    down_taps: int
    is_radial: bool
    padding: tuple[int, int]
    is_fp16: bool

    @property
    def name(self) -> str:
        """The official name, such as "L3_52_512": index, size and channels of the output."""
        return f"L{self.index}_{self.out_size}_{self.out_channels}"

    @property
    def ws_index(self) -> int:
        """Index, among the `num_ws` latents, of the one that styles this layer. The Fourier features take latent 0."""
        return self.index + 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolution per image, without its filters."""
        return self.in_channels * self.out_channels * self.kernel**2 * (self.in_size + self.kernel - 1) ** 2


def layer_list(cfg: GeneratorConfig) -> list[LayerSpec]:
    """Every layer in the order in which the signal meets it. The last one is torgb.

    Cutoffs and stopbands grow in geometric progressions, up to the first critically sampled layer (section 3.2,
    "Flexible layer specifications").
    """
    last_cutoff = cfg.resolution / 2
    last_stopband = last_cutoff * cfg.last_stopband_rel
    progress = [min(i / (cfg.num_layers - cfg.num_critical), 1.0) for i in range(cfg.num_layers + 1)]
    cutoffs = [cfg.first_cutoff * (last_cutoff / cfg.first_cutoff) ** p for p in progress]
    stopbands = [cfg.first_stopband * (last_stopband / cfg.first_stopband) ** p for p in progress]
    rates = [2 ** math.ceil(math.log2(min(2 * stopband, cfg.resolution))) for stopband in stopbands]
    half_widths = [max(t, rate / 2) - c for t, rate, c in zip(stopbands, rates, cutoffs, strict=True)]
    sizes = [rate + 2 * cfg.margin_size for rate in rates]
    sizes[-2:] = [cfg.resolution, cfg.resolution]
    channels = [round(min(cfg.channel_base / 2 / c, cfg.channel_max)) for c in cutoffs]
    channels[-1] = cfg.img_channels

    layers = []
    for i in range(cfg.num_layers + 1):
        before, is_torgb = max(i - 1, 0), i == cfg.num_layers
        is_critical = i >= cfg.num_layers - cfg.num_critical
        kernel = 1 if is_torgb else cfg.conv_kernel
        # torgb has the rate of the layer before it, so it needs no filters.
        inner_rate = max(rates[before], rates[i]) * (1 if is_torgb else cfg.lrelu_upsampling)
        up, down = inner_rate // rates[before], inner_rate // rates[i]
        up_taps, down_taps = (cfg.filter_size * factor if factor > 1 else 1 for factor in (up, down))
        layers.append(
            LayerSpec(
                index=i,
                is_torgb=is_torgb,
                is_critical=is_critical,
                in_channels=channels[before],
                out_channels=channels[i],
                in_size=sizes[before],
                out_size=sizes[i],
                in_rate=rates[before],
                out_rate=rates[i],
                inner_rate=inner_rate,
                in_cutoff=cutoffs[before],
                out_cutoff=cutoffs[i],
                in_half_width=half_widths[before],
                out_half_width=half_widths[i],
                kernel=kernel,
                up=up,
                down=down,
                up_taps=up_taps,
                down_taps=down_taps,
                is_radial=cfg.use_radial_filters and not is_critical and down_taps > 1,
                padding=centred_padding(sizes[before] + kernel - 1, sizes[i], up, down, up_taps + down_taps - 2),
                is_fp16=rates[i] * 2**cfg.num_fp16_res > cfg.resolution,
            )
        )
    return layers


def centred_padding(in_size: int, out_size: int, up: int, down: int, reach: int) -> tuple[int, int]:
    """Padding before and after an axis that puts the centre of the output on the centre of the input.

    Sample i of a signal covers `[i, i + 1)` of its sampling period. So the zeros of an upsampling lie on both sides of
    a sample, and the centre moves by `(up - 1) / 2` samples of the higher rate.

    Args:
        in_size: Samples of the input.
        out_size: Samples of the output.
        up: Factor of the zero insertion.
        down: Factor of the decimation.
        reach: Taps of both filters, less one for each.
    """
    total = (out_size - 1) * down + 1 - in_size * up + reach
    before = (total + up) // 2
    return before, total - before
