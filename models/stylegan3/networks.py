"""StyleGAN3's generator: z and a label to w (`MappingNetwork`), then w to an image (`SynthesisNetwork`).

The synthesis network begins with Fourier features, whose frame w and the caller can turn and shift:

    SynthesisInput ─▶ L0 ─▶ L1 ─▶ ... ─▶ torgb        each layer: modulated convolution, filtered leaky ReLU

Parameters and buffers carry the names of the official PyTorch implementation, so its state dicts load unchanged.

Paper: Karras et al. 2021, section 3 and appendices C to F.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylert.models.stylegan2.layers import FullyConnected, MappingNetwork, normalize_2nd_moment
from stylert.models.stylegan3.config import GeneratorConfig
from stylert.models.stylegan3.filters import down_filter, up_filter
from stylert.models.stylegan3.layer_list import LayerSpec
from stylert.plugins.constants import ACTIVATION_GAIN, DEMOD_EPS, LRELU_SLOPE
from stylert.plugins.reference.filtered_lrelu import filtered_lrelu


class SynthesisInput(nn.Module):
    """Fourier features on the canvas of the first layer, and a matrix over their channels.

    A frequency f and a phase p make the feature `sin(2 pi (f · q + p))` of the point q. The point is `M_r M_t M x` for
    the position x on the canvas: the caller's transform M, then the shift M_t and the turn M_r that w asks for.
    """

    def __init__(self, cfg: GeneratorConfig) -> None:
        super().__init__()
        channels, self.positions = cfg.input_channels, cfg.input_positions
        self.rate, self.bandwidth = cfg.input_rate, cfg.first_cutoff
        # Uniform in the disc of the first layer's band.
        angles, radii = torch.rand(channels) * (2 * math.pi), torch.rand(channels).sqrt() * self.bandwidth
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = FullyConnected(cfg.w_dim, 4)
        nn.init.zeros_(self.affine.weight)  # the frame does not depend on w at first
        with torch.no_grad():
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.freqs: Tensor
        self.phases: Tensor
        self.transform: Tensor
        self.register_buffer("freqs", torch.stack([radii * angles.cos(), radii * angles.sin()], dim=1))
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.register_buffer("transform", torch.eye(3))

    def forward(self, w: Tensor, transform: Tensor | None = None) -> Tensor:
        """The features.

        Args:
            w: `[N, w_dim]`.
            transform: Homogeneous matrices `[N, 3, 3]` or `[3, 3]` from image positions `(x, y)` to those of the
                untransformed image. None takes the buffer `transform`.

        Returns:
            `[N, C, S, S]`, with S the size of the canvas.
        """
        frame = self._frame(w) @ (self.transform if transform is None else transform).to(w.dtype)
        mapped = self.freqs @ frame[:, :2]  # [N, C, 3]: the frequencies of x and y on the canvas, and the phase
        freqs, phases = mapped[:, :, :2], mapped[:, :, 2] + self.phases
        # A transform can enlarge frequencies. Those that the sampling rate cannot hold fade out.
        excess = (freqs.square().sum(2).sqrt() - self.bandwidth) / (self.rate / 2 - self.bandwidth)
        amplitudes = (1 - excess).clamp(0, 1)
        points = torch.tensor(self.positions).to(w)
        angles = freqs[:, :, 0, None, None] * points + freqs[:, :, 1, None, None] * points[:, None] + phases[:, :, None, None]
        x = torch.sin(angles * (2 * math.pi)) * amplitudes[:, :, None, None]
        return torch.einsum("oi,nihw->nohw", self.weight / self.weight.shape[1] ** 0.5, x)

    def _frame(self, w: Tensor) -> Tensor:
        """The matrix `M_r M_t` `[N, 3, 3]` from the affine function of w (appendix F)."""
        t = self.affine(w)
        cos, sin, shift_x, shift_y = (t / t[:, :2].square().sum(1, keepdim=True).sqrt()).unbind(1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).reshape(-1, 3, 3)
        shift = torch.stack([one, zero, -shift_x, zero, one, -shift_y, zero, zero, one], 1).reshape(-1, 3, 3)
        return turn @ shift


class SynthesisLayer(nn.Module):
    """Modulated convolution with demodulation, and a leaky ReLU between two filters. torgb has only the convolution."""

    def __init__(self, spec: LayerSpec, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.spec, self.clamp, self.magnitude_ema_beta = spec, cfg.conv_clamp, cfg.magnitude_ema_beta
        self.affine = FullyConnected(cfg.w_dim, spec.in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(spec.out_channels, spec.in_channels, spec.kernel, spec.kernel))
        self.bias = nn.Parameter(torch.zeros(spec.out_channels))
        self.magnitude_ema: Tensor
        self.up_filter: Tensor | None
        self.down_filter: Tensor | None
        self.register_buffer("magnitude_ema", torch.ones([]))
        for name, f in (("up_filter", up_filter(spec)), ("down_filter", down_filter(spec))):
            self.register_buffer(name, None if f is None else torch.from_numpy(f))

    def forward(self, x: Tensor, w: Tensor, update_magnitude: bool = False) -> Tensor:
        """x `[N, in_channels, in_size, in_size]` and w `[N, w_dim]` to `[N, out_channels, out_size, out_size]`.

        `update_magnitude` moves the running average of the input's mean square, as in training.
        """
        spec = self.spec
        if update_magnitude:
            mean_square = x.detach().float().square().mean()
            self.magnitude_ema.copy_(mean_square.lerp(self.magnitude_ema, self.magnitude_ema_beta))
        input_gain = self.magnitude_ema.rsqrt()
        weight: Tensor = self.weight
        style, fan_in = self.affine(w), weight[0].numel()
        if spec.is_torgb:
            x = self._convolve(x, weight, style * (input_gain / fan_in**0.5))
            return filtered_lrelu(x, self.bias, slope=1.0, gain=1.0, clamp=self.clamp)
        # Demodulation cancels the scales of weight and style. Unit scales keep all sums small in half precision.
        weight = weight * (weight.square().sum((1, 2, 3), keepdim=True)).rsqrt()
        style = normalize_2nd_moment(style)
        demod = (style.square() @ weight.square().sum((2, 3)).t() + DEMOD_EPS / fan_in).rsqrt()
        x = self._convolve(x, weight, style * input_gain) * demod.to(x.dtype)[:, :, None, None]
        return filtered_lrelu(
            x,
            self.bias,
            self.up_filter,
            self.down_filter,
            up=spec.up,
            down=spec.down,
            padding=[*spec.padding, *spec.padding],
            slope=LRELU_SLOPE,
            gain=ACTIVATION_GAIN["lrelu"],
            clamp=self.clamp,
        )

    def _convolve(self, x: Tensor, weight: Tensor, style: Tensor) -> Tensor:
        """The convolution over all positions at which the kernel and the input overlap."""
        return F.conv2d(x * style.to(x.dtype)[:, :, None, None], weight.to(x.dtype), padding=self.spec.kernel - 1)


class SynthesisNetwork(nn.Module):
    """Latents to images, through layers of rising bandwidth."""

    def __init__(self, cfg: GeneratorConfig) -> None:
        super().__init__()
        self.cfg, self.specs = cfg, cfg.layers()
        self.input = SynthesisInput(cfg)
        for spec in self.specs:
            setattr(self, spec.name, SynthesisLayer(spec, cfg))

    def forward(
        self, ws: Tensor, transform: Tensor | None = None, half: torch.dtype | None = None, update_magnitude: bool = False
    ) -> Tensor:
        """Make images `[N, img_channels, R, R]`, float32, nominally in [-1, 1].

        Args:
            ws: One latent per layer, `[N, num_ws, w_dim]`.
            transform: See `SynthesisInput.forward`.
            half: float16 or bfloat16 for the layers that may run in it, or None for float32 throughout.
            update_magnitude: See `SynthesisLayer.forward`.

        Raises:
            ValueError: `ws` has another shape.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.cfg.num_ws, self.cfg.w_dim):
            raise ValueError(f"ws must be [N, {self.cfg.num_ws}, {self.cfg.w_dim}], not {list(ws.shape)}")
        ws = ws.float()
        x = self.input(ws[:, 0], transform)
        for spec in self.specs:
            dtype = half if spec.is_fp16 and half is not None else torch.float32
            x = getattr(self, spec.name)(x.to(dtype), ws[:, spec.ws_index], update_magnitude)
        return x.float() * self.cfg.output_scale


class Generator(nn.Module):
    """The whole generator, `synthesis(mapping(z, c))`."""

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
        transform: Tensor | None = None,
        half: torch.dtype | None = None,
    ) -> Tensor:
        """z `[N, z_dim]` and c `[N, c_dim]` to images `[N, img_channels, R, R]`, float32, nominally in [-1, 1].

        `psi` and `cutoff` are those of `MappingNetwork.forward`, the others those of `SynthesisNetwork.forward`.
        """
        return self.synthesis(self.mapping(z, c, psi, cutoff), transform, half)
