"""Declares `stylert web`: bundles as a static page that makes images in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylert.cli.app import Precisions, app, split_list
from stylert.cli.bundle_names import NamedFolders, named_folder
from stylert.cli.console import print_line


@app.command()
def web(
    bundles: NamedFolders,
    out: Annotated[Path, typer.Option(help="Folder of the page.")],
    precision: Precisions = None,
    webgpu: Annotated[bool, typer.Option(help="Also let float32 networks run on WebGPU, where a browser has it.")] = True,
    directions: Annotated[
        list[Path] | None,
        typer.Option(help="File of directions for sliders of the page. May be repeated, once for each network."),
    ] = None,
    runtime_from: Annotated[
        Path | None,
        typer.Option(help="The package onnxruntime-web as a .tgz file or a folder; by default npm loads it, once."),
    ] = None,
) -> None:
    """Write bundles as a static page that makes images in the browser, for any host of files. No server computes."""
    from stylert.runtime.serving.named_bundle import NamedBundle
    from stylert.runtime.web.site import write_site

    precisions = tuple(split_list(precision) or [])
    sources = [NamedBundle(*named_folder(text), precisions) for text in bundles]
    for download in write_site(sources, out, runtime_from, webgpu, directions or []):
        kind = "WebAssembly" if download.provider == "wasm" else "WebGPU"
        sizes = f"{download.bytes / 1e6:.1f} MB, {download.compressed / 1e6:.1f} MB with gzip"
        print_line(f"{download.model} on {kind}: a browser loads {sizes}")
    print_line(f"wrote {out}: python -m http.server --directory {out}")
