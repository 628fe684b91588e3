"""The commands of the latent space: mix, sweep, interpolate, again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylert.cli.app import Batch, BundlePath, Cutoff, Label, OneBackend, OnePrecision, Psi, Threads, app
from stylert.cli.console import console, progress


@app.command()
def mix(
    bundle: BundlePath,
    rows: Annotated[str, typer.Option(help="Seeds of the rows, such as 0-3.")],
    cols: Annotated[str, typer.Option(help="Seeds of the columns, such as 10-14.")],
    out: Annotated[Path, typer.Option(help="The grid: .png, .webp, .jpg or .gif.")],
    levels: Annotated[
        str, typer.Option(help="What the columns give: coarse, middle, fine, or latents such as 0-3.")
    ] = "coarse",
    psi: Psi = 1.0,
    cutoff: Cutoff = None,
    label: Label = None,
    backend: OneBackend = "onnxruntime",
    precision: OnePrecision = None,
    batch: Batch = 8,
    threads: Threads = None,
) -> None:
    """Mix styles: a grid in which each image takes some levels from its column's seed and the rest from its row's."""
    from stylert.cli.latents import pictures as latents
    from stylert.cli.pipeline.generate import Drawing
    from stylert.core.seeds import parse_seeds

    drawing = Drawing(cutoff, label, backend, precision, batch, threads)
    with progress() as bar:
        latents.mix(
            bundle,
            parse_seeds(rows),
            parse_seeds(cols),
            levels,
            out,
            psi,
            drawing,
            bar,
        )
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


@app.command()
def sweep(
    bundle: BundlePath,
    seeds: Annotated[str, typer.Option(help="One row each, such as 0-3.")],
    out: Annotated[Path, typer.Option(help="The grid: .png, .webp, .jpg or .gif.")],
    psi: Annotated[str, typer.Option(help="One column each, comma-separated.")] = "-1,-0.5,0,0.5,1",
    cutoff: Cutoff = None,
    label: Label = None,
    backend: OneBackend = "onnxruntime",
    precision: OnePrecision = None,
    batch: Batch = 8,
    threads: Threads = None,
) -> None:
    """Show what truncation does: a row per seed, a column per psi."""
    from stylert.cli.latents import pictures as latents
    from stylert.cli.pipeline.generate import Drawing
    from stylert.core.seeds import parse_seeds

    drawing = Drawing(cutoff, label, backend, precision, batch, threads)
    with progress() as bar:
        latents.sweep(bundle, parse_seeds(seeds), psi, out, drawing, bar)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


@app.command()
def interpolate(
    bundle: BundlePath,
    seeds: Annotated[str, typer.Option(help="The keyframes in order, such as 0,5,2.")],
    out: Annotated[Path, typer.Option(help="The video: .mp4 (needs the extra `video`), .webp or .gif.")],
    seconds: Annotated[float, typer.Option(help="Length.")] = 10.0,
    fps: Annotated[int, typer.Option(help="Frames per second.")] = 30,
    loop: Annotated[bool, typer.Option("--loop", help="Come back to the first seed.")] = False,
    space: Annotated[str, typer.Option(help="w: a smooth curve; z: great circles.")] = "w",
    psi: Psi = 1.0,
    cutoff: Cutoff = None,
    label: Label = None,
    backend: OneBackend = "onnxruntime",
    precision: OnePrecision = None,
    batch: Batch = 8,
    threads: Threads = None,
) -> None:
    """Make a video that passes through seeds."""
    from stylert.cli.latents import pictures as latents
    from stylert.cli.pipeline.generate import Drawing
    from stylert.core.seeds import parse_seeds

    drawing = Drawing(cutoff, label, backend, precision, batch, threads)
    with progress() as bar:
        latents.interpolate(
            bundle,
            parse_seeds(seeds),
            seconds,
            fps,
            loop,
            space,
            out,
            psi,
            drawing,
            bar,
        )
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


@app.command()
def again(
    file: Annotated[Path, typer.Argument(help="A picture or video that stylert made.")],
    out: Annotated[Path, typer.Option(help="Where the new one goes; the suffix may be another.")],
    bundle: Annotated[Path | None, typer.Option(help="The bundle that made it; ./bundle by default.")] = None,
    threads: Threads = None,
) -> None:
    """Make a picture or video again from the recipe that it carries."""
    from stylert.cli.latents import pictures as latents

    with progress() as bar:
        recipe = latents.again(file, bundle, out, threads, bar)
    console.print(f"wrote {out}, as {recipe.command} did", highlight=False, soft_wrap=True)
