"""The synthesis network as an ONNX model: ws (and noise) to images.

The network is written layer by layer from `GeneratorConfig.layers`, as its plan says. `convolution.py` writes a
modulated convolution and `torgb.py` a torgb. This file connects them: residual shortcuts and the sum of the RGB images.
`image_output.py` converts the result to bytes.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx

from stylert.core.errors import CheckpointError
from stylert.export.convolution import modulated_conv, noise_name
from stylert.export.image_output import OutputType, image_output
from stylert.export.network_plan import WINOGRAD_TILES, NetworkPlan, conv_layers
from stylert.export.styles import style_nodes
from stylert.export.synthesis_graph import NoiseInput, SynthesisGraph
from stylert.export.torgb import to_rgb
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import RESNET_GAIN, LayerSpec
from stylert.plugins.onnx_functions import DOMAIN
from stylert.plugins.winograd_rewrite import rewrite_as_winograd
from stylert.runtime.bundle import STYLE_OFFSETS

#: Taps of the FIR for which the operators and the plain forms are written.
FIR_TAPS = 4


def synthesis_model(
    weights: GeneratorWeights,
    noise: NoiseInput = "const",
    output: OutputType = "uint8",
    plan: NetworkPlan | None = None,
    observe: Collection[str] = (),
    style_offsets: bool = False,
) -> onnx.ModelProto:
    """Write the synthesis network.

    Args:
        weights: The generator.
        noise: Where the noise comes from.
        output: The type of the images.
        plan: The plan. By default every convolution is an operator node in float32.
        observe: Names of layers in a plain form. For each the model also returns `<layer>.style`, the convolution's
            input `<layer>.modulated`, and its output `<layer>.conv`.
        style_offsets: Whether the network also takes `style_offsets` `[N, S]`, which is added to the styles of all layers.

    Returns:
        A model from ws `[N, num_ws, w_dim]` to `image`, uint8 `[N, H, W, C]` or float32 `[N, C, H, W]`. With noise
        inputs it also takes `noise_<resolution>_<layer>` `[N, 1, H, W]` for each convolution.

    Raises:
        CheckpointError: The resampling filter does not have four taps.
    """
    cfg = weights.config
    if len(cfg.resample_filter) != FIR_TAPS:
        raise CheckpointError(
            f"export needs the 4-tap resampling filter of StyleGAN2, this network has {len(cfg.resample_filter)} taps"
        )
    g = SynthesisGraph(weights, noise, plan or NetworkPlan())
    ws = g.input("ws", ["N", cfg.num_ws, cfg.w_dim])
    if noise == "input":
        for spec in conv_layers(cfg):
            g.input(noise_name(spec), ["N", 1, spec.height, spec.width])
    if style_offsets:
        g.style_offsets = g.input(STYLE_OFFSETS, ["N", sum(spec.in_channels for spec in cfg.layers())])
    image_output(g, _layers(g, ws), (cfg.img_channels, cfg.height, cfg.width), output)
    for name in observe:
        g.output(f"{name}.style", ["N", None], g.plan.dtype)
        g.output(f"{name}.modulated", ["N", None, None, None], g.plan.dtype)
        g.output(f"{name}.conv", ["N", None, None, None], g.plan.dtype)
    model = g.model()
    tiles = {spec.name: WINOGRAD_TILES.get(g.plan.layer(spec).form) for spec in conv_layers(cfg)}
    if rewrite_as_winograd(model, lambda conv: tiles[conv.name]):
        onnx.checker.check_model(model, full_check=True)
    return model


def _layers(g: SynthesisGraph, ws: str) -> str:
    """All layers from ws to the RGB image, float32 `[N, C, H, W]`."""
    conv_styles, rgb_styles = style_nodes(g, ws)
    x = g.activation_weight("b4.const", g.array("b4.const")[None] / np.float32(g.plan.activation_scale))
    image: str | None = None
    shortcut: str | None = None
    for spec in g.cfg.layers():
        block = f"b{spec.resolution}"
        if spec.kind == "conv":
            if spec.up == 2 and spec.resolution in g.cfg.shortcuts():
                shortcut = _shortcut(g, spec, x)
            x = modulated_conv(g, spec, x, conv_styles[spec.name])
            if shortcut is not None and g.is_residual(spec):
                x = g.node("Add", [x, shortcut], f"{block}.sum")
        else:
            upsampled = None if image is None else _upsample(g, spec, image, f"{block}.upsampled", np.float32)
            rgb = to_rgb(g, spec, x, rgb_styles[spec.name])
            image = rgb if upsampled is None else g.node("Add", [upsampled, rgb], f"{block}.img")
    assert image is not None
    return image


def _shortcut(g: SynthesisGraph, spec: LayerSpec, x: str) -> str:
    """The way around a residual block: a 1x1 convolution without modulation, and a 2x upsampling."""
    name = f"b{spec.resolution}.skip"
    weight = g.array(f"{name}.weight") * (RESNET_GAIN / np.sqrt(spec.in_channels))
    y = g.node("Conv", [x, g.activation_weight(f"{name}.weight", weight)], f"{name}.conv")
    return _upsample(g, spec, y, f"{name}.upsampled", g.plan.dtype)


def _upsample(g: SynthesisGraph, spec: LayerSpec, x: str, name: str, dtype: np.typing.DTypeLike) -> str:
    """2x upsampling to a layer's size: an operator node if its block has operator nodes, otherwise a plain node."""
    last_conv = [conv for conv in conv_layers(g.cfg) if conv.resolution == spec.resolution][-1]
    if g.plan.layer(last_conv).form == "operator":
        g.shape(name, ["N", spec.out_channels, spec.height, spec.width], dtype)
        return g.node(
            "Upfirdn2d",
            [x, g.fir_weight],
            name,
            DOMAIN,
            up=[2, 2],
            down=[1, 1],
            padding=[2, 1, 2, 1],
            flip=0,
            gain=4.0,
            group=spec.out_channels,
            plugin_namespace=DOMAIN,
        )
    # The padding cuts off the outermost row and column, as upfirdn2d does.
    taps = g.weight(f"{name}.fir", np.tile(g.fir * 4, (spec.out_channels, 1, 1, 1)).astype(dtype))
    return g.node("ConvTranspose", [x, taps], name, strides=[2, 2], pads=[1, 1, 1, 1], group=spec.out_channels)
