"""Folders and zips of image files, with labels from `dataset.json` where there is one (the official layout)."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from stylert.core.errors import DataError
from stylert.train.data.dataset import LABELS_FILE, refuse_run
from stylert.train.data.sources.picture import MAX_BYTES, Label, Picture, Source, check_count, check_size, one_line_message

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
#: Unpacked bytes of a zip per byte of its size, at most. PNG and JPEG are compressed already.
MAX_EXPANSION = 200


def folder(path: Path) -> Source:
    """Every image file under a folder, sorted by name.

    Raises:
        DataError: A link leads out of the folder, or the labels do not fit.
    """
    root = path.resolve()
    files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    refuse_run(path, files)
    for name, file in files.items():
        if not file.resolve().is_relative_to(root):
            raise DataError(f"{path}: {name!r} is a link that leads out of the folder")

    def read(name: str) -> bytes:
        check_size(name, files[name].stat().st_size)
        return files[name].read_bytes()

    return _source(path, list(files), read)


def archive(path: Path) -> Source:
    """Every image file of a zip, sorted by name.

    Raises:
        DataError: The zip is damaged or unsafe, unpacks to far more than its size, or the labels do not fit.
    """
    try:
        opened = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as e:
        raise DataError(f"{path} is not a zip that can be read: {one_line_message(e)}") from None
    members = {i.filename: i for i in opened.infolist() if not i.is_dir()}
    for name, info in members.items():
        inner = PurePosixPath(name.replace("\\", "/"))
        if inner.is_absolute() or ".." in inner.parts or ":" in inner.parts[0]:
            raise DataError(f"{path}: the name {name!r} leads out of the archive")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{path}: {name!r} is a link")
    unpacked = sum(info.file_size for info in members.values())
    if unpacked > MAX_EXPANSION * max(path.stat().st_size, 1):
        raise DataError(f"{path} would unpack to {unpacked / 2**20:.0f} MiB, over {MAX_EXPANSION} times its size")

    def read(name: str) -> bytes:
        check_size(name, members[name].file_size)
        return opened.read(members[name])

    return _source(path, list(members), read)


def _source(path: Path, names: list[str], read: Callable[[str], bytes]) -> Source:
    images = sorted(n for n in names if PurePosixPath(n).suffix.lower() in SUFFIXES)
    check_count(path, len(images))
    labels = _labels(path, read) if LABELS_FILE in names else None
    if labels is not None and (missing := [n for n in images if n not in labels]):
        raise DataError(f"{path}: {LABELS_FILE} has no label for {missing[0]!r} and {len(missing) - 1} more")

    def picture(name: str) -> Picture:
        return Picture(name, lambda: read(name), None if labels is None else labels[name])

    def pictures() -> Iterator[Picture]:
        return map(picture, images)

    return Source(len(images), pictures)


def _labels(path: Path, read: Callable[[str], bytes]) -> dict[str, Label] | None:
    """The labels of `dataset.json` by name, or None where it has none."""
    try:
        rows = json.loads(read(LABELS_FILE))["labels"]
        if rows is None:
            return None
        labels = {str(name): label for name, label in rows}
    except DataError:
        raise DataError(f"{path}: {LABELS_FILE} is larger than {MAX_BYTES // 2**20} MiB") from None
    except Exception as e:  # zipfile and json raise many types for damaged files
        raise DataError(f"{path}: {LABELS_FILE} cannot be read: {one_line_message(e)}") from None
    for name, label in labels.items():
        is_class = isinstance(label, int) and not isinstance(label, bool) and label >= 0
        is_vector = isinstance(label, list) and label and all(isinstance(v, int | float) for v in label)
        if not is_class and not is_vector:
            raise DataError(f"{path}: the label of {name!r} in {LABELS_FILE} is neither a class index nor a vector")
    return labels
