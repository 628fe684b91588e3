"""The synthesis networks of StyleGAN1: a plan for each precision and backend, and its graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from stylert.core.errors import InputError
from stylert.core.progress import Progress
from stylert.export.networks.exporter import ExportRequest, NetworkExporter, PrecisionNetworks
from stylert.export.quantization.quantization_record import CANONICAL, search_recipe
from stylert.export.quantization.stylegan1_plans import (
    INT8_FACTS,
    Samples,
    backend_plans,
    conv_layers,
    find_sensitive_layers,
    int8_plan,
)
from stylert.export.stylegan1 import noise_name, synthesis_model
from stylert.export.stylegan1_plan import NetworkPlan, float16_plan
from stylert.models.checkpoint import Stylegan1Weights
from stylert.models.stylegan1.config import GeneratorConfig

if TYPE_CHECKING:
    from torch import Tensor

FLOAT_RECIPES: Mapping[str, dict[str, Any]] = {
    "fp32": {},
    "fp16": {"layers": "float16, with unit weights and signals", "styles, statistics and image": "float32"},
}


class Stylegan1Exporter(NetworkExporter[GeneratorConfig]):
    """fp32 and fp16 have one file for all backends. int8 has a file for each that takes other forms."""

    precisions = ("fp32", "fp16", "int8")
    default_precisions = ("fp32", "int8")
    style_channels = 0

    def __init__(self, weights: Stylegan1Weights, request: ExportRequest) -> None:
        super().__init__(weights, request)
        if request.style_offsets:
            raise InputError("stylert has no style offsets for StyleGAN1: leave out --style-offsets")
        self.noise = request.noise
        layers = weights.config.layers()[:-1]
        self.noise_inputs = {noise_name(s): s.resolution for s in layers} if request.noise == "input" else {}

    def networks(self, precision: str, mapping: Path, target_db: float, progress: Progress | None) -> PrecisionNetworks:
        if precision != "int8":
            plan = float16_plan() if precision == "fp16" else NetworkPlan()
            return PrecisionNetworks(FLOAT_RECIPES[precision], self._models({CANONICAL: plan}))
        samples = Samples(self.weights, mapping, progress)
        plans = {CANONICAL: int8_plan(samples)}
        for backend in self.request.backends:
            plans |= backend_plans(samples, backend)
        searches = {name: find_sensitive_layers(samples, plan, target_db, name) for name, plan in plans.items()}
        plans = {name: plan.without_quantization(searches[name].higher_precision) for name, plan in plans.items()}
        quantized = {name: plan.quantized_layers for name, plan in plans.items()}
        recipe = search_recipe(conv_layers(self.weights.config), quantized, searches) | INT8_FACTS
        return PrecisionNetworks(recipe, self._models(plans))

    def _models(self, plans: Mapping[str, NetworkPlan]) -> Iterator[tuple[str, onnx.ModelProto]]:
        for name, plan in plans.items():
            yield name, synthesis_model(self.weights, plan, self.request.noise, self.request.output)

    @staticmethod
    def torch_images(
        generator: Any, z: Tensor, c: Tensor | None, psi: float, noise: str, noise_inputs: Mapping[str, np.ndarray]
    ) -> Tensor:
        import torch

        for name, value in noise_inputs.items():
            _, resolution, layer = name.split("_")
            getattr(generator.synthesis, f"b{resolution}")[layer].noise_const = torch.from_numpy(value)
        images: Tensor = generator(z, c, psi, noise_mode="none" if noise == "none" else "const")
        return images
