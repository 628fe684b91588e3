"""Options that `stylert serve` and `stylert deploy` share.

Their ranges are those of `runtime.serving.setting_ranges`, which takes too long to import before the command is known.
"""

from __future__ import annotations

from typing import Annotated

import typer

MaxBatch = Annotated[int, typer.Option(min=1, max=1024, help="Images in one call of a network, at most.")]
MaxDelay = Annotated[float, typer.Option(min=0, max=10_000, help="Milliseconds that an image waits for a fuller batch.")]
