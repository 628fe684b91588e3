#!/usr/bin/env python3
"""Make the picture of the README: the same seeds, FP32 above and INT8 below.

python examples/readme_picture.py bundle docs/cats.png
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
from pathlib import Path

import numpy as np

from stylert.core.images.grids import make_grid
from stylert.core.programs.runner import run_program
from stylert.runtime import Generator
from stylert.runtime.media.pictures import check_commented, check_own_picture, save_image

SEEDS, PSI, SCALE = range(8), 0.7, 2
COMMENT = '{"AI-generated": true, "command": "examples/readme_picture.py"}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    check_commented(options.picture)
    check_own_picture(options.picture)
    rows = []
    for precision in ("fp32", "int8"):
        with Generator.load(options.bundle, precision=precision) as generator:
            rows.append(generator(SEEDS, psi=PSI))
    grid = make_grid(np.concatenate(rows), columns=len(SEEDS))
    save_image(grid.repeat(SCALE, 0).repeat(SCALE, 1), options.picture, COMMENT)


if __name__ == "__main__":
    run_program("readme_picture", main)
