"""Reads the bits of a picture, and says whether they match the key of a detector better than chance.

A picture may be a resized image, a crop of one, or its mirror image. The decoder so reads it at several scales, the views, both as
it is and mirrored, and tries the patterns at every place that the scale leaves open. The outputs of each view are whitened by those
of unmarked images, so that views and places compete alike. The clearest bits count. This choice does not look at the key, so the
matches of an unmarked picture stay those of coins.

Most pictures are whole images, or crops with the pixels of the generator. These views come first, and if the bits are clear, no
other view is tried. This choice does not look at the key either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stylert.core.errors import BackendError, InputError, PictureError, shown, shown_line
from stylert.core.files.inputs import read_file
from stylert.core.images.pictures import MAX_BYTES, decode_picture
from stylert.runtime.backends.onnxruntime import library
from stylert.runtime.build_options import check_threads
from stylert.runtime.watermark.decoder_graph import IMAGE, MARGINS, OUTPUT, decoder_model
from stylert.runtime.watermark.detector_file import DetectorFile, View, read_detector
from stylert.runtime.watermark.false_positives import false_positive_rate

#: Longer side of a picture over the shorter one, at most.
MAX_ASPECT = 8
#: Mean absolute output of whitened bits, from which on no other view is tried. Coins have 0.8, and a mark is trained to have 3.
CLEAR = 2.0


@dataclass(frozen=True)
class Finding:
    """The bits of one picture.

    Attributes:
        matched: Number of bits that match the key.
        bits: Number of bits of the key.
        share: The share of the image's longer side that the picture holds: 1 for a whole image, less for a crop.
        mirrored: Whether the picture is the mirror image, left to right.
    """

    matched: int
    bits: int
    share: float
    mirrored: bool

    @property
    def false_positive_rate(self) -> float:
        """The probability that a picture without the mark matches as many bits."""
        return false_positive_rate(self.matched, self.bits)

    def is_marked(self, rate: float) -> bool:
        """Whether the picture carries the mark, where unmarked pictures are taken for marked ones at `rate`, at most."""
        return self.false_positive_rate <= rate


@dataclass(frozen=True)
class Reading:
    """The clearest bits of one view.

    Attributes:
        view: Number of the view.
        clarity: Mean absolute value of the whitened outputs.
        bits: Outputs `[bits]`.
    """

    view: int
    clarity: float
    bits: np.ndarray


def _clarity(reading: Reading) -> float:
    return reading.clarity


class Detector:
    """A decoder on ONNX Runtime, with its key."""

    def __init__(self, content: DetectorFile, threads: int | None = None) -> None:
        """Load a detector.

        Args:
            content: The detector.
            threads: CPU threads; None lets ONNX Runtime decide.

        Raises:
            InputError: `threads` is no number of threads, or `content` no detector.
            BackendError: ONNX Runtime cannot load the decoder.
        """
        check_threads(threads)
        if not isinstance(content, DetectorFile):
            raise InputError(f"a detector is a DetectorFile, as read_detector returns it, not {shown(content)}")
        self.facts = content.facts
        self._side = content.arrays["patterns"].shape[1]
        self._matrices, self._means = content.arrays["view_matrices"], content.arrays["view_means"]
        self._key = np.array([bit == "1" for bit in content.facts.key])
        options = library().SessionOptions()
        options.log_severity_level = 4  # each error is an exception, too
        if threads is not None:
            options.intra_op_num_threads = threads
        model = decoder_model(content.arrays, {}).SerializeToString()
        try:
            self._session: Any = library().InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except MemoryError:
            raise
        except Exception as e:  # ONNX Runtime's exceptions share no public base class
            raise BackendError(f"ONNX Runtime cannot load the decoder: {e}") from None

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> Detector:
        """Load a detector file. Raises as `read_detector`."""
        return cls(read_detector(path), threads)

    def detect(self, image: np.ndarray | Image.Image) -> Finding:
        """Read the bits of an image.

        Args:
            image: uint8 `[H, W, 1 or 3]`, or a picture of Pillow.

        Raises:
            InputError: This is no such image.
        """
        picture = _picture(image)
        pictures = (picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        likely = self._likely_views(picture)
        best = max((self._reading(pictures, view) for view in likely), key=_clarity, default=None)
        if best is None or best.clarity < CLEAR:
            rest = [view for view in range(len(self.facts.views)) if view not in likely]
            readings = [self._reading(pictures, view) for view in rest]
            best = max(readings if best is None else [best, *readings], key=_clarity)
        view = self.facts.views[best.view]
        matched = int(((best.bits > 0) == self._key).sum())
        return Finding(matched, len(self._key), view.length / self._side, view.mirrored)

    def detect_file(self, path: str | Path) -> Finding:
        """Read the bits of a picture file.

        Raises:
            PictureError: The file is missing or cannot be decoded.
        """
        data = read_file(path, PictureError, MAX_BYTES, "picture")
        try:
            return self.detect(decode_picture(data))
        except (PictureError, InputError) as e:
            raise PictureError(f"picture {path}: {e}") from None

    def _likely_views(self, picture: Image.Image) -> list[int]:
        """The numbers of the views for a whole image, and for a part with the pixels of the generator. None without its resolution."""
        if not self.facts.resolution:
            return []
        lengths = (self._side, round(max(picture.size) * self._side / self.facts.resolution))
        return [i for i, view in enumerate(self.facts.views) if view.length in lengths]

    def _reading(self, pictures: tuple[Image.Image, Image.Image], number: int) -> Reading:
        """The clearest bits of a view, over all places."""
        view = self.facts.views[number]
        outputs = self._read(pictures[view.mirrored], view)  # [bits, places]
        clarity = np.abs(self._matrices[number] @ (outputs - self._means[number][:, None])).mean(0)
        place = int(clarity.argmax())
        return Reading(number, float(clarity[place]), outputs[:, place])

    def _read(self, picture: Image.Image, view: View) -> np.ndarray:
        """The decoder's outputs for a picture at the scale of a view, at every place, `[bits, places]`."""
        scale = view.length / max(picture.size)
        width, height = (max(round(edge * scale), 1) for edge in picture.size)
        pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)
        x = np.ascontiguousarray((pixels / 127.5 - 1).transpose(2, 0, 1)[None], np.float32)
        rows, columns = self._side - height, self._side - width
        margins = np.array([0, 0, rows, columns] * 2, np.int64)
        outputs: np.ndarray = self._session.run([OUTPUT], {IMAGE: x, MARGINS: margins})[0][0]
        return outputs.reshape(len(outputs), -1)


def _picture(image: np.ndarray | Image.Image) -> Image.Image:
    """The image in mode RGB. Raises InputError for anything else, and for a picture that is long and thin.

    The patterns are tried at every place of a square around the picture, so a thin one costs much and holds nothing.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
            raise InputError(f"a mark is read from a uint8 image [H, W, 1 or 3], not {image.dtype} {list(image.shape)}")
        picture = Image.fromarray(np.repeat(image, 3, 2) if image.shape[2] == 1 else image)
    elif isinstance(image, Image.Image):
        picture = image
    else:
        raise InputError(f"a mark is read from an image, not {shown(image)}")
    if min(picture.size) * MAX_ASPECT < max(picture.size) or 0 in picture.size:
        raise InputError(f"a mark is read from pictures up to {MAX_ASPECT} times as long as wide, not {picture.size}")
    try:
        return picture.convert("RGB")
    except (OSError, ValueError) as e:  # Pillow reads a file only here
        raise InputError(f"the picture cannot be read: {shown_line(str(e))}") from None
