"""Declares and runs `stylert encode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from stylert.cli.app import BundlePath, JsonFile, RequireSignature, Threads, app
from stylert.cli.console import print_line, print_note, print_table
from stylert.cli.latents.distance_options import Transform
from stylert.core.errors import InputError
from stylert.core.files.outputs import check_output, is_same_file, write_json


@app.command()
def encode(
    bundle: BundlePath,
    pictures: Annotated[list[Path], typer.Argument(help="Picture files, and folders or zips of them.")],
    out: Annotated[Path, typer.Option(help="The latents, a .safetensors file.")],
    precision: Annotated[str, typer.Option(help="Precision of the encoder: fp32, fp16 or int8.")] = "fp32",
    transform: Transform = "none",
    threads: Threads = None,
    require_signature: RequireSignature = None,
    json: JsonFile = None,
) -> None:
    """Turn pictures into latents with the encoder of a bundle, in one pass and without torch.

    The latents are for `--latents` of generate, mix, interpolate and edit. `stylert project --encoder` comes nearer to the pictures.
    """
    from stylert.core.images.grids import as_uint8
    from stylert.core.images.similarity import psnr_each
    from stylert.runtime.bundle import Bundle
    from stylert.runtime.generator import Generator
    from stylert.runtime.steering.latents_file import Latents, write_latents
    from stylert.runtime.steering.picture_encoder import PictureEncoder
    from stylert.train.projection.pictures import read_pictures

    check_output(out, "latents", (*pictures,))
    check_output(json, "JSON", (*pictures,))
    if json is not None and is_same_file(out, json):
        raise InputError(f"--out and --json both write {out}: choose another file")
    opened = Bundle.load(bundle, require_signature)
    opened.check_no_noise_inputs()
    with PictureEncoder.load(opened, precision, threads) as encoder:
        found = read_pictures(pictures, opened.resolution, opened.model["img_channels"], transform)
        images = np.stack([picture.pixels for picture in found])
        ws = encoder(images)
    for picture in found:
        if picture.note:
            print_note(f"{picture.name}: {picture.note}")
    with Generator.load(opened, precision=opened.default_precision, threads=threads) as generator:
        psnr = psnr_each(as_uint8(generator.synthesize(ws)), images)
    rows = [{"name": picture.name, "psnr_db": round(float(value), 3)} for picture, value in zip(found, psnr, strict=True)]
    facts = {"encoder": opened.encoder[precision].recipe.get("encoder_sha256", ""), "precision": precision, "pictures": rows}
    network = opened.provenance["checkpoint_sha256"]
    write_latents(out, Latents(network, ws, tuple(picture.name for picture in found), facts))
    if json is not None:
        write_json(json, {"checkpoint_sha256": network, **facts})
    print_table("pictures", ["<name", "PSNR dB"], [(row["name"], f"{row['psnr_db']:.2f}") for row in rows])
    print_line(f"wrote {out}: latents of {len(found)} pictures, PSNR {psnr.mean():.2f} dB in the mean")
