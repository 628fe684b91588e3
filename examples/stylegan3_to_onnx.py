#!/usr/bin/env python3
"""Make ONNX networks of StyleGAN3 with the transform as an input, and draw turned and shifted images. No torch.

python examples/stylegan3_to_onnx.py stylegan3-r-ffhq-1024.pkl out/stylegan3 --seeds 0-3 --angle 30 --shift 0.1 0

The folder gets `mapping.onnx`, `synthesis.onnx` and `images.png`, and a list of them by which the next call replaces them.
No code from the checkpoint runs.
A bundle of `stylert export` holds the same networks with a constant transform.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import math
from pathlib import Path

import numpy as np
import onnx

from stylert.core.errors import InputError, printable
from stylert.core.files.marks import marked_directory
from stylert.core.images.grids import Grid, as_uint8
from stylert.core.programs.runner import run_program
from stylert.core.seeds import parse_seeds, z_from_seeds
from stylert.export.mapping import mapping_model
from stylert.export.stylegan3 import synthesis_model
from stylert.models.checkpoint import Stylegan3Weights
from stylert.models.importers.import_checkpoint import read_any_generator
from stylert.models.stylegan3.config import GeneratorConfig
from stylert.runtime.backends.onnxruntime import open_session, session_options
from stylert.runtime.input_checks import finite_number
from stylert.runtime.media.composition import MAX_PSI
from stylert.runtime.media.pictures import check_channels, save_image
from stylert.runtime.media.rendering import MAX_HELD

FILES = ("mapping.onnx", "synthesis.onnx", "images.png")
#: The list of the files, with their hashes. A folder with files that it does not list is not replaced.
MARK = "stylert-stylegan3.json"
#: Greatest shift, in image widths.
MAX_SHIFT = 100.0


def main() -> None:
    options = arguments()
    weights = read_any_generator(options.checkpoint)
    cfg = weights.config
    if not isinstance(cfg, GeneratorConfig):
        raise InputError(f"{options.checkpoint} is a {cfg.title} network, which takes no transform")
    if len(options.seeds) * cfg.resolution**2 > MAX_HELD:
        raise InputError(f"{len(options.seeds)} images of {cfg.resolution} px are too many to hold at once: give fewer seeds")
    check_channels(FILES[-1], cfg.img_channels)
    with marked_directory(options.out, MARK, (options.checkpoint,)) as folder:
        onnx.save(mapping_model(weights), folder / "mapping.onnx")
        onnx.save(synthesis_model(weights, "plain", options.fp16), folder / "synthesis.onnx")
        save_image(draw(folder, weights, options), folder / "images.png", generated=True)
    print(printable(f"{options.out}: {', '.join(FILES)} of {cfg.resolution} px"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0-3")
    parser.add_argument("--psi", type=float, default=0.7)
    parser.add_argument("--angle", type=float, default=0.0, help="degrees, counterclockwise, from -360 to 360")
    parser.add_argument("--shift", type=float, nargs=2, default=(0.0, 0.0), help="to the right and down, in image widths")
    parser.add_argument("--fp16", action="store_true", help="layers in float16")
    options = parser.parse_args()
    options.seeds = parse_seeds(options.seeds)
    for name, limit, values in (
        ("--psi", MAX_PSI, [options.psi]),
        ("--angle", 360.0, [options.angle]),
        ("--shift", MAX_SHIFT, options.shift),
    ):
        if not all(abs(finite_number(value, name)) <= limit for value in values):
            raise InputError(f"{name} takes numbers from {-limit:g} to {limit:g}, not {' '.join(f'{v:g}' for v in values)}")
    return options


def draw(folder: Path, weights: Stylegan3Weights, options: argparse.Namespace) -> np.ndarray:
    """The images of the seeds as a grid, uint8 `[H, W, C]`. They are computed one by one."""
    mapping, synthesis = (open_session(folder / f"{name}.onnx", session_options(None)) for name in ("mapping", "synthesis"))
    cfg, transform = weights.config, network_transform(math.radians(options.angle), options.shift)
    grid = Grid(len(options.seeds))
    for seed in options.seeds:
        feed = {"z": z_from_seeds([seed], cfg.z_dim), "psi": np.full((1, cfg.num_ws), options.psi, np.float32)}
        if cfg.c_dim:
            feed["c"] = np.eye(1, cfg.c_dim, dtype=np.float32)  # the first class
        (ws,) = mapping.run(None, feed)
        (image,) = synthesis.run(None, {"ws": ws, "transform": transform[None]})
        grid.add(as_uint8(image))
    return grid.picture


def network_transform(angle: float, shift: tuple[float, float]) -> np.ndarray:
    """The matrix that the network takes: from positions in the image to those in the image before its turn and shift."""
    c, s = math.cos(angle), math.sin(angle)
    turned_and_shifted = np.array([[c, s, shift[0]], [-s, c, shift[1]], [0, 0, 1]])
    return np.linalg.inv(turned_and_shifted).astype(np.float32)


if __name__ == "__main__":
    run_program("stylegan3_to_onnx", main)
