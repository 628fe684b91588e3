"""`stylert dataset`: pictures from anywhere as one zip to train on."""

from __future__ import annotations

from pathlib import Path

from stylert.cli.console import console, errors, progress
from stylert.train.data.prepare import prepare

SHOWN = 20


def run_prepare(
    source: Path, out: Path, resolution: int, transform: str, grey: bool, skip_corrupt: bool, max_images: int | None
) -> None:
    """Write the dataset, and list what was skipped."""
    with progress() as bar:
        count, corrupt = prepare(
            source, out, resolution, transform, grey, skip_corrupt, max_images, lambda d, t: bar("prepare images", d, t)
        )
    for name in corrupt[:SHOWN]:
        errors.print(f"skipped {name}", highlight=False, markup=False, soft_wrap=True)
    if len(corrupt) > SHOWN:
        errors.print(f"skipped {len(corrupt) - SHOWN} more", highlight=False)
    console.print(f"wrote {out}: {count} images of {resolution} px", highlight=False, soft_wrap=True)
