"""Perceptual distance of two images: LPIPS from local weights, and a stand-in on EfficientNet-Lite0.

Both compare the feature maps of the two images, each position's features scaled to unit length.
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
        x = (torch.cat([a, b]) - LPIPS_SHIFT) / LPIPS_SCALE
        total = torch.zeros(len(a))
        for i, (stage, linear) in enumerate(zip(self.stages, self.linear, strict=True)):
            x = x if i == 0 else F.max_pool2d(x, 2)
            for weight, bias in stage:
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            total = total + F.conv2d(_squared_difference(x), linear).mean((1, 2, 3))
        return total


class EffNetLite0Distance:
    """LPIPS's formula on the last feature maps of EfficientNet-Lite0, each channel with weight one. Never called LPIPS."""

    name = "EffNetLite0"

    def __init__(self, extractor: EffNetLite0) -> None:
        self.extractor = extractor

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        maps = self.extractor.maps((torch.cat([a, b]) + 1) * 127.5)
        return _squared_difference(maps).sum(1).mean((1, 2))


def _squared_difference(maps: Tensor) -> Tensor:
    """`(u_a - u_b)^2`, u being the unit vectors of features at each position: `[2N, C, H, W]` to `[N, C, H, W]`.

    The first half of the batch are the maps of images a, the second half those of images b.
    """
    unit = maps / (maps.square().sum(1, keepdim=True).sqrt() + EPS)
    unit_a, unit_b = unit.chunk(2)
    return (unit_a - unit_b).square()
