"""The graph of a synthesis network while it is written: the builder, the plan, and the folded constants of every layer.

Constants that do not depend on ws are folded: weight gains, activation gains, migrated scales and noise strengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from onnx import helper

from stylert.core.errors import CheckpointError
from stylert.export.graph import GraphBuilder
from stylert.export.network_plan import NetworkPlan, power_of_two_scale
from stylert.export.quantization.qdq import QdqBuilder
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import RESNET_GAIN, LayerSpec
from stylert.plugins.constants import ACTIVATION_GAIN

#: Noise as stored in the checkpoint, none, or as inputs of the network.
NoiseInput = Literal["const", "none", "input"]


#: Bounds of the greatest weight of a torgb in float16. Its product with the activations is then far from float16's limits.
FLOAT16_RGB_WEIGHTS = (1 / 16, 16.0)


@dataclass(frozen=True)
class LayerConstants:
    """The weights of a layer with gains and migrated scales folded in, float32.

    The style is `affine_weight @ w + affine_bias`.

    Attributes:
        weight: `[O, I, k, k]`.
        affine_weight: `[I, w_dim]`.
        affine_bias: `[I]`.
        style_scale: `[I]`, which both have as a factor. The style of the checkpoint's own affine layer times it is this style.
        style_weight: `[I]`, sum 1. The style is divided by the root of its mean square with these weights.
        result_scale: The result of a torgb is multiplied by it, in float32. It is 1 for a convolution.
    """

    weight: np.ndarray
    affine_weight: np.ndarray
    affine_bias: np.ndarray
    style_scale: np.ndarray
    style_weight: np.ndarray
    result_scale: float


class SynthesisGraph(GraphBuilder):
    """A graph builder that knows the network's weights, noise and plan. All functions that write nodes share one."""

    def __init__(self, weights: GeneratorWeights, noise: NoiseInput, plan: NetworkPlan) -> None:
        super().__init__("synthesis")
        self.weights, self.cfg, self.noise, self.plan = weights, weights.config, noise, plan
        self.constants = {spec.name: _layer_constants(weights, spec, plan) for spec in self.cfg.layers()}
        self.qdq = QdqBuilder(self, plan.dtype)
        self._split: dict[str, str] = {}
        self.style_offsets: str | None = None  # the input that is added to the styles, if there is one
        self.fir_weight = self.weight("resample_filter", self.fir)  # for operator nodes

    def array(self, name: str) -> np.ndarray:
        """A tensor of the checkpoint, by its name under `synthesis.`."""
        return self.weights.arrays[f"synthesis.{name}"]

    @property
    def fir(self) -> np.ndarray:
        """The resampling filter, `[4, 4]`."""
        return self.array("b4.resample_filter")

    # Weights and constants in the type of the activations.

    def activation_weight(self, name: str, value: np.ndarray) -> str:
        """An initializer in this type. Raises CheckpointError if float16 cannot hold a value."""
        return self.weight(name, self._checked(value, name).astype(self.plan.dtype))

    def activation_constant(self, value: Any) -> str:
        return self.constant(self._checked(np.asarray(value), "a constant"), self.plan.dtype)

    def as_activation(self, tensor: str) -> str:
        """A float32 tensor in the type of the activations."""
        return self.cast(tensor, f"{tensor}_{self.plan.dtype.name}", self.plan.dtype) if self.plan.float16 else tensor

    def per_channel(self, vector: str) -> str:
        """`[N, C]` as `[N, C, 1, 1]`."""
        if vector in self._split:
            return self._split[vector]
        return self.node("Unsqueeze", [vector, self.ints(2, 3)], f"{vector}_1")

    def split_vectors(self, planes: str, vectors: list[str], sizes: list[int]) -> None:
        """Split `[N, sum of sizes, 1, 1]` into what `per_channel` returns for these vectors. They need no other nodes."""
        outputs = {vector: f"{vector}_of_split" for vector in vectors}
        sizes_input = self.ints(*sizes)
        self.nodes.append(helper.make_node("Split", [planes, sizes_input], [*outputs.values()], name=f"{planes}_split", axis=1))
        self._split |= outputs

    def _checked(self, value: np.ndarray, name: str) -> np.ndarray:
        largest, limit = float(np.abs(value).max(initial=0)), float(np.finfo(self.plan.dtype).max)
        if self.plan.float16 and not largest <= limit:
            raise CheckpointError(
                f"float16 cannot hold {name} of this network: {largest:,.0f} exceeds {limit:,.0f}; leave this precision out"
            )
        return value

    # Constants of a modulated convolution. All that is added to activations is divided by the plan's `activation_scale`.

    def is_residual(self, spec: LayerSpec) -> bool:
        """Whether a shortcut is added to the layer's result."""
        return spec.kind == "conv" and spec.up == 1 and spec.resolution in self.cfg.shortcuts()

    def gain(self, spec: LayerSpec) -> float:
        return ACTIVATION_GAIN["lrelu"] * (RESNET_GAIN if self.is_residual(spec) else 1.0)

    def bias(self, spec: LayerSpec) -> np.ndarray:
        """`[O]`, times the gain."""
        return self.activation_bias(spec) * self.gain(spec)

    def activation_bias(self, spec: LayerSpec) -> np.ndarray:
        """`[O]`, without the gain."""
        return self.array(f"{spec.name}.bias") / np.float32(self.plan.activation_scale)

    def clamp(self, spec: LayerSpec) -> float | None:
        if self.cfg.conv_clamp is None:
            return None
        return self.cfg.conv_clamp * (RESNET_GAIN if self.is_residual(spec) else 1.0) / self.plan.activation_scale


def _layer_constants(weights: GeneratorWeights, spec: LayerSpec, network: NetworkPlan) -> LayerConstants:
    plan, result_scale = network.layer(spec), 1.0
    weight = weights.arrays[f"synthesis.{spec.name}.weight"].astype(np.float64)
    affine_weight = weights.arrays[f"synthesis.{spec.name}.affine.weight"] / np.sqrt(weights.config.w_dim, dtype=np.float64)
    affine_bias = weights.arrays[f"synthesis.{spec.name}.affine.bias"].astype(np.float64)
    style_scale = np.ones(spec.in_channels)
    if spec.kind == "torgb":  # demodulation hides the weight gain of a convolution; torgb has none
        style_scale /= np.sqrt(spec.in_channels * spec.kernel**2)
        result_scale = network.activation_scale
    power = np.ones(spec.in_channels)
    if plan.migration is not None:
        input_scale, output_scale = plan.migration.input_scale, plan.migration.output_scale
        style_scale /= input_scale
        weight = weight * (input_scale[None, :, None, None] / output_scale[:, None, None, None])
        if plan.migration.input_power is not None:
            power = np.maximum(plan.migration.input_power, plan.migration.input_power.mean() * 1e-6 + 1e-12)
    if spec.kind == "torgb" and network.float16:
        weight_scale = power_of_two_scale(float(np.abs(weight).max()), FLOAT16_RGB_WEIGHTS)
        weight, result_scale = weight / weight_scale, result_scale * weight_scale
    return LayerConstants(
        weight.astype(np.float32),
        (affine_weight * style_scale[:, None]).astype(np.float32),
        (affine_bias * style_scale).astype(np.float32),
        style_scale.astype(np.float32),
        (power / power.sum()).astype(np.float32),
        result_scale,
    )
