"""Writes the folder of a static page: the page, its networks, and ONNX Runtime Web.

    site/index.html  page/  ort/  models.json  models/<name>/  service_worker.js  site_version.js  _headers

Any server of static files can host it, also below a path. The same bundles give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from stylert.core.errors import InputError
from stylert.core.files.marks import marked_directory
from stylert.runtime.bundle import Bundle
from stylert.runtime.media.pictures import check_bundle_channels
from stylert.runtime.media.recipes import bundle_hash
from stylert.runtime.serving.named_bundle import NamedBundle, check_names
from stylert.runtime.serving.network_facts import network_facts
from stylert.runtime.serving.served_directions import check_directions
from stylert.runtime.web.browser_networks import PRECISIONS, mapping_network, synthesis_network
from stylert.runtime.web.browser_runtime import RUNTIME_FILES, runtime_files
from stylert.runtime.web.site_directions import LIST, VECTORS, write_site_directions

#: The page of the server, and the files that replace or complete those of it.
SHARED_PAGE = Path(__file__).parent.parent / "serving" / "page"
OWN_FILES = Path(__file__).parent / "page"
SERVICE_WORKER = "service_worker.js"
#: Files of the shared page that describe the routes of a server.
NOT_SHARED = ("docs.html", "docs.js")
MARK = "stylert-site.json"
#: With these headers, a page may use threads, and loads nothing from elsewhere. The service worker adds them as well.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'self'",
}


@dataclass(frozen=True)
class Download:
    """The files that a browser loads before the first picture of a model.

    Attributes:
        model: Name of the model.
        provider: `wasm` or `webgpu`.
        bytes: Bytes of all files.
        compressed: The same as a server sends them, by gzip.
    """

    model: str
    provider: str
    bytes: int
    compressed: int


def write_site(
    sources: Sequence[NamedBundle],
    out: Path,
    runtime_from: Path | None = None,
    with_webgpu: bool = True,
    directions: Sequence[Path] = (),
) -> list[Download]:
    """Write the page. It replaces one that was written before, and no other folder.

    Args:
        sources: The bundles. The first precision of the first one is the model that the page opens with.
        out: The folder.
        runtime_from: The package of ONNX Runtime Web, as in `runtime_files`.
        with_webgpu: Whether float32 networks may run on WebGPU, which needs further files of ONNX Runtime Web.
        directions: Files of directions, each of the network of a bundle. The page has a slider for each direction of w.

    Returns:
        The size of each model.

    Raises:
        InputError: A bundle lacks a precision, two have one name, the package is another one, or a file of directions is damaged.
        BackendError: A page cannot run a bundle, or npm cannot load the package.
        BundleError: A bundle is damaged, or directions belong to no bundle.
        OutputError: The folder cannot be written, or holds other files.
    """
    check_names(sources)
    providers = ("wasm", "webgpu") if with_webgpu else ("wasm",)
    check_directions(directions, [Bundle.load(source.path) for source in sources])
    with marked_directory(out, MARK, [*(source.path for source in sources), *directions]) as site:
        models = [model for source in sources for model in _write_models(source, site / "models", directions)]
        runtime = runtime_files(providers, runtime_from)  # after the bundles, whose faults are found in less time
        _write_page(site)
        (site / "ort").mkdir()
        for name, content in runtime.items():
            (site / "ort" / name).write_bytes(content)
        sizes = {provider: sum(len(runtime[file.name]) for file in RUNTIME_FILES[provider]) for provider in providers}
        document = {"stylert": version("stylert"), "runtime_bytes": sizes, "models": models}
        (site / "models.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        _write_service_worker(site)
        sizes_of = cache(_compressed_bytes)
        return [_download(site, model, provider, sizes_of) for model in models for provider in _providers(model, providers)]


def _write_models(source: NamedBundle, folder: Path, direction_files: Sequence[Path]) -> list[dict[str, object]]:
    """Write the networks of a bundle. Returns the facts of each precision for the page."""
    bundle = Bundle.load(source.path)
    bundle.require_stylegan2("stylert web")
    bundle.require_usual_shape("stylert web")
    check_bundle_channels("a picture as png.png", bundle)
    digest = bundle_hash(bundle)
    precisions = source.precisions or tuple(p for p in PRECISIONS if p in bundle.precisions)
    if not precisions:
        raise InputError(f"bundle {bundle.path} has {', '.join(bundle.precisions)}, and a browser runs {', '.join(PRECISIONS)}")
    place = folder / source.name
    place.mkdir(parents=True)
    models: list[dict[str, object]] = []
    (place / "mapping.onnx").write_bytes(mapping_network(bundle))
    directions = write_site_directions(bundle, direction_files, place)
    own = {"directions": LIST, "vectors": VECTORS} if directions else {}
    for precision in precisions:
        (place / f"synthesis.{precision}.onnx").write_bytes(synthesis_network(bundle, precision))
        names = {"mapping": "mapping.onnx", "synthesis": f"synthesis.{precision}.onnx", **own}
        files = {
            part: {"path": f"models/{source.name}/{name}", "bytes": (place / name).stat().st_size}
            for part, name in names.items()
        }
        name = source.name if not models else f"{source.name}.{precision}"
        facts = {**network_facts(bundle), "directions": directions}
        models.append({"name": name, "precision": precision, **facts, "sha256": digest, "files": files})
    return models


def _write_page(site: Path) -> None:
    page = site / "page"
    shutil.copytree(SHARED_PAGE, page, ignore=shutil.ignore_patterns(*NOT_SHARED, "index.html"))
    shutil.copyfile(SHARED_PAGE / "index.html", site / "index.html")
    for file in OWN_FILES.iterdir():
        shutil.copyfile(file, (site if file.name == SERVICE_WORKER else page) / file.name)


def _write_service_worker(site: Path) -> None:
    """Write the list of files that the service worker keeps, and the headers for hosts that read them from a file."""
    lines = "".join(f"  {name}: {value}\n" for name, value in HEADERS.items())
    (site / "_headers").write_text(f"/*\n{lines}", encoding="utf-8")
    files = sorted(file for file in site.rglob("*") if file.is_file() and file.name not in ("_headers", SERVICE_WORKER))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(site).as_posix()}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    names = [file.relative_to(site).as_posix() for file in files]
    constants = {
        "VERSION": digest.hexdigest()[:16],
        "HEADERS": HEADERS,
        "FILES": ["./", *names],
        "FIRST_FILES": ["./", *(name for name in names if name.startswith("page/"))],
    }
    text = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in constants.items())
    (site / "site_version.js").write_text(text, encoding="utf-8")


def _providers(model: dict[str, object], providers: tuple[str, ...]) -> tuple[str, ...]:
    return providers if model["precision"] == "fp32" else ("wasm",)


def _download(site: Path, model: dict[str, object], provider: str, compressed_bytes: Callable[[Path], int]) -> Download:
    page = [site / "index.html", site / "models.json", *sorted((site / "page").iterdir())]
    runtime = [site / "ort" / file.name for file in RUNTIME_FILES[provider]]
    networks = [site / str(file["path"]) for file in model["files"].values()]  # type: ignore[attr-defined]
    files = [*page, *runtime, *networks]
    return Download(str(model["name"]), provider, sum(f.stat().st_size for f in files), sum(map(compressed_bytes, files)))


def _compressed_bytes(file: Path) -> int:
    return len(zlib.compress(file.read_bytes(), 6))
