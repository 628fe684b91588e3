"""Declares `stylert serve`: bundles behind HTTP until a signal stops it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylert.cli.app import NoSign, OneBackend, Precisions, RequireSignature, Threads, app, split_list
from stylert.cli.bundle_names import NamedFolders, named_folder
from stylert.cli.console import print_line, print_note
from stylert.cli.serving_options import MaxBatch, MaxDelay
from stylert.core.errors import InputError, missing_extra
from stylert.core.files.inputs import read_file
from stylert.core.provenance.signing import active_signer

if TYPE_CHECKING:
    from stylert.runtime.serving.dragging import Dragger

KEY_VARIABLE = "STYLERT_API_KEY"
MAX_KEY_FILE = 4096


@app.command()
def serve(
    bundles: NamedFolders,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every network of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    grpc_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of gRPC; by default there is none.")] = None,
    directions: Annotated[
        list[Path] | None,
        typer.Option(help="File of directions along which requests may move images. May be repeated, once for each network."),
    ] = None,
    drag: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint of a bundle's network: its images can be dragged by handles. It needs torch.", metavar="CHECKPOINT"
        ),
    ] = None,
    backend: OneBackend = "auto",
    precision: Precisions = None,
    threads: Threads = None,
    max_batch: MaxBatch = 8,
    max_delay: MaxDelay = 0.0,
    incremental: Annotated[
        bool,
        typer.Option(
            "--incremental", help="Compute only the layers behind the first latent that has changed since the last images."
        ),
    ] = False,
    max_queue: Annotated[int, typer.Option(min=1, max=1_000_000, help="Images of a model that wait; then status 503.")] = 256,
    max_images: Annotated[int, typer.Option(min=1, max=4096, help="Images of one request.")] = 64,
    timeout: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds for the answer of a request.")] = 60.0,
    api_key_file: Annotated[
        Path | None, typer.Option(help=f"File with the key that requests must carry; or the variable {KEY_VARIABLE}.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log warnings and errors only, not every request.")] = False,
    no_sign: NoSign = False,
    require_signature: RequireSignature = None,
) -> None:
    """Serve bundles over HTTP, with a page at / and the KServe protocol. SIGTERM drains, SIGHUP reads the bundles again."""
    try:
        from stylert.runtime.serving.request_log import json_log
        from stylert.runtime.serving.server import BundleSource, ImageServer, ServerSettings
    except ModuleNotFoundError as e:
        if (e.name or "").startswith("stylert"):
            raise
        raise missing_extra(e.name or "FastAPI", "serve") from None

    precisions = tuple(split_list(precision) or [])
    sources = [BundleSource(*named_folder(text), precisions, backend, threads, require_signature) for text in bundles]
    key = _api_key(api_key_file)
    signer = active_signer()
    settings = ServerSettings(
        host=host,
        port=port,
        grpc_port=grpc_port,
        api_key=key,
        max_batch=max_batch,
        max_delay_ms=max_delay,
        incremental=incremental,
        max_queue=max_queue,
        max_images=max_images,
        request_seconds=timeout,
    )
    with json_log(logging.WARNING if quiet else logging.INFO):
        server = ImageServer(sources, settings, directions or [], None if drag is None else _dragger(drag))
        if key is None and host not in ("127.0.0.1", "localhost", "::1"):
            print_note(f"{host} is open to other machines, and there is no API key: see --api-key-file", style="yellow")

        def ready() -> None:
            names = ", ".join(f"{m.name} ({m.generator.precision} on {m.generator.backend})" for m in server.store.models)
            grpc = f", gRPC at {server.grpc_address}" if server.grpc_address else ""
            print_line(f"serving {names} at {server.url}{grpc}")
            if signer is not None:
                print_note(f"pictures are signed by {signer.chain.signer}")

        server.run(ready)
    if server.store.hung:
        os._exit(1)  # the end of the interpreter would free networks that still run


def _dragger(checkpoint: Path) -> Dragger:
    """The dragger of the images of a checkpoint."""
    try:
        from stylert.train.dragging.dragger import DragSettings
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    from stylert.cli.latents.dragging import new_dragger
    from stylert.core.files.digests import sha256_of
    from stylert.models.checkpoint import generator_module
    from stylert.models.importers.import_checkpoint import read_stylegan2_generator

    generator = generator_module(read_stylegan2_generator(checkpoint, "stylert serve --drag"))
    return new_dragger(generator, sha256_of(checkpoint), DragSettings())


def _api_key(file: Path | None) -> str | None:
    """The key in a file, or else in the environment. It is no option, because other users see the options of a process."""
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = read_file(file, InputError, MAX_KEY_FILE, "key file").decode().strip()
    except UnicodeDecodeError:
        raise InputError(f"key file {file} is not text") from None
    if not key:
        raise InputError(f"key file {file} is empty")
    return key
