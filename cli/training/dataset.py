"""Runs `stylert dataset`: converts pictures to a dataset and prints the skipped ones.

`train/data/dataset_tool.py` does the conversion. The options are in `commands.py`.
"""

from __future__ import annotations

from pathlib import Path

from stylert.cli.console import print_line, print_note, progress
from stylert.train.data.dataset_tool import convert_dataset

SHOWN = 20


def run_prepare(
    source: Path, out: Path, resolution: int, transform: str, grey: bool, skip_corrupt: bool, max_images: int | None
) -> None:
    """Write the dataset, and print the pictures that were skipped. Arguments as `prepare`."""
    with progress() as bar:
        count, corrupt, c_dim = convert_dataset(source, out, resolution, transform, grey, skip_corrupt, max_images, bar)
    for name in corrupt[:SHOWN]:
        print_note(f"skipped {name}")
    if len(corrupt) > SHOWN:
        print_note(f"skipped {len(corrupt) - SHOWN} more")
    labels = f"labels of {c_dim} dimensions" if c_dim else "no labels"
    print_line(f"wrote {out}: {count} images of {resolution} px, {labels}")
