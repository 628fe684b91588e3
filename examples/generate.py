#!/usr/bin/env python3
"""Generate images from Python, with one object and without torch.

python examples/generate.py out/demo/bundle cats.png
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
from pathlib import Path

from stylert.core.images.grids import make_grid
from stylert.core.programs.runner import run_program
from stylert.runtime import Generator
from stylert.runtime.media.pictures import check_commented, check_own_picture, save_image

#: Comment of the picture. It says that a model made the picture, and lets this example replace it.
COMMENT = '{"AI-generated": true, "command": "examples/generate.py"}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    check_commented(options.picture)
    check_own_picture(options.picture)
    with Generator.load(options.bundle, backend="onnxruntime", precision="int8") as generator:
        images = generator(seeds=range(8), psi=0.7)  # uint8 [8, H, W, 3]
    save_image(make_grid(images, columns=4), options.picture, COMMENT)


if __name__ == "__main__":
    run_program("generate", main)  # one line for a mistake, and exit code 2
