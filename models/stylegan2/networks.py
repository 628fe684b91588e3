"""StyleGAN2: mapping, synthesis and discriminator, in the order in which an image meets them.

Karras et al. 2018 (StyleGAN), 2020a (StyleGAN2) and 2020b (ADA). Parameters and buffers carry the names of the official
PyTorch implementation, so its state dicts load here as they are.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER, RESNET_GAIN, DiscriminatorConfig, GeneratorConfig, LayerSpec
from stylert.plugins.ops import bias_act, downsample2d, modulated_conv2d, upfirdn2d, upsample2d
from stylert.plugins.reference.bias_act import activation_gain
from stylert.plugins.reference.bias_act import bias_act as plain_bias_act
from stylert.plugins.reference.modulated_conv2d import demodulation
from stylert.plugins.reference.upfirdn2d import setup_filter

NoiseMode = Literal["const", "random", "none"]

#: A style or kernel of zeros stays zero when it is normalised for float16.
FP16_TINY = 1e-8


def normalize_2nd_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Scale each row to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + eps).rsqrt()


class FullyConnected(nn.Module):
    """Linear layer with equalised learning rate: stored weight `randn / lr`, used as `weight * lr / sqrt(in)`."""

    def __init__(
        self, in_features: int, out_features: int, activation: str = "linear", lr: float = 1.0, bias_init: float = 0.0
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight_gain = lr / in_features**0.5
        self.bias_gain = lr
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr)
        self.bias = nn.Parameter(torch.full([out_features], bias_init / lr))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight.to(x.dtype) * self.weight_gain)
        # Not our op, which on a GPU is a kernel: launching it takes longer than what it saves on a few hundred numbers.
        return plain_bias_act(x, self.bias * self.bias_gain, activation=self.activation)


class Conv2d(nn.Module):
    """Discriminator convolution with equalised learning rate, optional FIR-filtered 2x down, activation and clamp."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        taps: tuple[float, ...],
        activation: str = "linear",
        bias: bool = True,
        down: int = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.down, self.clamp, self.kernel = activation, down, clamp, kernel
        self.weight_gain = 1 / (in_channels * kernel**2) ** 0.5
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", setup_filter(taps))

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        # The activation is positively homogeneous: its gain goes into weight and bias, which are small.
        gain_out = activation_gain(self.activation) * gain
        w = (self.weight * (self.weight_gain * gain_out)).to(x.dtype)
        if self.down == 1:
            x = F.conv2d(x, w, padding=self.kernel // 2)
        elif self.kernel == 1:
            x = F.conv2d(downsample2d(x, self.resample_filter, self.down), w)
        else:
            # The filter's padding and the convolution's in one step: blur at full size, then convolve every second pixel.
            taps = self.resample_filter.shape[0] - self.down
            before, after = (taps + 1) // 2 + self.kernel // 2, taps // 2 + self.kernel // 2
            x = upfirdn2d(x, self.resample_filter, padding=[before, after, before, after])
            x = F.conv2d(x, w, stride=self.down)
        b = None if self.bias is None else self.bias * gain_out
        clamp = None if self.clamp is None else self.clamp * gain
        return bias_act(x, b, activation=self.activation, gain=1.0, clamp=clamp)


class MappingNetwork(nn.Module):
    """z (and a label) to w: normalise, then fully connected layers at a hundredth of the learning rate.

    `z_dim` 0 makes the discriminator's label mapping; `num_ws` None returns one w per sample and tracks no average.
    """

    def __init__(
        self, z_dim: int, c_dim: int, w_dim: int, num_ws: int | None, layers: int, w_avg_beta: float | None = None
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = layers, w_avg_beta
        if c_dim:
            self.embed = FullyConnected(c_dim, w_dim)
        width = z_dim + (w_dim if c_dim else 0)
        for i in range(layers):
            setattr(self, f"fc{i}", FullyConnected(width, w_dim, "lrelu", MAPPING_LR_MULTIPLIER))
            width = w_dim
        self.w_avg: Tensor
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self, z: Tensor | None, c: Tensor | None = None, psi: float = 1.0, cutoff: int | None = None, update_w_avg: bool = False
    ) -> Tensor:
        """`z` `[N, z_dim]`, `c` `[N, c_dim]` to ws `[N, num_ws, w_dim]`.

        Truncation moves the first `cutoff` latents (all by default) toward the average: `w_avg + psi * (w - w_avg)`.
        """
        parts = []
        if self.z_dim:
            assert z is not None
            parts.append(normalize_2nd_moment(z.float()))
        if self.c_dim:
            if c is None:
                raise ValueError(f"this network takes labels: pass c of shape [N, {self.c_dim}]")
            parts.append(normalize_2nd_moment(self.embed(c.float())))
        w = torch.cat(parts, dim=1)
        for i in range(self.num_layers):
            w = getattr(self, f"fc{i}")(w)
        if update_w_avg and self.w_avg_beta is not None:
            self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is None:
            return w
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        if psi != 1.0:
            cut = ws[:, :cutoff]
            ws = torch.cat([self.w_avg + psi * (cut - self.w_avg), ws[:, cut.shape[1] :]], dim=1)
        return ws


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU, clamp."""

    def __init__(self, spec: LayerSpec, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.up, self.clamp = spec.up, cfg.conv_clamp
        self.affine = FullyConnected(cfg.w_dim, spec.in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(spec.out_channels, spec.in_channels, spec.kernel, spec.kernel))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(spec.out_channels))
        self.noise_const: Tensor
        self.resample_filter: Tensor
        self.register_buffer("noise_const", torch.randn(spec.resolution, spec.resolution))
        self.register_buffer("resample_filter", setup_filter(cfg.resample_filter))

    def forward(self, x: Tensor, w: Tensor, noise_mode: NoiseMode = "const", gain: float = 1.0) -> Tensor:
        style, weight = self.affine(w), self.weight
        if x.dtype == torch.float16:
            # Demodulation makes the layer blind to the scale of weight and style, so both are brought to at most one
            # in front of it; the largest sum in float16 is then that of the activations alone (ADA, appendix D).
            fan_in = weight[0].numel()
            weight = weight / (fan_in**0.5 * weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(FP16_TINY))
            style = style / style.abs().amax(1, keepdim=True).clamp_min(FP16_TINY)
        noise = None
        if noise_mode == "random":
            res = self.noise_const.shape[0]
            noise = torch.randn(x.shape[0], 1, res, res, device=x.device) * self.noise_strength
        elif noise_mode == "const":
            noise = self.noise_const * self.noise_strength
        return modulated_conv2d(
            x,
            weight,
            style,
            demodulation(weight, style),
            noise,
            self.bias,
            up=self.up,
            f=self.resample_filter,
            activation="lrelu",
            gain=activation_gain("lrelu") * gain,
            clamp=None if self.clamp is None else self.clamp * gain,
        )


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to the image's channels, without demodulation or noise."""

    def __init__(self, spec: LayerSpec, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.clamp = cfg.conv_clamp
        self.weight_gain = 1 / (spec.in_channels * spec.kernel**2) ** 0.5
        self.affine = FullyConnected(cfg.w_dim, spec.in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(spec.out_channels, spec.in_channels, spec.kernel, spec.kernel))
        self.bias = nn.Parameter(torch.zeros(spec.out_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return modulated_conv2d(x, self.weight, self.affine(w) * self.weight_gain, bias=self.bias, clamp=self.clamp)


class SynthesisBlock(nn.Module):
    """conv0 (2x up) and conv1 at one resolution, with a 1x1 shortcut when residual, and the RGB skip, always float32."""

    def __init__(self, resolution: int, specs: list[LayerSpec], cfg: GeneratorConfig) -> None:
        super().__init__()
        self.specs = specs
        self.use_fp16 = cfg.is_fp16(resolution)
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", setup_filter(cfg.resample_filter))
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(cfg.channels(4), 4, 4))
        for spec in specs:
            layer = ToRGB(spec, cfg) if spec.kind == "torgb" else SynthesisLayer(spec, cfg)
            setattr(self, spec.name.split(".")[1], layer)
        self.residual = resolution in cfg.shortcuts()
        if self.residual:
            inner, outer = cfg.shortcuts()[resolution]
            self.skip = Conv2d(inner, outer, 1, cfg.resample_filter, bias=False)

    def forward(
        self, x: Tensor | None, img: Tensor | None, ws: Tensor, noise_mode: NoiseMode, half: torch.dtype | None
    ) -> tuple[Tensor, Tensor | None]:
        if x is None:
            x = self.const.unsqueeze(0).expand(ws.shape[0], -1, -1, -1)
        x = x.to(half if self.use_fp16 and half is not None else torch.float32, memory_format=torch.channels_last)
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        shortcut = upsample2d(self.skip(x, gain=RESNET_GAIN), self.skip.resample_filter) if self.residual else None
        for spec in self.specs:
            layer, w = getattr(self, spec.name.split(".")[1]), ws[:, spec.ws_index]
            if spec.kind == "torgb":
                y = layer(x, w).float()
                img = y if img is None else img + y
            elif shortcut is not None and spec.up == 1:
                x = shortcut + layer(x, w, noise_mode, RESNET_GAIN)
            else:
                x = layer(x, w, noise_mode)
        return x, img


class SynthesisNetwork(nn.Module):
    """ws `[N, num_ws, w_dim]` to images `[N, img_channels, R, R]`, float32, nominally in [-1, 1]."""

    def __init__(self, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        layers = cfg.layers()
        for res in cfg.block_resolutions:
            specs = [s for s in layers if s.resolution == res]
            setattr(self, f"b{res}", SynthesisBlock(res, specs, cfg))

    def forward(self, ws: Tensor, noise_mode: NoiseMode = "random", half: torch.dtype | None = None) -> Tensor:
        """`half` is the type of the `num_fp16_res` highest blocks (float16, bfloat16), or None for float32 throughout."""
        if ws.ndim != 3 or ws.shape[1:] != (self.cfg.num_ws, self.cfg.w_dim):
            raise ValueError(f"ws must be [N, {self.cfg.num_ws}, {self.cfg.w_dim}], not {list(ws.shape)}")
        x = img = None
        for res in self.cfg.block_resolutions:
            x, img = getattr(self, f"b{res}")(x, img, ws.float(), noise_mode, half)
        assert img is not None
        return img


class Generator(nn.Module):
    """z and a label to an image: `synthesis(mapping(z, c))`."""

    def __init__(self, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.synthesis = SynthesisNetwork(cfg)
        self.mapping = MappingNetwork(cfg.z_dim, cfg.c_dim, cfg.w_dim, cfg.num_ws, cfg.mapping_layers, cfg.w_avg_beta)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise_mode: NoiseMode = "const",
        half: torch.dtype | None = None,
    ) -> Tensor:
        return self.synthesis(self.mapping(z, c, psi, cutoff), noise_mode, half)


class DiscriminatorBlock(nn.Module):
    """Two convolutions at one resolution, the second 2x down; with a 1x1 shortcut when residual."""

    def __init__(self, resolution: int, cfg: DiscriminatorConfig) -> None:
        super().__init__()
        inner, outer = cfg.channels(resolution), cfg.channels(resolution // 2)
        taps, clamp = cfg.resample_filter, cfg.conv_clamp
        self.architecture = cfg.architecture
        self.use_fp16 = cfg.is_fp16(resolution)
        self.resample_filter: Tensor
        self.register_buffer("resample_filter", setup_filter(taps))
        first = resolution == cfg.resolution
        self.has_fromrgb = first or cfg.architecture == "skip"
        if self.has_fromrgb:
            self.fromrgb = Conv2d(cfg.img_channels, inner, 1, taps, "lrelu", clamp=clamp)
        self.conv0 = Conv2d(inner, inner, 3, taps, "lrelu", clamp=clamp)
        self.conv1 = Conv2d(inner, outer, 3, taps, "lrelu", down=2, clamp=clamp)
        if cfg.architecture == "resnet":
            self.skip = Conv2d(inner, outer, 1, taps, bias=False, down=2)

    def forward(self, x: Tensor | None, img: Tensor | None, half: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
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
    """Append the standard deviation over groups of samples as `num_channels` constant maps (Karras et al. 2017).

    `[N, C, H, W]` to `[N, C + num_channels, H, W]`; N must be a multiple of the group size, or smaller than it.
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
    """The 4 px block: minibatch standard deviation, convolution, two fully connected layers, label projection."""

    def __init__(self, cfg: DiscriminatorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        channels = cfg.channels(4)
        if cfg.architecture == "skip":
            self.fromrgb = Conv2d(cfg.img_channels, channels, 1, cfg.resample_filter, "lrelu")
        self.conv = Conv2d(channels + cfg.mbstd_num_channels, channels, 3, cfg.resample_filter, "lrelu", clamp=cfg.conv_clamp)
        self.fc = FullyConnected(channels * 16, channels, "lrelu")
        self.out = FullyConnected(channels, cfg.cmap_dim or 1)

    def forward(self, x: Tensor, img: Tensor | None, cmap: Tensor | None) -> Tensor:
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
    """Images `[N, img_channels, R, R]` in [-1, 1] (and labels `[N, c_dim]`) to logits `[N, 1]`."""

    def __init__(self, cfg: DiscriminatorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        for res in cfg.block_resolutions:
            setattr(self, f"b{res}", DiscriminatorBlock(res, cfg))
        if cfg.c_dim:
            self.mapping = MappingNetwork(0, cfg.c_dim, cfg.cmap_dim, None, cfg.mapping_layers)
        self.b4 = DiscriminatorEpilogue(cfg)

    def forward(self, img: Tensor, c: Tensor | None = None, half: torch.dtype | None = None) -> Tensor:
        size = (self.cfg.img_channels, self.cfg.resolution, self.cfg.resolution)
        if img.ndim != 4 or img.shape[1:] != size:
            raise ValueError(f"the discriminator takes [N, {', '.join(map(str, size))}], not {list(img.shape)}")
        x: Tensor | None = None
        skip: Tensor | None = img
        for res in self.cfg.block_resolutions:
            x, skip = getattr(self, f"b{res}")(x, skip, half)
        cmap = self.mapping(None, c) if self.cfg.c_dim else None
        assert x is not None
        return self.b4(x, skip, cmap)
