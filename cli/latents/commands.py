"""Declares mix, sweep, interpolate and again with their options. `drawing.py` runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylert.cli.app import BundlePath, NoSign, Psi, RequireSignature, Threads, app
from stylert.cli.console import print_line, print_note, progress
from stylert.cli.picture_options import PictureOptions, with_picture_options

GridFile = Annotated[Path, typer.Option(help="File of the grid: .png, .webp, .jpg or .gif.")]


@app.command()
@with_picture_options
def mix(
    bundle: BundlePath,
    rows: Annotated[str, typer.Option(help="Seeds of the rows, such as 0-3.")],
    cols: Annotated[str, typer.Option(help="Seeds of the columns, such as 10-14.")],
    out: GridFile,
    options: PictureOptions,
    levels: Annotated[
        str, typer.Option(help="Levels that come from the column: coarse, middle, fine, or latents such as 0-3.")
    ] = "coarse",
    psi: Psi = 1.0,
) -> None:
    """Mix styles: each image of a grid takes some levels from its column's seed and the rest from its row's."""
    from stylert.cli.latents import drawing as pictures
    from stylert.core.seeds import parse_seeds

    with progress() as report:
        pictures.mix(bundle, parse_seeds(rows), parse_seeds(cols), levels, out, psi, options, report)
    print_line(f"wrote {out}")


@app.command()
@with_picture_options
def sweep(
    bundle: BundlePath,
    seeds: Annotated[str, typer.Option(help="One row each, such as 0-3.")],
    out: GridFile,
    options: PictureOptions,
    psi: Annotated[str, typer.Option(help="One column each, comma-separated.")] = "-1,-0.5,0,0.5,1",
) -> None:
    """Show the effect of truncation: a row per seed, a column per psi."""
    from stylert.cli.latents import drawing as pictures
    from stylert.core.seeds import parse_seeds

    with progress() as report:
        pictures.sweep(bundle, parse_seeds(seeds), psi, out, options, report)
    print_line(f"wrote {out}")


@app.command()
@with_picture_options
def interpolate(
    bundle: BundlePath,
    seeds: Annotated[str, typer.Option(help="The keyframes in order, such as 0,5,2.")],
    out: Annotated[Path, typer.Option(help="The video: .mp4 (needs the extra `video`), .webp or .gif.")],
    options: PictureOptions,
    seconds: Annotated[float, typer.Option(help="Length of the video.")] = 10.0,
    fps: Annotated[int, typer.Option(help="Frames per second.")] = 30,
    loop: Annotated[bool, typer.Option("--loop", help="Return to the first seed at the end.")] = False,
    space: Annotated[str, typer.Option(help="w: a smooth curve; z: great circles.")] = "w",
    psi: Psi = 1.0,
) -> None:
    """Make a video that passes through seeds."""
    from stylert.cli.latents import drawing as pictures
    from stylert.core.seeds import parse_seeds

    with progress() as report:
        pictures.interpolate(bundle, parse_seeds(seeds), seconds, fps, loop, space, out, psi, options, report)
    print_line(f"wrote {out}")


@app.command()
def again(
    file: Annotated[Path, typer.Argument(help="A picture or video that stylert made.")],
    out: Annotated[Path, typer.Option(help="The new file; it may have another suffix.")],
    bundle: Annotated[Path | None, typer.Option(help="The bundle that made it; by default ./bundle.")] = None,
    directions: Annotated[Path | None, typer.Option(help="The directions that made it, if it is an edit or a sheet.")] = None,
    threads: Threads = None,
    no_sign: NoSign = False,
    require_signature: RequireSignature = None,
) -> None:
    """Make a picture or video again, from the recipe inside the file."""
    from stylert.cli.latents import drawing as pictures

    with progress() as report:
        recipe, verdict = pictures.again(file, bundle, out, threads, report, require_signature, directions)
    if verdict is not None and verdict.state != "unsigned":
        print_note(f"the signature of {file}: {verdict.summary}")
    print_line(f"wrote {out} by the recipe of {recipe.command}")
