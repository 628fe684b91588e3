"""The file `channels.json` of a dataset: whether its pictures keep their alpha, or the channels of its measured values.

A dataset without it holds grey or RGB pictures, and transparency is laid over white.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from stylert.core.errors import DataError
from stylert.core.files.json_documents import read_document
from stylert.core.images.channels import MAX_CHANNELS, Channel, check_channels_of_image
from stylert.train.data.image_files import ImageFiles

CHANNELS_FILE = "channels.json"
#: Bytes of the file, at most.
MAX_BYTES = 2**16


@dataclass(frozen=True)
class ImageKind:
    """The kind of a dataset's images.

    Attributes:
        alpha: Whether pictures keep their alpha as the last channel.
        channels: The channels of measured values, which are stored as float32 `[C, H, W]`; None for pictures.

    Raises:
        ValueError: Both are given, or the channels are not valid.
    """

    alpha: bool = False
    channels: tuple[Channel, ...] | None = None

    def __post_init__(self) -> None:
        if self.channels is not None:
            if self.alpha:
                raise ValueError("measured values have no alpha")
            check_channels_of_image(self.channels, len(self.channels))

    def to_json(self) -> str:
        """The text of the file."""
        if self.channels is None:
            return json.dumps({"alpha": self.alpha})
        return json.dumps({"channels": [dataclasses.asdict(channel) for channel in self.channels]})


def read_image_kind(files: ImageFiles) -> ImageKind:
    """The kind of the images in a zip or folder.

    Raises:
        DataError: `channels.json` is damaged, or there are several.
    """
    path = files.find(CHANNELS_FILE)
    if path is None:
        return ImageKind()
    return read_document(files.read_document(path, MAX_BYTES), ImageKind, f"dataset {files.source}: {path}", DataError)


@dataclass(frozen=True)
class ChannelRange:
    """A channel as a user describes it for the dataset tool.

    Attributes:
        name: Its name.
        unit: Its unit.
        low: The value that becomes -1; None for the least of the data.
        high: The value that becomes 1; None for the greatest of the data.
    """

    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        Channel(self.name, self.unit)
        if self.low is not None and self.high is not None:
            self.channel(0.0, 0.0)

    def channel(self, least: float, greatest: float) -> Channel:
        """The channel, with the limits of the data where the user gives none. Raises ValueError unless the range is not empty."""
        low, high = least if self.low is None else self.low, greatest if self.high is None else self.high
        if low == high and None in (self.low, self.high):
            return Channel(self.name, self.unit, 1.0, float(low))  # a channel of one value, as of a mask that is never set
        if not low < high:
            raise ValueError(f"channel {self.name} has the range {low:g} to {high:g}, which is empty")
        return Channel(self.name, self.unit, (high - low) / 2, (high + low) / 2)


def read_ranges(data: bytes, name: str) -> tuple[ChannelRange, ...]:
    """The channels in a file that a user wrote, a list of objects with the fields of `ChannelRange`. Raises DataError."""
    ranges = read_document(data, tuple[ChannelRange, ...], name, DataError, MAX_BYTES)
    if not 1 <= len(ranges) <= MAX_CHANNELS:
        raise DataError(f"{name} describes {len(ranges)} channels; 1 to {MAX_CHANNELS} are read")
    if len({each.name for each in ranges}) < len(ranges):
        raise DataError(f"{name} gives two channels one name")
    return ranges
