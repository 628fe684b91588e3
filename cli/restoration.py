"""Declares `stylert restorer export` and `stylert restore`: photographs of faces, restored by a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylert.cli.app import Batch, CommandGroup, JsonFile, NoSign, Threads, app, split_list
from stylert.cli.console import print_line, print_note, print_table, progress
from stylert.core.errors import InputError
from stylert.core.files.outputs import check_not_input, check_output, write_json

restorer = CommandGroup(help="Networks that restore photographs of faces.", no_args_is_help=True)
app.add_typer(restorer, name="restorer")


@restorer.callback()
def _group() -> None:
    """Networks that restore photographs of faces."""


@restorer.command("export")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A public .pth file of GFP-GAN (clean, v1.2 or later) or of GPEN.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an older bundle in it is replaced.")],
    precision: Annotated[str, typer.Option(help="Comma-separated: fp32, fp16, int8.")] = "fp32",
    photo: Annotated[
        list[Path] | None,
        typer.Option(help="Photograph of an aligned face, for fp16, int8 and the accuracy. May be repeated. Drawn by default."),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Write the ONNX networks of a restoration network, with their measured accuracy. No code from the file runs."""
    from stylert.export.restoration.pipeline import export_restorer

    check_output(json, "JSON", (checkpoint, *(photo or ())))
    with progress() as report:
        bundle, rows = export_restorer(checkpoint, out, split_list(precision) or (), photo or (), report)
    for note in bundle.provenance["notes"]:
        print_line(f"  {note}")
    figures = [
        (row.backend, row.precision, f"{row.psnr_db:.2f}", f"{row.worst_psnr_db:.2f}", f"{row.min_psnr_db:g}") for row in rows
    ]
    print_table(f"{bundle.title}, {bundle.resolution} px", ["<backend", "<precision", "PSNR dB", "worst", "promised"], figures)
    if json is not None:
        write_json(json, {"bundle": bundle.sha256, "precisions": {n: e.accuracy for n, e in bundle.precisions.items()}})
    print_line(f"wrote {out}")


@app.command("restore")
def restore(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Pictures.")],
    bundle: Annotated[Path, typer.Option(help="Bundle folder, written by `stylert restorer export`.")],
    out: Annotated[Path, typer.Option(help="Folder of the restored pictures.")],
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y,SIDE",
            help="Square of a face: pixels to its left, above it, and its side. Its image is put back into the photo. May be repeated.",
        ),
    ] = None,
    backend: Annotated[str, typer.Option(help="onnxruntime or openvino.")] = "onnxruntime",
    precision: Annotated[str | None, typer.Option(help="Any that the bundle holds. By default fp32, or its first.")] = None,
    batch: Batch = 1,
    threads: Threads = None,
    no_sign: NoSign = False,
) -> None:
    """Restore photographs of faces. A photograph is one aligned face, square; with --box, faces are squares in it.

    Each picture says that a model changed it, and is signed where a key is set up.
    """
    from stylert.core.provenance.signing import active_signer
    from stylert.runtime.media.pictures import check_own_picture, save_image
    from stylert.runtime.restoration.facts import restoration_facts
    from stylert.runtime.restoration.photographs import parse_box
    from stylert.runtime.restoration.restorer import Restorer
    from stylert.runtime.restoration.restoring import Photograph, restore_photograph

    boxes = [parse_box(text) for text in box or ()]
    places = {photo: out / f"{photo.stem}.png" for photo in photos}
    if len(set(places.values())) < len(photos):
        raise InputError("two photographs have one name: their pictures would be one file")
    with Restorer.load(bundle, backend, precision, threads) as network:
        sources = []
        for photo, place in places.items():
            check_not_input(place, photos)
            check_own_picture(place)
            sources.append((Photograph.read(photo, boxes, network.bundle.resolution), place))
        active_signer()  # a credential that cannot sign is told here, before the long part
        with progress() as report:
            for done, (source, place) in enumerate(sources, 1):
                if source.note:
                    print_note(source.note)
                picture = restore_photograph(network, source, batch)
                save_image(picture, place, restoration_facts(network, source.sha256, boxes))
                report("restore", done, len(sources))
    for place in places.values():
        print_line(f"wrote {place}")
