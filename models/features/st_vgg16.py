"""VGG16 (Simonyan and Zisserman 2014) with the weights of ST-LPIPS, which were trained for features that shifts do not change.

The weights come in the package `stlpips_pytorch`. Its file is read without importing the package, which needs IPython.
Every max-pooling is followed by a low-pass filter, as in the network that the weights were trained in (Zhang 2019;
Ghildyal and Liu 2022).
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.core.errors import InputError, missing_extra
from stylert.models.features.local_weights import read_weights
from stylert.models.features.perceptual import LPIPS_SCALE, LPIPS_SHIFT

PACKAGE = "stlpips_pytorch"
WEIGHTS = "stlpips_pytorch/weights/vST0.0/vgg_shift_tolerant.pth"
#: The convolutions of each slice of the network, by their number in the file. Every slice after the first begins with a pooling.
SLICES = ((0, 2), (6, 8), (12, 14, 16), (20, 22, 24), (28, 30, 32))
#: Side to which images are resized, half of that in training: at 224 px, 5,000 images take a CPU an hour.
INPUT_SIZE = 112
BATCH = 16


class StVgg16:
    """An `Extractor`: the last 512 feature maps, averaged over their pixels. Needs the `st-lpips` extra.

    Raises:
        BackendError: The package of the weights is not installed.
        InputError: Its file lacks a tensor.
    """

    name = "STVGG16"
    width = 512
    identity = "STVGG16"

    def __init__(self) -> None:
        try:
            file = Path(str(distribution(PACKAGE).locate_file(WEIGHTS)))
        except PackageNotFoundError:
            raise missing_extra("VGG16 of ST-LPIPS", "st-lpips") from None
        tensors = read_weights(file, "ST-LPIPS")
        try:
            self.slices = [
                [(tensors[f"net.slice{i}.{n}.weight"], tensors[f"net.slice{i}.{n}.bias"]) for n in numbers]
                for i, numbers in enumerate(SLICES, 1)
            ]
        except KeyError as e:
            raise InputError(f"{file} lacks the tensor {e.args[0]}") from None

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(images).permute(0, 3, 1, 2)
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        return torch.cat([self.maps(batch.float()).mean((2, 3)) for batch in x.split(BATCH)]).double().numpy()

    def maps(self, x: Tensor) -> Tensor:
        """Images `[N, 3, H, W]`, float from 0 to 255, to feature maps `[N, 512, 8, 8]`."""
        x = F.interpolate(x, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
        x = ((x / 127.5 - 1 - LPIPS_SHIFT) / LPIPS_SCALE).contiguous(memory_format=torch.channels_last)
        for i, layers in enumerate(self.slices):
            if i > 0:
                x = _pool(x)
            for weight, bias in layers:
                x = F.relu(F.conv2d(x, weight, bias, padding=1), inplace=True)
        return x


def _pool(x: Tensor) -> Tensor:
    """Max-pooling of 2x2 pixels at every position, then the filter [1, 2, 1] in both directions at every second one."""
    x = F.pad(F.max_pool2d(x, 2, stride=1), (1, 1, 1, 1), mode="reflect")
    taps = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, stride=2, groups=x.shape[1])
