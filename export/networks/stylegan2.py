"""The synthesis networks of StyleGAN2: a plan for each precision and backend, and its graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from stylert.core.progress import Progress
from stylert.export.default_plans import EIGHT_BIT, backend_plan, canonical_plan, plan_without_vnni
from stylert.export.network_plan import NetworkPlan, conv_layers
from stylert.export.networks.exporter import ExportRequest, NetworkExporter, PrecisionNetworks
from stylert.export.quantization.calibration import Calibration, calibrate
from stylert.export.quantization.calibration_latents import calibration_latents, search_latents
from stylert.export.quantization.quantization_record import CANONICAL, FLOAT16_RECIPE, eight_bit_recipe
from stylert.export.quantization.sensitivity import (
    Sensitivity,
    find_sensitive_layers,
    plan_images_on,
    reference_images,
    same_rounding,
)
from stylert.export.synthesis import noise_name, synthesis_model
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.runtime.bundle import NO_VNNI

if TYPE_CHECKING:
    from torch import Tensor

BF16_RECIPE: dict[str, Any] = {"everything": "bfloat16, where the backend sees fit; float32 weights in the file"}
FLOAT_RECIPES: Mapping[str, dict[str, Any]] = {"fp32": {}, "fp16": FLOAT16_RECIPE, "bf16": BF16_RECIPE}


class Stylegan2Exporter(NetworkExporter[GeneratorConfig]):
    """Sample latents are measured once, for all precisions with 8 bits."""

    precisions = ("fp32", "fp16", "bf16", "int8", "fp8")
    default_precisions = ("fp32", "int8")

    def __init__(self, weights: GeneratorWeights, request: ExportRequest) -> None:
        super().__init__(weights, request)
        cfg = weights.config
        self.noise = request.noise
        self.noise_inputs = {noise_name(s): s.resolution for s in conv_layers(cfg)} if request.noise == "input" else {}
        self.style_channels = sum(spec.in_channels for spec in cfg.layers()) if request.style_offsets else 0
        self._samples: _Samples | None = None

    def networks(self, precision: str, mapping: Path, target_db: float, progress: Progress | None) -> PrecisionNetworks:
        if precision in EIGHT_BIT and self._samples is None:
            self._samples = _Samples.measure(self.weights, mapping, progress)
        plans, recipe = self._plans(precision, target_db, progress)
        return PrecisionNetworks(recipe, self._models(plans))

    def _models(self, plans: Mapping[str, NetworkPlan]) -> Iterator[tuple[str, onnx.ModelProto]]:
        request = self.request
        for name, plan in plans.items():
            yield name, synthesis_model(self.weights, request.noise, request.output, plan, style_offsets=request.style_offsets)

    def _plans(
        self, precision: str, target_db: float, progress: Progress | None
    ) -> tuple[dict[str, NetworkPlan], dict[str, Any]]:
        """The plans of a precision, by backend and `CANONICAL`, and its recipe."""
        weights, samples = self.weights, self._samples
        calibration = None if samples is None else samples.calibration
        plans = {CANONICAL: canonical_plan(weights, precision, calibration)}
        for backend in self.request.backends:
            plan = backend_plan(weights, precision, backend, calibration)
            if plan is not None:
                plans[backend] = plan
                if (limited := plan_without_vnni(plan, precision, backend)) is not None:
                    plans[f"{backend}{NO_VNNI}"] = limited
        if samples is None or precision not in EIGHT_BIT:
            return plans, FLOAT_RECIPES[precision]

        searches: dict[str, Sensitivity] = {}
        for backend, plan in plans.items():
            twin = next((o for o in searches if _runs_on(o) == _runs_on(backend) and same_rounding(plans[o], plan)), None)
            if twin is None:
                stage = f"search {precision} layers {backend}".strip()
                images = plan_images_on(weights, _runs_on(backend), precision)
                searches[backend] = find_sensitive_layers(
                    weights, plan, samples.latents, samples.reference, target_db, progress, stage, images
                )
            else:
                searches[backend] = searches[twin]
        plans = {backend: plan.without_quantization(searches[backend].higher_precision) for backend, plan in plans.items()}
        return plans, eight_bit_recipe(weights.config, precision, plans, searches)

    @staticmethod
    def torch_images(
        generator: Any, z: Tensor, c: Tensor | None, psi: float, noise: str, noise_inputs: Mapping[str, np.ndarray]
    ) -> Tensor:
        import torch

        for name, value in noise_inputs.items():
            _, resolution, layer = name.split("_")
            getattr(getattr(generator.synthesis, f"b{resolution}"), layer).noise_const = torch.from_numpy(value)
        images: Tensor = generator(z, c, psi, noise_mode="none" if noise == "none" else "const")
        return images


@dataclass(frozen=True)
class _Samples:
    """Measurements on sample latents, from which plans with 8 bits are made."""

    calibration: Calibration
    latents: list[np.ndarray]  # ws of the sensitivity search
    reference: np.ndarray  # their images without 8 bits

    @classmethod
    def measure(cls, weights: GeneratorWeights, mapping: Path, progress: Progress | None) -> _Samples:
        calibration = calibrate(weights, calibration_latents(weights.config, mapping), progress)
        latents = search_latents(weights.config, mapping)
        return cls(calibration, latents, reference_images(weights, latents))


def _runs_on(name: str) -> str:
    """The backend of a plan's name. The canonical file is that of ONNX Runtime."""
    return "onnxruntime" if name == CANONICAL else name.removesuffix(NO_VNNI)
