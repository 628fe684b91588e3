"""Write a checkpoint of a restoration network with random weights, in the layout of the public files.

    python examples/seeded_restorer.py --network gfpgan --resolution 64 --out gfpgan.pth

The trained weights of GFP-GAN and GPEN are downloads of their projects. This file has their names and shapes, and draws all values from
a seed. So it shows every command without a download. Its images are colored patterns, not faces.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from stylert.models.restoration.gfpgan import config as gfpgan
from stylert.models.restoration.gpen import config as gpen
from stylert.models.restoration.sizes import resolutions

#: Layers of the mapping network in the public files.
MAPPING_LAYERS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--network", choices=("gfpgan", "gpen"), default="gfpgan")
    parser.add_argument("--resolution", type=int, default=64, help="side of a photograph, a power of two; the public files have 512")
    parser.add_argument("--width", type=float, default=0.125, help="channels relative to the public files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    draw = torch.Generator().manual_seed(arguments.seed)
    make = gfpgan_state if arguments.network == "gfpgan" else gpen_state
    torch.save(make(arguments.resolution, arguments.width, draw), arguments.out)
    print(f"wrote {arguments.out}")


def gfpgan_state(resolution: int, width: float, draw: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
    """A file of GFP-GAN."""
    decoder = channels(resolution, width)
    cfg = gfpgan.GfpganConfig(resolution, tuple(max(c // 2, 1) for c in decoder), decoder, w_dim=round(512 * width))
    shapes = gfpgan.tensor_shapes(cfg)
    for i in range(MAPPING_LAYERS):  # the decoder's mapping network, which the images do not depend on
        name = f"{gfpgan.DECODER}.style_mlp.{2 * i + 1}"
        shapes |= {f"{name}.weight": (cfg.w_dim, cfg.w_dim), f"{name}.bias": (cfg.w_dim,)}
    for i, count in enumerate(cfg.unet_channels[1:]):  # RGB of the U-Net, for training alone
        shapes |= {f"toRGB.{i}.weight": (3, count, 1, 1), f"toRGB.{i}.bias": (3,)}
    state = {}
    for name, shape in shapes.items():
        fan_in = math.prod(shape[1:]) if ".modulated_conv.weight" not in name else math.prod(shape[2:])
        value = torch.randn(shape, generator=draw)
        if name.endswith("modulation.bias") or (name.startswith("condition_scale") and name.endswith("2.bias")):
            value = 1 + 0.1 * value
        elif name.endswith(".bias") or shape == (1,):
            value = 0.1 * value
        elif ".noises." not in name and "constant_input" not in name:
            value = value * gain_of(name) / math.sqrt(fan_in)
        state[name] = value
    return {"params_ema": state}


def gpen_state(resolution: int, width: float, draw: torch.Generator) -> dict[str, torch.Tensor]:
    """A file of GPEN, with its FIR filters. Its weights have unit variance."""
    cfg = gpen.GpenConfig(resolution, channels(resolution, width), w_dim=round(512 * width), mapping_layers=MAPPING_LAYERS)
    state = {}
    for name, shape in gpen.tensor_shapes(cfg).items():
        value = torch.randn(shape, generator=draw)
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
        state[name] = value
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    fir = torch.outer(taps, taps) / 64
    for i in range(len(cfg.channels) - 1):
        state[f"ecd{i + 1}.0.0.kernel"] = fir
        state[f"{gpen.DECODER}.convs.{2 * i}.conv.blur.kernel"] = fir * 4
        state[f"{gpen.DECODER}.to_rgbs.{i}.upsample.kernel"] = fir * 4
    return state


def channels(resolution: int, width: float) -> tuple[int, ...]:
    """Channels at 4 px, 8 px and so on: those of the public files, times `width`."""
    return tuple(max(round(min(512, 32768 // side) * width), 1) for side in resolutions(resolution))


def gain_of(name: str) -> float:
    """What the weights of a layer are multiplied by, so that signals keep their size."""
    if "to_rgb" in name and name.endswith("modulated_conv.weight"):
        return 0.2
    if name.startswith(("condition_scale", "condition_shift")) and name.endswith("2.weight"):
        return 0.3
    return 1.0 if name.startswith(("conv_body", "final_conv", "condition")) else 0.5


if __name__ == "__main__":
    main()
