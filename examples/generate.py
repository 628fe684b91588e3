#!/usr/bin/env python3
"""Generate images from Python, with one object and without torch.

python examples/generate.py out/demo/bundle cats.png
"""

from __future__ import annotations

import sys

from stylert.core.images.grids import make_grid
from stylert.runtime import Generator
from stylert.runtime.media.pictures import save_image


def main() -> None:
    bundle, picture = sys.argv[1:]
    with Generator.load(bundle, backend="onnxruntime", precision="int8") as generator:
        images = generator(seeds=range(8), psi=0.7)  # uint8 [8, H, W, 3]
        save_image(make_grid(images, columns=4), picture, generated=True)


if __name__ == "__main__":
    main()
