"""The bundle: a folder of ONNX networks and the manifest `bundle.json`, which describes them and holds their sha256."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylert.core.atomic import atomic_file
from stylert.core.errors import BundleError, InputError

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
MAPPING_FILE = "mapping.onnx"


@dataclass(frozen=True)
class FileEntry:
    """Hash and size of one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class PrecisionEntry:
    """The synthesis network of one precision.

    Attributes:
        file: The canonical file, for every backend.
        min_psnr_db: The least PSNR against PyTorch's float32 images that the bundle promises, dB.
        recipe: How export made the network, for people.
        accuracy: Measured accuracy by backend, for people.
        plans: By backend, the file of the same network in the form that suits it.
    """

    file: str
    min_psnr_db: float
    recipe: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        return [self.file, *self.plans.values()]


@dataclass(frozen=True)
class Bundle:
    """The content of `bundle.json`, and the folder that it is in.

    Attributes:
        path: The folder.
        model: The generator's configuration.
        num_ws: The number of latents in ws.
        noise: `const`, `none` or `input`.
        noise_inputs: The name of each noise input, and the side of its map in pixels. Empty unless `noise` is `input`.
        output: `uint8` or `float`.
        files: Every file of the bundle, without the engines.
        precisions: The synthesis network of each precision.
        provenance: The origin of the bundle: checkpoint, versions, date.
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

    @property
    def resolution(self) -> int:
        return int(self.model["resolution"])

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read and check `bundle.json`. The bytes of the other files are checked by `checked_file`, when they are used.

        Raises:
            BundleError: The folder or the manifest is missing, damaged or of another schema.
        """
        path = Path(path)
        manifest = path / MANIFEST
        data = _read_manifest(path)
        try:
            return cls._from_json(path, data)
        except KeyError as e:
            raise BundleError(f"{manifest} lacks {e.args[0]!r}") from None
        except (AttributeError, TypeError, ValueError) as e:
            raise BundleError(f"{manifest} is not a valid bundle manifest: {e}") from None

    @classmethod
    def _from_json(cls, path: Path, data: dict[str, Any]) -> Bundle:
        """Raises KeyError, AttributeError, TypeError or ValueError for values that are missing or wrong."""
        io = data["io"]
        bundle = cls(
            path=path,
            model=dict(data["model"]),
            num_ws=_whole(io["num_ws"]),
            noise_inputs={str(name): _whole(side) for name, side in io["noise_inputs"].items()},
            noise=_one_of(io["noise"], ("const", "none", "input")),
            output=_one_of(io["output"], ("uint8", "float")),
            files={_plain_name(n): FileEntry(str(f["sha256"]), int(f["bytes"])) for n, f in data["files"].items()},
            precisions={str(name): _precision_entry(entry) for name, entry in data["precisions"].items()},
            provenance=dict(data["provenance"]),
        )
        for key in ("resolution", "z_dim", "c_dim", "w_dim", "img_channels"):
            _whole(bundle.model[key])
        needed = {MAPPING_FILE, *(file for entry in bundle.precisions.values() for file in entry.files)}
        if unlisted := needed - set(bundle.files):
            raise ValueError(f"{min(unlisted)} is not listed under files")
        return bundle

    def precision(self, name: str) -> PrecisionEntry:
        """The entry of a precision. Raises InputError if the bundle does not have it."""
        if name not in self.precisions:
            raise InputError(f"bundle {self.path} has no {name!r} network, only: {', '.join(self.precisions)}")
        return self.precisions[name]

    def network(self, precision: str, backend: str) -> str:
        """The name of the file that a backend runs: the form that suits it, or else the canonical file."""
        entry = self.precision(precision)
        return entry.plans.get(backend, entry.file)

    def checked_file(self, name: str) -> Path:
        """The path of a listed file, after comparing its bytes with the manifest.

        Raises:
            BundleError: The file is missing, or its bytes are others.
        """
        path, entry = self.path / name, self.files[name]
        if not path.is_file():
            raise BundleError(f"bundle file {path} is missing; export the bundle again")
        size = path.stat().st_size
        if size != entry.bytes:
            raise BundleError(f"bundle file {path} has {size} bytes, the manifest says {entry.bytes}; export the bundle again")
        if sha256_of(path) != entry.sha256:
            raise BundleError(f"bundle file {path} does not match its sha256 in {MANIFEST}; export the bundle again")
        return path

    def save(self) -> None:
        """Write `bundle.json`, atomically. The same content gives the same bytes."""
        data = {
            "schema": SCHEMA_VERSION,
            "model": self.model,
            "io": {"num_ws": self.num_ws, "noise": self.noise, "noise_inputs": self.noise_inputs, "output": self.output},
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
        with atomic_file(self.path / MANIFEST) as temporary:
            temporary.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")


def file_entries(folder: Path, names: list[str]) -> dict[str, FileEntry]:
    """The entries of files in a folder, by name."""
    return {name: FileEntry(sha256_of(folder / name), (folder / name).stat().st_size) for name in names}


def sha256_of(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    """The JSON object in a bundle's manifest. Raises BundleError if there is none of this schema."""
    manifest = path / MANIFEST
    try:
        data = json.loads(manifest.read_text())
    except FileNotFoundError:
        problem = f"has no {MANIFEST}" if path.is_dir() else "does not exist"
        raise BundleError(f"bundle {path} {problem}; make one with: stylert export model.safetensors --out {path}") from None
    except NotADirectoryError:
        raise BundleError(
            f"{path} is a file, not a bundle; make one of a checkpoint: stylert export {path} --out bundle"
        ) from None
    except (OSError, ValueError) as e:
        raise BundleError(f"{manifest} cannot be read: {e}") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA_VERSION:
        raise BundleError(f"{manifest} has schema {schema!r}; this stylert reads schema {SCHEMA_VERSION}")
    return dict(data)


def _precision_entry(data: dict[str, Any]) -> PrecisionEntry:
    return PrecisionEntry(
        file=_plain_name(data["file"]),
        min_psnr_db=float(data["min_psnr_db"]),
        recipe=dict(data["recipe"]),
        accuracy=dict(data["accuracy"]),
        plans={str(backend): _plain_name(file) for backend, file in data.get("plans", {}).items()},
    )


def _plain_name(name: Any) -> str:
    """The name itself, if it is a file name without a folder. Raises ValueError otherwise."""
    if not isinstance(name, str) or not name or name in (".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a plain file name")
    return name


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _one_of(value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
    return str(value)
