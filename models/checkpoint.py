"""Checkpoints: safetensors files with the configuration of the network as JSON in the metadata.

There are two kinds:

- `generator` holds the tensors of G_ema under their official names, for export and serving.
- `training` holds `G.*`, `D.*`, `G_ema.*` and the tensors of the optimizers, for resuming. The exporter reads its G_ema.

Weights are read as NumPy arrays, without torch. No code from a file can run.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stylert.core.errors import CheckpointError, InputError, OutputError, as_path, shown, shown_line
from stylert.core.files.json_documents import read_document, read_part
from stylert.core.files.outputs import check_output, document_values
from stylert.core.files.safetensors_files import check_header, digest, safetensors_file
from stylert.models.network_config import BaseGeneratorConfig
from stylert.models.network_kinds import generator_config, generator_shapes, new_generator, require_stylegan2
from stylert.models.stylegan1.config import GeneratorConfig as Stylegan1Config
from stylert.models.stylegan2.config import GeneratorConfig as Stylegan2Config
from stylert.models.stylegan3.config import GeneratorConfig as Stylegan3Config
from stylert.models.tensors import checked_tensors

ConfigT = TypeVar("ConfigT", bound=BaseGeneratorConfig)

#: Key of the JSON document in the safetensors metadata.
METADATA_KEY = "stylert"
#: Version of that document.
FORMAT_VERSION = 1
#: File in the folder of a training run that the run resumes from.
SNAPSHOT_FILE = "snapshot.safetensors"
#: Element types of weights, as safetensors names them.
FLOAT_TYPES = ("F16", "F32", "F64")


@dataclass(frozen=True)
class NetworkWeights(Generic[ConfigT]):
    """A generator as data.

    Attributes:
        config: Its configuration.
        arrays: Its tensors under the official names, float32.
        info: Free facts from the file, such as training data, length of training and licence.
    """

    config: ConfigT
    arrays: dict[str, np.ndarray]
    info: dict[str, Any]


#: The weights of any network, and of each by itself. StyleGAN2 has the short name.
AnyWeights = NetworkWeights[BaseGeneratorConfig]
GeneratorWeights = NetworkWeights[Stylegan2Config]
Stylegan1Weights = NetworkWeights[Stylegan1Config]
Stylegan3Weights = NetworkWeights[Stylegan3Config]


def read_generator(path: str | Path) -> AnyWeights:
    """Read the generator (G_ema) of a checkpoint of either kind.

    Raises:
        CheckpointError: The file is damaged, its configuration is not valid, or a tensor is missing, has the wrong
            shape or type, or is not finite.
    """
    metadata = read_metadata(path)
    prefix = "G_ema." if metadata["kind"] == "training" else ""
    config = _configuration(path, metadata)
    stored: dict[str, np.ndarray] = {}
    with _opened(path) as file:
        names = set(file.keys())
        for official_name, shape in generator_shapes(config).items():
            name = prefix + official_name
            if name not in names:
                raise CheckpointError(f"checkpoint {path} lacks the tensor {name}")
            stored[name] = _read_tensor(file, path, name, shape)
    check_digest(path, metadata, prefix, stored)
    arrays = {name.removeprefix(prefix): array.astype(np.float32) for name, array in stored.items()}
    return NetworkWeights(config, arrays, metadata.get("info") or {})


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read the JSON document of a checkpoint, checked: its fields are those of the page docs/design.md.

    Raises:
        CheckpointError: The file is missing, truncated, not safetensors, or not written by stylert.
    """
    check_header(path, CheckpointError, "checkpoint")
    with _opened(path) as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        raise CheckpointError(f"checkpoint {path} carries no stylert configuration in its metadata")
    name = f"checkpoint {path}: its metadata"
    content = read_document(text, dict[str, Any], name, CheckpointError)
    # The version comes first, because the other fields depend on it.
    version: int = read_part(content, _Versioned, name, CheckpointError)["version"]
    if version != FORMAT_VERSION:
        raise CheckpointError(f"checkpoint {path} has format version {version}; this stylert reads {FORMAT_VERSION}")
    metadata: dict[str, Any] = {**read_part(content, _Metadata, name, CheckpointError)}
    _configuration(path, metadata)
    return metadata


@dataclass(frozen=True)
class TensorHeader:
    """The shape of a stored tensor, and its element type as safetensors names it, such as `F32`."""

    shape: tuple[int, ...]
    dtype: str


def read_headers(path: str | Path) -> dict[str, TensorHeader]:
    """Name, shape and type of every tensor of a checkpoint, from its header alone.

    Raises:
        CheckpointError: The file is missing, truncated or not safetensors.
    """
    check_header(path, CheckpointError, "checkpoint")
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: TensorHeader(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}


def read_arrays(path: str | Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The tensors of these names as they are stored. Those of other names are not touched.

    Raises:
        CheckpointError: The file is missing, truncated or not safetensors, or a tensor is of a type without a NumPy form.
    """
    arrays = {}
    with _opened(path) as file:
        for name in names:
            try:
                arrays[name] = file.get_tensor(name)
            except (SafetensorError, TypeError, ValueError) as e:
                raise CheckpointError(f"checkpoint {path}: {name} cannot be read: {shown_line(str(e))}") from None
    return arrays


def write_generator(
    path: str | Path,
    config: BaseGeneratorConfig,
    arrays: Mapping[str, np.ndarray],
    *,
    half: bool = False,
    info: Mapping[str, Any] | None = None,
    within: Path | None = None,
) -> None:
    """Write a checkpoint of kind `generator`. An existing file stays until the new one is complete.

    Args:
        path: File to write.
        config: Configuration of the generator.
        arrays: Every tensor of the generator, by official name.
        half: Store float16 instead of float32.
        info: Free facts, which JSON can hold.
        within: As in `atomic_file`.

    Raises:
        InputError: An argument but `arrays` is of another type.
        CheckpointError: A tensor is missing, has another shape, or is not finite in the stored type. Or `info` is not JSON that can
            be read again.
        OutputError: The file cannot be written.
    """
    path = as_path(path, "checkpoint")
    if not isinstance(config, BaseGeneratorConfig) or not isinstance(info, Mapping | None):
        raise InputError(f"checkpoint {path} is not written: {shown(config)} is no configuration, or {shown(info)} no facts")
    if not isinstance(half, bool):
        raise InputError(f"half is true or false, not {shown(half)}")
    within = None if within is None else as_path(within, "folder")
    refusal = f"checkpoint {path} is not written"
    tensors = checked_tensors(arrays, generator_shapes(config), refusal, np.float16 if half else np.float32)
    try:
        metadata = {
            "kind": "generator",
            "version": FORMAT_VERSION,
            "generator": config.to_dict(),
            "info": document_values(dict(info or {})),
            "sha256": {"": digest(tensors)},
        }
        text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as e:
        raise CheckpointError(f"{refusal}: its info is not JSON: {shown_line(str(e))}") from None
    read_document(text, _Metadata, f"{refusal}: its info", CheckpointError)  # no file that cannot be read
    with safetensors_file(path, within) as temporary:
        save_file(tensors, temporary, {METADATA_KEY: text})


def check_generator_output(path: Path, inputs: Collection[Path]) -> None:
    """Check, before a long computation, that a generator may be written to a path, as `check_output`. An older one is replaced.

    Raises:
        OutputError: It may not. Or the file there is that of a training run, whose snapshot cannot make it again.
    """
    check_output(path, "safetensors", inputs)
    if path.exists() and (path.parent / SNAPSHOT_FILE).exists():
        raise OutputError(f"cannot replace {path}: it lies in the folder of a training run; choose another name or folder")


def trained_kimg(path: str | Path) -> float | None:
    """Thousands of images that the discriminator of a snapshot has seen. None for the file of a generator.

    Raises:
        CheckpointError: As `read_metadata`, or the snapshot tells no such number.
    """
    metadata = read_metadata(path)
    if metadata["kind"] == "generator":
        return None
    images = metadata.get("facts", {}).get("nimg")
    if not isinstance(images, int) or isinstance(images, bool) or not 0 <= images < 2**53:
        raise CheckpointError(f"checkpoint {path} does not tell how many images its run has seen")
    return images / 1000


def load_generator(path: str | Path) -> Any:
    """Read the generator of a checkpoint as a PyTorch module in evaluation mode. Needs torch. Raises as `read_generator`."""
    return generator_module(read_generator(path))


def generator_module(weights: NetworkWeights[Any]) -> Any:
    """Make the PyTorch module `Generator` of the network, in evaluation mode, from weights. Needs torch."""
    import torch

    generator = new_generator(weights.config)
    generator.load_state_dict({name: torch.from_numpy(array) for name, array in weights.arrays.items()})
    return generator.eval().requires_grad_(False)


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """Open a checkpoint with safetensors. It may be gone or shorter since its header was checked."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"checkpoint {path} is not a whole safetensors file: {shown_line(str(e))}") from None


def check_digest(path: str | Path, metadata: Mapping[str, Any], prefix: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Check the tensors whose names begin with `prefix` against the sha256 in the metadata.

    A file without a digest passes.

    Raises:
        CheckpointError: The tensors are not those that were written.
    """
    digests = metadata.get("sha256")
    expected = digests.get(prefix) if isinstance(digests, dict) else None
    if expected is not None and digest(tensors) != expected:
        raise CheckpointError(f"checkpoint {path} was changed or damaged: its weights do not match their sha256")


class _Versioned(TypedDict):
    version: int


class _Metadata(_Versioned):
    """The JSON document. Other keys are passed over."""

    kind: Literal["generator", "training"]
    generator: dict[str, Any]
    sha256: NotRequired[dict[str, str]]
    info: NotRequired[dict[str, Any] | None]
    train: NotRequired[dict[str, Any]]
    facts: NotRequired[dict[str, Any]]


def _configuration(path: str | Path, metadata: Mapping[str, Any]) -> BaseGeneratorConfig:
    try:
        config = generator_config(metadata["generator"])
    except ValueError as e:
        raise CheckpointError(f"checkpoint {path} has no valid generator configuration: {shown_line(str(e))}") from None
    if metadata["kind"] == "training":
        require_stylegan2(config, f"checkpoint {path}", "training")
    return config


def _read_tensor(file: Any, path: str | Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor `name` of an open safetensors file as it is stored, checked."""
    header = file.get_slice(name)
    if tuple(header.get_shape()) != shape:
        raise CheckpointError(f"checkpoint {path}: {name} is {header.get_shape()}, its configuration says {list(shape)}")
    dtype = header.get_dtype()
    if dtype not in FLOAT_TYPES:
        raise CheckpointError(f"checkpoint {path}: {name} is of type {dtype}; supported are {', '.join(FLOAT_TYPES)}")
    try:
        array: np.ndarray = file.get_tensor(name)
    except (SafetensorError, TypeError, ValueError) as e:
        raise CheckpointError(f"checkpoint {path}: {name} cannot be read: {shown_line(str(e))}") from None
    if not np.isfinite(array).all():
        raise CheckpointError(f"checkpoint {path}: {name} holds values that are not finite")
    return array
