"""The bundle: a folder of ONNX networks with `bundle.json`, which says what they are and what their bytes hash to."""

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
    """Identity of one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class PrecisionEntry:
    """One synthesis network: its file, the recipe that made it and the accuracy that it promises.

    `min_psnr_db` is the bundle's own threshold against the float32 PyTorch images; `recipe` and `accuracy` are facts
    for people.
    """

    file: str
    min_psnr_db: float
    recipe: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)  # by backend: the same network in the form that suits it

    @property
    def files(self) -> list[str]:
        return [self.file, *self.plans.values()]


@dataclass(frozen=True)
class Bundle:
    """What `bundle.json` says, and where it lies."""

    path: Path
    model: dict[str, Any]  # the generator's configuration
    num_ws: int
    noise: str  # const, none, input
    noise_inputs: dict[str, int]  # name to side in pixels; empty unless noise is input
    output: str  # uint8, float
    files: dict[str, FileEntry]
    precisions: dict[str, PrecisionEntry]
    provenance: dict[str, Any]

    @property
    def resolution(self) -> int:
        return int(self.model["resolution"])

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Read and check `bundle.json`. Files are checked when they are opened, by `checked_file`.

        Raises BundleError when the folder or the manifest is missing, damaged or of another schema.
        """
        path = Path(path)
        manifest = path / MANIFEST
        try:
            data = json.loads(manifest.read_text())
        except FileNotFoundError:
            what = f"has no {MANIFEST}" if path.is_dir() else "does not exist"
            raise BundleError(f"bundle {path} {what}; make one with: stylert export model.safetensors --out {path}") from None
        except NotADirectoryError:
            raise BundleError(
                f"{path} is a file, not a bundle; make one of a checkpoint: stylert export {path} --out bundle"
            ) from None
        except (OSError, ValueError) as e:
            raise BundleError(f"{manifest} cannot be read: {e}") from None
        if not isinstance(data, dict) or data.get("schema") != SCHEMA_VERSION:
            found = data.get("schema") if isinstance(data, dict) else None
            raise BundleError(f"{manifest} has schema {found!r}; this stylert reads schema {SCHEMA_VERSION}")
        try:
            bundle = cls(
                path=path,
                model=dict(data["model"]),
                num_ws=_whole(data["io"]["num_ws"]),
                noise_inputs={str(n): _whole(side) for n, side in data["io"]["noise_inputs"].items()},
                noise=_one_of(data["io"]["noise"], ("const", "none", "input")),
                output=_one_of(data["io"]["output"], ("uint8", "float")),
                files={_plain_name(n): FileEntry(str(f["sha256"]), int(f["bytes"])) for n, f in data["files"].items()},
                precisions={
                    str(name): PrecisionEntry(
                        _plain_name(p["file"]),
                        float(p["min_psnr_db"]),
                        dict(p["recipe"]),
                        dict(p["accuracy"]),
                        {str(backend): _plain_name(file) for backend, file in p.get("plans", {}).items()},
                    )
                    for name, p in data["precisions"].items()
                },
                provenance=dict(data["provenance"]),
            )
            for key in ("resolution", "z_dim", "c_dim", "w_dim", "img_channels"):
                _whole(bundle.model[key])
            missing = {MAPPING_FILE, *(f for p in bundle.precisions.values() for f in p.files)} - set(bundle.files)
            if missing:
                raise ValueError(f"{min(missing)} is not listed under files")
        except KeyError as e:
            raise BundleError(f"{manifest} lacks {e.args[0]!r}") from None
        except (AttributeError, TypeError, ValueError) as e:
            raise BundleError(f"{manifest} is not a valid bundle manifest: {e}") from None
        return bundle

    def precision(self, name: str) -> PrecisionEntry:
        """The entry of a precision. Raises InputError when the bundle does not hold it."""
        if name not in self.precisions:
            raise InputError(f"bundle {self.path} has no {name!r} network, only: {', '.join(self.precisions)}")
        return self.precisions[name]

    def network(self, precision: str, backend: str) -> str:
        """The file of a precision that a backend runs: the form made for it, or the canonical one."""
        entry = self.precision(precision)
        return entry.plans.get(backend, entry.file)

    def checked_file(self, name: str) -> Path:
        """The path of a listed file after comparing its bytes with the manifest. Raises BundleError when they differ."""
        path, entry = self.path / name, self.files[name]
        if not path.is_file():
            raise BundleError(f"bundle file {path} is missing; export the bundle again")
        if path.stat().st_size != entry.bytes:
            raise BundleError(
                f"bundle file {path} has {path.stat().st_size} bytes, the manifest says {entry.bytes}; export the bundle again"
            )
        if sha256_of(path) != entry.sha256:
            raise BundleError(f"bundle file {path} does not match its sha256 in {MANIFEST}; export the bundle again")
        return path

    def save(self) -> None:
        """Write `bundle.json`. The same content gives the same bytes. Atomic."""
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
    """Hash files in `folder`."""
    return {name: FileEntry(sha256_of(folder / name), (folder / name).stat().st_size) for name in names}


def sha256_of(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _plain_name(name: Any) -> str:
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
