"""Reads the public files of GPEN: a bare state dict. The sizes follow from the shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from stylert.models.importers.errors import FormatError, UnsupportedNetworkError
from stylert.models.importers.weights import Arrays, TensorReader
from stylert.models.restoration.gpen.config import DECODER, MAX_MAPPING_LAYERS, GpenConfig, tensor_shapes
from stylert.models.restoration.sizes import MAX_RESOLUTION

#: Tensors that only this network has together.
KEYS = ("ecd0.0.0.weight", f"{DECODER}.input.input")
#: The most resolutions above 4 px.
MAX_LEVELS = MAX_RESOLUTION.bit_length() - 3
#: The FIR filters, with a gain of 4 where they upsample.
FILTER = re.compile(rf"ecd\d+\.0\.0\.kernel|{DECODER}\.(convs\.\d+\.conv\.blur|to_rgbs\.\d+\.upsample)\.kernel")
FIR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def is_gpen(state: Mapping[Any, Any]) -> bool:
    """Whether this is a state dict of GPEN."""
    return all(key in state for key in KEYS)


def read_gpen(tensors: TensorReader) -> tuple[GpenConfig, Arrays, list[str]]:
    """The configuration, the arrays under the public names, and notes for the user.

    Raises:
        FormatError: A tensor is missing or wrong, or the network is a variant: one that enlarges, or one that adds its noise.
    """
    levels = 0
    while levels < MAX_LEVELS and f"ecd{levels + 1}.0.1.weight" in tensors:
        levels += 1
    decoder_levels = 0
    while decoder_levels < MAX_LEVELS and f"{DECODER}.to_rgbs.{decoder_levels}.bias" in tensors:
        decoder_levels += 1
    if decoder_levels != levels:
        raise UnsupportedNetworkError(
            f"its encoder reads {4 << levels} px and its decoder makes {4 << decoder_levels} px; stylert reads GPEN of one size"
        )
    channels = [tensors.shape(f"{DECODER}.input.input", 4)[1]]
    channels += [tensors.shape(f"ecd{i}.0.1.weight", 4)[1] for i in range(levels, 0, -1)]
    if tensors.shape(f"{DECODER}.conv1.activate.bias", 1)[0] == channels[0]:
        raise UnsupportedNetworkError(
            "its decoder adds the encoder's features; stylert reads the published GPEN, which concatenates them"
        )
    mapping_layers = 0
    while mapping_layers < MAX_MAPPING_LAYERS and f"{DECODER}.style.{mapping_layers + 1}.weight" in tensors:
        mapping_layers += 1
    w_dim = tensors.shape("final_linear.0.weight", 2)[0]
    try:
        cfg = GpenConfig(4 << levels, tuple(channels), w_dim, mapping_layers)
    except ValueError as e:
        raise FormatError(str(e)) from None
    arrays = {name: tensors.read(name, shape) for name, shape in tensor_shapes(cfg).items()}
    for name in [name for name in tensors.tensors if FILTER.fullmatch(name)]:
        gain = 1 if name.startswith("ecd") else 4
        if not np.allclose(tensors.read(name, FIR.shape), FIR * gain, rtol=1e-4):
            raise UnsupportedNetworkError(f"its filter {name} is not that of the published GPEN")
    tensors.check_all_known()
    return cfg, arrays, []
