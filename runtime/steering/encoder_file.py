"""The encoder of a generator in a safetensors file: its weights, with sizes and the generator as JSON in the metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stylert.core.errors import InputError, shown, shown_line
from stylert.core.files.digests import check_sha256
from stylert.core.files.safetensors_files import digest
from stylert.core.ranges import check_ranges
from stylert.runtime.steering.tensor_files import TensorFile, as_float32

FORMAT_VERSION = 2
#: Begins the names of the tensors that belong to the curvature
CURVATURE = "curvature."
#: Least and greatest value of the sizes in a file.
RANGES = {"resolution": (4, 4096), "img_channels": (1, 3), "num_ws": (1, 1024), "w_dim": (1, 65_536)}
#: Tensors of a file, at most, and letters of a name. EfficientNet-Lite0 and three heads have 126.
MAX_TENSORS, MAX_NAME = 1000, 200


@dataclass(frozen=True)
class EncoderWeights:
    """An encoder as data.

    Attributes:
        network: sha256 of the checkpoint file whose generator it encodes for.
        resolution: Side of the images.
        img_channels: Channels of the images.
        num_ws: Number of latents.
        w_dim: Numbers in a latent.
        arrays: The tensors of its network by name, float32.
        curvature: Those of the mean curvature of a loss by ws, which the steps of a refinement use, float32.
        facts: How it was trained and how well it encodes, for people.
        sha256: The hash of the file; empty for an encoder that was not read from one.
    """

    network: str
    resolution: int
    img_channels: int
    num_ws: int
    w_dim: int
    arrays: Mapping[str, np.ndarray]
    curvature: Mapping[str, np.ndarray]
    facts: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def check_network(self, checkpoint_sha256: str) -> None:
        """Raise InputError unless this is the encoder of the generator in a checkpoint file."""
        if checkpoint_sha256 != self.network:
            raise InputError(
                f"this encoder belongs to the network {self.network[:12]}, and the checkpoint is {checkpoint_sha256[:12]}: "
                "train one with `stylert encoder train`"
            )


def write_encoder(path: str | Path, encoder: EncoderWeights) -> None:
    """Write an encoder to a file, whole or not at all. The same encoder gives the same bytes.

    Raises:
        InputError: A size, a name or a number is not valid.
        OutputError: The file cannot be written.
    """
    path = FILE.path(path)
    if not isinstance(encoder, EncoderWeights):
        raise InputError(f"this is no EncoderWeights: {shown(encoder)}")
    try:
        named = dict(encoder.arrays) | {CURVATURE + name: array for name, array in encoder.curvature.items()}
        arrays = {name: as_float32(array) for name, array in named.items()}
        document = _Document(
            kind="encoder",
            version=FORMAT_VERSION,
            network=encoder.network,
            resolution=encoder.resolution,
            img_channels=encoder.img_channels,
            num_ws=encoder.num_ws,
            w_dim=encoder.w_dim,
            sha256=digest(arrays),
            names=tuple(sorted(arrays)),
            facts=dict(encoder.facts),
        )
    except (ValueError, TypeError) as e:
        raise InputError(f"this encoder cannot be written: {shown_line(str(e))}") from None
    FILE.write(path, document, arrays)


def read_encoder(path: str | Path) -> EncoderWeights:
    """Read an encoder. Names and shapes of the tensors are checked by those who build the network.

    Raises:
        InputError: The file is missing, damaged, or holds no encoder.
    """
    document, tensors, file_hash = FILE.read(FILE.path(path))
    sizes = (document.resolution, document.img_channels, document.num_ws, document.w_dim)
    curvature = {name.removeprefix(CURVATURE): array for name, array in tensors.items() if name.startswith(CURVATURE)}
    network = {name: array for name, array in tensors.items() if not name.startswith(CURVATURE)}
    return EncoderWeights(document.network, *sizes, network, curvature, document.facts, file_hash)


@dataclass(frozen=True)
class _Document:
    """The JSON document. `kind` comes first: it is the mark by which stylert knows the file (`core.files.outputs`)."""

    kind: Literal["encoder"]
    version: int
    network: str
    resolution: int
    img_channels: int
    num_ws: int
    w_dim: int
    sha256: str
    names: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.version != FORMAT_VERSION:
            raise ValueError(f"it has format version {self.version}; this stylert reads {FORMAT_VERSION}")
        check_sha256(self.network)
        check_ranges(self, RANGES)
        if not 1 <= len(set(self.names)) == len(self.names) <= MAX_TENSORS or any(len(name) > MAX_NAME for name in self.names):
            raise ValueError(f"an encoder has 1 to {MAX_TENSORS} tensors of different names")


def _check(document: _Document, tensors: Mapping[str, np.ndarray]) -> None:
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in tensors.values()):
        raise ValueError("a tensor is not float32, or holds values that are not finite")


FILE = TensorFile("encoder", "stylert encoder train", _Document, lambda document: document.names, _check)
