"""GPEN as an ONNX model, without torch: photographs to restored images."""

from __future__ import annotations

import math

import numpy as np

from stylert.export.restoration.graph import RestorationGraph, equalised
from stylert.export.restoration.plan import RestorationPlan
from stylert.export.restoration.upsampling import BILINEAR, zero_padded_up_conv
from stylert.models.restoration.checkpoints import RestorerWeights
from stylert.models.restoration.gfpgan.config import RGB, DecoderLayer
from stylert.models.restoration.gpen.config import DECODER, GpenConfig
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER, NORM_EPS
from stylert.plugins.constants import LRELU_SLOPE

#: The gain of every leaky ReLU.
GAIN = math.sqrt(2)


class _GpenGraph(RestorationGraph):
    def affine_gain(self, affine: str) -> float:
        return 1 / math.sqrt(self.arrays[f"{affine}.weight"].shape[1])


def gpen_graph(weights: RestorerWeights, cfg: GpenConfig, plan: RestorationPlan) -> tuple[RestorationGraph, str]:
    """The nodes of the network, and the name of the image, float32 `[N, 3, R, R]`."""
    g = _GpenGraph(weights.arrays, plan)
    features = _encoder(g, cfg)
    w = _latent(g, cfg, features[0])
    g.part = "decoder"
    layers, rgb_layers = list(cfg.layers()), list(cfg.rgb_layers())
    const = g.signal("decoder.const", g.array(f"{DECODER}.input.input") / plan.decoder_scale)
    x = _styled_conv(g, layers[0], const, w, features[0])
    image = _to_rgb(g, rgb_layers[0], x, w)
    for level in range(1, len(cfg.resolutions)):
        for layer in layers[2 * level - 1 : 2 * level + 1]:
            x = _styled_conv(g, layer, x, w, features[level])
        larger = _larger_rgb(g, f"rgb.{level - 1}.enlarged", image)
        image = g.node("Add", [_to_rgb(g, rgb_layers[level], x, w), larger], f"rgb.{level - 1}.sum")
    return g, image


def _encoder(g: RestorationGraph, cfg: GpenConfig) -> list[str]:
    """The features at 4 px, 8 px and so on."""
    gain = GAIN / g.plan.encoder_scale
    weight, bias = equalised(g.array("ecd0.0.0.weight")) * gain, g.array("ecd0.0.1.bias") * gain
    x = g.conv("ecd0", g.photograph(cfg.resolution), weight, bias, cfg.resolution)
    features = [x]
    taps = np.outer(BILINEAR, BILINEAR) / 4
    for i, level in enumerate(range(len(cfg.channels) - 1, 0, -1), 1):
        name = f"ecd{i}"
        x = g.depthwise(f"{name}.blurred", x, taps, cfg.channels[level], [2] * 4)
        bias = g.array(f"{name}.0.2.bias") * (GAIN / g.plan.encoder_scale)
        x = g.conv(name, x, equalised(g.array(f"{name}.0.1.weight")) * GAIN, bias, cfg.resolution >> i, stride=2)
        features.append(x)
    return features[::-1]


def _latent(g: RestorationGraph, cfg: GpenConfig, features: str) -> str:
    """w, float32 `[N, w_dim]`."""
    flat = g.as_float32(g.node("Flatten", [features], "latent.features"))
    code = _fully_connected(g, "final_linear.0", flat, 1.0, g.plan.encoder_scale)
    squares = g.node("ReduceMean", [g.node("Mul", [code, code], "latent.squares"), g.ints(1)], "latent.power", keepdims=1)
    root = g.node("Sqrt", [g.node("Add", [squares, g.constant(NORM_EPS)], "latent.power_eps")], "latent.root")
    w = g.node("Div", [code, root], "latent.unit")
    for i in range(1, cfg.mapping_layers + 1):
        w = _fully_connected(g, f"{DECODER}.style.{i}", w, MAPPING_LR_MULTIPLIER)
    return w


def _fully_connected(g: RestorationGraph, name: str, x: str, lr: float, scale: float = 1.0) -> str:
    """A layer of fully connected units. Its input was divided by `scale`."""
    weight = g.array(f"{name}.weight")
    weight = weight * (GAIN * lr * scale / math.sqrt(weight.shape[1]))
    bias = g.array(f"{name}.bias") * (GAIN * lr)
    y = g.node("Gemm", [x, g.float32(f"{name}.weight", weight), g.float32(f"{name}.bias", bias)], f"{name}.sum", transB=1)
    return g.node("LeakyRelu", [y], f"{name}.out", alpha=LRELU_SLOPE)


def _styled_conv(g: RestorationGraph, layer: DecoderLayer, x: str, w: str, features: str) -> str:
    """A layer of the decoder, with the encoder's features as the second half of its channels."""
    name, path = layer.name, f"{DECODER}.{layer.name}"
    weight = equalised(g.array(f"{path}.conv.weight")[0])
    style, weight = g.style(name, w, f"{path}.conv.modulation", weight, GAIN)
    bias = g.array(f"{path}.activate.bias") * (GAIN / g.plan.decoder_scale)
    if g.is_operator(weight, layer.resolution) and name not in g.plan.quantized:
        y = g.operator(name, x, weight, style, None, bias[: layer.out_channels], layer.resolution, up=layer.up)
    else:
        x = g.node("Mul", [x, g.per_channel(style.factor)], f"{name}.modulated")
        own_bias, demod = bias[: layer.out_channels], g.per_channel(style.demod)
        if layer.up == 2:
            y = g.activated(name, zero_padded_up_conv(g, name, x, weight, own_bias, layer.resolution, demod), None)
        else:
            y = g.node("Mul", [g.product(name, x, weight), demod], f"{name}.demodulated")
            y = g.activated(name, y, own_bias)
    strength = g.array(f"{path}.noise.weight") * (GAIN * g.plan.encoder_scale / g.plan.decoder_scale)
    noise = g.node("Mul", [features, g.signal(f"{name}.strength", strength)], f"{name}.features")
    noise = g.activated(f"{name}.features", noise, bias[layer.out_channels :])
    return g.node("Concat", [y, noise], f"{name}.joined", axis=1)


def _to_rgb(g: RestorationGraph, layer: DecoderLayer, x: str, w: str) -> str:
    path = f"{DECODER}.{layer.name}"
    weight = equalised(g.array(f"{path}.conv.weight")[0])[:, :, 0, 0]
    return g.to_rgb(layer, x, w, f"{path}.conv.modulation", weight, g.array(f"{path}.bias"))


def _larger_rgb(g: RestorationGraph, name: str, image: str) -> str:
    """float32 `[N, 3, H, W]` at twice the side: zeros inserted, and the FIR, as a transposed convolution."""
    taps = np.tile(np.outer(BILINEAR, BILINEAR), (RGB, 1, 1, 1))
    return g.node("ConvTranspose", [image, g.float32("rgb.fir", taps)], name, strides=[2, 2], pads=[1] * 4, group=RGB)
