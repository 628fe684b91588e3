#!/usr/bin/env python3
"""Make the dataset of the shipped checkpoint: aligned cat avatars, composed of hand-drawn parts.

    pip install 'robohash==2.0' pillow numpy
    python examples/make_cats.py --count 40000 --resolution 64 --out cats64.zip

The drawings are by David Revoy (https://www.peppercarrot.com), CC BY 4.0, and come in the package robohash as its set 4:
body, fur, eyes, mouth and accessory, 360,000 combinations. This is combinatorial art, not photographs.

The zip has the layout of the official StyleGAN2-ADA tools: 00000/img00000000.png and so on, and dataset.json with the body
as class label. parts.json holds the index of every part, so that the mode coverage of a trained network can be counted.
Another --seed draws other images.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import importlib.util
import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from stylert.core.errors import DataError, printable
from stylert.core.files.atomic import atomic_file
from stylert.core.files.outputs import ZIP_COMMENT, check_output
from stylert.core.programs.runner import run_program

#: The layers of the set, in drawing order; the folder names carry the order after a '#'.
SET = "sets/set4"
RESOLUTIONS = tuple(2**n for n in range(2, 11))


def load_parts(resolution: int) -> tuple[list[str], list[list[np.ndarray]]]:
    """Layer names in drawing order and their parts, premultiplied RGBA float32 `[R, R, 4]` in [0, 1]."""
    spec = importlib.util.find_spec("robohash")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("this needs robohash: pip install 'robohash==2.0'")
    folders = [d for d in (Path(spec.submodule_search_locations[0]) / SET).iterdir() if d.is_dir()]
    folders.sort(key=lambda d: d.name.partition("#")[2])
    layers = []
    for folder in folders:
        layer = []
        for file in sorted(folder.iterdir()):
            with Image.open(file, formats=("PNG",)) as image:
                # Premultiplied before resizing, so that the colour of transparent pixels does not bleed into the edges.
                small = image.convert("RGBa").resize((resolution, resolution), Image.Resampling.LANCZOS)
            layer.append(np.asarray(small, np.float32) / 255)
        layers.append(layer)
    return [d.name for d in folders], layers


def composite(layers: list[list[np.ndarray]], choice: tuple[int, ...]) -> Image.Image:
    """Draw one part of every layer over white."""
    canvas = np.ones((*layers[0][0].shape[:2], 3), np.float32)
    for layer, index in zip(layers, choice, strict=True):
        part = layer[index]
        canvas = part[..., :3] + canvas * (1 - part[..., 3:])
    return Image.fromarray((canvas * 255 + 0.5).clip(0, 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40_000, help="number of distinct images")
    parser.add_argument("--resolution", type=int, default=64, help="side in pixels, a power of two up to 1024")
    parser.add_argument("--seed", type=int, default=0, help="which images are drawn")
    parser.add_argument("--out", type=Path, required=True, help="zip to write")
    args = parser.parse_args()
    if args.resolution not in RESOLUTIONS:
        parser.error(f"--resolution is one of {', '.join(map(str, RESOLUTIONS))}")
    check_output(args.out, "zip")
    names, layers = load_parts(args.resolution)
    available = int(np.prod([len(layer) for layer in layers]))
    if not 1 <= args.count <= available:
        parser.error(f"--count must lie in 1 to {available}")
    body = next(i for i, name in enumerate(names) if "body" in name.lower())

    rng = random.Random(args.seed)
    choices: dict[str, tuple[int, ...]] = {}
    drawn: set[tuple[int, ...]] = set()
    with atomic_file(args.out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        while len(choices) < args.count:
            choice = tuple(rng.randrange(len(layer)) for layer in layers)
            if choice in drawn:
                continue
            drawn.add(choice)
            name = f"{len(choices) // 1000:05d}/img{len(choices):08d}.png"
            choices[name] = choice
            buffer = io.BytesIO()
            composite(layers, choice).save(buffer, "PNG")
            archive.writestr(name, buffer.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": [[name, choice[body]] for name, choice in choices.items()]}))
        archive.writestr("parts.json", json.dumps({"layers": names, "choices": choices}))
        archive.comment = ZIP_COMMENT
    print(printable(f"{args.out}: {args.count} images of {args.resolution} px"))


if __name__ == "__main__":
    run_program("make_cats", main)
