"""`KernelSynthesis` runs the synthesis network with the GPU kernels: one per layer, in one CUDA graph.

The weights are normalised, folded (`fir_folding.fold`), laid out and quantised once. All styles and demodulations come from two
batched products. Every layer writes to a buffer of its own. If a tile spans all output channels, the convolution's kernel also
computes torgb and adds the image of the block below. The last activations are then never written.

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
from stylert.plugins.fir_folding import fold
from stylert.plugins.shapes import Epilogue, Resampling
from stylert.plugins.triton.tiles import Tile

#: By precision, the dtype of activations, and the dtype of weights where a layer supports it.
PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype]] = {
    "fp32": (torch.float32, torch.float32),
    "fp16": (torch.float16, torch.float16),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "int8": (torch.float16, torch.int8),
    "fp8": (torch.float16, torch.float8_e4m3fn),
}

#: torgb runs within the convolution up to this many output channels; a larger tile would not fit the registers.
RGB_CHANNELS = 128
#: 8-bit layers have at least this resolution and this many input and output channels.
EIGHT_BIT_RESOLUTION, EIGHT_BIT_CHANNELS = 8, 16


@dataclass(frozen=True)
class PreparedLayer:
    """A layer's weights as the kernels take them.

    Attributes:
        spec: Shape of the layer.
        weight: `[P, O, k, k, I]`, one kernel for each of P phases.
        bias: `[O]`.
        noise: `[R, R]`, times the noise strength; None for torgb.
        epilogue: Activation, gain and clamp.
        weight_scale: `[O]`, scales of 8-bit weights, else None.
        activation_scale: Scale of the modulated activations beside 8-bit weights; None until `calibrate` has run.
    """

    spec: LayerSpec
    weight: Tensor
    bias: Tensor
    noise: Tensor | None
    epilogue: Epilogue
    weight_scale: Tensor | None = None
    activation_scale: float | None = None


@dataclass(frozen=True)
class PreparedNetwork:
    """The weights of a synthesis network on a device, for L layers.

    The factors of the two batched products are padded to the largest numbers of channels, I and O.

    Attributes:
        config: The network.
        dtype: Type of the activations.
        layers: The layers in their order.
        const: `[4, 4, C]`, the constant input.
        f: `[4, 4]`, the FIR.
        affine: `[L, w_dim, I]`, from `ws` to styles.
        affine_bias: `[L, 1, I]`.
        squared_weights: `[L, I, O]`, squares of the weights, summed over the taps; zero for torgb.
    """

    config: GeneratorConfig
    dtype: torch.dtype
    layers: tuple[PreparedLayer, ...]
    const: Tensor
    f: Tensor
    affine: Tensor
    affine_bias: Tensor
    squared_weights: Tensor


def prepare(network: SynthesisNetwork, precision: str, device: str) -> PreparedNetwork:
    """Prepare the weights of `network` for the kernels, with constant noise.

    8-bit layers are the 3x3 convolutions from 8 px up with at least 16 channels. The others are float16.

    Raises:
        InputError: An unknown precision, or a network that is not of the skip architecture with the 4-tap filter.
    """
    config = network.cfg
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    if config.architecture != "skip" or len(config.resample_filter) != 4 or config.img_channels > 4:
        raise InputError("the kernels run networks of the skip architecture with the 4-tap filter and at most 4 image channels")
    dtype, weight_dtype = PRECISIONS[precision]
    specs = config.layers()
    max_in, max_out = max(spec.in_channels for spec in specs), max(spec.out_channels for spec in specs)
    affine = torch.zeros(len(specs), config.w_dim, max_in, device=device)
    affine_bias = torch.zeros(len(specs), 1, max_in, device=device)
    squared_weights = torch.zeros(len(specs), max_in, max_out, device=device)
    first_block: Any = network.b4
    f = first_block.resample_filter.detach().float().to(device)
    layers = []
    for index, spec in enumerate(specs):
        module: Any = getattr(getattr(network, f"b{spec.resolution}"), spec.name.split(".")[1])
        is_conv = spec.kind == "conv"
        style_gain = 1.0 if is_conv else module.weight_gain
        affine_weight = module.affine.weight.detach().float().to(device)
        affine[index, :, : spec.in_channels] = affine_weight.t() * (module.affine.weight_gain * style_gain)
        bias = module.affine.bias.detach().float().to(device)
        affine_bias[index, 0, : spec.in_channels] = bias * (module.affine.bias_gain * style_gain)
        weight = module.weight.detach().float().to(device)
        if is_conv:
            # Demodulation undoes any scale of an output channel. At unit norm float16 does not overflow.
            weight = weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
            squared_weights[index, : spec.in_channels, : spec.out_channels] = weight.square().sum((2, 3)).t()
        layers.append(_prepared_layer(spec, module, weight, f, dtype, weight_dtype))
    const = first_block.const.detach().permute(1, 2, 0).contiguous().to(device, dtype)
    return PreparedNetwork(config, dtype, tuple(layers), const, f, affine, affine_bias, squared_weights)


def _prepared_layer(
    spec: LayerSpec, module: Any, weight: Tensor, f: Tensor, dtype: torch.dtype, weight_dtype: torch.dtype
) -> PreparedLayer:
    """A layer from its module and its normalised weight `[O, I, k, k]`."""
    is_conv, device = spec.kind == "conv", weight.device
    # Folding in float64 keeps GPUs from rounding to TF32.
    folded = fold(weight.double(), f).float() if spec.up == 2 else weight[None]
    phases = folded.permute(0, 1, 3, 4, 2).contiguous()
    bias = module.bias.detach().float().to(device)
    noise = (module.noise_const * module.noise_strength).detach().float().to(device) if is_conv else None
    epilogue = Epilogue.of("lrelu" if is_conv else "linear", clamp=module.clamp)
    wide_enough = min(spec.in_channels, spec.out_channels) >= EIGHT_BIT_CHANNELS
    if weight_dtype in LARGEST and is_conv and spec.resolution >= EIGHT_BIT_RESOLUTION and wide_enough:
        quantized, scale = quantize_weight(phases, weight_dtype)
        return PreparedLayer(spec, quantized, bias, noise, epilogue, weight_scale=scale)
    return PreparedLayer(spec, phases.to(dtype), bias, noise, epilogue)


def calibrate(network: SynthesisNetwork, prepared: PreparedNetwork, ws: Tensor) -> PreparedNetwork:
    """Set the activation scales of 8-bit layers.

    Each scale is that of the largest modulated activation of the float32 network.

    Args:
        network: The network that was prepared.
        prepared: Its weights in any precision; those without 8-bit layers are returned as they are.
        ws: `[N, num_ws, w_dim]`, the latents to calibrate on.
    """
    if all(layer.weight_scale is None for layer in prepared.layers):
        return prepared
    largest: list[float] = []

    def observe(x: Tensor, style: Tensor) -> None:
        largest.append(float((x * style[:, None, None, :]).abs().max()))

    KernelSynthesis(prepare(network, "fp32", str(prepared.const.device)), ws.shape[0])(ws, observe)
    largest_of_convs = iter(largest)
    layers = []
    for layer in prepared.layers:
        peak = next(largest_of_convs) if layer.spec.kind == "conv" else 0.0
        if layer.weight_scale is not None:
            layer = replace(layer, activation_scale=max(peak, 1e-12) / LARGEST[layer.weight.dtype])
        layers.append(layer)
    return replace(prepared, layers=tuple(layers))


@dataclass(frozen=True)
class Launch:
    """The buffers and the tile of one layer.

    Attributes:
        fused: For a convolution, whether the torgb behind it runs in the same kernel; for a torgb, whether it ran so.
        y: `[N, R, R, O]`, the layer's result.
        image: `[N, R, R, C]`, float32, the image up to this block.
        tile: Tile of a convolution; None for torgb.
        workspace: Sums of the programs that share a tile; None without split sums.
    """

    fused: bool
    y: Tensor
    image: Tensor
    tile: Tile | None = None
    workspace: Tensor | None = None


class KernelSynthesis:
    """From `ws` `[N, num_ws, w_dim]` to images `[N, R, R, C]`, for one N.

    Images are uint8, or float32 with `output="float"`.
    """

    def __init__(self, prepared: PreparedNetwork, batch: int, output: str = "uint8") -> None:
        """Allocate every buffer.

        Raises:
            InputError: An unknown output, a batch below 1, or 8-bit weights without `calibrate`.
        """
        if output not in ("uint8", "float") or batch < 1:
            raise InputError(f"output is uint8 or float and a batch at least 1, not {output!r} and {batch}")
        if any(layer.weight_scale is not None and layer.activation_scale is None for layer in prepared.layers):
            raise InputError("8-bit weights need the activations' scales: calibrate first")
        config, device = prepared.config, prepared.const.device
        self.prepared, self.batch, self.output = prepared, batch, output
        self.const = prepared.const.expand(batch, -1, -1, -1).contiguous()
        image_dtype = torch.uint8 if output == "uint8" else torch.float32
        shape = (batch, config.resolution, config.resolution, config.img_channels)
        self.image = torch.empty(shape, dtype=image_dtype, device=device)
        self.launches = self._launches()
        self._prepare_styles()

    def __call__(self, ws: Tensor, observe: Callable[[Tensor, Tensor], None] | None = None) -> Tensor:
        """Synthesise.

        Args:
            ws: `[N, num_ws, w_dim]`, float.
            observe: Called before each convolution with its input `[N, H, W, I]` and its style `[N, I]`.

        Returns:
            Images, in a buffer that the next call overwrites.
        """
        styles, demods = self.styles(ws)
        layers, final_resolution = self.prepared.layers, self.prepared.config.resolution
        x: Tensor = self.const
        image: Tensor | None = None
        for index, (layer, launch) in enumerate(zip(layers, self.launches, strict=True)):
            if layer.spec.kind == "torgb":
                if not launch.fused:
                    self._launch_torgb(layer, launch, x, styles[index])
                    image = self._add_to_image(launch, image)
                continue
            if observe is not None:
                observe(x, styles[index])
            is_final = layer.spec.resolution == final_resolution
            if launch.fused:
                output = self.image if is_final else launch.image
                self._launch_conv(index, x, styles, demods, below=image, image=output, keep_activations=not is_final)
                image = output
            else:
                self._launch_conv(index, x, styles, demods)
            x = launch.y
        if not self.launches[-1].fused:
            assert image is not None
            self.image.copy_((image * 127.5 + 128).clamp(0, 255) if self.output == "uint8" else image)
        return self.image

    def captured(self) -> Callable[[Tensor], Tensor]:
        """The same as one CUDA graph with the same buffers, as a function that takes `ws` on any device."""
        config = self.prepared.config
        ws = torch.zeros(self.batch, config.num_ws, config.w_dim, device=self.const.device)
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(2):  # Triton compiles and cuBLAS allocates, which no graph can capture
                self(ws)
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self(ws)

        def replay(new_ws: Tensor) -> Tensor:
            ws.copy_(new_ws)
            graph.replay()
            return self.image

        return replay

    def styles(self, ws: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Styles and demodulations for the kernels.

        Args:
            ws: `[N, num_ws, w_dim]`, float.

        Returns:
            For each layer a style `[N, I]` and a demodulation `[N, O]`, float32. The demodulation of a torgb has no meaning.
        """
        prepared = self.prepared
        style = torch.baddbmm(prepared.affine_bias, ws.float().transpose(0, 1)[self._ws_index], prepared.affine)
        # The style of a convolution gets unit mean square, which demodulation undoes, so that float16 has room for any w.
        mean_square = style.square().sum(2, keepdim=True) / self._conv_channels.clamp_min(1)
        style = torch.where(self._conv_channels > 0, style * (mean_square + 1e-12).rsqrt(), style)
        demod = (style.square() @ prepared.squared_weights + DEMOD_EPS).rsqrt() * self._demod_scale
        style = style * self._style_scale
        specs = [layer.spec for layer in prepared.layers]
        styles = self._split(style, self._style_positions, [spec.in_channels for spec in specs])
        demods = self._split(demod, self._demod_positions, [spec.out_channels for spec in specs])
        return styles, demods

    def _split(self, padded: Tensor, positions: Tensor, channels: Sequence[int]) -> list[Tensor]:
        """From `[L, N, C]`, padded, a contiguous `[N, channels[l]]` for each layer."""
        flat = padded.flatten()[positions]
        return [part.reshape(self.batch, -1) for part in flat.split([self.batch * count for count in channels])]

    def _prepare_styles(self) -> None:
        """Constants of `styles`."""
        layers, device = self.prepared.layers, self.prepared.const.device
        _, max_in, max_out = self.prepared.squared_weights.shape
        self._ws_index = torch.tensor([layer.spec.ws_index for layer in layers], device=device)
        # Input channels of each convolution; 0 for torgb, whose style is not normalised.
        channels = [layer.spec.in_channels if layer.spec.kind == "conv" else 0 for layer in layers]
        self._conv_channels = torch.tensor(channels, dtype=torch.float32, device=device)[:, None, None]
        self._style_scale = torch.ones(len(layers), 1, 1, device=device)
        self._demod_scale = torch.ones(len(layers), 1, max_out, device=device)
        for index, layer in enumerate(layers):
            if layer.weight_scale is not None and layer.activation_scale is not None:
                self._style_scale[index] = 1 / layer.activation_scale
                self._demod_scale[index, 0, : layer.spec.out_channels] = layer.weight_scale * layer.activation_scale
        self._style_positions = _unpadded_positions([layer.spec.in_channels for layer in layers], self.batch, max_in).to(device)
        self._demod_positions = _unpadded_positions([layer.spec.out_channels for layer in layers], self.batch, max_out).to(
            device
        )

    def _launches(self) -> tuple[Launch, ...]:
        """The launch of every layer, in their order."""
        from stylert.plugins.triton.modulated_conv2d import conv_problem, workspace_elements
        from stylert.plugins.triton.tiles import choose_tile

        layers, device = self.prepared.layers, self.const.device
        launches: list[Launch] = []
        x = self.const
        for index, layer in enumerate(layers):
            size, channels = layer.spec.resolution, layer.spec.out_channels
            y = torch.empty(self.batch, size, size, channels, dtype=self.prepared.dtype, device=device)
            image = torch.empty(self.batch, size, size, self.prepared.config.img_channels, device=device)
            if layer.spec.kind == "torgb":
                launches.append(Launch(launches[-1].fused, y, image))
                continue
            fused = layers[index + 1].spec.kind == "torgb" and channels <= RGB_CHANNELS
            tile = choose_tile(conv_problem(x, layer.weight), allow_splits=not fused, min_channels=channels if fused else 0)
            elements = workspace_elements(self.batch, x.shape[1] * x.shape[2], channels, layer.spec.up**2, tile.splits)
            accumulator = torch.int32 if layer.weight.dtype == torch.int8 else torch.float32
            workspace = torch.empty(elements, dtype=accumulator, device=device) if elements else None
            launches.append(Launch(fused, y, image, tile, workspace))
            x = y
        return tuple(launches)

    def _launch_conv(
        self, index: int, x: Tensor, styles: Sequence[Tensor], demods: Sequence[Tensor], *,
        below: Tensor | None = None, image: Tensor | None = None, keep_activations: bool = True,
    ) -> None:  # fmt: skip
        """Run the convolution at `index`, and with an `image` the torgb behind it too.

        Args:
            index: Index of the layer.
            x: `[N, H, W, I]`, the input.
            styles: Styles of all layers.
            demods: Demodulations of all layers.
            below: The image of the block below, or None.
            image: Where torgb writes, or None.
            keep_activations: Whether the layer's own result is written.
        """
        from stylert.plugins.triton.modulated_conv2d import modulated_conv2d_into
        from stylert.plugins.triton.to_rgb import Rgb

        layer, launch = self.prepared.layers[index], self.launches[index]
        rgb = None
        if image is not None:
            torgb = self.prepared.layers[index + 1]
            weight = torgb.weight.reshape(torgb.spec.out_channels, -1)
            f = None if below is None else self.prepared.f
            rgb = Rgb(image, weight, styles[index + 1], torgb.bias, below, f, torgb.epilogue.clamp)
        noise = None if layer.noise is None else layer.noise.expand(self.batch, -1, -1)
        modulated_conv2d_into(
            launch.y if keep_activations else None, x, layer.weight, styles[index], demods[index], noise, layer.bias,
            epilogue=layer.epilogue, tile=launch.tile, precision=_precision(layer.weight), workspace=launch.workspace, rgb=rgb,
        )  # fmt: skip

    def _launch_torgb(self, layer: PreparedLayer, launch: Launch, x: Tensor, style: Tensor) -> None:
        from stylert.plugins.triton.modulated_conv2d import modulated_conv2d_into

        precision = _precision(layer.weight)
        modulated_conv2d_into(launch.y, x, layer.weight, style, bias=layer.bias, epilogue=layer.epilogue, precision=precision)

    def _add_to_image(self, launch: Launch, below: Tensor | None) -> Tensor:
        """The image of a block: the result of its torgb, plus the upsampled image of the block below."""
        from stylert.plugins.triton.upfirdn2d import upfirdn2d_into

        if below is None:
            return launch.image.copy_(launch.y)
        resampling = Resampling.of(up=2, padding=(2, 1, 2, 1), gain=4.0)
        upfirdn2d_into(launch.image.permute(0, 3, 1, 2), below.permute(0, 3, 1, 2), self.prepared.f, resampling)
        return launch.image.add_(launch.y)


def _unpadded_positions(channels: Sequence[int], batch: int, padded: int) -> Tensor:
    """Positions of the first `channels[l]` values of every row in a flattened `[L, batch, padded]`, layer by layer."""
    positions = torch.arange(len(channels) * batch * padded).reshape(len(channels), batch, padded)
    return torch.cat([rows[:, :count].flatten() for rows, count in zip(positions, channels, strict=True)])


def _precision(weight: Tensor) -> str:
    """Float32 as three TF32 products; the interpreter on a CPU multiplies neither bfloat16 nor FP8."""
    return "ieee" if weight.device.type == "cpu" and weight.dtype in (torch.bfloat16, torch.float8_e4m3fn) else "tf32x3"
