"""Computes the picture or the video frames of a recipe, for its first file and for every repetition."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from stylert.core.errors import InputError
from stylert.core.images.channels import viewable
from stylert.core.images.grids import Grid, as_uint8
from stylert.core.progress import Progress
from stylert.core.seeds import z_from_seeds
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.composition import Composition, composed_ws, moved_ws
from stylert.runtime.media.interpolation import MAX_KEYFRAMES, keyframe_path
from stylert.runtime.media.recipes import Recipe, check_recipe
from stylert.runtime.steering.directions_file import Directions
from stylert.runtime.steering.latents_file import Latents, truncated
from stylert.runtime.steering.moves import Steered, check_moves, columns_of, steered_batches
from stylert.runtime.style_levels import mix_styles

#: Limit of the pixels, or of the numbers in ws, that are in memory at once: of a picture, or of one batch of frames. A picture of RGB
#: then has 768 MiB, and 2.4 times as much while its file is written.
MAX_HELD = 2**28
#: Limit of the pixels of one call, whose activations are in memory at once: 32 images of 1024 px. In config F they need 8 GiB.
MAX_CALL_PIXELS = 2**25


def picture(
    generator: Generator,
    recipe: Recipe,
    progress: Progress = lambda *_: None,
    directions: Directions | None = None,
    latents: Latents | None = None,
) -> np.ndarray:
    """The picture of a recipe.

    Args:
        generator: The network.
        recipe: The recipe.
        progress: Called after each batch.
        directions: Those of a recipe with moves.
        latents: Those of a recipe that takes pictures from a file in place of seeds.

    Returns:
        uint8 `[H, W, C]`.

    Raises:
        InputError: The recipe is that of a video, or does not fit the network, the directions, the latents or the memory.
        BundleError: The directions or latents belong to another network.
    """
    check_fits(generator, recipe, directions, latents)
    sources = Sources(generator, recipe, latents)
    if recipe.command == "compose":
        return _composed(generator, recipe, directions)
    if directions is not None and recipe.moves is not None:
        return _steered(sources, progress, directions)
    render = {"generate": _single, "grid": _grid, "mix": _mix, "sweep": _sweep}.get(recipe.command)
    if render is None:
        raise InputError(f"{recipe.command} makes a video, not a picture")
    return render(sources, progress)


def frames(
    generator: Generator, recipe: Recipe, progress: Progress = lambda *_: None, latents: Latents | None = None
) -> Iterator[np.ndarray]:
    """The frames of an interpolation. All keyframes are in memory at once, but only one batch of frames.

    Yields:
        uint8 `[<= batch, H, W, C]`.

    Raises:
        InputError: The recipe is that of a picture, or does not fit the network, the latents or the memory.
        BundleError: The latents belong to another network.
    """
    check_fits(generator, recipe, latents=latents)
    if recipe.frames is None or recipe.loop is None:
        raise InputError(f"{recipe.command} makes a picture, not a video")
    path: Iterator[np.ndarray]
    if recipe.space == "z":
        z_path = keyframe_path(_z(generator, recipe.seeds), recipe.frames, recipe.loop, "sphere", recipe.batch)
        path = (_map(generator, recipe, z) for z in z_path)
    else:
        ws = Sources(generator, recipe, latents).ws(recipe.seeds)
        path = keyframe_path(ws, recipe.frames, recipe.loop, "smooth", recipe.batch)
    return _synthesize_path(generator, path, recipe.frames, progress)


def check_fits(
    generator: Generator, recipe: Recipe, directions: Directions | None = None, latents: Latents | None = None
) -> None:
    """Check a recipe against the network and the memory, without computing an image.

    Raises:
        InputError: This is no recipe, the network does not take its cutoff, label, levels or moves, or it has too many images. Or
            it needs other directions, or other latents.
        BundleError: The directions or latents belong to another network.
    """
    check_recipe(recipe)
    bundle = generator.bundle
    bundle.check_no_noise_inputs()
    Sources(generator, recipe, latents).check()
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
    if images * max(bundle.pixels, bundle.num_ws * bundle.model["w_dim"]) > MAX_HELD:
        raise InputError(f"{images} images of {bundle.size_text} are too many to hold at once")


def average_w(generator: Generator, cutoff: int | None = None) -> np.ndarray:
    """The average w `[w_dim]` of a network, which truncation leads to. Raises InputError for a cutoff that it does not take."""
    model = generator.bundle.model
    labels = np.zeros((1, model["c_dim"]), np.float32) if model["c_dim"] else None
    w: np.ndarray = generator.map(np.zeros((1, model["z_dim"]), np.float32), 0.0, cutoff, labels)[0, 0]
    return w


class Sources:
    """The latents that a recipe names: by seeds, or by numbers of pictures in a file.

    Args:
        generator: The network.
        recipe: The recipe.
        latents: The file of a recipe that names one.
    """

    def __init__(self, generator: Generator, recipe: Recipe, latents: Latents | None) -> None:
        self.generator, self.recipe, self.latents = generator, recipe, latents

    def check(self) -> None:
        """Check cutoff and label, or the latents and their numbers. Raises as `check_fits`."""
        generator, recipe, latents = self.generator, self.recipe, self.latents
        if recipe.ws is None:
            _map(generator, recipe, np.zeros((1, generator.bundle.model["z_dim"]), np.float32))
            return
        if not isinstance(latents, Latents) or latents.sha256 != recipe.ws:
            raise InputError(f"the recipe needs the file of latents with the sha256 {recipe.ws}")
        latents.check_network(generator.bundle)
        average_w(generator, recipe.cutoff)
        latents.rows((*recipe.seeds, *(recipe.columns or ()), *(recipe.together or ())))

    def ws(self, seeds: Sequence[int], psi: float | None = None, whole: bool = False) -> np.ndarray:
        """The ws of seeds, truncated by `psi`, or else by the recipe's first psi. With `whole`, they are mapped in one call."""
        generator, recipe = self.generator, self.recipe
        if self.latents is not None and recipe.ws is not None:
            factor = recipe.psi[0] if psi is None else psi
            return truncated(self.latents.rows(seeds), average_w(generator), factor, recipe.cutoff)
        z = _z(generator, seeds)
        batch = len(z) if whole else recipe.batch
        return np.concatenate([_map(generator, recipe, z[i : i + batch], psi) for i in range(0, len(z), batch)])


def check_call(bundle: Bundle, images: int) -> None:
    """Raise InputError if so many images are too many for one call of a bundle's network."""
    if images > (most := max(MAX_CALL_PIXELS // bundle.pixels, 1)):
        raise InputError(f"{images} images of {bundle.size_text} in one call need too much memory; at most {most}")


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


def _single(sources: Sources, progress: Progress) -> np.ndarray:
    """The image of one seed, computed in one call with the seeds of the first time."""
    recipe = sources.recipe
    seeds = recipe.together or recipe.seeds
    ws = sources.ws(seeds, whole=True)
    return _shown(sources.generator, sources.generator.synthesize(ws))[seeds.index(recipe.seeds[0])]


def _grid(sources: Sources, progress: Progress) -> np.ndarray:
    ws = sources.ws(sources.recipe.seeds)
    return _drawn(sources.generator, _batches(ws, sources.recipe.batch), Grid(len(ws)), progress)


def _mix(sources: Sources, progress: Progress) -> np.ndarray:
    """A grid of mixtures, with the sources of the columns above it and those of the rows at its left. The corner is white."""
    recipe = sources.recipe
    columns = sources.ws(recipe.columns or ())
    rows = sources.ws(recipe.seeds)
    mixed_rows = (np.concatenate([row[None], mix_styles(row, columns, recipe.levels or ())]) for row in rows)
    grid = Grid((len(rows) + 1) * (len(columns) + 1), len(columns) + 1)
    grid.skip()
    return _drawn(sources.generator, _rebatched(itertools.chain([columns], mixed_rows), recipe.batch), grid, progress)


def _sweep(sources: Sources, progress: Progress) -> np.ndarray:
    """A grid with a row per seed and a column per psi."""
    recipe, model = sources.recipe, sources.generator.bundle
    ws = np.empty((len(recipe.seeds), len(recipe.psi), model.num_ws, model.model["w_dim"]), np.float32)
    for i, psi in enumerate(recipe.psi):
        ws[:, i] = sources.ws(recipe.seeds, psi)
    images = ws.reshape(-1, *ws.shape[2:])
    return _drawn(sources.generator, _batches(images, recipe.batch), Grid(len(images), len(recipe.psi)), progress)


def _steered(sources: Sources, progress: Progress, directions: Directions) -> np.ndarray:
    """A grid with a column per strength: a row per seed that makes all moves, or on a contact sheet a row per move."""
    recipe = sources.recipe
    moves = recipe.parsed_moves
    batches = steered_batches(directions, sources.ws(recipe.seeds), moves, recipe.batch, apart=recipe.command == "sheet")
    return _drawn(sources.generator, batches, Grid(_images_in_memory(recipe), columns_of(moves)), progress)


def _composed(generator: Generator, recipe: Recipe, directions: Directions | None) -> np.ndarray:
    composition = _composition(recipe)
    moved = moved_ws(composed_ws(generator, [composition]), [composition.parsed_moves], directions)
    return _shown(generator, generator.synthesize(moved.ws, style_offsets=moved.style_offsets))[0]


def _composition(recipe: Recipe) -> Composition:
    label = recipe.label if recipe.label_vector is None else recipe.label_vector
    psi, cutoff = recipe.psi[0], recipe.cutoff
    return Composition(recipe.latents or (), psi, cutoff, label, recipe.toward, recipe.at or 0.0, recipe.moves or ())


def _z(generator: Generator, seeds: Sequence[int]) -> np.ndarray:
    return z_from_seeds(seeds, generator.bundle.model["z_dim"])


def _map(generator: Generator, recipe: Recipe, z: np.ndarray, psi: float | None = None) -> np.ndarray:
    """The ws of z in one call, truncated by `psi`, or else by the recipe's first psi."""
    return generator.map(z, recipe.psi[0] if psi is None else psi, recipe.cutoff, recipe.labels(len(z)))


def _shown(generator: Generator, images: np.ndarray) -> np.ndarray:
    """Images of a network as pictures show them, uint8 `[N, H, W, C]`. Channels that are no colors become grey tiles."""
    return viewable(as_uint8(images), bool(generator.bundle.channels))


def _drawn(generator: Generator, batches: Iterable[Steered], grid: Grid, progress: Progress) -> np.ndarray:
    """The picture of a grid, batch by batch: the grid is the only copy of its images."""
    skipped = grid.filled
    for ws, offsets in batches:
        grid.add(_shown(generator, generator.synthesize(ws, style_offsets=offsets)))
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
        yield _shown(generator, generator.synthesize(ws))
        done += len(ws)
        progress("frames", done, total)
