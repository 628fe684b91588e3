"""Runs `stylert dataset`: converts pictures to a dataset and prints the skipped ones.

`train/data/dataset_tool.py` does the conversion. The options are in `commands.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stylert.cli.console import print_line, print_note, progress
from stylert.core.errors import InputError, shown
from stylert.core.numerals import read_whole_number
from stylert.train.data.array_tool import convert_arrays
from stylert.train.data.dataset_tool import convert_dataset
from stylert.train.data.sources.arrays import is_arrays

SHOWN = 20


@dataclass(frozen=True)
class ConversionOptions:
    """The options of the command. `layout` and `channels` are for arrays alone, `grey` to `skip_corrupt` for pictures."""

    resolution: int | tuple[int, int]
    transform: str
    grey: bool
    alpha: bool
    skip_corrupt: bool
    max_images: int | None
    layout: str
    channels: Path | None


def parse_size(text: str) -> int | tuple[int, int]:
    """The side of square images, or width and height of others, as `256x128`. Raises InputError for another text."""
    try:
        sides = [read_whole_number(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise InputError(f"--resolution is a number, or width and height such as 256x128, not {shown(text)}")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def run_prepare(source: Path, out: Path, options: ConversionOptions) -> None:
    """Write the dataset, and print the pictures that were skipped.

    Raises:
        InputError: An option is for arrays and the source holds pictures, or the reverse.
    """
    o = options
    holds_arrays = is_arrays(source)
    if holds_arrays and (o.grey or o.alpha or o.skip_corrupt):
        raise InputError(f"{source} holds arrays: --grey, --alpha and --skip-corrupt are for pictures")
    if not holds_arrays and (o.channels is not None or o.layout != "chw"):
        raise InputError(f"{source} holds no arrays: --layout and --channels are for .npy and .npz files")
    with progress() as bar:
        if holds_arrays:
            converted = convert_arrays(source, out, o.resolution, o.transform, o.layout, o.channels, o.max_images, bar)
        else:
            converted = convert_dataset(
                source, out, o.resolution, o.transform, o.grey, o.skip_corrupt, o.max_images, bar, o.alpha
            )
    count, corrupt, c_dim = converted
    for name in corrupt[:SHOWN]:
        print_note(f"skipped {name}")
    if len(corrupt) > SHOWN:
        print_note(f"skipped {len(corrupt) - SHOWN} more")
    labels = f"labels of {c_dim} dimensions" if c_dim else "no labels"
    size = f"{o.resolution}" if isinstance(o.resolution, int) else "{}x{}".format(*o.resolution)
    print_line(f"wrote {out}: {count} images of {size} px, {labels}")
