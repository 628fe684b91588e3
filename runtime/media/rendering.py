"""Computes the picture or the video frames of a recipe, for its first file and for every repetition."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from stylert.core.errors import InputError
from stylert.core.images.grids import Grid, as_uint8
from stylert.core.progress import Progress
from stylert.core.seeds import z_from_seeds
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.composition import Composition, composed_ws, moved_ws
from stylert.runtime.media.interpolation import MAX_KEYFRAMES, keyframe_path
from stylert.runtime.media.recipes import Recipe
from stylert.runtime.steering.directions_file import Directions
from stylert.runtime.steering.moves import Steered, check_moves, columns_of, steered_batches
from stylert.runtime.style_levels import mix_styles

#: Limit of the pixels, or of the numbers in ws, that are in memory at once: of a picture, or of one batch of frames. A picture of RGB
#: then has 768 MiB, and 2.4 times as much while its file is written.
MAX_HELD = 2**28
#: Limit of the pixels of one call, whose activations are in memory at once: 32 images of 1024 px. In config F they need 8 GiB.
MAX_CALL_PIXELS = 2**25


def picture(
    generator: Generator, recipe: Recipe, progress: Progress = lambda *_: None, directions: Directions | None = None
) -> np.ndarray:
    """The picture of a recipe.

    Args:
        generator: The network.
        recipe: The recipe.
        progress: Called after each batch.
        directions: Those of a recipe with moves.

    Returns:
        uint8 `[H, W, C]`.

    Raises:
        InputError: The recipe is that of a video, or does not fit the network, the directions or the memory.
        BundleError: The directions belong to another network.
    """
    check_fits(generator, recipe, directions)
    if recipe.command == "compose":
        return _composed(generator, recipe, directions)
    if directions is not None and recipe.moves is not None:
        return _steered(generator, recipe, progress, directions)
    render = {"generate": _single, "grid": _grid, "mix": _mix, "sweep": _sweep}.get(recipe.command)
    if render is None:
        raise InputError(f"{recipe.command} makes a video, not a picture")
    return render(generator, recipe, progress)


def frames(generator: Generator, recipe: Recipe, progress: Progress = lambda *_: None) -> Iterator[np.ndarray]:
    """The frames of an interpolation. All keyframes are in memory at once, but only one batch of frames.

    Yields:
        uint8 `[<= batch, H, W, C]`.

    Raises:
        InputError: The recipe is that of a picture, or does not fit the network or the memory.
    """
    check_fits(generator, recipe)
    if recipe.frames is None or recipe.loop is None:
        raise InputError(f"{recipe.command} makes a picture, not a video")
    keyframes = _z(generator, recipe.seeds)
    path: Iterator[np.ndarray]
    if recipe.space == "z":
        z_path = keyframe_path(keyframes, recipe.frames, recipe.loop, "sphere", recipe.batch)
        path = (_map(generator, recipe, z) for z in z_path)
    else:
        ws = _map_in_batches(generator, recipe, keyframes)
        path = keyframe_path(ws, recipe.frames, recipe.loop, "smooth", recipe.batch)
    return _synthesize_path(generator, path, recipe.frames, progress)


def check_fits(generator: Generator, recipe: Recipe, directions: Directions | None = None) -> None:
    """Check a recipe against the network and the memory, without computing an image.

    Raises:
        InputError: The network does not take the recipe's cutoff, label, levels or moves, or it has too many images. Or the
            recipe needs other directions.
        BundleError: The directions belong to another network.
    """
    bundle = generator.bundle
    bundle.check_no_noise_inputs()
    _map(generator, recipe, np.zeros((1, bundle.model["z_dim"]), np.float32))  # checks cutoff and label
    if recipe.levels is not None and max(recipe.levels) >= bundle.num_ws:
        raise InputError(f"levels are latents 0 to {bundle.num_ws - 1} of this network, not {max(recipe.levels)}")
    if recipe.command == "interpolate" and not 2 <= len(recipe.seeds) <= MAX_KEYFRAMES:
        raise InputError(f"an interpolation takes 2 to {MAX_KEYFRAMES} seeds, not {len(recipe.seeds)}")
    if recipe.moves is not None:
        if directions is None or directions.sha256 != recipe.directions:
            raise InputError(f"the recipe needs the file of directions with the sha256 {recipe.directions}")
        check_moves(directions, recipe.parsed_moves, bundle)
    if recipe.command == "compose":
        _composition(recipe).check(bundle, directions)
    images = _images_in_memory(recipe)
    check_call(bundle, len(recipe.together) if recipe.together else min(recipe.batch, images))
    if images * max(bundle.resolution**2, bundle.num_ws * bundle.model["w_dim"]) > MAX_HELD:
        raise InputError(f"{images} images of {bundle.resolution} px are too many to hold at once")


def check_call(bundle: Bundle, images: int) -> None:
    """Raise InputError if so many images are too many for one call of a bundle's network."""
    if images > (most := max(MAX_CALL_PIXELS // bundle.resolution**2, 1)):
        raise InputError(f"{images} images of {bundle.resolution} px in one call need too much memory; at most {most}")


def _images_in_memory(recipe: Recipe) -> int:
    """How many images of a recipe are in memory at once."""
    return {
        "generate": len(recipe.together or ()),
        "grid": len(recipe.seeds),
        "mix": (len(recipe.seeds) + 1) * (len(recipe.columns or ()) + 1),
        "sweep": len(recipe.seeds) * len(recipe.psi),
        "interpolate": min(recipe.batch, recipe.frames or 0),
        "compose": 1,
        "edit": len(recipe.seeds) * columns_of(recipe.parsed_moves),
        "sheet": len(recipe.moves or ()) * columns_of(recipe.parsed_moves),
    }[recipe.command]


def _single(generator: Generator, recipe: Recipe, progress: Progress) -> np.ndarray:
    """The image of one seed, computed in one call with the seeds of the first time."""
    seeds = recipe.together or recipe.seeds
    ws = _map(generator, recipe, _z(generator, seeds))
    return as_uint8(generator.synthesize(ws))[seeds.index(recipe.seeds[0])]


def _grid(generator: Generator, recipe: Recipe, progress: Progress) -> np.ndarray:
    ws = _map_in_batches(generator, recipe, _z(generator, recipe.seeds))
    return _drawn(generator, _batches(ws, recipe.batch), Grid(len(ws)), progress)


def _mix(generator: Generator, recipe: Recipe, progress: Progress) -> np.ndarray:
    """A grid of mixtures, with the sources of the columns above it and those of the rows at its left. The corner is white."""
    columns = _map_in_batches(generator, recipe, _z(generator, recipe.columns or ()))
    rows = _map_in_batches(generator, recipe, _z(generator, recipe.seeds))
    mixed_rows = (np.concatenate([row[None], mix_styles(row, columns, recipe.levels or ())]) for row in rows)
    grid = Grid((len(rows) + 1) * (len(columns) + 1), len(columns) + 1)
    grid.skip()
    return _drawn(generator, _rebatched(itertools.chain([columns], mixed_rows), recipe.batch), grid, progress)


def _sweep(generator: Generator, recipe: Recipe, progress: Progress) -> np.ndarray:
    """A grid with a row per seed and a column per psi."""
    z, model = _z(generator, recipe.seeds), generator.bundle
    ws = np.empty((len(z), len(recipe.psi), model.num_ws, model.model["w_dim"]), np.float32)
    for i, psi in enumerate(recipe.psi):
        ws[:, i] = _map_in_batches(generator, recipe, z, psi)
    images = ws.reshape(-1, *ws.shape[2:])
    return _drawn(generator, _batches(images, recipe.batch), Grid(len(images), len(recipe.psi)), progress)


def _steered(generator: Generator, recipe: Recipe, progress: Progress, directions: Directions) -> np.ndarray:
    """A grid with a column per strength: a row per seed that makes all moves, or on a contact sheet a row per move."""
    ws, moves = _map_in_batches(generator, recipe, _z(generator, recipe.seeds)), recipe.parsed_moves
    batches = steered_batches(directions, ws, moves, recipe.batch, apart=recipe.command == "sheet")
    return _drawn(generator, batches, Grid(_images_in_memory(recipe), columns_of(moves)), progress)


def _composed(generator: Generator, recipe: Recipe, directions: Directions | None) -> np.ndarray:
    composition = _composition(recipe)
    moved = moved_ws(composed_ws(generator, [composition]), [composition.parsed_moves], directions)
    return as_uint8(generator.synthesize(moved.ws, style_offsets=moved.style_offsets))[0]


def _composition(recipe: Recipe) -> Composition:
    label = recipe.label if recipe.label_vector is None else recipe.label_vector
    psi, cutoff = recipe.psi[0], recipe.cutoff
    return Composition(recipe.latents or (), psi, cutoff, label, recipe.toward, recipe.at or 0.0, recipe.moves or ())


def _z(generator: Generator, seeds: tuple[int, ...]) -> np.ndarray:
    return z_from_seeds(seeds, generator.bundle.model["z_dim"])


def _map_in_batches(generator: Generator, recipe: Recipe, z: np.ndarray, psi: float | None = None) -> np.ndarray:
    batches = [z[i : i + recipe.batch] for i in range(0, len(z), recipe.batch)]
    return np.concatenate([_map(generator, recipe, batch, psi) for batch in batches])


def _map(generator: Generator, recipe: Recipe, z: np.ndarray, psi: float | None = None) -> np.ndarray:
    """The ws of z in one call, truncated by `psi`, or else by the recipe's first psi."""
    return generator.map(z, recipe.psi[0] if psi is None else psi, recipe.cutoff, recipe.labels(len(z)))


def _drawn(generator: Generator, batches: Iterable[Steered], grid: Grid, progress: Progress) -> np.ndarray:
    """The picture of a grid, batch by batch: the grid is the only copy of its images."""
    skipped = grid.filled
    for ws, offsets in batches:
        grid.add(as_uint8(generator.synthesize(ws, style_offsets=offsets)))
        progress("generate", grid.filled - skipped, grid.count - skipped)
    return grid.picture


def _batches(ws: np.ndarray, batch: int) -> Iterator[Steered]:
    """Latents `[N, num_ws, w_dim]` in batches."""
    return (Steered(ws[i : i + batch], None) for i in range(0, len(ws), batch))


def _rebatched(parts: Iterable[np.ndarray], batch: int) -> Iterator[Steered]:
    """The same for latents that come in parts of any length."""
    each = itertools.chain.from_iterable(parts)
    while chosen := list(itertools.islice(each, batch)):
        yield Steered(np.stack(chosen), None)


def _synthesize_path(generator: Generator, path: Iterator[np.ndarray], total: int, progress: Progress) -> Iterator[np.ndarray]:
    done = 0
    for ws in path:
        yield as_uint8(generator.synthesize(ws))
        done += len(ws)
        progress("frames", done, total)
