"""Folders and zips of image files, with labels from `dataset.json` where there is one (the official layout)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stylert.train.data.image_files import open_files
from stylert.train.data.labels import read_labels
from stylert.train.data.sources.picture import Picture, Source, check_count


def image_files(path: Path) -> Source:
    """Every image file of a folder or zip, sorted by name.

    Raises:
        DataError: The source is damaged or unsafe, or the labels do not fit.
    """
    files = open_files(path)
    names = files.images
    check_count(path, len(names))
    labels = read_labels(files, names)

    def picture(i: int) -> Picture:
        return Picture(names[i], lambda: files.read_image(names[i]), None if labels is None else labels[i].tolist())

    def pictures() -> Iterator[Picture]:
        return map(picture, range(len(names)))

    return Source(len(names), pictures, files.close)
