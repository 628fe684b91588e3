"""From a recipe to pixels: the one place where each command's picture is computed, for the first time and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from stylert.core.errors import InputError
from stylert.core.images import as_uint8, make_grid
from stylert.core.seeds import z_from_seeds
from stylert.runtime.generator import Generator
from stylert.runtime.latents import mix_styles
from stylert.runtime.media.interpolation import MAX_KEYFRAMES, along
from stylert.runtime.media.recipes import Recipe

#: Pixels, or numbers in ws, held in memory at once: of a whole picture, or of a batch of a video's frames.
MAX_HELD = 2**28

#: `(stage, done, total)`
Report = Callable[[str, int, int], None]


def picture(generator: Generator, recipe: Recipe, report: Report = lambda *_: None) -> np.ndarray:
    """The picture of a recipe: uint8 `[H, W, C]`. Raises InputError when the recipe is a video's, and as `check_fits`."""
    check_fits(generator, recipe)
    render = {"generate": _one, "grid": _grid, "mix": _mix, "sweep": _sweep}.get(recipe.command)
    if render is None:
        raise InputError(f"{recipe.command} makes a video, not a picture")
    return render(generator, recipe, report)


def check_fits(generator: Generator, recipe: Recipe) -> None:
    """Raise InputError for a cutoff, class, level or number of images that the network or the memory does not allow.

    It costs no image, so that a mistake is found before anything long begins.
    """
    bundle = generator.bundle
    if bundle.noise == "input":
        raise InputError("this bundle takes noise as inputs; generate from Python, or export with --noise const")
    _map(generator, recipe, np.zeros((1, bundle.model["z_dim"]), np.float32))
    if recipe.levels is not None and max(recipe.levels) >= bundle.num_ws:
        raise InputError(f"levels are latents 0 to {bundle.num_ws - 1} of this network, not {max(recipe.levels)}")
    if recipe.command == "interpolate" and not 2 <= len(recipe.seeds) <= MAX_KEYFRAMES:
        raise InputError(f"an interpolation takes 2 to {MAX_KEYFRAMES} seeds, not {len(recipe.seeds)}")
    at_once = {
        "generate": len(recipe.together or ()),
        "grid": len(recipe.seeds),
        "mix": (len(recipe.seeds) + 1) * (len(recipe.columns or ()) + 1),
        "sweep": len(recipe.seeds) * len(recipe.psi),
        "interpolate": min(recipe.batch, recipe.frames or 0),
    }[recipe.command]
    if at_once * max(bundle.resolution**2, bundle.num_ws * bundle.model["w_dim"]) > MAX_HELD:
        raise InputError(f"{at_once} images of {bundle.resolution} px are too many to hold at once")


def frames(generator: Generator, recipe: Recipe, report: Report = lambda *_: None) -> Iterator[np.ndarray]:
    """The frames of an interpolation, in batches: uint8 `[<= batch, H, W, C]`. Keyframes are in memory, frames never all."""
    check_fits(generator, recipe)
    if recipe.frames is None or recipe.loop is None:
        raise InputError(f"{recipe.command} makes a picture, not a video")
    keyframes = z_from_seeds(recipe.seeds, generator.bundle.model["z_dim"])
    path: Iterator[np.ndarray]
    if recipe.space == "z":
        path = (_map(generator, recipe, z) for z in along(keyframes, recipe.frames, recipe.loop, "sphere", recipe.batch))
    else:
        path = along(_map_all(generator, recipe, keyframes), recipe.frames, recipe.loop, "smooth", recipe.batch)
    return _shown(generator, path, recipe.frames, report)


def _shown(generator: Generator, path: Iterator[np.ndarray], total: int, report: Report) -> Iterator[np.ndarray]:
    done = 0
    for ws in path:
        yield as_uint8(generator.synthesize(ws))
        done += len(ws)
        report("frames", done, total)


def _one(generator: Generator, recipe: Recipe, report: Report) -> np.ndarray:
    together = recipe.together or recipe.seeds
    ws = _map(generator, recipe, z_from_seeds(together, generator.bundle.model["z_dim"]))
    return as_uint8(generator.synthesize(ws))[together.index(recipe.seeds[0])]


def _grid(generator: Generator, recipe: Recipe, report: Report) -> np.ndarray:
    return make_grid(_images(generator, _ws(generator, recipe, recipe.seeds), recipe.batch, report))


def _mix(generator: Generator, recipe: Recipe, report: Report) -> np.ndarray:
    """Sources of the columns above, sources of the rows at the left, mixtures between; the corner stays white."""
    columns = _ws(generator, recipe, recipe.columns or ())
    rows = _ws(generator, recipe, recipe.seeds)
    mixtures = [np.concatenate([row[None], mix_styles(row, columns, recipe.levels or ())]) for row in rows]
    images = _images(generator, np.concatenate([columns, *mixtures]), recipe.batch, report)
    corner = np.full_like(images[:1], 255)
    return make_grid(np.concatenate([corner, images]), columns=len(columns) + 1)


def _sweep(generator: Generator, recipe: Recipe, report: Report) -> np.ndarray:
    """A row per seed, a column per psi."""
    ws = np.stack([_ws(generator, recipe, recipe.seeds, psi) for psi in recipe.psi], axis=1)
    return make_grid(_images(generator, ws.reshape(-1, *ws.shape[2:]), recipe.batch, report), columns=len(recipe.psi))


def _ws(generator: Generator, recipe: Recipe, seeds: tuple[int, ...], psi: float | None = None) -> np.ndarray:
    return _map_all(generator, recipe, z_from_seeds(seeds, generator.bundle.model["z_dim"]), psi)


def _map_all(generator: Generator, recipe: Recipe, z: np.ndarray, psi: float | None = None) -> np.ndarray:
    batches = range(0, len(z), recipe.batch)
    return np.concatenate([_map(generator, recipe, z[i : i + recipe.batch], psi) for i in batches])


def _map(generator: Generator, recipe: Recipe, z: np.ndarray, psi: float | None = None) -> np.ndarray:
    labels = None if recipe.label is None else [recipe.label] * len(z)
    return generator.map(z, recipe.psi[0] if psi is None else psi, recipe.cutoff, labels)


def _images(generator: Generator, ws: np.ndarray, batch: int, report: Report) -> np.ndarray:
    images = []
    for i in range(0, len(ws), batch):
        images.append(as_uint8(generator.synthesize(ws[i : i + batch])))
        report("generate", min(i + batch, len(ws)), len(ws))
    return np.concatenate(images)
