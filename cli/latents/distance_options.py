"""Options that the commands with a loss of images share."""

from __future__ import annotations

from typing import Annotated

import typer

PixelWeight = Annotated[float, typer.Option(min=0, max=1e6, help="Weight of the mean squared difference of pixels in [-1, 1].")]
LpipsFiles = Annotated[
    str | None, typer.Option(help="Comma-separated files: VGG16's weights and LPIPS's, in place of EfficientNet-Lite0.")
]
Transform = Annotated[
    str, typer.Option(help="How pictures become square: none (squares only), center-crop, center-crop-wide (4:3), pad.")
]
RandomSeed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed.")]
