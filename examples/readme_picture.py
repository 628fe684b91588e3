#!/usr/bin/env python3
"""Make the picture of the README: the same seeds, FP32 above and INT8 below.

python examples/readme_picture.py bundle docs/cats.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from stylert.cli.main import run_program
from stylert.core.images.grids import make_grid
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
