"""Perceptual distance of two images: LPIPS from local weights, and stand-ins on EfficientNet-Lite0.

All compare the feature maps of the two images, each position's features scaled to unit length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.core.errors import InputError
from stylert.models.features.extractors import EffNetLite0
from stylert.models.features.local_weights import read_weights
from stylert.models.features.pyramid import EffNetLite0Pyramid

#: VGG16 (Simonyan and Zisserman 2014) in torchvision's order: the channels of each convolution, or 0 for a pooling.
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
#: LPIPS normalises images in [-1, 1] with these.
LPIPS_SHIFT = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
LPIPS_SCALE = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
#: Added to a length, so that features of zeros stay finite.
EPS = 1e-10


class Distance(Protocol):
    """A perceptual distance. `name` is part of the names of the metrics that are computed with it."""

    name: str

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Images a and b, float `[N, 3, H, W]` in [-1, 1], to the distance of each pair, `[N]`."""
        ...


class MapDistance(Distance, Protocol):
    """A distance of feature maps. Those of an image that is compared often are computed once."""

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images, float `[N, 1 or 3, H, W]` in [-1, 1], to maps of unit vectors, each `[N, C, h, w]`. Differentiable."""
        ...

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """The distances `[N]` of images from their maps. One side may have a single image."""
        ...


class Lpips:
    """LPIPS 0.1 with VGG16 (Zhang et al. 2018, equation 1), on which the published PPL is defined.

    Args:
        files: Files that together hold torchvision's VGG16 (`features.*`) and the linear layers of LPIPS
            (`lin*.model.1.weight`).

    Raises:
        InputError: A file is missing or damaged, or a tensor is missing or has the wrong shape.
    """

    name = "LPIPS"

    def __init__(self, files: Sequence[str | Path]) -> None:
        tensors: dict[str, Tensor] = {}
        for file in files:
            tensors |= read_weights(file, "LPIPS")

        def read(name: str, shape: tuple[int, ...]) -> Tensor:
            if name not in tensors or tuple(tensors[name].shape) != shape:
                raise InputError(
                    f"LPIPS lacks the tensor {name} {list(shape)}: give torchvision's VGG16 weights and LPIPS's linear layers"
                )
            return tensors[name].float()

        #: Weight and bias of the convolutions between two poolings.
        self.stages: list[list[tuple[Tensor, Tensor]]] = [[]]
        index, width = 0, 3
        for channels in VGG16:
            if channels == 0:
                self.stages.append([])
                index += 1
                continue
            weight = read(f"features.{index}.weight", (channels, width, 3, 3))
            bias = read(f"features.{index}.bias", (channels,))
            self.stages[-1].append((weight, bias))
            index += 2  # a convolution and its ReLU
            width = channels
        widths = [len(stage[-1][1]) for stage in self.stages]
        self.linear = [read(f"lin{i}.model.1.weight", (1, width, 1, 1)) for i, width in enumerate(widths)]

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        pairs = [maps.chunk(2) for maps in self.maps(torch.cat([a, b]))]
        return self.compare([pair[0] for pair in pairs], [pair[1] for pair in pairs])

    def maps(self, images: Tensor) -> list[Tensor]:
        """See `MapDistance`: five maps, one in front of each pooling."""
        x = ((images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images) - LPIPS_SHIFT) / LPIPS_SCALE
        maps = []
        for i, stage in enumerate(self.stages):
            x = x if i == 0 else F.max_pool2d(x, 2)
            for weight, bias in stage:
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            maps.append(_unit(x))
        return maps

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """See `MapDistance`."""
        parts = [F.conv2d((x - y).square(), w).mean((1, 2, 3)) for x, y, w in zip(a, b, self.linear, strict=True)]
        return torch.stack(parts).sum(0)


class EffNetLite0Distance:
    """LPIPS's formula on the last feature maps of EfficientNet-Lite0, each channel with weight one. Never called LPIPS."""

    name = "EffNetLite0"

    def __init__(self, extractor: EffNetLite0) -> None:
        self.extractor = extractor

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        maps = self.extractor.maps((torch.cat([a, b]) + 1) * 127.5)
        unit_a, unit_b = _unit(maps).chunk(2)
        return (unit_a - unit_b).square().sum(1).mean((1, 2))


class EffNetLite0MapDistance:
    """LPIPS's formula on the maps of EfficientNet-Lite0 at four resolutions, each channel with weight one. Never called LPIPS.

    The fine maps tell the place of an edge, which the last map does not.

    Args:
        size: Side to which images are resized, a multiple of 32 pixels.

    Raises:
        BackendError: The packages of the network or of its weights are not installed.
    """

    name = "EffNetLite0 maps"

    def __init__(self, size: int) -> None:
        self.pyramid = EffNetLite0Pyramid(size)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return self.compare(self.maps(a), self.maps(b))

    def maps(self, images: Tensor) -> list[Tensor]:
        """See `MapDistance`."""
        return [_unit(maps) for maps in self.pyramid(images)]

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """See `MapDistance`."""
        return torch.stack([(x - y).square().sum(1).mean((1, 2)) for x, y in zip(a, b, strict=True)]).sum(0)


def _unit(maps: Tensor) -> Tensor:
    """The features at each position of `[N, C, H, W]`, scaled to unit length. The gradient of features that are all zero is zero."""
    return maps / (maps.square().sum(1, keepdim=True).clamp_min(EPS**2).sqrt() + EPS)
