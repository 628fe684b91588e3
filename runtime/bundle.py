"""The bundle: a folder of ONNX networks and the manifest `bundle.json`, which describes them and holds their sha256."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BundleError, InputError, as_path, shown
from stylert.core.files.atomic import atomic_file
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import MAX_BYTES, read_document, read_part
from stylert.core.images.channels import PICTURE_CHANNELS, Channel
from stylert.core.machine.byte_products import byte_pairs_saturate
from stylert.runtime.bundle_files import EncoderEntry, FileEntry, PrecisionEntry, WithPrecisions, check_file
from stylert.runtime.bundle_manifest import CONST_SIDE, MAPPING_FILE, Manifest
from stylert.runtime.network_files import check_kind
from stylert.runtime.network_kinds import DEFAULT_NETWORK, NETWORK_KINDS, STYLEGAN2, NetworkKind
from stylert.runtime.session import TensorSpec

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
#: Suffix of the plan that a backend runs on processors whose products of bytes saturate
NO_VNNI = "-no-vnni"
#: Input of a synthesis network that was exported with it: what is added to the styles of all layers
STYLE_OFFSETS = "style_offsets"


@dataclass(frozen=True)
class Bundle(WithPrecisions):
    """The content of `bundle.json`, and the folder that it is in.

    Attributes:
        path: The folder.
        model: The generator's configuration.
        num_ws: The number of latents in ws.
        noise: `const`, `none` or `input`.
        noise_inputs: The name of each noise input, and the resolution of its block. Empty unless `noise` is `input`.
        output: `uint8` or `float`.
        files: Every file of the bundle, without the engines.
        precisions: The synthesis network of each precision.
        provenance: The origin of the bundle: checkpoint, versions, date.
        signed_engines: With a required signature, the engines that it covers: the sha256 of each `engine.json`, by the name of
            the engine's folder. Other engines are not loaded. None requires no signature.
        style_channels: The number of styles of all layers, which the input `style_offsets` moves. 0 without that input.
        encoder: The encoder network of each precision. Empty for a bundle without an encoder.
        channels: The channels of images of measured values, with names and units. Empty for pictures.
    """

    path: Path
    model: dict[str, Any]
    num_ws: int
    noise: str
    noise_inputs: dict[str, int]
    output: str
    files: dict[str, FileEntry]
    precisions: dict[str, PrecisionEntry]
    provenance: dict[str, Any]
    signed_engines: Mapping[str, str] | None = None
    style_channels: int = 0
    encoder: Mapping[str, EncoderEntry] = field(default_factory=dict)
    channels: tuple[Channel, ...] = ()

    @property
    def networks(self) -> set[str]:
        """The names of all its network files."""
        synthesis = {file for entry in self.precisions.values() for file in entry.files}
        return {MAPPING_FILE, *synthesis, *(entry.file for entry in self.encoder.values())}

    @property
    def shown_channels(self) -> int:
        """Channels of a picture of its images. Measured values, and more channels than colors, are shown as grey tiles."""
        channels = int(self.model["img_channels"])
        return 1 if self.channels or channels not in PICTURE_CHANNELS else channels

    @property
    def resolution(self) -> int:
        """The resolution of the last block, which is the side of square images."""
        return int(self.model["resolution"])

    @property
    def height(self) -> int:
        """Height of the images in pixels."""
        return self.size_at(self.resolution)[0]

    @property
    def width(self) -> int:
        """Width of the images in pixels."""
        return self.size_at(self.resolution)[1]

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.height * self.width

    @property
    def size_text(self) -> str:
        """The size of the images for messages: `64 px`, or width and height as `128x64 px`."""
        return f"{self.width} px" if self.width == self.height else f"{self.width}x{self.height} px"

    def size_at(self, resolution: int) -> tuple[int, int]:
        """Height and width in pixels at a block of the network, which is square unless its constant is not."""
        height, width = (self.model.get(name, CONST_SIDE) for name in ("const_height", "const_width"))
        return height * resolution // CONST_SIDE, width * resolution // CONST_SIDE

    @property
    def noise_sizes(self) -> dict[str, tuple[int, int]]:
        """Height and width of the map of each noise input."""
        return {name: self.size_at(resolution) for name, resolution in self.noise_inputs.items()}

    def require_usual_shape(self, purpose: str) -> None:
        """Raise InputError unless images are square with a power of two as their side. `purpose` names what needs that."""
        if (self.height, self.width) != (self.resolution, self.resolution):
            raise InputError(
                f"the images of bundle {self.path} are {self.size_text}, and {purpose} takes squares of a power of two"
            )

    @property
    def kind(self) -> NetworkKind:
        """The kind of its network."""
        return NETWORK_KINDS[self.model.get("network", DEFAULT_NETWORK)]

    def require_stylegan2(self, purpose: str) -> None:
        """Raise InputError for another network. `purpose` names a command that knows StyleGAN2 alone."""
        if self.kind is not STYLEGAN2:
            title = self.kind.title
            raise InputError(f"bundle {self.path} is a {title} network, and {purpose} knows {STYLEGAN2.title} alone")

    @property
    def mapping_tensors(self) -> list[TensorSpec]:
        """The inputs and the output of the mapping network."""
        inputs = [_floats("z", True, self.model["z_dim"]), _floats("psi", True, self.num_ws)]
        labels = [_floats("c", True, self.model["c_dim"])] if self.model["c_dim"] else []
        return [*inputs, *labels, _floats("ws", False, self.num_ws, self.model["w_dim"])]

    @property
    def synthesis_tensors(self) -> list[TensorSpec]:
        """The inputs and the output of every synthesis network."""
        height, width, channels = self.height, self.width, self.model["img_channels"]
        noise = [_floats(name, True, 1, *size) for name, size in self.noise_sizes.items()]
        image = (
            TensorSpec("image", False, np.dtype(np.uint8), (height, width, channels))
            if self.output == "uint8"
            else _floats("image", False, channels, height, width)
        )
        styles = [_floats(STYLE_OFFSETS, True, self.style_channels)] if self.style_channels else []
        return [_floats("ws", True, self.num_ws, self.model["w_dim"]), *noise, *styles, image]

    def check_no_noise_inputs(self) -> None:
        """Refuse a network that takes noise as inputs, for callers that give it ws alone.

        Raises:
            InputError: The network takes noise as inputs.
        """
        if self.noise == "input":
            raise InputError(f"bundle {self.path} takes noise as inputs: use it from Python, or export one with --noise const")

    def unmoved_styles(self, batch: int) -> dict[str, np.ndarray]:
        """The input that leaves the styles of `batch` images as they are, by its name. Empty for a network without it."""
        return {STYLE_OFFSETS: np.zeros((batch, self.style_channels), np.float32)} if self.style_channels else {}

    @property
    def encoder_tensors(self) -> list[TensorSpec]:
        """The input and the output of every encoder network."""
        side, channels = self.resolution, self.model["img_channels"]
        pictures = TensorSpec("images", True, np.dtype(np.uint8), (side, side, channels))
        return [pictures, _floats("ws", False, self.num_ws, self.model["w_dim"])]

    @classmethod
    def load(cls, path: str | Path, require_signature: str | Path | None = None) -> Bundle:
        """Read and check `bundle.json`. The bytes of the other files are checked by `checked_file`, when they are used.

        Args:
            path: The folder.
            require_signature: PEM file with the certificates of signers whom the caller trusts, or of their authorities. The
                bundle must be signed by one of them (`bundle_signature`). By default no signature is needed.

        Raises:
            BundleError: The folder or the manifest is missing, damaged or of another schema, or lacks the required signature.
            InputError: The file of certificates cannot be read.
            BackendError: A signature is required, and the extra `provenance` is not installed.
        """
        path = as_path(path, "bundle")
        name = str(path / MANIFEST)
        check_utf8(path)
        manifest_bytes = _read_manifest(path)
        signed_engines = None
        if require_signature is not None:
            from stylert.runtime.bundle_signature import check_bundle_signature

            signed_engines = check_bundle_signature(path, manifest_bytes, as_path(require_signature, "certificate file"))
        content = read_document(manifest_bytes, dict[str, Any], name, BundleError)
        if (schema := content.get("schema")) != SCHEMA_VERSION:
            raise BundleError(f"{name} has schema {shown(schema)}; this stylert reads schema {SCHEMA_VERSION}")
        manifest = read_part(content, Manifest, name, BundleError)
        _check_fields(content["model"], NETWORK_KINDS[manifest.model.network], name)
        return cls(
            path=path,
            model=content["model"],  # with the keys that only the export reads
            num_ws=manifest.io.num_ws,
            noise=manifest.io.noise,
            noise_inputs=manifest.io.noise_inputs,
            output=manifest.io.output,
            files=manifest.files,
            precisions=manifest.precisions,
            provenance=manifest.provenance,
            signed_engines=signed_engines,
            style_channels=manifest.io.style_channels,
            encoder=manifest.encoder,
            channels=manifest.channels,
        )

    def network(self, precision: str, backend: str) -> str:
        """The name of the file that a backend runs here: the form that suits it, or else the canonical file.

        Raises:
            InputError: The bundle lacks the precision, or the backend is no name.
        """
        if not isinstance(backend, str):
            raise InputError(f"a backend is a name, not {shown(backend)}")
        entry = self.precision(precision)
        return entry.plans.get(self.plan_name(precision, backend), entry.file)

    def plan_name(self, precision: str, backend: str) -> str:
        """The key in `PrecisionEntry.plans` of the file that a backend runs on this processor."""
        name = f"{backend}{NO_VNNI}"
        return name if name in self.precision(precision).plans and byte_pairs_saturate() else backend

    def checked_file(self, name: str) -> Path:
        """The path of a listed file, after comparing its bytes with the manifest.

        Raises:
            InputError: The bundle lists no file of this name.
            BundleError: The file is missing or cannot be read, or its bytes are others. Or it is the synthesis network of
                another kind than the manifest says.
        """
        if not isinstance(name, str) or name not in self.files:
            raise InputError(f"bundle {self.path} lists no file {shown(name)}, only: {', '.join(self.files)}")
        path = check_file(self.path / name, self.files[name], MANIFEST)
        if any(name in entry.files for entry in self.precisions.values()):
            check_kind(path, self.kind)
        return path

    def save(self) -> None:
        """Write `bundle.json`, atomically. The same content gives the same bytes."""
        io = {"num_ws": self.num_ws, "noise": self.noise, "noise_inputs": self.noise_inputs, "output": self.output}
        data = {
            "schema": SCHEMA_VERSION,
            "model": self.model,
            "io": io | ({"style_channels": self.style_channels} if self.style_channels else {}),
            "files": {n: {"sha256": f.sha256, "bytes": f.bytes} for n, f in sorted(self.files.items())},
            "precisions": {
                n: {
                    "file": p.file,
                    "min_psnr_db": p.min_psnr_db,
                    "recipe": p.recipe,
                    "accuracy": p.accuracy,
                    "plans": p.plans,
                }
                for n, p in self.precisions.items()
            },
            "provenance": self.provenance,
        }
        if self.encoder:
            data["encoder"] = {
                name: {"file": e.file, "recipe": e.recipe, "accuracy": e.accuracy} for name, e in self.encoder.items()
            }
        if self.channels:
            data["channels"] = [asdict(channel) for channel in self.channels]
        with atomic_file(self.path / MANIFEST, within=self.path) as temporary:
            temporary.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _floats(name: str, is_input: bool, *shape: int) -> TensorSpec:
    return TensorSpec(name, is_input, np.dtype(np.float32), shape)


def _check_fields(model: Mapping[str, Any], kind: NetworkKind, name: str) -> None:
    """Raise BundleError if a configuration has fields of another kind of network than it names."""
    for other in NETWORK_KINDS.values():
        if other is not kind and (fields := sorted(other.fields & set(model))):
            raise BundleError(f"{name} names a {kind.title} network, and has {fields[0]} of a {other.title} network")


def check_utf8(path: Path) -> None:
    """Raise BundleError if the path of a bundle is not text: the libraries that run networks take no other names."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise BundleError(
            f"bundle {shown(str(path))} has a name that is not UTF-8, which no backend opens: rename it"
        ) from None


def _read_manifest(path: Path) -> bytes:
    """The bytes of a bundle's manifest. Raises BundleError if there is none."""
    advice = f"make one with: stylert export model.safetensors --out {path}"
    try:
        if path.is_file():
            raise BundleError(f"{path} is a file, not a bundle; make one of a checkpoint: stylert export {path} --out bundle")
        if not path.exists():
            raise BundleError(f"bundle {path} does not exist; {advice}")
        if not (path / MANIFEST).exists():
            raise BundleError(f"bundle {path} has no {MANIFEST}; {advice}")
    except (OSError, ValueError) as e:  # a path that is too long or forbidden, or with a null character
        raise BundleError(f"bundle {shown(str(path))} cannot be read: {e.strerror if isinstance(e, OSError) else e}") from None
    return read_file(path / MANIFEST, BundleError, MAX_BYTES, "manifest")
