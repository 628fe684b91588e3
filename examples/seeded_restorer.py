#!/usr/bin/env python3
"""Write a checkpoint of a restoration network with random weights, under the names of the public files.

    python examples/seeded_restorer.py --network gfpgan --resolution 64 --out gfpgan.pth

The trained weights of GFP-GAN and GPEN are downloads of their projects. This file has their names and shapes, and draws all values from
a seed. So it shows every command without a download. Its images are colored patterns, not faces.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import math
from importlib.metadata import version
from pathlib import Path

import numpy as np

from stylert.core.errors import InputError, printable
from stylert.core.files.atomic import atomic_file
from stylert.core.files.outputs import check_output
from stylert.core.programs.runner import run_program
from stylert.models.converters.torch_file import write_torch_file
from stylert.models.importers.rosinality import WRITER_ENTRY
from stylert.models.restoration.gfpgan import config as gfpgan
from stylert.models.restoration.gpen import config as gpen
from stylert.models.restoration.sizes import MAX_RESOLUTION, MIN_RESOLUTION, resolutions

#: Layers of the mapping network in the public files.
MAPPING_LAYERS = 8
#: The entry of a file with the averaged weights.
ENTRIES = {"gfpgan": "params_ema", "gpen": "g_ema"}

State = dict[str, np.ndarray]


def main() -> None:
    options = arguments()
    make = gfpgan_state if options.network == "gfpgan" else gpen_state
    check_output(options.out, "torch file")
    state = make(options.resolution, options.width, np.random.default_rng(options.seed))
    with atomic_file(options.out) as temporary, open(temporary, "wb") as file:
        write_torch_file(file, {ENTRIES[options.network]: state, WRITER_ENTRY: version("stylert")})
    print(printable(f"wrote {options.out}: {sum(array.size for array in state.values()) / 1e6:.2f} M values"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--network", choices=tuple(ENTRIES), default="gfpgan")
    parser.add_argument(
        "--resolution", type=int, default=64, help="side of a photograph, a power of two; the public files have 512"
    )
    parser.add_argument("--width", type=float, default=0.125, help="channels relative to the public files, from 1/512 to 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not MIN_RESOLUTION <= options.resolution <= MAX_RESOLUTION or options.resolution.bit_count() != 1:
        raise InputError(f"--resolution is a power of two from {MIN_RESOLUTION} to {MAX_RESOLUTION}, not {options.resolution}")
    if not 1 / 512 <= options.width <= 1:  # also for a value that is not a number
        raise InputError(f"--width is from 1/512 to 1, not {options.width:g}")
    if not 0 <= options.seed < 2**63:
        raise InputError(f"--seed is a whole number from 0 to 2^63 - 1, not {options.seed}")
    return options


def gfpgan_state(resolution: int, width: float, rng: np.random.Generator) -> State:
    """The tensors of GFP-GAN, also those that serve its training alone."""
    decoder = channels(resolution, width)
    cfg = gfpgan.GfpganConfig(resolution, tuple(max(c // 2, 1) for c in decoder), decoder, w_dim=round(512 * width))
    shapes = gfpgan.tensor_shapes(cfg)
    for i in range(MAPPING_LAYERS):  # the decoder's mapping network, which the images do not depend on
        name = f"{gfpgan.DECODER}.style_mlp.{2 * i + 1}"
        shapes |= {f"{name}.weight": (cfg.w_dim, cfg.w_dim), f"{name}.bias": (cfg.w_dim,)}
    for i, count in enumerate(cfg.unet_channels[1:]):  # RGB of the U-Net, for training
        shapes |= {f"toRGB.{i}.weight": (3, count, 1, 1), f"toRGB.{i}.bias": (3,)}
    state = {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape, np.float32)
        is_scale = name.startswith("condition_scale") and name.endswith(".2.bias")
        if name.endswith("modulation.bias") or is_scale:
            value = 1 + 0.1 * value
        elif name.endswith(".bias") or shape == (1,):
            value = 0.1 * value
        elif ".noises." not in name and "constant_input" not in name:
            fan_in = math.prod(shape[-3:]) if len(shape) > 2 else shape[1]
            value = value * (gain_of(name) / math.sqrt(fan_in))
        state[name] = value.astype(np.float32)
    return state


def gain_of(name: str) -> float:
    """A factor of the weights of a layer, by which signals keep their size."""
    if "to_rgb" in name and name.endswith("modulated_conv.weight"):
        return 0.2
    if name.startswith(("condition_scale", "condition_shift")) and name.endswith("2.weight"):
        return 0.3
    return 1.0 if name.startswith(("conv_body", "final_conv", "condition")) else 0.5


def gpen_state(resolution: int, width: float, rng: np.random.Generator) -> State:
    """The tensors of GPEN, with its FIR filters. Its weights have unit variance."""
    cfg = gpen.GpenConfig(resolution, channels(resolution, width), round(512 * width), MAPPING_LAYERS)
    state = {}
    for name, shape in gpen.tensor_shapes(cfg).items():
        value = rng.standard_normal(shape, np.float32)
        if name.endswith("modulation.bias"):
            value = 1 + 0.1 * value
        elif name.endswith(".bias"):
            value = 0.1 * value
        elif name.endswith("noise.weight"):
            value = 0.5 + 0.1 * value
        elif ".style." in name:
            value = value / 0.01
        elif "to_rgb" in name and name.endswith("conv.weight"):
            value = 0.2 * value
        state[name] = value.astype(np.float32)
    fir = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64
    for i in range(len(cfg.channels) - 1):
        state[f"ecd{i + 1}.0.0.kernel"] = fir
        state[f"{gpen.DECODER}.convs.{2 * i}.conv.blur.kernel"] = fir * 4
        state[f"{gpen.DECODER}.to_rgbs.{i}.upsample.kernel"] = fir * 4
    return state


def channels(resolution: int, width: float) -> tuple[int, ...]:
    """Channels at 4 px, 8 px and so on: those of the public files, times `width`."""
    return tuple(max(round(min(512, 32768 // side) * width), 1) for side in resolutions(resolution))


if __name__ == "__main__":
    run_program("seeded_restorer", main)
