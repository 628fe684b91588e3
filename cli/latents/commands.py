"""Declares mix, sweep, interpolate, again, project, pivot, drag and disentanglement with their options.

`drawing.py`, `projecting.py`, `tuning.py`, `dragging.py` and `disentangling.py` run them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylert.cli.app import BundlePath, JsonFile, NoSign, Psi, RequireSignature, Threads, app, split_list
from stylert.cli.console import print_line, print_note, progress
from stylert.cli.latents.distance_options import LpipsFiles, PixelWeight, RandomSeed, Transform
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
    latents: Annotated[
        Path | None, typer.Option(help="The latents that made it, if pictures took the place of seeds.", metavar="FILE")
    ] = None,
    threads: Threads = None,
    no_sign: NoSign = False,
    require_signature: RequireSignature = None,
) -> None:
    """Make a picture or video again, from the recipe inside the file."""
    from stylert.cli.latents import drawing as pictures

    with progress() as report:
        recipe, verdict = pictures.again(file, bundle, out, threads, report, require_signature, directions, latents)
    if verdict is not None and verdict.state in ("valid", "unsigned"):
        print_note(f"{file}: {verdict.summary}")
    elif verdict is not None:
        print_note(f"{file}: {verdict.summary}; the recipe in its comment was taken", style="yellow")
    print_line(f"wrote {out} by the recipe of {recipe.command}")


@app.command()
def project(
    checkpoint: Annotated[Path, typer.Option(help="model.safetensors, or any file that `stylert export` reads.")],
    out: Annotated[Path, typer.Option(help="Folder of the results. A rerun makes what is missing.")],
    photos: Annotated[
        list[Path] | None, typer.Argument(metavar="[PHOTO]...", help="Pictures, and folders or zips of pictures.")
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(help="Start from the latents of this encoder, which `stylert encoder train` wrote for the checkpoint."),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(help="w: one latent for all layers; w+: from there, one for each layer. By default w, with --encoder w+."),
    ] = None,
    noise: Annotated[
        str, typer.Option(help="const: the network's own, as engines draw it; optimised: the noise maps are found, too.")
    ] = "const",
    steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=100_000,
            help="Steps in W, and as many again in W+: 400 by default. With --encoder 40 in the chosen space; 0 for none.",
        ),
    ] = None,
    starts: Annotated[
        int, typer.Option(min=1, max=64, help="Projections side by side; after a quarter of the steps, the best one goes on.")
    ] = 4,
    candidates: Annotated[
        int, typer.Option(min=0, help="Random latents of which the nearest are the starts; 0 starts from the average.")
    ] = 1000,
    pixel_weight: PixelWeight = 50.0,
    explore: Annotated[
        float, typer.Option(min=0, max=10, help="First noise on w, in deviations of w; it falls to 0. The paper has 0.05.")
    ] = 0.0,
    lpips: LpipsFiles = None,
    transform: Transform = "none",
    seed: RandomSeed = 0,
    video: Annotated[bool, typer.Option("--video", help="Also write a video of each convergence (extra `video`).")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the results that are there.")] = False,
    self_test: Annotated[
        int, typer.Option(min=0, max=1000, help="In place of pictures, project so many images of the network itself.")
    ] = 0,
    psi: Annotated[str, typer.Option(help="Of --self-test: truncations, comma-separated.")] = "1,0.7",
    json: JsonFile = None,
) -> None:
    """Find the latents of pictures, by optimisation or faster from an encoder. Other commands take them with --latents."""
    from stylert.cli.latents.drawing import parse_psis
    from stylert.cli.latents.projecting import ProjectOptions
    from stylert.cli.latents.projecting import project as run

    files = tuple(Path(name) for name in split_list(lpips) or [])
    run(
        photos or [],
        self_test,
        parse_psis(psi),
        ProjectOptions(
            checkpoint=checkpoint,
            out=out,
            encoder=encoder,
            space=space,
            noise=noise,
            steps=steps,
            starts=starts,
            candidates=candidates,
            pixel_weight=pixel_weight,
            explore=explore,
            lpips=files,
            transform=transform,
            seed=seed,
            video=video,
            replace=replace,
            json=json,
        ),
    )


@app.command()
def pivot(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Pictures, and folders or zips of pictures.")],
    checkpoint: Annotated[Path, typer.Option(help="The checkpoint into which they were projected.")],
    latents: Annotated[Path, typer.Option(help="Their latents, as `stylert project` wrote them.")],
    out: Annotated[Path, typer.Option(help="Folder of the new checkpoint, the latents for it, and pictures.")],
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="Steps of the tuning.")] = 350,
    rate: Annotated[float, typer.Option(min=1e-9, max=1, help="Learning rate.")] = 3e-4,
    locality: Annotated[
        float, typer.Option(min=0, max=1e6, help="Weight of the term that keeps other images as they were.")
    ] = 0.1,
    pixel_weight: PixelWeight = 50.0,
    lpips: LpipsFiles = None,
    transform: Transform = "none",
    seed: RandomSeed = 0,
    json: JsonFile = None,
) -> None:
    """Tune a generator until it draws given pictures from their latents (pivotal tuning)."""
    from stylert.cli.latents.tuning import PivotOptions
    from stylert.cli.latents.tuning import pivot as run

    run(
        photos,
        PivotOptions(
            checkpoint=checkpoint,
            latents=latents,
            out=out,
            steps=steps,
            rate=rate,
            locality=locality,
            pixel_weight=pixel_weight,
            lpips=tuple(Path(name) for name in split_list(lpips) or []),
            transform=transform,
            seed=seed,
            json=json,
        ),
    )


@app.command()
def drag(
    checkpoint: Annotated[Path, typer.Argument(help="model.safetensors, or any file that `stylert export` reads.")],
    point: Annotated[
        list[str],
        typer.Option(
            help="A handle and its target in pixels, x,y:x,y, such as 20,30:26,30. May be repeated.", metavar="X,Y:X,Y"
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the picture, its latents, and the picture of the handles.")],
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of the image; with --latents the number of a picture in the file.")
    ] = 0,
    psi: Psi = 1.0,
    label: Annotated[int | None, typer.Option("--class", min=0, help="Class, for a network with classes.")] = None,
    latents: Annotated[
        Path | None, typer.Option(help="Latents of a picture to drag, as `stylert project` or this command wrote them.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Picture of the image's size. It may change where this is white; else everywhere.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="Steps, at most.")] = 300,
    seconds: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds on the clock, at most.")] = 20.0,
    rate: Annotated[float, typer.Option(min=1e-9, max=1000, help="Learning rate. The paper has 0.002 at 512 px.")] = 0.01,
    mask_weight: Annotated[float, typer.Option(min=0, max=1e6, help="Weight of what is to stay. The paper has 20.")] = 5.0,
    features: Annotated[
        int | None,
        typer.Option(min=4, max=65_536, help="Side of the block whose features move: by default a quarter, and 32 at least."),
    ] = None,
    video: Annotated[bool, typer.Option("--video", help="Also write a video of the drag (extra `video`).")] = False,
    json: JsonFile = None,
) -> None:
    """Drag points of an image to where they should be (DragGAN). Other commands take the result with --latents."""
    from stylert.cli.latents.dragging import DragOptions
    from stylert.cli.latents.dragging import drag as run

    run(
        DragOptions(
            checkpoint=checkpoint,
            points=tuple(point),
            out=out,
            seed=seed,
            psi=psi,
            label=label,
            latents=latents,
            mask=mask,
            steps=steps,
            seconds=seconds,
            rate=rate,
            mask_weight=mask_weight,
            features=features,
            video=video,
            json=json,
        )
    )


@app.command()
def disentanglement(
    checkpoint: Annotated[Path, typer.Argument(help="model.safetensors, or any file that `stylert export` reads.")],
    out: Annotated[Path, typer.Option(help="File of the report, .html.")],
    directions: Annotated[Path | None, typer.Option(help="File of directions, whose effects are measured.")] = None,
    names: Annotated[str | None, typer.Option(help="Comma-separated directions of the file; by default the first ten.")] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="CSV file of attributes: seed, a column per score, perhaps class; an image may lack scores."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Zip or folder of real images with a parts.json, whose parts are attributes.")
    ] = None,
    images: Annotated[int, typer.Option(min=50, max=1_000_000, help="Random images for separability.")] = 2000,
    paths: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Random paths for each perceptual path length; 0 leaves it out.")
    ] = 500,
    edits: Annotated[int, typer.Option(min=2, max=10_000, help="Random images that move along each direction.")] = 32,
    strengths: Annotated[str, typer.Option(help="Strengths of the moves, in standard deviations.")] = "-2,-1,0,1,2",
    lpips: LpipsFiles = None,
    seed: RandomSeed = 0,
    json: JsonFile = None,
) -> None:
    """Report path length, separability of attributes, and what else each direction changes, as one HTML page."""
    from stylert.cli.latents.disentangling import DisentanglementOptions, report_disentanglement

    report_disentanglement(
        DisentanglementOptions(
            checkpoint=checkpoint,
            out=out,
            directions=directions,
            names=None if names is None else tuple(split_list(names) or ()),
            scores=scores,
            data=data,
            images=images,
            paths=paths,
            edits=edits,
            strengths=strengths,
            lpips=tuple(Path(name) for name in split_list(lpips) or []),
            seed=seed,
            json=json,
        )
    )
