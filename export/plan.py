"""What the exporter decides about each layer, and the layer's constants after it: data, no graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, get_args

import numpy as np

from stylert.export.quantization.gptq import Rounding
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import GeneratorConfig, LayerSpec

#: What a sample is divided by is never less: a tensor of zeros stays zeros.
REACH_EPS = 1e-6

Form = Literal["operator", "transposed", "phases", "polyphase"]
RgbForm = Literal["matmul", "matmul_nhwc", "conv"]


@dataclass(frozen=True, eq=False)
class Migration:
    """Scales moved between tensors, exactly: what a convolution reads is divided by `in_equal` and its weights multiplied by it
    (SmoothQuant, Xiao et al. 2022); its output is divided by `out_equal` through the weights, and demodulation, which is
    computed from those weights, brings it back.

    A style may have any size, since demodulation does not see it. With `in_power`, the mean square of each input channel
    before modulation, it is the modulated input that has unit mean square, for every sample, and not the style alone. torgb,
    which is not demodulated, then has its result multiplied by what its style was divided by, and `out_equal` is 1.
    """

    in_equal: np.ndarray  # [I], positive
    out_equal: np.ndarray  # [O], positive
    in_power: np.ndarray | None = None  # [I]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Migration) and all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )


@dataclass(frozen=True)
class Step:
    """How a tensor becomes 8 bits: `round(x / scale) + zero_point`, in [-127, 127] when symmetric, else in [0, 255]."""

    scale: float
    zero_point: int = 0
    symmetric: bool = True


@dataclass(frozen=True)
class Int8Steps:
    """The 8-bit sides of a convolution whose weights have a symmetric step per output channel.

    `output` is for runtimes that need both sides quantised, and for transposed convolutions: their FIR then is in 8 bits too.
    With `depth` both steps are in units of the sample's reach, the smallest r for which all that its convolution reads lies in
    [-depth r, r]. The graph measures it, so no image is clipped because it exceeds those of the calibration, nor rounded for
    their sake.

    With `scaled` style and demodulation are taken into the steps: what rounds has the step over the style, what brings back has
    the step times the demodulation, for every channel of every sample. That is two passes over the activations less, for
    runtimes whose steps need not be constants.

    `rounding` chooses the weights' steps; without one each takes the nearest.
    """

    input: Step
    output: Step | None = None
    depth: float | None = None
    scaled: bool = False
    rounding: Rounding | None = None


@dataclass(frozen=True)
class Fp8Scale:
    """How the input of a convolution becomes E4M3 (Micikevicius et al. 2022): divided by `input`, then rounded to four significant
    bits, whatever its size from 2^-6 to 448. Weights have a scale per output channel, and a `rounding` as in `Int8Steps`.
    """

    input: float
    rounding: Rounding | None = None


@dataclass(frozen=True)
class LayerPlan:
    """The form that one layer takes. Every form computes the same numbers.

    `operator`: a ModulatedConv2d node. `transposed` (up layers): stride-2 transposed convolution, then the FIR.
    `phases` (up layers): the transposed convolution as one 2x2 convolution to four phases and a depth-to-space, then the
    FIR; it keeps the multiplications in an ordinary convolution, which every INT8 backend has. `polyphase` (up layers): the
    FIR folded into four 3x3 phases: twice the multiplications of `phases`, and no pass for the FIR. A layer without
    upsampling is the same plain convolution in the last three.

    Of torgb: `matmul`, its weights times the style as a batched product, for backends that keep activations as `[N, C, H, W]`;
    `matmul_nhwc`, the same with the pixels in rows, where they are kept channels last; `conv`, the style on the activations and
    a constant 1x1 convolution, for compilers that fuse the style into the pass before. Only the last can be in 8 bits.
    """

    form: Form | RgbForm = "operator"
    migration: Migration | None = None
    eight_bit: Int8Steps | Fp8Scale | None = None

    def in_float(self) -> LayerPlan:
        """The same form. Migrated scales, which are exact, stay where they cost nothing; the norm of torgb is a pass."""
        return LayerPlan(self.form, None if self.form in get_args(RgbForm) else self.migration)


@dataclass(frozen=True)
class NetworkPlan:
    """Plans by layer name, and what concerns the network as a whole. Where a name is missing, a convolution is an operator node
    and torgb has the form `rgb`.

    `half`: convolutions in float16; take `half_plan`, under which nothing overflows.

    With `live_bias` the bias of every plain convolution is made with the styles, for every sample, although it is always the same.
    OpenVINO adds a constant one to the noise ahead, which makes a constant of the size of the activations that every image
    reads once (526 MB in float32 at 1024 px).
    """

    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    half: bool = False
    rgb: RgbForm = "matmul"
    live_bias: bool = False

    def layer(self, spec: LayerSpec) -> LayerPlan:
        return self.layers.get(spec.name, LayerPlan(self.rgb if spec.kind == "torgb" else "operator"))


@dataclass(frozen=True)
class LayerConstants:
    """A layer's parameters with every gain folded in: `style = affine_weight @ w + affine_bias`, float32."""

    weight: np.ndarray  # [O, I, k, k]
    affine_weight: np.ndarray  # [I, w_dim]
    affine_bias: np.ndarray  # [I]
    style_weight: np.ndarray  # [I], sum 1: the weighted mean square of the style is what it is divided by


def layer_constants(weights: GeneratorWeights, spec: LayerSpec, plan: LayerPlan) -> LayerConstants:
    """The constants of a layer under a plan; torgb, which is not demodulated, has its weight gain in the style."""
    weight = weights.arrays[f"synthesis.{spec.name}.weight"].astype(np.float64)
    affine_weight = weights.arrays[f"synthesis.{spec.name}.affine.weight"] / np.sqrt(weights.config.w_dim, dtype=np.float64)
    affine_bias = weights.arrays[f"synthesis.{spec.name}.affine.bias"].astype(np.float64)
    scale = np.ones(spec.in_channels)
    if spec.kind == "torgb":
        scale /= np.sqrt(spec.in_channels * spec.kernel**2)
    if plan.migration is not None:
        scale /= plan.migration.in_equal
        weight = weight * (plan.migration.in_equal[None, :, None, None] / plan.migration.out_equal[:, None, None, None])
    power = np.ones(spec.in_channels)
    if plan.migration is not None and plan.migration.in_power is not None:
        power = np.maximum(plan.migration.in_power, plan.migration.in_power.mean() * 1e-6 + 1e-12)
    return LayerConstants(
        weight.astype(np.float32),
        (affine_weight * scale[:, None]).astype(np.float32),
        (affine_bias * scale).astype(np.float32),
        (power / power.sum()).astype(np.float32),
    )


def without(plan: NetworkPlan, names: Sequence[str]) -> NetworkPlan:
    """The plan with these layers in its float type."""
    return replace(plan, layers={n: p.in_float() if n in names else p for n, p in plan.layers.items()})


def plain_plan(cfg: GeneratorConfig, form: Form, rgb: RgbForm = "matmul") -> NetworkPlan:
    """Every convolution in one form, float32."""
    return NetworkPlan({s.name: LayerPlan(form) for s in cfg.layers() if s.kind == "conv"}, rgb=rgb)


def half_plan(weights: GeneratorWeights, form: Form = "operator", rgb: RgbForm = "matmul") -> NetworkPlan:
    """A plan under which float16 cannot overflow, whatever ws are: every output channel's weights get unit norm.

    With the style at unit mean square (`styles.py`) a convolution returns values of the size of those it reads. The
    official pre-normalisation (Karras et al. 2020b, appendix D) does the same with maxima, at run time.
    """
    layers = {}
    for spec in weights.config.layers():
        if spec.kind == "conv":
            w = weights.arrays[f"synthesis.{spec.name}.weight"].astype(np.float64)
            norm = np.sqrt(np.square(w).sum((1, 2, 3)))
            layers[spec.name] = LayerPlan(form, Migration(np.ones(spec.in_channels), np.where(norm > 0, norm, 1.0)))
    return NetworkPlan(layers, half=True, rgb=rgb)
