"""Declares edit, and `stylert directions` with its commands. `finding.py` and `editing.py` run them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylert.cli.app import BundlePath, CommandGroup, Psi, app, split_list
from stylert.cli.console import print_line, progress
from stylert.cli.picture_options import PictureOptions, with_picture_options

directions = CommandGroup(help="Find directions that change one thing in an image.", no_args_is_help=True)
app.add_typer(directions, name="directions")

Checkpoint = Annotated[Path, typer.Argument(help="model.safetensors, or any file that `stylert export` reads.")]
OutFile = Annotated[Path, typer.Option(help="File of the directions, .safetensors.")]
DirectionsFile = Annotated[Path, typer.Argument(metavar="DIRECTIONS", help="File of directions.")]
Levels = Annotated[
    str | None,
    typer.Option(help="Levels that the directions move: coarse, middle, fine, or latents such as 0-3. By default all."),
]
Count = Annotated[int, typer.Option(min=1, max=1000, help="Number of directions.")]
Styles = Annotated[
    int, typer.Option(min=0, max=1000, help="Find so many single styles for each score, in place of one direction of w.")
]
GridFile = Annotated[Path, typer.Option(help="File of the grid: .png, .webp, .jpg or .gif.")]


@directions.callback()
def _group() -> None:
    """Find directions that change one thing in an image."""


@directions.command("sefa")
def sefa(checkpoint: Checkpoint, out: OutFile, levels: Levels = None, count: Count = 10) -> None:
    """Find the directions of w that change the styles most, from the weights alone (SeFa)."""
    from stylert.cli.latents.finding import find_sefa

    find_sefa(checkpoint, out, levels, count)


@directions.command("pca")
def pca(
    checkpoint: Checkpoint,
    out: OutFile,
    levels: Levels = None,
    count: Count = 10,
    samples: Annotated[int, typer.Option(min=100, max=1_000_000, help="Random latents.")] = 10_000,
) -> None:
    """Find the principal components of w (GANSpace)."""
    from stylert.cli.latents.finding import find_principal_components

    find_principal_components(checkpoint, out, levels, count, samples)


@directions.command("scores")
def scores(
    checkpoint: Checkpoint,
    table: Annotated[Path, typer.Argument(metavar="CSV", help="A header, then a line per image: seed, scores, perhaps class.")],
    out: OutFile,
    levels: Levels = None,
    styles: Styles = 0,
) -> None:
    """Find a direction for each score of images that you, or a classifier, have judged."""
    from stylert.cli.latents.finding import find_by_scores

    find_by_scores(checkpoint, table, out, levels, styles)


@directions.command("pictures")
def pictures(
    checkpoint: Checkpoint,
    bundle: Annotated[Path, typer.Option(help="The bundle that made the pictures.")],
    name: Annotated[str, typer.Option(help="Name of the direction.")],
    positive: Annotated[Path, typer.Option("--with", help="Folder of pictures of `stylert generate` that have the property.")],
    negative: Annotated[Path, typer.Option("--without", help="Folder of pictures that do not have it.")],
    out: OutFile,
    levels: Levels = None,
    styles: Styles = 0,
) -> None:
    """Find the direction between two sets of generated pictures. Their recipes tell the seeds."""
    from stylert.cli.latents.finding import find_by_pictures

    find_by_pictures(checkpoint, bundle, name, positive, negative, out, levels, styles)


@directions.command("styles")
def styles(
    checkpoint: Checkpoint,
    names: Annotated[str, typer.Option(help="Comma-separated: layer and channel, such as b16.conv1.42.")],
    out: OutFile,
) -> None:
    """Make directions of single styles, the channels of the StyleSpace."""
    from stylert.cli.latents.finding import name_styles

    name_styles(checkpoint, split_list(names) or [], out)


@directions.command("join")
def join(
    files: Annotated[list[Path], typer.Argument(metavar="DIRECTIONS...", help="Files of directions of one network.")],
    out: OutFile,
) -> None:
    """Write the directions of several files into one."""
    from stylert.cli.latents.finding import join as run

    run(files, out)


@directions.command("show")
def show(file: DirectionsFile) -> None:
    """Print the directions of a file."""
    from stylert.cli.latents.finding import show as run
    from stylert.runtime.steering.directions_file import read_directions

    run(read_directions(file))


@directions.command("sheet")
@with_picture_options
def sheet(
    bundle: BundlePath,
    file: DirectionsFile,
    out: GridFile,
    options: PictureOptions,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The image that is moved.")] = 0,
    names: Annotated[str | None, typer.Option(help="Comma-separated; by default the first ten.")] = None,
    strengths: Annotated[str, typer.Option(help="One column each, in standard deviations.")] = "-3,-1.5,0,1.5,3",
    psi: Psi = 1.0,
) -> None:
    """Draw a contact sheet: a row per direction, a column per strength."""
    from stylert.cli.latents.editing import contact_sheet

    with progress() as report:
        rows = contact_sheet(bundle, file, split_list(names), strengths, seed, out, psi, options, report)
    print_line(f"rows from the top: {', '.join(rows)}")
    print_line(f"wrote {out}")


@app.command()
@with_picture_options
def edit(
    bundle: BundlePath,
    directions: Annotated[Path, typer.Option(help="File of directions.")],
    direction: Annotated[
        list[str],
        typer.Option(
            help="NAME=STRENGTH in standard deviations, such as smile=+2; smile=-2,0,2 makes three columns, and pose@0-3=1 moves "
            "some latents alone. May be repeated: all moves add up."
        ),
    ],
    seeds: Annotated[str, typer.Option(help="One row each, such as 0-3.")],
    out: GridFile,
    options: PictureOptions,
    psi: Psi = 1.0,
) -> None:
    """Move images along directions: a row per seed, a column per strength."""
    from stylert.cli.latents.editing import edit as run
    from stylert.core.seeds import parse_seeds

    with progress() as report:
        run(bundle, directions, direction, parse_seeds(seeds), out, psi, options, report)
    print_line(f"wrote {out}")
