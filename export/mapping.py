"""The mapping network as an ONNX model: z, a class label and psi to ws."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from stylert.export.graph import GraphBuilder
from stylert.models.checkpoint import NetworkWeights
from stylert.models.stylegan1.config import GeneratorConfig as Stylegan1Config
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER
from stylert.plugins.constants import ACTIVATION_GAIN, LRELU_SLOPE

NORM_EPS = 1e-8


def mapping_model(weights: NetworkWeights[Any]) -> onnx.ModelProto:
    """Write the mapping network.

    Args:
        weights: The generator.

    Returns:
        A model from z `[N, z_dim]` and psi `[N, num_ws]` to ws `[N, num_ws, w_dim]`, all float32. A conditional
        generator also takes c `[N, c_dim]`. psi has one truncation factor per latent, so a cutoff is psi 1 from that
        latent on.
    """
    cfg = weights.config
    g = GraphBuilder("mapping")
    z = g.input("z", ["N", cfg.z_dim])
    if cfg.c_dim and isinstance(cfg, Stylegan1Config):
        c = g.input("c", ["N", cfg.c_dim])
        embedded = g.node(
            "Gemm", [c, g.weight("embed.weight", weights.arrays["mapping.label_embed.weight"])], "embed", transB=1
        )
        x = _normalize(g, g.node("Concat", [z, embedded], "zc", axis=1), "z_norm")
    elif cfg.c_dim:
        x = _normalize(g, z, "z_norm")
        c = g.input("c", ["N", cfg.c_dim])
        embedded = _linear(g, weights, "embed", c, gain=1 / np.sqrt(cfg.c_dim), bias_gain=1.0)
        x = g.node("Concat", [x, _normalize(g, embedded, "c_norm")], "zc", axis=1)
    else:
        x = _normalize(g, z, "z_norm")
    psi = g.input("psi", ["N", cfg.num_ws])
    for i in range(cfg.mapping_layers):
        fan_in = weights.arrays[f"mapping.fc{i}.weight"].shape[1]
        # The leaky ReLU is positively homogeneous, so its gain is folded into the layer before it.
        gain = ACTIVATION_GAIN["lrelu"] * MAPPING_LR_MULTIPLIER
        x = _linear(g, weights, f"fc{i}", x, gain=gain / np.sqrt(fan_in), bias_gain=gain)
        x = g.node("LeakyRelu", [x], f"fc{i}_act", alpha=LRELU_SLOPE)
    # w_avg + psi * (w - w_avg)
    w_avg = g.weight("w_avg", weights.arrays["mapping.w_avg"])
    offset = g.node("Unsqueeze", [g.node("Sub", [x, w_avg], "offset"), g.ints(1)], "offset_1")
    truncated = g.node("Mul", [offset, g.node("Unsqueeze", [psi, g.ints(2)], "psi_1")], "truncated")
    g.output(g.node("Add", [truncated, w_avg], "ws"), ["N", cfg.num_ws, cfg.w_dim])
    return g.model()


def _normalize(g: GraphBuilder, x: str, name: str) -> str:
    """`x` `[N, K]` divided by the root of its mean square."""
    mean = g.node("ReduceMean", [g.node("Mul", [x, x], f"{name}_sq"), g.ints(1)], f"{name}_mean", keepdims=1)
    root = g.node("Sqrt", [g.node("Add", [mean, g.constant(NORM_EPS)], f"{name}_eps")], f"{name}_root")
    return g.node("Div", [x, root], name)


def _linear(g: GraphBuilder, weights: NetworkWeights[Any], name: str, x: str, gain: float, bias_gain: float) -> str:
    weight = g.weight(f"{name}.weight", (weights.arrays[f"mapping.{name}.weight"] * gain).astype(np.float32))
    bias = g.weight(f"{name}.bias", (weights.arrays[f"mapping.{name}.bias"] * bias_gain).astype(np.float32))
    return g.node("Gemm", [x, weight, bias], f"{name}_out", transB=1)
