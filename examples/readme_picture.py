#!/usr/bin/env python3
"""Make the picture of the README: the same seeds, FP32 above and INT8 below.

python examples/readme_picture.py bundle docs/cats.png
"""

from __future__ import annotations

import sys

import numpy as np

from stylert.core.images.grids import make_grid
from stylert.runtime import Generator
from stylert.runtime.media.pictures import save_image

SEEDS, PSI, SCALE = range(8), 0.7, 2


def main() -> None:
    bundle, picture = sys.argv[1:]
    rows = []
    for precision in ("fp32", "int8"):
        with Generator.load(bundle, precision=precision) as generator:
            rows.append(generator(SEEDS, psi=PSI))
    grid = make_grid(np.concatenate(rows), columns=len(SEEDS))
    save_image(grid.repeat(SCALE, 0).repeat(SCALE, 1), picture)


if __name__ == "__main__":
    main()
