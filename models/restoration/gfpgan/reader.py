"""Reads the public files of GFP-GAN without custom operators: `{params_ema: state dict}`, or the bare state dict.

The sizes follow from the shapes. The file does not say how the decoder takes its latents. All published files give them to its
layers as they are, so the mapping network in the file is not used. The RGB layers of the U-Net serve its training alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stylert.models.importers.errors import FormatError, UnsupportedNetworkError
from stylert.models.importers.weights import Arrays, TensorReader
from stylert.models.restoration.gfpgan.config import DECODER, GfpganConfig, tensor_shapes
from stylert.models.restoration.sizes import MAX_RESOLUTION

#: A tensor that only this network has.
KEY = "conv_body_first.weight"
#: The most resolutions above 4 px.
MAX_LEVELS = MAX_RESOLUTION.bit_length() - 3
#: Tensors that the image does not depend on.
UNUSED = re.compile(rf"toRGB\.\d+\.(weight|bias)|{re.escape(DECODER)}\.style_mlp\.\d+\.(weight|bias)")


def is_gfpgan(state: Mapping[Any, Any]) -> bool:
    """Whether this is a state dict of GFP-GAN, of this or another form."""
    return KEY in state or "conv_body_first.0.weight" in state


def read_gfpgan(tensors: TensorReader) -> tuple[GfpganConfig, Arrays, list[str]]:
    """The configuration, the arrays under the public names, and notes for the user.

    Raises:
        FormatError: A tensor is missing or wrong, or the network is the form with custom operators.
    """
    if KEY not in tensors:
        raise UnsupportedNetworkError(
            "it is a GFP-GAN network with custom operators; stylert reads the clean one, v1.2 and later"
        )
    levels = 0
    while levels < MAX_LEVELS and f"condition_scale.{levels}.0.weight" in tensors:
        levels += 1
    if not levels:
        raise FormatError(f"its {tensors.network} lacks the tensor condition_scale.0.0.weight")
    unet = [tensors.shape("final_conv.weight", 4)[0]]
    decoder = [tensors.shape(f"{DECODER}.constant_input.weight", 4)[1]]
    for i in range(levels):
        unet.append(tensors.shape(f"condition_scale.{i}.0.weight", 4)[0])
        decoder.append(tensors.shape(f"{DECODER}.style_convs.{2 * i}.modulated_conv.weight", 5)[1])
    w_dim = tensors.shape(f"{DECODER}.style_conv1.modulated_conv.modulation.weight", 2)[1]
    half = tensors.shape("condition_scale.0.2.weight", 4)[0] != decoder[1]
    latents = tensors.shape("final_linear.weight", 2)[0]
    try:
        cfg = GfpganConfig(4 << levels, tuple(unet), tuple(decoder), w_dim, latents != w_dim, half)
    except ValueError as e:
        raise FormatError(str(e)) from None
    arrays = {name: tensors.read(name, shape) for name, shape in tensor_shapes(cfg).items()}
    unused = [name for name in tensors.tensors if UNUSED.fullmatch(name)]
    tensors.ignore(unused)
    tensors.check_all_known()
    notes = [f"left out {len(unused)} tensors that the image does not depend on: the mapping network and RGB of the U-Net"]
    return cfg, arrays, notes if unused else []
