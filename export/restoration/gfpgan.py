"""GFP-GAN as an ONNX model, without torch: photographs to restored images."""

from __future__ import annotations

import math

from stylert.export.restoration.graph import RestorationGraph
from stylert.export.restoration.plan import RestorationPlan
from stylert.export.restoration.upsampling import bilinear_up_conv, enlarged
from stylert.models.restoration.checkpoints import RestorerWeights
from stylert.models.restoration.gfpgan.config import DECODER, DecoderLayer, GfpganConfig

#: The convolutions of a layer are multiplied by it, in front of noise and bias.
GAIN = math.sqrt(2)


def gfpgan_graph(weights: RestorerWeights, cfg: GfpganConfig, plan: RestorationPlan) -> tuple[RestorationGraph, str]:
    """The nodes of the network, and the name of the image, float32 `[N, 3, R, R]`."""
    g = RestorationGraph(weights.arrays, plan)
    features, skips = _encoder(g, cfg)
    ws = _latents(g, cfg, features)
    layers, rgb_layers = list(cfg.layers()), list(cfg.rgb_layers())
    const = g.array(f"{DECODER}.constant_input.weight")
    g.part = "decoder"
    x = _styled_conv(g, 0, layers[0], g.signal("decoder.const", const / plan.decoder_scale), ws[0])
    image = _to_rgb(g, rgb_layers[0], x, ws[1])
    for level, resolution in enumerate(cfg.resolutions[1:], 1):
        i, g.part = level - 1, "encoder"
        joined = g.node("Add", [features, skips.pop()], f"up.{i}.joined")
        features = _up_block(g, f"conv_body_up.{i}", joined, resolution)
        scale, shift = (_condition(g, f"condition_{kind}", i, features, resolution) for kind in ("scale", "shift"))
        g.part = "decoder"
        first, second = layers[2 * level - 1], layers[2 * level]
        x = _styled_conv(g, 2 * level - 1, first, x, ws[first.ws_index])
        x = _transformed(g, f"transform.{i}", x, scale, shift, cfg.decoder_channels[level] - cfg.transformed(level))
        x = _styled_conv(g, 2 * level, second, x, ws[second.ws_index])
        larger = enlarged(g, f"rgb.{i}.enlarged", image)
        image = g.node("Add", [_to_rgb(g, rgb_layers[level], x, ws[2 * level + 1]), larger], f"rgb.{i}.sum")
    return g, image


# --- the U-Net -------------------------------------------------------------------------------------------------------


def _conv(g: RestorationGraph, name: str, x: str, side: int, gain: float = 1.0) -> str:
    bias = g.array(f"{name}.bias") / g.plan.encoder_scale
    return g.conv(name, x, g.array(f"{name}.weight") * gain, bias, side)


def _encoder(g: RestorationGraph, cfg: GfpganConfig) -> tuple[str, list[str]]:
    """The features at 4 px, and those of all resolutions on the way, from R / 2 down to 4 px."""
    x, skips = _conv(g, "conv_body_first", g.photograph(cfg.resolution), cfg.resolution, 1 / g.plan.encoder_scale), []
    for i in range(len(cfg.resolutions) - 1):
        side = cfg.resolution >> (i + 1)
        x = _down_block(g, f"conv_body_down.{i}", x, side)
        skips.append(x)
    return _conv(g, "final_conv", x, 4), skips


def _down_block(g: RestorationGraph, name: str, x: str, side: int) -> str:
    y = _conv(g, f"{name}.conv1", x, 2 * side)
    y = _conv(g, f"{name}.conv2", _halved(g, f"{name}.halved", y), side)
    return _with_skip(g, name, _halved(g, f"{name}.skip_halved", x), y)


def _up_block(g: RestorationGraph, name: str, x: str, side: int) -> str:
    y = _conv(g, f"{name}.conv1", x, side // 2)
    bias = g.array(f"{name}.conv2.bias") / g.plan.encoder_scale
    y = bilinear_up_conv(g, f"{name}.conv2", y, g.array(f"{name}.conv2.weight"), bias, side)
    y = g.activated(f"{name}.conv2", y, None)
    # A 1x1 convolution and an enlargement can change places. The smaller image has a quarter of the work.
    skip = g.node("Conv", [x, g.signal(f"{name}.skip.weight", g.array(f"{name}.skip.weight"))], f"{name}.skip")
    return g.bounded(g.node("Add", [y, enlarged(g, f"{name}.skip_enlarged", skip)], f"{name}.out"))


def _with_skip(g: RestorationGraph, name: str, x: str, y: str) -> str:
    skip = g.node("Conv", [x, g.signal(f"{name}.skip.weight", g.array(f"{name}.skip.weight"))], f"{name}.skip")
    return g.bounded(g.node("Add", [y, skip], f"{name}.out"))


def _halved(g: RestorationGraph, name: str, x: str) -> str:
    """Bilinear reduction by 2: the mean of four pixels."""
    return g.node("AveragePool", [x], name, kernel_shape=[2, 2], strides=[2, 2])


def _latents(g: RestorationGraph, cfg: GfpganConfig, features: str) -> list[str]:
    """The latent of each layer, float32 `[N, w_dim]`."""
    flat = g.as_float32(g.node("Flatten", [features], "latents.features"))
    weight = g.array("final_linear.weight") * g.plan.encoder_scale
    inputs = [flat, g.float32("final_linear.weight", weight), g.float32("final_linear.bias", g.array("final_linear.bias"))]
    latents = g.node("Gemm", inputs, "latents", transB=1)
    if not cfg.separate_latents:
        return [latents] * cfg.num_ws
    names = [f"latents.{i}" for i in range(cfg.num_ws)]
    g.split(latents, names, cfg.w_dim)
    return names


def _condition(g: RestorationGraph, kind: str, i: int, features: str, side: int) -> str:
    """Scale or shift of each pixel. Shifts are in the scale of the decoder."""
    y = _conv(g, f"{kind}.{i}.0", features, side)
    name = f"{kind}.{i}.2"
    divisor = 1.0 if kind == "condition_scale" else g.plan.decoder_scale
    weight = g.array(f"{name}.weight") * (g.plan.encoder_scale / divisor)
    return g.conv(name, y, weight, g.array(f"{name}.bias") / divisor, side, active=False)


# --- the decoder -----------------------------------------------------------------------------------------------------


def _styled_conv(g: RestorationGraph, number: int, layer: DecoderLayer, x: str, w: str) -> str:
    """A layer of the decoder. `number` is that of its noise."""
    name, path = layer.name, f"{DECODER}.{layer.name}"
    weight = g.array(f"{path}.modulated_conv.weight")[0]
    style, weight = g.style(name, w, f"{path}.modulated_conv.modulation", weight, GAIN)
    divisor = g.plan.decoder_scale
    noise = g.array(f"{DECODER}.noises.noise{number}")[0, 0] * (g.array(f"{path}.weight") / divisor)
    bias = g.array(f"{path}.bias").reshape(-1) / divisor
    if layer.up == 1 and g.is_operator(weight, layer.resolution) and name not in g.plan.quantized:
        return g.operator(name, x, weight, style, noise, bias, layer.resolution)
    x = g.node("Mul", [x, g.per_channel(style.factor)], f"{name}.modulated")
    demod = g.per_channel(style.demod)
    if layer.up == 2:
        y, bias_after = bilinear_up_conv(g, name, x, weight, bias, layer.resolution, demod), None
    else:
        y, bias_after = g.node("Mul", [g.product(name, x, weight), demod], f"{name}.demodulated"), bias
    if noise.any():
        y = g.node("Add", [y, g.signal(f"{name}.noise", noise[None, None])], f"{name}.noisy")
    return g.activated(name, y, bias_after)


def _transformed(g: RestorationGraph, name: str, x: str, scale: str, shift: str, kept: int) -> str:
    """The features with their last channels scaled and shifted. The first `kept` ones stay."""
    if not kept:
        y = g.node("Mul", [x, scale], f"{name}.scaled")
        return g.bounded(g.node("Add", [y, shift], f"{name}.shifted"))
    first = g.node("Slice", [x, g.ints(0), g.ints(kept), g.ints(1)], f"{name}.kept")
    second = g.node("Slice", [x, g.ints(kept), g.ints(2**31 - 1), g.ints(1)], f"{name}.changed")
    y = g.node("Add", [g.node("Mul", [second, scale], f"{name}.scaled"), shift], f"{name}.shifted")
    return g.node("Concat", [first, g.bounded(y)], f"{name}.out", axis=1)


def _to_rgb(g: RestorationGraph, layer: DecoderLayer, x: str, w: str) -> str:
    path = f"{DECODER}.{layer.name}"
    weight = g.array(f"{path}.modulated_conv.weight")[0, :, :, 0, 0]
    return g.to_rgb(layer, x, w, f"{path}.modulated_conv.modulation", weight, g.array(f"{path}.bias"))
