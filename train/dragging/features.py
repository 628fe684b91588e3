"""The features of an image: the activations of one block of the synthesis network, at the size of the image."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from stylert.core.errors import InputError
from stylert.models.stylegan2.generator import SynthesisNetwork

#: Least side of the block of features. Smaller ones lose an ear or an eye between two of their cells.
LEAST_SIDE = 32
#: The part of the image's side that the block of features has, as the paper's block of 128 px for 512 px.
PART = 4


class FeatureSource(Protocol):
    """A network of images with features.

    Attributes:
        resolution: Side R of the images.
        latents: How many of the latents, the first ones, have a part in the features.
    """

    resolution: int
    latents: int

    def __call__(self, ws: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[N, C, R, R]` and images `[N, img_channels, R, R]` of ws `[N, num_ws, w_dim]`."""


def feature_side(resolution: int) -> int:
    """The side of the block whose features a drag of images of this side compares."""
    return min(resolution, max(LEAST_SIDE, resolution // PART))


class BlockFeatures:
    """The activations behind a block of a synthesis network, resized bilinearly to the images. See `FeatureSource`.

    Args:
        synthesis: The network, on the CPU.
        side: Side of the block; None for `feature_side`.

    Raises:
        InputError: The network has no such block.
    """

    def __init__(self, synthesis: SynthesisNetwork, side: int | None = None) -> None:
        cfg = synthesis.cfg
        self.synthesis, self.resolution = synthesis, cfg.resolution
        self.side = feature_side(cfg.resolution) if side is None else side
        if self.side not in cfg.block_resolutions:
            blocks = ", ".join(map(str, cfg.block_resolutions))
            raise InputError(f"the features are those of a block of the network, {blocks} px, not {self.side}")
        convolutions = [spec for spec in cfg.layers() if spec.kind == "conv" and spec.resolution <= self.side]
        self.latents = 1 + max(spec.ws_index for spec in convolutions)

    def __call__(self, ws: Tensor) -> tuple[Tensor, Tensor]:
        """See `FeatureSource`."""
        features: list[Tensor] = []

        def keep(block: torch.nn.Module, inputs: object, outputs: tuple[Tensor, Tensor | None]) -> None:
            features.append(outputs[0])

        hook = getattr(self.synthesis, f"b{self.side}").register_forward_hook(keep)
        try:
            images = self.synthesis(ws, "const")
        finally:
            hook.remove()
        size = (self.resolution, self.resolution)
        return F.interpolate(features[0].float(), size, mode="bilinear", align_corners=False), images
