"""Networks that turn an image into one feature vector: Inception, and EfficientNet-Lite0 as a stand-in for it.

FID (Heusel et al. 2017) and the published KID, IS, precision and recall are defined on the features of one Inception
network. No package ships its weights, so `Inception` reads them from a local file. The weights of `EffNetLite0` come with
a package. Distances in its features use the same formulas, but compare only with each other and are never called FID.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.core.errors import InputError, missing_extra
from stylert.core.files.digests import sha256_of
from stylert.core.files.temporary import temporary_folder
from stylert.models.features.effnet_lite0 import load_effnet_lite0, normalized
from stylert.models.features.local_weights import read_weights

#: Height and width that EfficientNet-Lite0 was trained at, in pixels.
INPUT_SIZE = 224
#: Images per forward pass. The activations of more do not fit into a CPU's cache, and memory bounds this network.
BATCH = 8


class Extractor(Protocol):
    """A network that turns images into features.

    Attributes:
        name: Part of the names of the metrics that are computed on it.
        width: Number of features per image.
        identity: Changes whenever the same pixels would give other features. It names cached features.
    """

    name: str
    width: int
    identity: str

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 images `[N, H, W, 1 or 3]` to float64 features `[N, width]`."""
        ...


class Inception:
    """The Inception network of FID: 2048 pooled features, as torch-fidelity computes them. Needs the `fidelity` extra.

    Args:
        weights: torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`, or safetensors of the same tensors.

    Raises:
        InputError: The file is missing or damaged, or holds the weights of another network.
        BackendError: torch-fidelity is not installed.
    """

    name = "Inception"
    width = 2048

    def __init__(self, weights: str | Path) -> None:
        tensors = read_weights(weights, "Inception")
        network_class = _inception_class()
        # This class unpickles its file without restriction, so it gets a new file that holds only the tensors.
        with temporary_folder("inception") as folder:
            safe_file = folder / "inception.pth"
            torch.save(tensors, safe_file)
            try:
                self.network = network_class("inception", ["2048"], feature_extractor_weights_path=str(safe_file))
            except (RuntimeError, KeyError) as e:
                reason = str(e).strip().splitlines()[0].rstrip(":")
                raise InputError(f"{weights} holds no weights of the FID Inception network ({reason})") from None
        self.identity = f"Inception-{sha256_of(weights)}"

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        features: Tensor = self.network(_as_rgb(images))[0]
        return features.double().numpy()

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Features `[N, 2048]` to class logits `[N, 1008]`. The bias is left out, as in the Inception Score."""
        weight: np.ndarray = self.network.fc.weight.double().numpy()
        return features @ weight.T


class EffNetLite0:
    """EfficientNet-Lite0: 1280 pooled features. Needs the `metrics` extra.

    Raises:
        BackendError: The packages of the network or of its weights are not installed.
    """

    name = "EffNetLite0"
    width = 1280
    identity = "EffNetLite0"

    def __init__(self) -> None:
        self.network = load_effnet_lite0()

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        pooled = [self.maps(batch.float()).mean((2, 3)) for batch in _as_rgb(images).split(BATCH)]
        return torch.cat(pooled).double().numpy()

    def maps(self, x: Tensor) -> Tensor:
        """Images `[N, 3, H, W]`, float from 0 to 255, to feature maps `[N, 1280, 7, 7]`."""
        x = F.interpolate(x, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)
        maps: Tensor = self.network.extract_features(normalized(x / 255).contiguous(memory_format=torch.channels_last))
        return maps


def _as_rgb(images: np.ndarray) -> Tensor:
    """uint8 images `[N, H, W, 1 or 3]` to `[N, 3, H, W]`."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def _inception_class() -> Any:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise missing_extra("the Inception network", "fidelity") from None
    except RuntimeError as e:  # torch-fidelity imports torchvision, which may be built for another torch
        raise InputError(f"torch-fidelity cannot be imported: {e}") from None
    return FeatureExtractorInceptionV3
