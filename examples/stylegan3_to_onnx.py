#!/usr/bin/env python3
"""Make ONNX networks of StyleGAN3 with the transform as an input, and draw turned and shifted images. No torch.

python examples/stylegan3_to_onnx.py stylegan3-r-ffhq-1024.pkl out/stylegan3 --seeds 0-3 --angle 30 --shift 0.1 0

The folder gets `mapping.onnx`, `synthesis.onnx` and `images.png`. No code from the checkpoint runs. A bundle of
`stylert export` holds the same networks with a constant transform.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from stylert.core.errors import InputError, StylertError
from stylert.core.files.atomic import atomic_directory
from stylert.core.images.grids import as_uint8, make_grid
from stylert.core.seeds import parse_seeds, z_from_seeds
from stylert.export.mapping import mapping_model
from stylert.export.stylegan3 import synthesis_model
from stylert.models.checkpoint import Stylegan3Weights
from stylert.models.importers.import_checkpoint import read_any_generator
from stylert.models.stylegan3.config import GeneratorConfig
from stylert.runtime.media.pictures import save_image

FILES = ("mapping.onnx", "synthesis.onnx", "images.png")


def main() -> None:
    options = arguments()
    try:
        seeds = parse_seeds(options.seeds)
        weights = read_any_generator(options.checkpoint)
        if not isinstance(weights.config, GeneratorConfig):
            raise InputError(f"{options.checkpoint} is a {weights.config.title} network, which takes no transform")
        with atomic_directory(options.out, lambda _: FILES) as folder:
            onnx.save(mapping_model(weights), folder / "mapping.onnx")
            onnx.save(synthesis_model(weights, "plain", options.fp16), folder / "synthesis.onnx")
            images = draw(folder, weights, seeds, options)
            save_image(make_grid(images), folder / "images.png", generated=True)
    except StylertError as e:
        sys.exit(f"stylegan3_to_onnx: {e}")
    print(f"{options.out}: {', '.join(FILES)} of {weights.config.resolution} px")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0-3")
    parser.add_argument("--psi", type=float, default=0.7)
    parser.add_argument("--angle", type=float, default=0.0, help="degrees, counterclockwise")
    parser.add_argument("--shift", type=float, nargs=2, default=(0.0, 0.0), help="to the right and down, in image widths")
    parser.add_argument("--fp16", action="store_true", help="layers in float16")
    return parser.parse_args()


def draw(folder: Path, weights: Stylegan3Weights, seeds: list[int], options: argparse.Namespace) -> np.ndarray:
    """The images of the seeds, one by one, uint8 `[N, H, W, C]`."""
    mapping, synthesis = (onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("mapping", "synthesis"))
    cfg, transform = weights.config, network_transform(math.radians(options.angle), options.shift)
    images = []
    for seed in seeds:
        feed = {"z": z_from_seeds([seed], cfg.z_dim), "psi": np.full((1, cfg.num_ws), options.psi, np.float32)}
        if cfg.c_dim:
            feed["c"] = np.eye(1, cfg.c_dim, dtype=np.float32)  # the first class
        (ws,) = mapping.run(None, feed)
        (image,) = synthesis.run(None, {"ws": ws, "transform": transform[None]})
        images.append(as_uint8(image)[0])
    return np.stack(images)


def network_transform(angle: float, shift: tuple[float, float]) -> np.ndarray:
    """The matrix that the network takes: from positions in the image to those in the image before its turn and shift."""
    c, s = math.cos(angle), math.sin(angle)
    turned_and_shifted = np.array([[c, s, shift[0]], [-s, c, shift[1]], [0, 0, 1]])
    return np.linalg.inv(turned_and_shifted).astype(np.float32)


if __name__ == "__main__":
    main()
