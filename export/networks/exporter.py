"""The interface by which the pipeline writes the synthesis networks of any kind, and verification draws their images.

The pipeline knows no layers. An exporter knows the layers of one kind of network, and refuses by name what it lacks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import onnx

from stylert.core.errors import InputError
from stylert.core.progress import Progress
from stylert.export.image_output import OutputType
from stylert.export.synthesis_graph import NoiseInput
from stylert.models.checkpoint import NetworkWeights
from stylert.models.network_config import BaseGeneratorConfig

if TYPE_CHECKING:
    from torch import Tensor

ConfigT = TypeVar("ConfigT", bound=BaseGeneratorConfig)


@dataclass(frozen=True)
class ExportRequest:
    """The user's wishes for the networks. No network is known yet when they are checked.

    Attributes:
        precisions: Names of the precisions, or None for those that suit the network.
        noise: The source of the noise.
        output: The type of the images.
        backends: Those that get a file of their own.
        style_offsets: Whether the networks take offsets of the styles.
    """

    precisions: Sequence[str] | None
    noise: NoiseInput
    output: OutputType
    backends: Sequence[str]
    style_offsets: bool


@dataclass(frozen=True)
class PrecisionNetworks:
    """The networks of one precision.

    Attributes:
        recipe: How they were made, for `bundle.json`.
        models: By the plan's name, one model after the other; the canonical one has the name `CANONICAL`.
    """

    recipe: dict[str, Any]
    models: Iterator[tuple[str, onnx.ModelProto]]


class NetworkExporter(ABC, Generic[ConfigT]):
    """Writes the synthesis networks of one generator.

    Attributes:
        precisions: The precisions that this kind of network can have.
        default_precisions: Those of users who name none.
    """

    precisions: ClassVar[Sequence[str]]
    default_precisions: ClassVar[Sequence[str]]

    def __init__(self, weights: NetworkWeights[ConfigT], request: ExportRequest) -> None:
        """Raises InputError: the network has no such precision, or lacks something that the request names."""
        self.weights, self.request = weights, request
        self.chosen = tuple(self.default_precisions if request.precisions is None else request.precisions)
        title = weights.config.title
        for precision in self.chosen:
            if precision not in self.precisions:
                raise InputError(f"stylert exports {title} in {', '.join(self.precisions)}, not in {precision}")

    #: The source of the noise, as `Bundle.noise`.
    noise: str
    #: The name of each noise input, and the side of its map in pixels.
    noise_inputs: Mapping[str, int]
    #: As `Bundle.style_channels`.
    style_channels: int

    @abstractmethod
    def networks(self, precision: str, mapping: Path, target_db: float, progress: Progress | None) -> PrecisionNetworks:
        """Write the networks of a precision.

        Args:
            precision: One of `chosen`.
            mapping: The file of the mapping network.
            target_db: The PSNR that the images keep.
            progress: Called while sample latents are measured.
        """

    @staticmethod
    @abstractmethod
    def torch_images(
        generator: Any, z: Tensor, c: Tensor | None, psi: float, noise: str, noise_inputs: Mapping[str, np.ndarray]
    ) -> Tensor:
        """The images of the PyTorch network in float32, `[N, C, H, W]`.

        Args:
            generator: The module `Generator`.
            z: `[N, z_dim]`.
            c: Labels `[N, c_dim]`, or None.
            psi: Truncation.
            noise: `Bundle.noise`.
            noise_inputs: The maps `[N, 1, R, R]` of the noise inputs by name.
        """
