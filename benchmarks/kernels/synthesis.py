"""The synthesis network on our own kernels, for PyTorch on a GPU: one launch per layer, one CUDA graph for all of them.

What an engine's builder would do, done by hand: weights are normalised, folded (`polyphase.fold`), laid out and quantised once;
every style and demodulation comes from two batched products; activations live in buffers of their own; where a tile spans
all channels, torgb and the image of the block below are computed in the convolution's program, and the last layer's activations
are never written.

    synthesis = KernelSynthesis(prepare(network, "fp16", "cuda"), batch=1).captured()
    images = synthesis(ws)  # uint8 [N, R, R, C], on the device
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.models.stylegan2.config import GeneratorConfig, LayerSpec
from stylert.models.stylegan2.networks import SynthesisNetwork
from stylert.plugins.constants import DEMOD_EPS
from stylert.plugins.eight_bit import LARGEST, quantize_weight
from stylert.plugins.polyphase import fold
from stylert.plugins.shapes import Epilogue, Resampling
from stylert.plugins.triton.tiles import Tile

#: Precision to the dtype of activations, and that of the weights of layers that take it.
PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype]] = {
    "fp32": (torch.float32, torch.float32),
    "fp16": (torch.float16, torch.float16),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "int8": (torch.float16, torch.int8),
    "fp8": (torch.float16, torch.float8_e4m3fn),
}

#: torgb is computed by the convolution's program up to this many channels: beyond, its tile would not fit the registers.
RGB_CHANNELS = 128


@dataclass(frozen=True)
class PreparedLayer:
    """A layer as the kernels take it: weight `[P, O, k, k, I]`, noise `[R, R]` scaled, or None, and bias `[O]`.

    `weight_scale` `[O]` and `activation_scale` belong to 8-bit weights; the latter is None until `calibrate` has run.
    """

    spec: LayerSpec
    weight: Tensor
    bias: Tensor
    noise: Tensor | None
    tail: Epilogue
    weight_scale: Tensor | None = None
    activation_scale: float | None = None


@dataclass(frozen=True)
class Prepared:
    """A synthesis network's weights on a device. The batched products' factors are padded to the widest layer.

    affine: `[L, w_dim, I]` and its bias `[L, 1, I]`, a slice per layer; energy: `[L, I, O]`, sums of squares over the taps.
    """

    config: GeneratorConfig
    dtype: torch.dtype
    layers: tuple[PreparedLayer, ...]
    const: Tensor
    f: Tensor
    affine: Tensor
    affine_bias: Tensor
    energy: Tensor


def prepare(network: SynthesisNetwork, precision: str, device: str) -> Prepared:
    """Weights of `network` for the kernels; its noise is the constant one.

    In 8 bits are the 3x3 convolutions from 8 px up with at least 16 channels; the others are float16.

    Raises:
        InputError: an unknown precision, or a network that is not of the skip architecture with the 4-tap filter.
    """
    cfg = network.cfg
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    if cfg.architecture != "skip" or len(cfg.resample_filter) != 4 or cfg.img_channels > 4:
        raise InputError("the kernels run networks of the skip architecture with the 4-tap filter and at most 4 image channels")
    dtype, narrow = PRECISIONS[precision]
    specs = cfg.layers()
    widest_in, widest_out = max(s.in_channels for s in specs), max(s.out_channels for s in specs)
    affine = torch.zeros(len(specs), cfg.w_dim, widest_in, device=device)
    bias = torch.zeros(len(specs), 1, widest_in, device=device)
    energy = torch.zeros(len(specs), widest_in, widest_out, device=device)
    first: Any = network.b4
    f = first.resample_filter.detach().float().to(device)
    layers = []
    for index, spec in enumerate(specs):
        module: Any = getattr(getattr(network, f"b{spec.resolution}"), spec.name.split(".")[1])
        i, o = spec.in_channels, spec.out_channels
        gain = module.weight_gain if spec.kind == "torgb" else 1.0
        affine[index, :, :i] = module.affine.weight.detach().float().to(device).t() * (module.affine.weight_gain * gain)
        bias[index, 0, :i] = module.affine.bias.detach().float().to(device) * (module.affine.bias_gain * gain)
        weight = module.weight.detach().float().to(device)
        noise = None
        if spec.kind == "conv":
            # Demodulation undoes any scale of an output channel, so each gets unit norm and float16 does not overflow.
            weight = weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
            energy[index, :i, :o] = weight.square().sum((2, 3)).t()
            noise = (module.noise_const * module.noise_strength).detach().float().to(device)
        # In float64, which no GPU rounds to tf32.
        folded = fold(weight.double(), f).float() if spec.up == 2 else weight[None]
        phases = folded.permute(0, 1, 3, 4, 2).contiguous()
        tail = Epilogue.of("lrelu" if spec.kind == "conv" else "linear", clamp=module.clamp)
        layer = PreparedLayer(spec, phases.to(dtype), module.bias.detach().float().to(device), noise, tail)
        if narrow in LARGEST and spec.kind == "conv" and spec.resolution >= 8 and min(i, o) >= 16:
            q, scale = quantize_weight(phases, narrow)
            layer = replace(layer, weight=q, weight_scale=scale)
        layers.append(layer)
    const = first.const.detach().permute(1, 2, 0).contiguous().to(device, dtype)
    return Prepared(cfg, dtype, tuple(layers), const, f, affine, bias, energy)


def calibrate(network: SynthesisNetwork, prepared: Prepared, ws: Tensor) -> Prepared:
    """Activation scales from the largest modulated activation that `ws` `[N, num_ws, w_dim]` meet in `network`."""
    if all(layer.weight_scale is None for layer in prepared.layers):
        return prepared
    wide = prepare(network, "fp32", str(prepared.const.device))
    largest: list[float] = []
    KernelSynthesis(wide, ws.shape[0])(ws, lambda x, style: largest.append(float((x * style[:, None, None, :]).abs().max())))
    peaks = iter(largest)
    layers = []
    for layer in prepared.layers:
        peak = next(peaks) if layer.spec.kind == "conv" else 0.0
        if layer.weight_scale is not None:
            layer = replace(layer, activation_scale=max(peak, 1e-12) / LARGEST[layer.weight.dtype])
        layers.append(layer)
    return replace(prepared, layers=tuple(layers))


@dataclass(frozen=True)
class Step:
    """Where a layer's results go: `y` `[N, R, R, O]`, sums of split tiles, and the image so far `[N, R, R, C]`, float32.

    A torgb that is `fused` is done by the convolution before it, which is `fused` too.
    """

    fused: bool
    y: Tensor
    image: Tensor
    tile: Tile | None = None
    work: Tensor | None = None


class KernelSynthesis:
    """ws `[N, num_ws, w_dim]` to uint8 images `[N, R, R, C]`, or float32 ones with `output="float"`, for one N."""

    def __init__(self, prepared: Prepared, batch: int, output: str = "uint8") -> None:
        """Allocates every buffer.

        Raises:
            InputError: an unknown output, a batch below 1, or 8-bit weights without `calibrate`.
        """
        if output not in ("uint8", "float") or batch < 1:
            raise InputError(f"output is uint8 or float and a batch at least 1, not {output!r} and {batch}")
        layers, device = prepared.layers, prepared.const.device
        if any(layer.weight_scale is not None and layer.activation_scale is None for layer in layers):
            raise InputError("8-bit weights need the activations' scales: calibrate first")
        self.prepared, self.batch, self.output = prepared, batch, output
        self.const = prepared.const.expand(batch, -1, -1, -1).contiguous()
        size, channels = prepared.config.resolution, prepared.config.img_channels
        kind = torch.uint8 if output == "uint8" else torch.float32
        self.image = torch.empty(batch, size, size, channels, dtype=kind, device=device)
        self.steps = self._steps()

        self.ws_index = torch.tensor([layer.spec.ws_index for layer in layers], device=device)
        widths = [layer.spec.in_channels if layer.spec.kind == "conv" else 0 for layer in layers]
        self.widths = torch.tensor(widths, dtype=torch.float32, device=device)[:, None, None]
        self.style_scale = torch.ones(len(layers), 1, 1, device=device)
        self.demod_scale = torch.ones(len(layers), 1, prepared.energy.shape[2], device=device)
        for index, layer in enumerate(layers):
            if layer.weight_scale is not None and layer.activation_scale is not None:
                self.style_scale[index] = 1 / layer.activation_scale
                self.demod_scale[index, 0, : layer.spec.out_channels] = layer.weight_scale * layer.activation_scale
        # Rows of the padded products, cut to each layer's width and laid one after the other.
        self.style_at = _cut([layer.spec.in_channels for layer in layers], batch, prepared.energy.shape[1]).to(device)
        self.demod_at = _cut([layer.spec.out_channels for layer in layers], batch, prepared.energy.shape[2]).to(device)

    def __call__(self, ws: Tensor, watch: Callable[[Tensor, Tensor], None] | None = None) -> Tensor:
        """Images, in a buffer that the next call writes over. `watch` sees each convolution's input `[N, H, W, I]` and style."""
        from stylert.plugins.triton.modulated_conv2d import Rgb, modulated_conv2d_into

        styles, demods = self.styles(ws)
        x, skip = self.const, None
        for index, (layer, step) in enumerate(zip(self.prepared.layers, self.steps, strict=True)):
            if layer.spec.kind == "torgb":
                if not step.fused:
                    modulated_conv2d_into(
                        step.y,
                        x,
                        layer.weight,
                        styles[index],
                        bias=layer.bias,
                        tail=layer.tail,
                        precision=_precision(layer.weight),
                    )
                    skip = self._add(step, skip)
                continue
            if watch is not None:
                watch(x, styles[index])
            rgb, last = None, layer.spec.resolution == self.prepared.config.resolution
            if step.fused:
                torgb, f = self.prepared.layers[index + 1], None if skip is None else self.prepared.f
                image = self.image if last else step.image
                weight = torgb.weight.reshape(torgb.spec.out_channels, -1)
                rgb = Rgb(image, weight, styles[index + 1], torgb.bias, skip, f, torgb.tail.clamp)
            modulated_conv2d_into(
                None if rgb is not None and last else step.y, x, layer.weight, styles[index], demods[index],
                None if layer.noise is None else layer.noise.expand(self.batch, -1, -1), layer.bias,
                tail=layer.tail, tile=step.tile, precision=_precision(layer.weight), workspace=step.work, rgb=rgb,
            )  # fmt: skip
            x = step.y
            skip = skip if rgb is None else rgb.image
        if not self.steps[-1].fused:
            assert skip is not None
            self.image.copy_((skip * 127.5 + 128).clamp(0, 255) if self.output == "uint8" else skip)
        return self.image

    def captured(self) -> Callable[[Tensor], Tensor]:
        """The same as one CUDA graph, in the same buffers; it takes ws on any device."""
        ws = torch.zeros(self.batch, self.prepared.config.num_ws, self.prepared.config.w_dim, device=self.const.device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):  # Triton compiles, cuBLAS allocates
                self(ws)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self(ws)

        def replay(latents: Tensor) -> Tensor:
            ws.copy_(latents)
            graph.replay()
            return self.image

        return replay

    def styles(self, ws: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Each layer's style `[N, I]` and demodulation `[N, O]`, float32, as the kernels take them; torgb has no use for the latter."""
        p = self.prepared
        raw = torch.baddbmm(p.affine_bias, ws.float().transpose(0, 1)[self.ws_index], p.affine)
        # A convolution's style at unit mean square: demodulation undoes that too, and float16 has room for any w.
        norm = (raw.square().sum(2, keepdim=True) / self.widths.clamp_min(1) + 1e-12).rsqrt()
        style = torch.where(self.widths > 0, raw * norm, raw)
        demod = (style.square() @ p.energy + DEMOD_EPS).rsqrt() * self.demod_scale
        flat = (style * self.style_scale).flatten()[self.style_at], demod.flatten()[self.demod_at]
        counts = [layer.spec.in_channels for layer in p.layers], [layer.spec.out_channels for layer in p.layers]
        cut = [t.split([self.batch * c for c in widths]) for t, widths in zip(flat, counts, strict=True)]
        styles, demods = ([row.reshape(self.batch, -1) for row in rows] for rows in cut)
        return styles, demods

    def _steps(self) -> tuple[Step, ...]:
        from stylert.plugins.triton.modulated_conv2d import conv_problem, workspace_elements
        from stylert.plugins.triton.tiles import choose_tile

        layers, cfg, device = self.prepared.layers, self.prepared.config, self.const.device
        steps: list[Step] = []
        x = self.const
        for index, layer in enumerate(layers):
            size, o = layer.spec.resolution, layer.spec.out_channels
            y = torch.empty(self.batch, size, size, o, dtype=self.prepared.dtype, device=device)
            image = torch.empty(self.batch, size, size, cfg.img_channels, device=device)
            if layer.spec.kind == "torgb":
                steps.append(Step(steps[-1].fused, y, image))
                continue
            fused = layers[index + 1].spec.kind == "torgb" and o <= RGB_CHANNELS
            tile = choose_tile(conv_problem(x, layer.weight), whole=fused, columns=o if fused else 0)
            elements = workspace_elements(self.batch, x.shape[1] * x.shape[2], o, layer.spec.up**2, tile.splits)
            sums = torch.int32 if layer.weight.dtype == torch.int8 else torch.float32
            work = torch.empty(elements, dtype=sums, device=device) if elements else None
            steps.append(Step(fused, y, image, tile, work))
            x = y
        return tuple(steps)

    def _add(self, step: Step, skip: Tensor | None) -> Tensor:
        """The image so far and a block's own: `upsampled skip + y`."""
        from stylert.plugins.triton.upfirdn2d import upfirdn2d_into

        if skip is None:
            return step.image.copy_(step.y)
        spec = Resampling.of(up=2, padding=(2, 1, 2, 1), gain=4.0)
        upfirdn2d_into(step.image.permute(0, 3, 1, 2), skip.permute(0, 3, 1, 2), self.prepared.f, spec)
        return step.image.add_(step.y)


def _cut(widths: Sequence[int], batch: int, padded: int) -> Tensor:
    """Where the first `widths[l]` of every row of `[L, batch, padded]` lie, layer by layer."""
    rows = torch.arange(len(widths) * batch * padded).reshape(len(widths), batch, padded)
    return torch.cat([row[:, :width].flatten() for row, width in zip(rows, widths, strict=True)])


def _precision(weight: Tensor) -> str:
    """Float32 as three tf32 products; on a CPU the interpreter multiplies neither bfloat16 nor FP8 itself."""
    return "ieee" if weight.device.type == "cpu" and weight.dtype in (torch.bfloat16, torch.float8_e4m3fn) else "tf32x3"
