"""Picture files as targets of a projection: found, decoded by the rule of `core.images.pictures`, and made square."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from stylert.core.errors import DataError, InputError, PictureError, shown_name
from stylert.core.files.inputs import read_file
from stylert.core.images.pictures import MAX_BYTES, decode_picture
from stylert.train.data.dataset_tool import TRANSFORMS, fitted
from stylert.train.data.image_files import open_files

if TYPE_CHECKING:
    from torch import Tensor

#: Pixels of all pictures of one call, at most, since all are in memory, and the number of pictures.
MAX_PIXELS, MAX_PICTURES = 2**30, 10_000
#: Characters that stay in the name of a result. Others become `_`.
KEPT = re.compile(r"[^A-Za-z0-9._-]")
MAX_NAME = 100


@dataclass(frozen=True)
class TargetPicture:
    """A picture at the size of a network.

    Attributes:
        name: Name of its results: that of the file, without the suffix.
        pixels: uint8 `[R, R, C]`.
        note: How it was changed, for people. Empty if only decoded.
    """

    name: str
    pixels: np.ndarray
    note: str = ""

    @property
    def image(self) -> Tensor:
        """float32 `[1, C, R, R]` in [-1, 1], so that `as_uint8` gives the pixels back."""
        import torch  # `stylert encode` reads pictures without it

        return ((torch.from_numpy(self.pixels.copy()).permute(2, 0, 1).float() - 127.5) / 127.5)[None]


def read_pictures(places: Sequence[Path], resolution: int, channels: int, transform: str) -> list[TargetPicture]:
    """Read pictures for a network.

    Args:
        places: Picture files, and folders or zips of them.
        resolution: Side of the network's images.
        channels: Channels of the network's images: 1 or 3.
        transform: How pictures become square, one of `dataset_tool.TRANSFORMS`.

    Raises:
        InputError: The network has other channels, the transform is unknown, there are too many pictures, or two results
            would have one name.
        DataError: A folder holds no picture, or a picture cannot be read, or it is not square without a transform.
    """
    if channels not in (1, 3):
        raise InputError(f"pictures are grey or RGB, and the images of this network have {channels} channels")
    if transform not in TRANSFORMS:
        raise InputError(f"--transform is one of {', '.join(TRANSFORMS)}, not {transform!r}")
    pictures: dict[str, TargetPicture] = {}
    most = min(MAX_PICTURES, max(MAX_PIXELS // resolution**2, 1))
    for place in places:
        for name, data in _contents(place):
            if len(pictures) == most:
                raise InputError(f"one call takes at most {most} picture{'s' if most > 1 else ''} of {resolution} px")
            picture = _target(name, data, resolution, channels, transform)
            if picture.name in pictures:
                raise InputError(f"two pictures are named {picture.name}, and so would be their results: rename one")
            pictures[picture.name] = picture
    return list(pictures.values())


def result_name(path: str) -> str:
    """The name of the results of a picture file: its last part without the suffix, in plain letters."""
    name = KEPT.sub("_", PurePosixPath(path.replace("\\", "/")).stem).lstrip("._-")
    return name[:MAX_NAME] or "picture"


def _contents(place: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of the pictures at a place."""
    if not place.is_dir() and place.suffix.lower() != ".zip":
        yield str(place), read_file(place, DataError, MAX_BYTES, "picture")
        return
    with closing(open_files(place)) as files:
        if not files.images:
            raise DataError(f"{place} holds no pictures")
        for name in files.images:
            try:
                data = files.read_image(name)
            except PictureError as e:
                raise DataError(f"{place}: {shown_name(name)} cannot be read: {e}") from None
            yield f"{place}/{name}", data


def _target(path: str, data: bytes, resolution: int, channels: int, transform: str) -> TargetPicture:
    try:
        image = decode_picture(data)
    except PictureError as e:
        raise DataError(f"picture {shown_name(path)} cannot be read: {e}") from None
    mode = "L" if channels == 1 else "RGB"
    result = fitted(image.convert(mode) if image.mode != mode else image, (resolution, resolution), transform, path)
    note = ""
    if image.size != result.size:
        note = f"{image.width}x{image.height} to {resolution}x{resolution}"
        if image.width != image.height:
            note += f" by {transform}"
    if image.mode == "RGB" and channels == 1:
        note = f"{note}, colors dropped".removeprefix(", ")
    pixels = np.asarray(result).reshape(resolution, resolution, channels)
    return TargetPicture(result_name(path), pixels, note)
