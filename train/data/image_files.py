"""The files of a zip or folder, read within bounds. Training and the dataset tool both open their files here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from posixpath import splitext

import numpy as np

from stylert.core.errors import DataError, PictureError, shown_name
from stylert.core.files.inputs import open_file, read_file
from stylert.core.files.npy_files import read_npy
from stylert.core.files.outputs import is_within
from stylert.core.images.pictures import MAX_BYTES, SUFFIXES, one_line_message
from stylert.models.checkpoint import SNAPSHOT_FILE
from stylert.train.data.zip_members import add_file, zip_members

#: Bytes of a zip or of another file of a dataset, at most.
MAX_SIZE = 2**44
#: Bytes of an array, at most.
MAX_ARRAY_BYTES = 2**33
#: The flag of members that need a password.
ENCRYPTED = 1
#: Copies of file attributes, which macOS adds to a zip: `__MACOSX/._a.png`.
APPLE_FOLDER, APPLE_PREFIX = "__MACOSX", "._"


@dataclass(frozen=True)
class ImageFiles:
    """The files of a zip or folder.

    Attributes:
        source: The zip or folder.
        names: Names of all files in it, relative to it, with `/` between folders.
        read_bytes: The content of a file of at most this many bytes. Raises PictureError, without the name.
        close: Ends the reading.
    """

    source: Path
    names: list[str]
    read_bytes: Callable[[str, int], bytes]
    close: Callable[[], None]

    @property
    def images(self) -> list[str]:
        """Names of the picture files, sorted."""
        return sorted(n for n in self.names if splitext(n)[1].lower() in SUFFIXES and not _is_apple_copy(n))

    @property
    def arrays(self) -> list[str]:
        """Names of the files of arrays, sorted."""
        return sorted(n for n in self.names if splitext(n)[1].lower() == ".npy" and not _is_apple_copy(n))

    def read_array(self, name: str) -> np.ndarray:
        """The array in a file, as it is stored. Raises DataError."""
        return read_npy(self.read_document(name, MAX_ARRAY_BYTES), f"dataset {self.source}: {shown_name(name)}", DataError)

    def read_image(self, name: str) -> bytes:
        """The content of a picture file. Raises PictureError, without the name."""
        return self.read_bytes(name, MAX_BYTES)

    def read_document(self, path: str, max_bytes: int) -> bytes:
        """The content of a file that describes the pictures. Raises DataError."""
        try:
            return self.read_bytes(path, max_bytes)
        except PictureError as e:
            raise DataError(f"dataset {self.source}: {shown_name(path)} cannot be read: {e}") from None

    def find(self, name: str) -> str | None:
        """The document of this name that belongs to the pictures, or None.

        It lies beside all folders of pictures. Otherwise it lies in one folder, and its names are relative to it.

        Raises:
            DataError: Several folders hold a document of this name.
        """
        if name in self.names:
            return name
        found = [n for n in self.names if PurePosixPath(n).name == name and not _is_apple_copy(n)]
        if len(found) > 1:
            raise DataError(
                f"dataset {self.source} holds several {name}, among them {shown_name(found[0])} and {shown_name(found[1])}"
            )
        return found[0] if found else None


def open_files(source: str | Path) -> ImageFiles:
    """Open a zip or folder.

    Raises:
        DataError: The source is missing, is neither a zip nor a folder, or is the folder of a training run. Or it is
            unsafe: a name or link leads out of it, two files have one name, or it unpacks to far more than its size.
    """
    source = Path(source)
    return _folder(source) if os.path.isdir(source) else _archive(source)


def path_in_archive(name: str) -> str:
    """A name with `/` between folders, as it stands in `ImageFiles.names`. Windows writes backslashes."""
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def refuse_run(folder: Path, files: Iterable[str]) -> None:
    """Refuse the folder of a training run as a dataset: its images are grids of samples.

    Args:
        folder: The folder.
        files: Names of the files in it, relative to it.

    Raises:
        DataError: One of the files is a training snapshot.
    """
    for name in files:
        if Path(name).name == SNAPSHOT_FILE:
            run = (folder / name).parent
            raise DataError(f"{run} is the folder of a training run, not a dataset: name the images that it was trained on")


def refuse_run_among_images(source: str | Path, run: str | Path) -> None:
    """Refuse to train into the folder of the images, or below it. The run's own pictures would become images.

    Args:
        source: The dataset.
        run: The folder that the run will write into.

    Raises:
        DataError: It is the folder of the images, or lies in it.
    """
    if os.path.isdir(source) and is_within(Path(run), Path(source)):
        raise DataError(f"the run cannot be written into {run}, among the images of {source}: choose another folder")


def _folder(source: Path) -> ImageFiles:
    paths: dict[str, Path] = {}
    for path in _files_below(source):
        if path.is_symlink() and not is_within(path, source):
            raise DataError(
                f"{source}: {shown_name(path.relative_to(source).as_posix())} is a link that leads out of the folder"
            )
        add_file(paths, path_in_archive(path.relative_to(source).as_posix()), path, source)
    refuse_run(source, paths)
    return ImageFiles(source, list(paths), lambda name, limit: read_file(paths[name], PictureError, limit), lambda: None)


def _files_below(folder: Path) -> Iterator[Path]:
    """The regular files below a folder, also those to which links lead. Links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{folder} cannot be read as a whole: {error.strerror or error} ({error.filename})")

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (path for name in names if (path := Path(parent) / name).is_file())


def _archive(source: Path) -> ImageFiles:
    file = open_file(source, DataError, MAX_SIZE, "dataset")
    try:
        archive, members = zip_members(source, file)
    except BaseException:
        file.close()
        raise

    def read(name: str, limit: int) -> bytes:
        info = members[name]
        if info.file_size > limit:
            raise PictureError(f"it has {info.file_size / 2**20:.0f} MiB, and at most {limit / 2**20:.0f} are read")
        if info.flag_bits & ENCRYPTED:
            raise PictureError("it is encrypted; unpack the zip first")
        try:
            with archive.open(info) as member:
                return member.read(info.file_size + 1)
        except MemoryError:
            raise PictureError("there is too little memory for it") from None
        except Exception as e:  # zipfile raises many types for a damaged archive
            raise PictureError(one_line_message(e)) from None

    return ImageFiles(source, list(members), read, file.close)


def _is_apple_copy(name: str) -> bool:
    *folders, file = name.split("/")
    return APPLE_FOLDER in folders or file.startswith(APPLE_PREFIX)
