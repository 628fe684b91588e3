"""Perceptual distances of image pairs, float `[N, 3, H, W]` in [-1, 1] to `[N]`: LPIPS from local weights, and a stand-in."""

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

#: VGG16 (Simonyan and Zisserman 2014): channels of its convolutions, 0 for a pooling, as torchvision numbers the layers.
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
#: The input layer of LPIPS, on images in [-1, 1].
LPIPS_SHIFT = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
LPIPS_SCALE = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
EPS = 1e-10


class Distance(Protocol):
    """Images a and b `[N, 3, H, W]` in [-1, 1] to their distances `[N]`."""

    name: str

    def __call__(self, a: Tensor, b: Tensor) -> Tensor: ...


class Lpips:
    """LPIPS 0.1 with VGG16 (Zhang et al. 2018, equation 1), which the published PPL is measured with.

    `files` together hold torchvision's VGG16 (`features.*`) and the linear layers of LPIPS (`lin*.model.1.weight`).

    Raises InputError when a file is missing or a tensor is.
    """

    name = "LPIPS"

    def __init__(self, files: Sequence[str | Path]) -> None:
        tensors = {name: t for file in files for name, t in read_weights(file, "LPIPS").items()}

        def take(name: str, shape: tuple[int, ...]) -> Tensor:
            if name not in tensors or tuple(tensors[name].shape) != shape:
                raise InputError(
                    f"LPIPS lacks the tensor {name} {list(shape)}: give torchvision's VGG16 weights and LPIPS's linear layers"
                )
            return tensors[name].float()

        self.stages: list[list[tuple[Tensor, Tensor]]] = [[]]
        index, width = 0, 3
        for channels in VGG16:
            if channels == 0:
                self.stages.append([])
                index += 1
                continue
            weight = take(f"features.{index}.weight", (channels, width, 3, 3))
            self.stages[-1].append((weight, take(f"features.{index}.bias", (channels,))))
            index, width = index + 2, channels  # a convolution and its ReLU
        self.linear = [take(f"lin{i}.model.1.weight", (1, len(s[-1][1]), 1, 1)) for i, s in enumerate(self.stages)]

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        x, total = (torch.cat([a, b]) - LPIPS_SHIFT) / LPIPS_SCALE, torch.zeros(len(a))
        for i, (stage, linear) in enumerate(zip(self.stages, self.linear, strict=True)):
            x = x if i == 0 else F.max_pool2d(x, 2)
            for weight, bias in stage:
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            unit = x / (x.square().sum(1, keepdim=True).sqrt() + EPS)
            total = total + F.conv2d((unit[: len(a)] - unit[len(a) :]).square(), linear).mean((1, 2, 3))
        return total


class EffNetLite0Distance:
    """The same formula on the last feature maps of EfficientNet-Lite0, every channel of weight one. Never called LPIPS."""

    name = "EffNetLite0"

    def __init__(self, extractor: EffNetLite0) -> None:
        self.extractor = extractor

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        maps = self.extractor.maps((torch.cat([a, b]) + 1) * 127.5)
        unit = maps / (maps.square().sum(1, keepdim=True).sqrt() + EPS)
        return (unit[: len(a)] - unit[len(a) :]).square().sum(1).mean((1, 2))
