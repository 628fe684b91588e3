"""The synthesis networks of StyleGAN3: one plain graph in float32 and one in float16, for all backends.

A bundle holds the transform of the checkpoint as a constant, which is the identity for nearly all files. So its networks have
the inputs and the output of StyleGAN2's, and recipes, servers and engines need no rule of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stylert.core.errors import InputError
from stylert.core.progress import Progress
from stylert.export.networks.exporter import ExportRequest, NetworkExporter, PrecisionNetworks
from stylert.export.quantization.quantization_record import CANONICAL
from stylert.export.stylegan3 import synthesis_model
from stylert.models.checkpoint import Stylegan3Weights
from stylert.models.stylegan3.config import GeneratorConfig

if TYPE_CHECKING:
    from torch import Tensor

RECIPES: Mapping[str, dict[str, Any]] = {
    "fp32": {},
    "fp16": {"layers": "float16, with unit weights and styles", "styles, Fourier features and image": "float32"},
}


class Stylegan3Exporter(NetworkExporter[GeneratorConfig]):
    """The files have no operator nodes: FilteredLrelu has no plugin, and the plain form filters with fewer products."""

    precisions = ("fp32", "fp16")
    default_precisions = ("fp32", "fp16")
    noise = "none"
    noise_inputs: Mapping[str, int] = {}
    style_channels = 0

    def __init__(self, weights: Stylegan3Weights, request: ExportRequest) -> None:
        super().__init__(weights, request)
        if request.noise == "input":
            raise InputError("StyleGAN3 has no noise, so its networks take none as input: leave out --noise input")
        if request.style_offsets:
            raise InputError("stylert has no style offsets for StyleGAN3: leave out --style-offsets")

    def networks(self, precision: str, mapping: Path, target_db: float, progress: Progress | None) -> PrecisionNetworks:
        model = synthesis_model(self.weights, "plain", precision == "fp16", self.request.output, "const")
        return PrecisionNetworks(RECIPES[precision], iter([(CANONICAL, model)]))

    @staticmethod
    def torch_images(
        generator: Any, z: Tensor, c: Tensor | None, psi: float, noise: str, noise_inputs: Mapping[str, np.ndarray]
    ) -> Tensor:
        images: Tensor = generator(z, c, psi)
        return images
