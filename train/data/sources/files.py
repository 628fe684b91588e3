"""Folders and zips of image files, with labels from dataset.json where there is one (the official layout)."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from stylert.core.errors import DataError
from stylert.train.data.dataset import refuse_run
from stylert.train.data.sources.picture import MAX_BYTES, Label, Picture, Source, check_count, limited, one_line

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
LABELS = "dataset.json"
#: How much more than its own size a whole archive may unpack to. PNG and JPEG are compressed already.
MAX_EXPANSION = 200


def folder(path: Path) -> Source:
    """Every image file under a folder, by name. Links that lead out of it are refused."""
    root = path.resolve()
    files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    refuse_run(path, files)
    for name, file in files.items():
        if not file.resolve().is_relative_to(root):
            raise DataError(f"{path}: {name!r} is a link that leads out of the folder")
    return _source(path, list(files), lambda name: _read_file(files[name], name))


def archive(path: Path) -> Source:
    """Every image file of a zip, by name. Raises DataError for what is no zip, or an unsafe or exploding one."""
    try:
        opened = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as e:
        raise DataError(f"{path} is not a zip that can be read: {one_line(e)}") from None
    members = {i.filename: i for i in opened.infolist() if not i.is_dir()}
    for name, info in members.items():
        place = PurePosixPath(name.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or ":" in place.parts[0]:
            raise DataError(f"{path}: the name {name!r} leads out of the archive")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{path}: {name!r} is a link")
    unpacked = sum(info.file_size for info in members.values())
    if unpacked > MAX_EXPANSION * max(path.stat().st_size, 1):
        raise DataError(f"{path} would unpack to {unpacked / 2**20:.0f} MiB, over {MAX_EXPANSION} times its size")

    def read(name: str) -> bytes:
        limited(name, members[name].file_size)
        return opened.read(members[name])

    return _source(path, list(members), read)


def _read_file(path: Path, name: str) -> bytes:
    limited(name, path.stat().st_size)
    return path.read_bytes()


def _source(path: Path, names: list[str], read: Callable[[str], bytes]) -> Source:
    images = sorted(n for n in names if PurePosixPath(n).suffix.lower() in SUFFIXES)
    check_count(path, len(images))
    labels = _labels(path, read) if LABELS in names else None
    if labels is not None and (missing := [n for n in images if n not in labels]):
        raise DataError(f"{path}: {LABELS} has no label for {missing[0]!r} and {len(missing) - 1} more")

    def pictures() -> Iterator[Picture]:
        for name in images:
            yield Picture(name, lambda name=name: read(name), None if labels is None else labels[name])  # type: ignore[misc]

    return Source(len(images), pictures)


def _labels(path: Path, read: Callable[[str], bytes]) -> dict[str, Label] | None:
    try:
        rows = json.loads(read(LABELS))["labels"]
        if rows is None:
            return None
        labels = {str(name): label for name, label in rows}
    except DataError:
        raise DataError(f"{path}: {LABELS} is larger than {MAX_BYTES // 2**20} MiB") from None
    except Exception as e:  # zip and JSON raise many kinds; all of them mean labels that cannot be read
        raise DataError(f"{path}: {LABELS} cannot be read: {one_line(e)}") from None
    for name, label in labels.items():
        vector = isinstance(label, list) and label and all(isinstance(v, int | float) for v in label)
        if not vector and (isinstance(label, bool) or not isinstance(label, int) or label < 0):
            raise DataError(f"{path}: the label of {name!r} in {LABELS} is neither a class index nor a vector")
    return labels
