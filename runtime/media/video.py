"""Writes videos as MP4 or as animated WebP or GIF, with one batch of frames in memory at a time.

MP4 is H.264 through PyAV (`pip install 'stylert[video]'`). WebP and GIF need Pillow alone. Pillow encodes each frame as a
picture, and this module puts the frames into the animation, because Pillow's own writer holds all frames in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stylert.core.errors import InputError, OutputError, as_path, missing_extra, shown
from stylert.core.files.atomic import atomic_file
from stylert.core.images.grids import described
from stylert.core.provenance.signing import says_generated, sign_in_place
from stylert.runtime.media.image_metadata import xmp_packet
from stylert.runtime.media.pictures import as_picture, check_channels, check_comment

#: The highest frame rate of each suffix. GIF counts in hundredths of a second, and players show one hundredth as ten.
SUFFIXES = {".mp4": 1000, ".webp": 100, ".gif": 50}
#: Pixels in a side, by the formats and by the encoder of H.264.
MAX_SIDES = {".mp4": 16_384, ".webp": 16_383, ".gif": 65_535}


def check_video(path: str | Path, fps: int) -> None:
    """Check, before any frame is made, that `write_video` can write this file.

    Raises:
        InputError: The suffix or the frame rate is not supported.
        BackendError: The suffix is .mp4, and PyAV is not installed.
    """
    path = as_path(path, "video")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"cannot tell the video format of {path}: use {', '.join(SUFFIXES)}")
    if isinstance(fps, bool) or not isinstance(fps, (int, np.integer)) or not 1 <= fps <= SUFFIXES[suffix]:
        raise InputError(f"a {suffix} takes 1 to {SUFFIXES[suffix]} frames per second, not {shown(fps)}")
    if suffix == ".mp4":
        _import_av()


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: int, comment: str) -> int:
    """Write a video. The file appears whole or not at all. WebP and GIF repeat for ever.

    Args:
        path: The file. Its suffix chooses the format.
        frames: Batches of uint8 images `[n, H, W, 1 or 3]`, all of one size. What they raise passes through.
        fps: Frames per second.
        comment: ASCII text for the file. With a recipe and a signing credential, the file also gets a C2PA manifest.

    Returns:
        The number of frames.

    Raises:
        InputError: The suffix or the frame rate is not supported. Or these are no such images or text, or there are none.
        BackendError: The suffix is .mp4, and PyAV is not installed.
        OutputError: The video cannot be encoded or written.
        SigningError: There is a credential, and it cannot sign.
    """
    check_video(path, fps)
    check_comment(comment)
    path, fps = Path(path), int(fps)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    suffix = path.suffix.lower()
    write = {".mp4": _write_mp4, ".webp": _write_webp, ".gif": _write_gif}[suffix]
    with atomic_file(path) as temporary:
        count = write(temporary, _checked_frames(path, frames), fps, comment)
        if says_generated(comment):
            sign_in_place(temporary, suffix, comment)
    return count


def _checked_frames(path: Path, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Each image of the batches. Raises InputError for others than `write_video` takes."""
    try:
        batches = iter(frames)
    except (TypeError, ValueError):  # ValueError: a closed file
        raise InputError(f"a video is made of batches of images, not of {shown(frames)}") from None
    shape: tuple[int, ...] | None = None
    for batch in batches:
        if not isinstance(batch, np.ndarray) or batch.dtype != np.uint8 or batch.ndim != 4:
            raise InputError(f"a video is made of uint8 images [N, H, W, C], not of {described(batch)}")
        shape = batch.shape[1:] if shape is None else shape
        if batch.shape[1:] != shape:
            raise InputError(f"the images of a video have one size: {list(shape)} came first, and then {list(batch.shape[1:])}")
        if not all(0 < side <= MAX_SIDES[path.suffix.lower()] for side in shape[:2]):
            raise InputError(
                f"a {path.suffix.lower()} has 1 to {MAX_SIDES[path.suffix.lower()]} pixels in a side, not {list(shape[:2])}"
            )
        check_channels(path, shape[2], is_video=True)
        yield from batch
    if shape is None:
        raise InputError("a video has at least one image")


def _write_mp4(path: Path, images: Iterator[np.ndarray], fps: int, comment: str) -> int:
    av = _import_av()
    count = 0
    stream = None
    try:
        with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            container.metadata["comment"] = comment
            for image in images:
                if stream is None:
                    stream = _add_h264_stream(container, fps, image.shape[0], image.shape[1])
                rgb = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
                frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format="yuv420p", dst_colorspace="ITU709")
                container.mux(stream.encode(frame))
                count += 1
            if stream is not None:
                container.mux(stream.encode(None))
    except av.FFmpegError as e:
        raise OutputError(f"the video cannot be encoded: {e}") from None
    return count


def _add_h264_stream(container: Any, fps: int, height: int, width: int) -> Any:
    limited_range, bt709 = 1, 1  # by the numbers of H.264
    stream = container.add_stream("libx264", rate=fps, options={"crf": "16", "preset": "medium"})
    stream.height, stream.width = height, width
    stream.pix_fmt = "yuv420p"  # the only format that every player shows
    stream.codec_context.color_range = limited_range
    stream.codec_context.colorspace = bt709
    stream.codec_context.color_primaries = bt709
    stream.codec_context.color_trc = bt709
    return stream


def _write_webp(path: Path, images: Iterator[np.ndarray], fps: int, comment: str) -> int:
    """RIFF with the chunks VP8X, ANIM, one ANMF per frame, and XMP, as in the WebP container specification."""
    count = 0
    with open(path, "wb") as file:
        for image in images:
            height, width = image.shape[:2]
            if count == 0:
                _write_webp_header(file, height, width)
            still = BytesIO()
            as_picture(image).convert("RGB").save(still, "WEBP", quality=90)
            x = y = 0
            rectangle = _u24(x) + _u24(y) + _u24(width - 1) + _u24(height - 1)
            milliseconds = _duration(count, fps, 1000)
            overwrite = b"\x02"  # do not blend with the frame before
            riff_header = 12
            picture_chunks = still.getvalue()[riff_header:]
            _write_chunk(file, b"ANMF", rectangle + _u24(milliseconds) + overwrite + picture_chunks)
            count += 1
        _write_chunk(file, b"XMP ", xmp_packet(comment))
        size = file.tell()
        if size >= 2**32:
            raise OutputError("a webp holds at most 4 GiB: write an mp4")
        file.seek(4)
        file.write(struct.pack("<I", size - 8))
    return count


def _write_webp_header(file: BinaryIO, height: int, width: int) -> None:
    has_animation, has_xmp = 0x02, 0x04
    white_background, repeat_for_ever = b"\xff\xff\xff\xff", b"\0\0"
    file.write(b"RIFF\0\0\0\0WEBP")  # the size is filled in at the end
    _write_chunk(file, b"VP8X", struct.pack("<I", has_animation | has_xmp) + _u24(width - 1) + _u24(height - 1))
    _write_chunk(file, b"ANIM", white_background + repeat_for_ever)


def _write_gif(path: Path, images: Iterator[np.ndarray], fps: int, comment: str) -> int:
    """A GIF as in the GIF89a specification. Each frame has its own palette of 256 colours."""
    count = 0
    with open(path, "wb") as file:
        for image in images:
            if count == 0:
                _write_gif_header(file, image.shape[0], image.shape[1], comment)
            palette, descriptor, pixels = _gif_frame(image)
            file.write(b"!\xf9\x04\x04" + struct.pack("<H", _duration(count, fps, 100)) + b"\0\0")  # graphic control
            file.write(descriptor + palette + pixels)
            count += 1
        file.write(b";")
    return count


def _write_gif_header(file: BinaryIO, height: int, width: int, comment: str) -> None:
    file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0x70, 0, 0))
    file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0")  # repeat for ever
    text = comment.encode("ascii")
    file.write(b"!\xfe")
    for i in range(0, len(text), 255):
        block = text[i : i + 255]
        file.write(bytes([len(block)]) + block)
    file.write(b"\0")


def _gif_frame(image: np.ndarray) -> tuple[bytes, bytes, bytes]:
    """Palette, image descriptor and compressed pixels of a frame, cut from a GIF that Pillow wrote.

    In that file the palette is global. Here it follows the descriptor, which has a flag for it.
    """
    still = BytesIO()
    picture = as_picture(image)
    (picture if picture.mode == "L" else picture.quantize(256)).save(still, "GIF", interlace=0)
    data = still.getvalue()
    palette_bits = data[10] & 7
    palette_start = 13
    palette_end = palette_start + 3 * 2 ** (palette_bits + 1)
    start = _skip_gif_extensions(data, palette_end)
    has_local_palette = 0x80
    descriptor = data[start : start + 9] + bytes([has_local_palette | palette_bits])
    pixels = data[start + 10 : -1]  # up to the trailer
    return data[palette_start:palette_end], descriptor, pixels


def _skip_gif_extensions(data: bytes, position: int) -> int:
    """The position of the first block after `position` that is no extension."""
    extension = 0x21
    while data[position] == extension:
        position += 2
        while data[position]:  # the length of a sub-block
            position += 1 + data[position]
        position += 1
    return position


def _duration(frame: int, fps: int, ticks_per_second: int) -> int:
    """How many ticks a frame lasts. Its end is rounded rather than its length, so rounding errors do not add up."""
    return round((frame + 1) * ticks_per_second / fps) - round(frame * ticks_per_second / fps)


def _write_chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    """A RIFF chunk, padded to an even length."""
    file.write(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2))


def _u24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        raise missing_extra("PyAV", "video") from None
    return av
