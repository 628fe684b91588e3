"""`stylert mix`, `interpolate`, `sweep` and `again`: each writes a recipe down, and what it makes is made from the recipe."""

from __future__ import annotations

import math
from pathlib import Path

from stylert.cli.console import Report
from stylert.cli.pipeline.generate import Drawing
from stylert.core.atomic import check_writable
from stylert.core.errors import BundleError, InputError
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.latents import parse_levels
from stylert.runtime.media.pictures import check_commented, save_image
from stylert.runtime.media.recipes import MAX_FPS, VIDEO, Recipe, check_bundle, read_recipe
from stylert.runtime.media.rendering import check_fits, frames, picture
from stylert.runtime.media.video import check_video, write_video


def mix(
    bundle_path: Path,
    rows: list[int],
    columns: list[int],
    levels: str,
    out: Path,
    psi: float,
    drawing: Drawing,
    report: Report,
) -> Recipe:
    """Write the grid of rows x columns: each image has the column's latents at `levels` and the row's elsewhere."""
    bundle = Bundle.load(bundle_path)
    chosen = tuple(parse_levels(levels, bundle.num_ws))
    recipe = drawing.recipe(bundle, "mix", rows, [psi], columns=tuple(columns), levels=chosen)
    return _make(recipe, bundle, out, drawing.threads, report)


def sweep(
    bundle_path: Path,
    seeds: list[int],
    psi: str,
    out: Path,
    drawing: Drawing,
    report: Report,
) -> Recipe:
    """Write a grid with a row per seed and a column per psi."""
    bundle = Bundle.load(bundle_path)
    return _make(drawing.recipe(bundle, "sweep", seeds, parse_psis(psi)), bundle, out, drawing.threads, report)


def interpolate(
    bundle_path: Path,
    seeds: list[int],
    seconds: float,
    fps: int,
    loop: bool,
    space: str,
    out: Path,
    psi: float,
    drawing: Drawing,
    report: Report,
) -> Recipe:
    """Write a video that passes through `seeds` in `seconds`; with `loop` it comes back to the first one."""
    if not 1 <= fps <= MAX_FPS:
        raise InputError(f"--fps is a whole number from 1 to {MAX_FPS}, not {fps}")
    if not (math.isfinite(seconds) and round(seconds * fps) >= 2):
        raise InputError(f"--seconds must give at least 2 frames at {fps} frames per second, not {seconds}")
    if space not in ("w", "z"):
        raise InputError(f"--space is w or z, not {space!r}")
    check_video(out, fps)
    bundle = Bundle.load(bundle_path)
    count = round(seconds * fps)
    recipe = drawing.recipe(bundle, "interpolate", seeds, [psi], frames=count, fps=fps, loop=loop, space=space)
    return _make(recipe, bundle, out, drawing.threads, report)


def again(file: Path, bundle_path: Path | None, out: Path, threads: int | None, report: Report) -> Recipe:
    """Make the picture or video of `file` once more from its recipe; the bundle is `bundle` here unless it is given.

    The same bytes, with the same bundle, backend, machine and suffix. Raises InputError when the file carries no recipe, and
    BundleError when the bundle is another one.
    """
    recipe = read_recipe(file)
    if bundle_path is None:
        bundle_path = Path("bundle")
        if not bundle_path.is_dir():
            raise BundleError(f"say where the bundle {recipe.bundle[:12]} of {file} is: --bundle DIR")
    bundle = Bundle.load(bundle_path)
    check_bundle(recipe, bundle)
    return _make(recipe, bundle, out, threads, report)


def parse_psis(text: str) -> tuple[float, ...]:
    """`"-1,0,0.5"` to numbers. Raises InputError on anything else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--psi takes numbers such as -1,0,0.5 (got {text[:40]!r})") from None


def _make(recipe: Recipe, bundle: Bundle, out: Path, threads: int | None, report: Report) -> Recipe:
    """Every mistake is found before the first image; the result appears whole or not at all."""
    comment = recipe.to_json()
    if recipe.command == VIDEO and recipe.fps is not None:
        check_video(out, recipe.fps)
    else:
        check_commented(out)
    with Generator.load(bundle, recipe.backend, recipe.precision, threads) as generator:
        check_fits(generator, recipe)
        check_writable(out)
        if recipe.command == VIDEO and recipe.fps is not None:
            write_video(out, frames(generator, recipe, report), recipe.fps, comment)
        else:
            save_image(picture(generator, recipe, report), out, comment)
    return recipe
