"""The detector of a mark as one file: an ONNX network, with the key and facts as JSON in its metadata.

A person who has the file can read the mark, and can also learn to remove or to forge it.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import InputError, OutputError, shown_line
from stylert.core.files.atomic import atomic_file, check_writable
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import read_document
from stylert.core.files.outputs import check_not_input
from stylert.runtime.watermark.decoder_graph import FILTER, MAX_BITS, MAX_SIDE, decoder_model, weights_of
from stylert.runtime.watermark.onnx_structure import structure_bytes

#: Key of the JSON document in the metadata of the network.
METADATA_KEY = "stylert.watermark"
FORMAT_VERSION = 3
#: The version before, which is read too. Its decoder has a filter in place of a network.
FILTER_VERSION = 2
#: Size of a detector file. 32 bits have 800 kB.
MAX_FILE_BYTES = 64 * 2**20
#: Bytes in the file that are no weights: nodes, names and the JSON document.
MAX_STRUCTURE_BYTES = 2**20
MAX_VIEWS, MAX_RESOLUTION = 128, 2**16
#: The smallest share of an image's side for which crops are looked for. Their places grow with the square of the rest.
LEAST_SHARE = 0.6


@dataclass(frozen=True)
class View:
    """One way to read a picture.

    Attributes:
        length: The pixels that the longer edge of the picture gets. A whole image gets the side of the patterns.
        mirrored: Whether the picture is mirrored, left to right.
    """

    length: int
    mirrored: bool

    def __post_init__(self) -> None:
        if not 1 <= self.length <= MAX_SIDE:
            raise ValueError("a view is out of range")


@dataclass(frozen=True)
class FormatVersion:
    """The version of a detector, which is read first: documents of other versions have other fields.

    Attributes:
        version: `FORMAT_VERSION` or `FILTER_VERSION`.
    """

    version: int

    def __post_init__(self) -> None:
        if self.version not in (FILTER_VERSION, FORMAT_VERSION):
            instead = "read it with the stylert that wrote it, or train a new mark"
            versions = f"{FILTER_VERSION} and {FORMAT_VERSION}"
            raise ValueError(f"it has format version {self.version}, and this stylert reads {versions}: {instead}")


@dataclass(frozen=True)
class DetectorFacts(FormatVersion):
    """The JSON document of a detector.

    Attributes:
        key: The bits, as a text of zeros and ones.
        views: The views to try, in the order of their weights.
        checkpoint: sha256 of the weights of the marked generator.
        resolution: Height and width of the generator's images, or 0 if it is not known, as in files of `FILTER_VERSION`.
        info: Free facts: the PSNR to the original images, and settings of the training.
    """

    key: str
    views: tuple[View, ...]
    checkpoint: str = ""
    resolution: int = 0
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.key) <= MAX_BITS or set(self.key) - set("01"):
            raise ValueError(f"the key is not a text of 1 to {MAX_BITS} zeros and ones")
        if not 1 <= len(self.views) <= MAX_VIEWS:
            raise ValueError(f"there are not 1 to {MAX_VIEWS} views")
        if not 0 <= self.resolution <= MAX_RESOLUTION:
            raise ValueError("its resolution is out of range")
        if len(set(self.views)) < len(self.views):
            raise ValueError("two views are the same")


@dataclass(frozen=True)
class DetectorFile:
    """The content of a detector file: the decoder's weights by name, and the facts."""

    arrays: dict[str, np.ndarray]
    facts: DetectorFacts


def write_detector(path: str | Path, arrays: Mapping[str, np.ndarray], facts: DetectorFacts) -> None:
    """Write a detector. It replaces another one. Raises as `new_detector`."""
    with new_detector(path, arrays, facts, replace=True):
        pass


@contextmanager
def new_detector(path: str | Path, arrays: Mapping[str, np.ndarray], facts: DetectorFacts, replace: bool) -> Iterator[None]:
    """Write a detector beside `path`, and put it there after the block, in which its network is written.

    So a former detector, which holds the only copy of a key, stays until the new pair is whole. If the block fails, nothing has changed.

    Args:
        path: The file.
        arrays: Weights of the decoder by name.
        facts: The JSON document.
        replace: Whether another detector may be replaced.

    Raises:
        OutputError: The file cannot be written, or another detector has come there.
        ValueError: The weights are not those of a decoder, or do not fit the key.
    """
    _check_fit(arrays, facts)
    model = decoder_model(arrays, {METADATA_KEY: json.dumps(asdict(facts), sort_keys=True, allow_nan=False)})
    with atomic_file(path) as temporary:
        temporary.chmod(stat.S_IRUSR | stat.S_IWUSR)  # it holds the key
        temporary.write_bytes(model.SerializeToString())
        check_detector_output(Path(path), (), replace)
        yield


def read_detector(path: str | Path) -> DetectorFile:
    """Read a detector. Of the network in the file only the weights are used.

    Raises:
        InputError: The file is missing, too large, no ONNX file, or no detector of a mark.
    """
    content = read_file(path, InputError, MAX_FILE_BYTES, "detector")
    if not content:
        raise InputError(f"detector {path} is empty")
    try:
        import onnx

        if structure_bytes(content) > MAX_STRUCTURE_BYTES:
            raise ValueError("it holds more than weights")
        model = onnx.load_model_from_string(content)
    except MemoryError:
        raise
    except Exception as e:  # protobuf's exceptions share no public base class
        raise InputError(f"detector {path} is no ONNX file: {shown_line(str(e))}") from None
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if len(texts) != 1:
        raise InputError(f"detector {path} was not written by stylert watermark train")
    name = f"detector {path}: its metadata"
    read_document(texts[0], FormatVersion, name, InputError)
    facts = read_document(texts[0], DetectorFacts, name, InputError)
    try:
        arrays = weights_of(model)
        _check_fit(arrays, facts)
    except ValueError as e:
        raise InputError(f"detector {path} is damaged: {shown_line(str(e))}") from None
    return DetectorFile(arrays, facts)


def check_detector_output(path: Path, inputs: Iterable[Path | None], replace: bool = False) -> None:
    """Check, before a long computation, that a detector can be written to `path`.

    A detector holds the only copy of its key, so another one is replaced only where the user says so.

    Raises:
        OutputError: The file cannot be written, is an input, is another detector, or of another kind.
    """
    check_writable(path)
    check_not_input(path, inputs)
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        read_detector(path)
    except InputError:
        raise OutputError(
            f"cannot write {path}: stylert did not write the file there as a detector; choose another name"
        ) from None
    if not replace:
        raise OutputError(f"cannot write {path}: a detector with the only copy of its key is there; move it, or use --replace")


def _check_fit(arrays: Mapping[str, np.ndarray], facts: DetectorFacts) -> None:
    """Raise ValueError unless the decoder reads as many bits as the key has, and no view is larger than its patterns."""
    if (facts.version == FILTER_VERSION) != (FILTER in arrays):
        raise ValueError("its weights are not those of its format version")
    if len(arrays["bias"]) != len(facts.key):
        raise ValueError("its key has another number of bits than its decoder reads")
    if len(arrays["view_means"]) != len(facts.views):
        raise ValueError("it has other views than its weights")
    side = arrays["patterns"].shape[1]
    if not all(round(LEAST_SHARE * side) <= view.length <= side for view in facts.views):
        raise ValueError("a view is larger than its patterns, or too small")
