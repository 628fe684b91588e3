"""The recipe of an 8-bit precision in `bundle.json`: which layers are in 8 bits, how, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from stylert.core.errors import BundleError
from stylert.export.network_plan import NetworkPlan, conv_layers
from stylert.export.quantization.calibration import INPUT_ESTIMATOR, OUTPUT_ESTIMATOR
from stylert.export.quantization.calibration_latents import CALIBRATION_FIRST_SEED, CALIBRATION_SAMPLES, SEARCH_SAMPLES
from stylert.export.quantization.sensitivity import Sensitivity
from stylert.models.stylegan2.config import GeneratorConfig

#: The key of the canonical file among plans by backend.
CANONICAL = ""

FLOAT16_RECIPE: dict[str, Any] = {
    "convolutions": "float16, weights and styles normalised",
    "styles, demodulation, RGB": "float32",
}

FORMAT_FACTS: dict[str, dict[str, Any]] = {
    "int8": {
        "activations": f"8 bits per tensor; the range of each sample, or a fixed one ({INPUT_ESTIMATOR}) by backend and image size",
        "outputs": f"8 bits per tensor, {OUTPUT_ESTIMATOR}, on ONNX Runtime, and before the FIR on OpenVINO",
        "weights": "int8 per channel",
    },
    "fp8": {
        "activations": "E4M3 per tensor, with room for twice the calibrated peak",
        "weights": "E4M3 per channel",
        "rest": FLOAT16_RECIPE,
    },
}


def eight_bit_recipe(
    cfg: GeneratorConfig, precision: str, plans: Mapping[str, NetworkPlan], searches: Mapping[str, Sensitivity]
) -> dict[str, Any]:
    """The recipe of int8 or fp8. Plans and searches are by backend; those of the canonical file stand at the top."""
    quantized = {backend: plan.quantized_layers for backend, plan in plans.items()}
    return search_recipe(conv_layers(cfg), quantized, searches) | FORMAT_FACTS[precision]


class Layer(Protocol):
    """A convolution of any network."""

    @property
    def name(self) -> str: ...
    @property
    def resolution(self) -> int: ...
    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...


def search_recipe(
    layers: Sequence[Layer], quantized: Mapping[str, Sequence[str]], searches: Mapping[str, Sensitivity]
) -> dict[str, Any]:
    """The part of a recipe that tells which layers are in 8 bits.

    Args:
        layers: The convolutions of the network.
        quantized: The names of the layers in 8 bits, by backend.
        searches: The searches by backend.
    """
    backends = {backend: _file_recipe(layers, sorted(quantized[backend]), search) for backend, search in searches.items()}
    canonical = backends.pop(CANONICAL)
    return {
        **canonical,
        "backends": backends,
        "calibration": {"samples": CALIBRATION_SAMPLES, "first_seed": CALIBRATION_FIRST_SEED},
    }


def layers_in_8_bits(recipe: Mapping[str, Any], backend: str) -> list[str] | None:
    """The layers that a recipe names for a backend's file, or None in a recipe that names none.

    Raises:
        BundleError: The recipe has another form than those of export. A manifest may come from others.
    """
    backends = recipe.get("backends", {})
    own = backends.get(backend, recipe) if isinstance(backends, Mapping) else None
    layers = own.get("layers") if isinstance(own, Mapping) else 0
    if layers is None or (isinstance(layers, list) and all(isinstance(name, str) for name in layers)):
        return layers
    raise BundleError(f"the recipe for {backend} in the manifest names no layers; export the bundle again")


def _file_recipe(layers: Sequence[Layer], quantized: Sequence[str], search: Sensitivity) -> dict[str, Any]:
    reasons = {
        spec.name: f"too small: {spec.in_channels} to {spec.out_channels} channels at {spec.resolution} px"
        for spec in layers
        if spec.name not in quantized
    }
    reasons |= {
        name: f"search: {psnr_db:.1f} dB with only this layer in 8 bits" for name, psnr_db in search.higher_precision.items()
    }
    return {
        "layers": list(quantized),
        "higher_precision": reasons,
        "search": {"psnr_db": round(search.psnr_db, 2), "evaluations": search.evaluations, "samples": SEARCH_SAMPLES},
    }
