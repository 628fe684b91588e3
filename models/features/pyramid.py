"""Feature maps of EfficientNet-Lite0 at four resolutions, differentiable with respect to the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylert.models.features.effnet_lite0 import load_effnet_lite0, normalized

#: Channels of the maps. The sides of the maps are the side of the input, divided by `STRIDES`.
CHANNELS = (24, 40, 112, 320)
STRIDES = (4, 8, 16, 32)
#: The last block of the network at each of these strides.
LAST_BLOCKS = (2, 4, 10, 15)


class EffNetLite0Pyramid(nn.Module):
    """The output of the last block at each stride. Needs the `metrics` extra.

    Args:
        size: Side to which images are resized first, a multiple of 32 pixels. The network was trained at 224.

    Raises:
        BackendError: The packages of the network or of its weights are not installed.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.network = load_effnet_lite0()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Grey or RGB images `[N, 1 or 3, H, W]` in [-1, 1] to maps `[N, channels, size / stride, size / stride]`."""
        x = (images + 1) / 2
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(normalized(x).contiguous(memory_format=torch.channels_last))))
        maps = []
        for index, block in enumerate(network._blocks):
            x = block(x)
            if index in LAST_BLOCKS:
                maps.append(x)
        return maps
