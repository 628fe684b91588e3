"""Runs `stylert augment-preview`: writes a sheet of images that shows each augmentation at several probabilities."""

from __future__ import annotations

import json
from pathlib import Path

from stylert.cli.app import split_list
from stylert.cli.console import print_line
from stylert.core.errors import InputError, OutputError, missing_extra
from stylert.core.files.outputs import is_within
from stylert.core.numerals import read_number


def run_preview(data: Path, out: Path, count: int, pipelines: str | None, probabilities: str, tile: int, seed: int) -> None:
    """Write the sheet.

    Args:
        data: Dataset.
        out: Picture file.
        count: Number of images, from the first.
        pipelines: Comma-separated names of pipelines, or None for all groups.
        probabilities: Comma-separated probabilities from 0 to 1.
        tile: Pixels of one image on the sheet.
        seed: Random seed.

    Raises:
        InputError: A pipeline is unknown, or a probability is out of range.
        OutputError: `out` cannot be written, or lies in the folder of the images.
    """
    try:
        from stylert.train.augment.preview import ROWS, contact_sheet
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    from stylert.runtime.media.pictures import check_own_picture, save_image
    from stylert.train.augment.groups import COLOR_GROUPS, PIPELINES
    from stylert.train.data.dataset import ImageDataset

    names = split_list(pipelines) or list(ROWS)
    for name in names:
        if name not in PIPELINES:
            raise InputError(f"unknown augmentation pipeline {name!r}: choose from {', '.join(PIPELINES)}")
    try:
        values = list(dict.fromkeys(read_number(p) for p in split_list(probabilities) or []))
    except ValueError:
        raise InputError(f"--p takes comma-separated numbers from 0 to 1 (got {probabilities!r})") from None
    if not all(0 <= p <= 1 for p in values):
        raise InputError(f"--p takes comma-separated numbers from 0 to 1 (got {probabilities!r})")
    if is_within(out, data):
        raise OutputError(f"cannot write {out}: it is the dataset, or a file in its folder")
    check_own_picture(out)
    dataset = ImageDataset(data, limit=count)
    dataset.require_pictures()
    if dataset.images.shape[1] not in (1, 3) and (colored := [name for name in names if COLOR_GROUPS & set(PIPELINES[name])]):
        raise InputError(f"{colored[0]} changes colors, and these images have {dataset.images.shape[1]} channels: name others")
    images = dataset.images[:].transpose(0, 2, 3, 1)
    save_image(contact_sheet(images, names, values, tile, seed), out, json.dumps({"command": "augment-preview"}))
    print_line(f"wrote {out}")
