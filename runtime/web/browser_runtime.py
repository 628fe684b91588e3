"""The files of ONNX Runtime Web that a page carries: one version, each file known by its sha256.

npm, the client of the registry that has the package, loads it once into the user's cache. A file or folder that somebody has loaded
already does as well. Nothing else gets into a page, since these files run in the browsers of its visitors.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from stylert.core.errors import BackendError, InputError, OutputError, shown_line
from stylert.core.files.atomic import atomic_file
from stylert.core.files.cache import cache_folder
from stylert.core.files.inputs import read_file
from stylert.core.files.temporary import temporary_folder

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
#: sha512 of the package as npm has it.
ARCHIVE_SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
MAX_BYTES = 2**28
NPM_SECONDS = 900


@dataclass(frozen=True)
class RuntimeFile:
    """A file of the package.

    Attributes:
        source: Its name in the folder `dist` of the package.
        name: Its name in a page. Some hosts send a suffix `.mjs` with a type that browsers refuse.
        sha256: The hash of its bytes.
    """

    source: str
    name: str
    sha256: str


#: The files that run a network, by the provider of ONNX Runtime.
RUNTIME_FILES = {
    "wasm": (
        RuntimeFile("ort.wasm.min.mjs", "ort.wasm.js", "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b"),
        RuntimeFile(
            "ort-wasm-simd-threaded.mjs",
            "ort-wasm-simd-threaded.js",
            "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
        ),
        RuntimeFile(
            "ort-wasm-simd-threaded.wasm",
            "ort-wasm-simd-threaded.wasm",
            "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
        ),
    ),
    "webgpu": (
        RuntimeFile("ort.webgpu.min.mjs", "ort.webgpu.js", "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0"),
        RuntimeFile(
            "ort-wasm-simd-threaded.asyncify.mjs",
            "ort-wasm-simd-threaded.asyncify.js",
            "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
        ),
        RuntimeFile(
            "ort-wasm-simd-threaded.asyncify.wasm",
            "ort-wasm-simd-threaded.asyncify.wasm",
            "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
        ),
    ),
}


def runtime_files(providers: tuple[str, ...], source: Path | None = None) -> dict[str, bytes]:
    """The files for some providers of `RUNTIME_FILES`, by their names in a page.

    Args:
        providers: Names of providers.
        source: The package as npm packs it (`npm pack`), or its folder, such as `node_modules/onnxruntime-web`. None takes the
            user's cache, or else npm.

    Raises:
        InputError: `source` is not this version of the package.
        BackendError: npm is not installed, or cannot load the package.
    """
    files = [file for provider in providers for file in RUNTIME_FILES[provider]]
    if source is not None and source.is_dir():
        contents = {file.source: _of_folder(source, file) for file in files}
    else:
        contents = _of_archive(_loaded_archive() if source is None else _given_archive(source), files)
    for file in files:
        if hashlib.sha256(contents[file.source]).hexdigest() != file.sha256:
            raise InputError(f"{source or PACKAGE}: {file.source} is not that of {PACKAGE} {VERSION}")
    return {file.name: contents[file.source] for file in files}


def _of_folder(folder: Path, file: RuntimeFile) -> bytes:
    return read_file(folder / "dist" / file.source, InputError, MAX_BYTES, f"file of {PACKAGE} {VERSION}")


def _of_archive(archive: bytes, files: list[RuntimeFile]) -> dict[str, bytes]:
    """The files in the package. It is known by its hash, so it has them."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as package:
        contents = {file.source: package.extractfile(f"package/dist/{file.source}") for file in files}
        return {name: content.read() for name, content in contents.items() if content is not None}


def _given_archive(path: Path) -> bytes:
    archive = read_file(path, InputError, MAX_BYTES, "package")
    if not _is_package(archive):
        raise InputError(f"{path} is not {PACKAGE} {VERSION}; make it with: npm pack {PACKAGE}@{VERSION}")
    return archive


def _loaded_archive() -> bytes:
    """The package from the user's cache, or from npm, and then also in the cache."""
    place = cache_folder() / f"{PACKAGE}-{VERSION}.tgz"
    with contextlib.suppress(InputError):
        if _is_package(archive := read_file(place, InputError, MAX_BYTES)):
            return archive
    archive = _packed_by_npm()
    with contextlib.suppress(OutputError), atomic_file(place) as temporary:  # a cache that cannot be written is no failure
        temporary.write_bytes(archive)
    return archive


def _packed_by_npm() -> bytes:
    npm = shutil.which("npm")
    other = f"give the package with --runtime-from: npm pack {PACKAGE}@{VERSION}, on a machine that has npm"
    if npm is None:
        raise BackendError(f"npm, which loads {PACKAGE} {VERSION}, is not installed; install it, or {other}")
    with temporary_folder("npm") as folder:  # npm reads the settings of the folder that it is started in
        command = [
            npm,
            "pack",
            f"{PACKAGE}@{VERSION}",
            "--ignore-scripts",
            "--no-update-notifier",
            "--pack-destination",
            str(folder),
        ]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=NPM_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise BackendError(f"npm cannot load {PACKAGE} {VERSION}: {shown_line(str(e))}; {other}") from None
        packed = list(folder.glob("*.tgz"))
        if done.returncode != 0 or not packed:
            lines = [line for line in done.stderr.splitlines() if line.startswith(("npm error", "npm ERR!"))]
            reason = shown_line((lines or ["it gave no reason"])[0])
            raise BackendError(f"npm cannot load {PACKAGE} {VERSION}: {reason}; {other}")
        archive = packed[0].read_bytes()
    if not _is_package(archive):
        raise BackendError(f"npm gave another file than {PACKAGE} {VERSION}; look at its registry: npm config get registry")
    return archive


def _is_package(archive: bytes) -> bool:
    return hashlib.sha512(archive).hexdigest() == ARCHIVE_SHA512
