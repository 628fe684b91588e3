"""Runs mix, sweep, interpolate and again: each makes a recipe, and draws its picture or video from the recipe."""

from __future__ import annotations

import math
from pathlib import Path

from stylert.cli.picture_options import PictureOptions
from stylert.core.errors import BundleError, InputError
from stylert.core.files.outputs import check_not_input
from stylert.core.numerals import read_number
from stylert.core.progress import Progress
from stylert.core.provenance.signing import active_signer
from stylert.core.provenance.verification import Verdict
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.pictures import check_channels, check_commented, check_own_picture, save_image
from stylert.runtime.media.recipes import MAX_FPS, VIDEO, Recipe, check_bundle
from stylert.runtime.media.rendering import check_fits, frames, picture
from stylert.runtime.media.signed_recipes import read_signed_recipe
from stylert.runtime.media.video import check_video, write_video
from stylert.runtime.steering.directions_file import Directions, read_directions
from stylert.runtime.steering.latents_file import Latents, read_latents
from stylert.runtime.style_levels import parse_levels


def mix(
    bundle_path: Path,
    rows: list[int],
    columns: list[int],
    levels: str,
    out: Path,
    psi: float,
    options: PictureOptions,
    report: Progress,
) -> Recipe:
    """Write a grid in which each image takes the latents of `levels` from its column's seed and the others from its row's."""
    bundle = Bundle.load(bundle_path, options.require_signature)
    chosen = tuple(parse_levels(levels, bundle.num_ws, bundle.kind))
    latents = _read_latents(options, bundle, out)
    recipe = options.recipe(bundle, "mix", rows, [psi], latents, columns=tuple(columns), levels=chosen)
    return draw(recipe, bundle, out, options.threads, report, latents=latents)


def sweep(
    bundle_path: Path,
    seeds: list[int],
    psi: str,
    out: Path,
    options: PictureOptions,
    report: Progress,
) -> Recipe:
    """Write a grid with a row per seed and a column per psi. `psi` is text such as `-1,0,0.5`."""
    bundle = Bundle.load(bundle_path, options.require_signature)
    latents = _read_latents(options, bundle, out)
    recipe = options.recipe(bundle, "sweep", seeds, parse_psis(psi), latents)
    return draw(recipe, bundle, out, options.threads, report, latents=latents)


def interpolate(
    bundle_path: Path,
    seeds: list[int],
    seconds: float,
    fps: int,
    loop: bool,
    space: str,
    out: Path,
    psi: float,
    options: PictureOptions,
    report: Progress,
) -> Recipe:
    """Write a video that passes through `seeds` in `seconds`. With `loop` it returns to the first seed."""
    if not 1 <= fps <= MAX_FPS:
        raise InputError(f"--fps is a whole number from 1 to {MAX_FPS}, not {fps}")
    if not (math.isfinite(seconds * fps) and round(seconds * fps) >= 2):
        raise InputError(f"--seconds must give at least 2 frames at {fps} frames per second, not {seconds}")
    if space not in ("w", "z"):
        raise InputError(f"--space is w or z, not {space!r}")
    check_video(out, fps)
    bundle = Bundle.load(bundle_path, options.require_signature)
    count = round(seconds * fps)
    latents = _read_latents(options, bundle, out)
    recipe = options.recipe(bundle, "interpolate", seeds, [psi], latents, frames=count, fps=fps, loop=loop, space=space)
    return draw(recipe, bundle, out, options.threads, report, latents=latents)


def again(
    file: Path,
    bundle_path: Path | None,
    out: Path,
    threads: int | None,
    report: Progress,
    require_signature: Path | None = None,
    directions_file: Path | None = None,
    latents_file: Path | None = None,
) -> tuple[Recipe, Verdict | None]:
    """Make the picture or video of `file` again from its recipe.

    The bytes are the same if bundle, backend, machine and suffix are the same.

    Args:
        file: A picture or video that stylert made.
        bundle_path: Folder of the bundle; by default `bundle` in the current folder.
        out: The new file.
        threads: CPU threads of the backend.
        report: Called after each batch.
        require_signature: As in `Bundle.load`.
        directions_file: The directions of an edit or a contact sheet.
        latents_file: The latents of pictures that took the place of seeds.

    Returns:
        The recipe, and the verdict on the signature of `file`, as `read_signed_recipe`.

    Raises:
        InputError: The file carries no recipe, or one that needs directions or latents which are not given.
        BundleError: The bundle is missing, or is not the one that made the file.
        OutputError: `out` is `file`, or cannot be written.
    """
    recipe, verdict = read_signed_recipe(file)
    check_not_input(out, (file, directions_file, latents_file))
    directions = _directions_of(recipe, file, directions_file)
    latents = _latents_of(recipe, file, latents_file)
    if bundle_path is None:
        bundle_path = Path("bundle")
        if not bundle_path.is_dir():
            raise BundleError(f"bundle {recipe.bundle[:12]} made {file}: name its folder with --bundle DIR")
    bundle = Bundle.load(bundle_path, require_signature)
    check_bundle(recipe, bundle)
    return draw(recipe, bundle, out, threads, report, directions, latents), verdict


def parse_psis(text: str) -> tuple[float, ...]:
    """Read numbers such as `"-1,0,0.5"`. Raises InputError for other text."""
    try:
        return tuple(read_number(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--psi takes numbers such as -1,0,0.5 (got {text[:40]!r})") from None


def _directions_of(recipe: Recipe, file: Path, directions_file: Path | None) -> Directions | None:
    """The directions that a recipe needs; None if it needs none."""
    if recipe.directions is None:
        if directions_file is not None:
            raise InputError(f"{file} is a {recipe.command}, which needs no --directions")
        return None
    if directions_file is None:
        raise InputError(f"directions {recipe.directions[:12]} made {file}: name their file with --directions FILE")
    directions = read_directions(directions_file)
    _check_hash(directions_file, directions.sha256, recipe.directions)
    return directions


def _latents_of(recipe: Recipe, file: Path, latents_file: Path | None) -> Latents | None:
    """The latents that a recipe needs; None if it needs none."""
    if recipe.ws is None:
        if latents_file is not None:
            raise InputError(f"{file} was made from seeds, and needs no --latents")
        return None
    if latents_file is None:
        raise InputError(f"latents {recipe.ws[:12]} made {file}: name their file with --latents FILE")
    latents = read_latents(latents_file)
    _check_hash(latents_file, latents.sha256, recipe.ws)
    return latents


def _check_hash(file: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise InputError(f"{file} has the hash {actual[:12]}, but the recipe asks for {expected[:12]}")


def _read_latents(options: PictureOptions, bundle: Bundle, out: Path) -> Latents | None:
    check_not_input(out, (options.latents,))
    return options.read_latents(bundle)


def draw(
    recipe: Recipe,
    bundle: Bundle,
    out: Path,
    threads: int | None,
    report: Progress,
    directions: Directions | None = None,
    latents: Latents | None = None,
) -> Recipe:
    """Draw a recipe into `out`. All mistakes are found before the first image, and the file appears whole or not at all."""
    comment = recipe.to_json()
    is_video = recipe.command == VIDEO and recipe.fps is not None
    if recipe.command == VIDEO and recipe.fps is not None:
        check_video(out, recipe.fps)
    else:
        check_commented(out)
    check_channels(out, bundle.shown_channels, is_video)
    with Generator.load(bundle, recipe.backend, recipe.precision, threads) as generator:
        check_fits(generator, recipe, directions, latents)
        check_own_picture(out)
        active_signer()  # a credential that cannot sign is told before the long part
        if recipe.command == VIDEO and recipe.fps is not None:
            write_video(out, frames(generator, recipe, report, latents), recipe.fps, comment)
        else:
            save_image(picture(generator, recipe, report, directions, latents), out, comment)
    return recipe
