"""The messages by which a reading process hands over pictures: a header of fixed size, a text and a content."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import IO

from stylert.core.errors import DataError, shown_name
from stylert.core.images.pictures import MAX_BYTES

#: Kind, number, bytes of the text, bytes of the content.
HEADER = struct.Struct("<BqIQ")
#: Bytes of a text, at most.
MAX_TEXT = 2**12
#: Stands for a picture without a label.
NO_LABEL = -1
MAX_LABEL = 2**31


class Kind(IntEnum):
    """Kinds of messages, and what the number, text and content of each are."""

    COUNT = 1  # number of pictures
    PICTURE = 2  # label, name, file
    DAMAGED_PICTURE = 3  # label, name, reason
    ERROR = 4  # the text is the message of a DataError
    END = 5


KINDS = frozenset(Kind)


@dataclass(frozen=True)
class Message:
    """One message."""

    kind: Kind
    number: int = NO_LABEL
    text: str = ""
    content: bytes = b""

    @property
    def label(self) -> int | None:
        """The label of a picture, or None."""
        return None if self.number == NO_LABEL else self.number


def picture_message(name: str, value: memoryview | None, label: int | None) -> Message:
    """The message of a picture.

    Args:
        name: Its name.
        value: The picture file, or None where there is only a path to one.
        label: Its label. A negative one says that there is none, as in the test sets of Hugging Face.

    Raises:
        DataError: The label is no class index.
    """
    number = NO_LABEL if label is None or label < 0 else label
    if number > MAX_LABEL:
        raise DataError(f"the label {label} of {shown_name(name)} is no class index")
    if value is None:
        return Message(Kind.DAMAGED_PICTURE, number, name, b"it holds no bytes, only a path perhaps")
    if value.nbytes > MAX_BYTES:
        reason = f"it has {value.nbytes / 2**20:.0f} MiB, and at most {MAX_BYTES // 2**20} are read"
        return Message(Kind.DAMAGED_PICTURE, number, name, reason.encode())
    return Message(Kind.PICTURE, number, name, bytes(value))


def write_message(file: IO[bytes], message: Message) -> None:
    """Write a message, and send it on."""
    text = message.text.encode(errors="backslashreplace")[:MAX_TEXT]
    file.write(HEADER.pack(message.kind, message.number, len(text), len(message.content)) + text)
    file.write(message.content)
    file.flush()


def read_message(file: IO[bytes]) -> Message | None:
    """Read a message. None at the end of the file, or for bytes that are no message: the writer may be damaged itself."""
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, number, text_size, content_size = HEADER.unpack(header)
    if kind not in KINDS or text_size > MAX_TEXT or content_size > MAX_BYTES:
        return None
    text, content = file.read(text_size), file.read(content_size)
    if len(text) < text_size or len(content) < content_size:
        return None
    return Message(Kind(kind), number, text.decode(errors="replace"), content)
