"""Runs edit and `directions sheet`: images of seeds moved along directions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stylert.cli.latents.drawing import draw
from stylert.cli.picture_options import PictureOptions
from stylert.core.files.outputs import check_not_input
from stylert.core.progress import Progress
from stylert.runtime.bundle import Bundle
from stylert.runtime.media.recipes import Recipe
from stylert.runtime.steering.directions_file import Directions, read_directions
from stylert.runtime.steering.moves import check_moves, columns_of, parse_move


def edit(
    bundle_path: Path,
    directions_file: Path,
    moves: Sequence[str],
    seeds: list[int],
    out: Path,
    psi: float,
    options: PictureOptions,
    report: Progress,
) -> Recipe:
    """Write a grid with a row per seed and a column per strength. Each image makes all moves."""
    return _draw(bundle_path, directions_file, "edit", moves, seeds, out, psi, options, report)


def contact_sheet(
    bundle_path: Path,
    directions_file: Path,
    names: Sequence[str] | None,
    strengths: str,
    seed: int,
    out: Path,
    psi: float,
    options: PictureOptions,
    report: Progress,
) -> list[str]:
    """Write a grid with a row per direction and a column per strength, all of one seed.

    Args:
        bundle_path: Folder of the bundle.
        directions_file: The directions.
        names: Those to show; None shows the first ten.
        strengths: Text such as `-2,0,2`.
        seed: The seed.
        out: The file.
        psi: Truncation.
        options: How images are drawn.
        report: Called after each batch.

    Returns:
        The names, from the top row to the bottom.
    """
    shown_names = list(names or list(read_directions(directions_file).by_name)[:10])
    moves = [f"{name}={strengths}" for name in shown_names]
    _draw(bundle_path, directions_file, "sheet", moves, [seed], out, psi, options, report)
    return shown_names


def _draw(
    bundle_path: Path,
    directions_file: Path,
    command: str,
    moves: Sequence[str],
    seeds: list[int],
    out: Path,
    psi: float,
    options: PictureOptions,
    report: Progress,
) -> Recipe:
    check_not_input(out, (directions_file, options.latents))
    bundle = Bundle.load(bundle_path, options.require_signature)
    directions = read_directions(directions_file)
    _check(directions, moves, bundle)
    latents = options.read_latents(bundle)
    recipe = options.recipe(bundle, command, seeds, [psi], latents, directions=directions.sha256, moves=tuple(moves))
    return draw(recipe, bundle, out, options.threads, report, directions, latents)


def _check(directions: Directions, moves: Sequence[str], bundle: Bundle) -> None:
    """Find mistakes before `auto` measures anything."""
    parsed = [parse_move(move) for move in moves]
    check_moves(directions, parsed, bundle)
    columns_of(parsed)
