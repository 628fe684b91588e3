"""Frames to videos: mp4, or an animated webp or gif, one batch in memory at a time.

mp4 is H.264 through PyAV (`pip install 'stylert[video]'`). webp and gif need Pillow alone: it encodes each frame as a picture of
its own, and the frames are laid one after another into the animation here, because Pillow's own writer keeps all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from stylert.core.atomic import atomic_file
from stylert.core.errors import InputError, OutputError, missing_extra
from stylert.runtime.media.image_metadata import xmp_packet

#: Suffix to the most frames per second that players show: gif counts hundredths of a second, and plays 1 of them as 10.
SUFFIXES = {".mp4": 1000, ".webp": 100, ".gif": 50}


def check_video(path: str | Path, fps: int) -> None:
    """Raise what `write_video` would raise before its first frame, without making any frame."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"cannot tell the video format of {path}: use {', '.join(SUFFIXES)}")
    if not 1 <= fps <= SUFFIXES[suffix]:
        raise InputError(f"a {suffix} takes 1 to {SUFFIXES[suffix]} frames per second, not {fps}")
    if suffix == ".mp4":
        _av()


def write_video(path: str | Path, frames: Iterator[np.ndarray], fps: int, comment: str) -> int:
    """Write batches of uint8 images `[n, H, W, 1 or 3]` with an ASCII comment; returns how many frames there were. Atomic.

    The suffix chooses the format; webp and gif repeat for ever. Raises InputError for another suffix or rate, BackendError where
    PyAV is missing, OutputError when the file cannot be written, and what `frames` raises.
    """
    check_video(path, fps)
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    write = {".mp4": _write_mp4, ".webp": _write_webp, ".gif": _write_gif}[path.suffix.lower()]
    with atomic_file(path) as temporary:
        return write(temporary, (image for batch in frames for image in batch), fps, comment)


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: int, comment: str) -> int:
    av = _av()
    count = 0
    try:
        with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            container.metadata["comment"] = comment
            stream = None
            for image in frames:
                if stream is None:
                    stream = container.add_stream("libx264", rate=fps, options={"crf": "16", "preset": "medium"})
                    stream.height, stream.width = image.shape[:2]
                    stream.pix_fmt = "yuv420p"  # the one that every player shows
                    stream.codec_context.color_range = 1
                    stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = 1
                rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))), "rgb24")
                container.mux(stream.encode(rgb.reformat(format="yuv420p", dst_colorspace="ITU709")))
                count += 1
            if stream is not None:
                container.mux(stream.encode(None))
    except av.FFmpegError as e:
        raise OutputError(f"the video cannot be encoded: {e}") from None
    return count


def _write_webp(path: Path, frames: Iterator[np.ndarray], fps: int, comment: str) -> int:
    """RIFF: VP8X, ANIM, one ANMF per frame, XMP (the WebP container specification)."""
    count = 0
    with open(path, "wb") as file:
        for image in frames:
            height, width = image.shape[:2]
            if count == 0:
                animation, xmp = 0x02, 0x04
                file.write(b"RIFF\0\0\0\0WEBP")
                _chunk(file, b"VP8X", struct.pack("<I", animation | xmp) + _u24(width - 1) + _u24(height - 1))
                _chunk(file, b"ANIM", b"\xff\xff\xff\xff\0\0")  # white behind, repeated for ever
            still = BytesIO()
            _picture(image).convert("RGB").save(still, "WEBP", quality=90)
            milliseconds = _ticks(count, fps, 1000)
            place = _u24(0) + _u24(0) + _u24(width - 1) + _u24(height - 1)
            overwrite = b"\x02"
            _chunk(file, b"ANMF", place + _u24(milliseconds) + overwrite + still.getvalue()[12:])
            count += 1
        _chunk(file, b"XMP ", xmp_packet(comment))
        size = file.tell()
        if size >= 2**32:
            raise OutputError("a webp holds at most 4 GiB: write an mp4")
        file.seek(4)
        file.write(struct.pack("<I", size - 8))
    return count


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: int, comment: str) -> int:
    """Every frame with its own 256 colours (the GIF89a specification)."""
    count = 0
    with open(path, "wb") as file:
        for image in frames:
            height, width = image.shape[:2]
            if count == 0:
                file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70, 0, 0))
                file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")  # repeated for ever
                text = comment.encode("ascii")
                blocks = [text[i : i + 255] for i in range(0, len(text), 255)]
                file.write(b"!\xfe" + b"".join(bytes([len(b)]) + b for b in blocks) + b"\0")
            palette, descriptor, data = _gif_frame(image)
            file.write(b"!\xf9\x04\x04" + struct.pack("<H", _ticks(count, fps, 100)) + b"\0\0" + descriptor + palette + data)
            count += 1
        file.write(b";")
    return count


def _gif_frame(image: np.ndarray) -> tuple[bytes, bytes, bytes]:
    """`(palette, image descriptor that announces the palette, compressed pixels)` of a frame that Pillow wrote as a picture."""
    still = BytesIO()
    picture = _picture(image)
    (picture if picture.mode == "L" else picture.quantize(256)).save(still, "GIF", interlace=0)
    data = still.getvalue()
    bits = data[10] & 7
    end = 13 + 3 * 2 ** (bits + 1)
    at = end
    while data[at] == 0x21:  # extensions
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    return data[13:end], data[at : at + 9] + bytes([0x80 | bits]), data[at + 10 : -1]


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)


def _ticks(frame: int, fps: int, per_second: int) -> int:
    """How long a frame lasts in whole ticks, such that the rounding errors never add up."""
    return round((frame + 1) * per_second / fps) - round(frame * per_second / fps)


def _chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    file.write(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2))


def _u24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise missing_extra("PyAV", "video") from None
    return av
