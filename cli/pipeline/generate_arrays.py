"""Runs `stylert generate` for arrays: the images of seeds as numbers, those of measured values in their units."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stylert.cli.picture_options import PictureOptions
from stylert.cli.pipeline.generate import seed_name
from stylert.core.errors import InputError, OutputError
from stylert.core.files.atomic import atomic_file, check_writable
from stylert.core.files.npy_files import npy_bytes, write_npz
from stylert.core.files.outputs import check_output
from stylert.core.images.channels import in_units
from stylert.core.progress import Progress
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.rendering import MAX_HELD, Sources, check_call

#: An array per image, or one archive of all.
ARRAY_FORMATS = ("npy", "npz")
ARCHIVE = "images.npz"


def generate_arrays(
    bundle_path: Path, seeds: list[int], out: Path, psi: float, array_format: str, options: PictureOptions, report: Progress
) -> list[Path]:
    """Write the images of seeds as arrays: float32 `[C, H, W]`, or uint8 `[H, W, C]` of a bundle with bytes as output.

    Measured values are in the units of their channels. Those of a float bundle without channels stay in about [-1, 1].

    - `npy` writes `seed<number>.npy` for each seed. Nothing in such a file tells its origin, so none is replaced.
    - `npz` writes `images.npz` with `images`, `seeds` and `recipe`, and for measured values `channels` and `units`.

    Args:
        bundle_path: Folder of the bundle.
        seeds: One image each.
        out: Folder of the files.
        psi: Truncation.
        array_format: A name of `ARRAY_FORMATS`.
        options: How images are drawn.
        report: Called after each batch.

    Returns:
        The files that were written.

    Raises:
        InputError: An option does not fit the bundle, or its bytes cannot hold measured values.
        OutputError: A file cannot be written, or is there and of unknown origin.
    """
    bundle = Bundle.load(bundle_path, options.require_signature)
    bundle.check_no_noise_inputs()
    if bundle.channels and bundle.output != "float":
        raise InputError(f"the images of bundle {bundle.path} are bytes, too coarse for values: export it with --output float")
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot write into {out}: it is a file")
    seeds = list(dict.fromkeys(seeds))
    latents = options.read_latents(bundle)
    recipe = options.recipe(bundle, "grid", seeds, [psi], latents, batch=min(options.batch, len(seeds)))
    check_call(bundle, recipe.batch)
    image = next(tensor for tensor in bundle.synthesis_tensors if not tensor.is_input)
    if array_format == "npz" and len(seeds) * int(np.prod(image.shape)) > MAX_HELD:
        raise InputError(f"{len(seeds)} images are too many to hold at once: write them with --format npy")
    stems = [seed_name(seed) for seed in seeds] if latents is None else [latents.name(n) for n in seeds]
    files = [out / ARCHIVE] if array_format == "npz" else [out / f"{stem}.npy" for stem in stems]
    for file in files:
        check_output(file, "zip") if array_format == "npz" else _check_new(file)
    held: list[np.ndarray] = []
    with Generator.load(bundle, recipe.backend, recipe.precision, options.threads) as generator:
        sources = Sources(generator, recipe, latents)
        sources.check()
        for i in range(0, len(seeds), options.batch):
            images = generator.synthesize(sources.ws(seeds[i : i + options.batch]))
            images = in_units(images, bundle.channels) if bundle.channels else images
            if array_format == "npz":
                held.append(images)
            else:
                for file, array in zip(files[i : i + options.batch], images, strict=True):
                    with atomic_file(file) as temporary:
                        temporary.write_bytes(npy_bytes(array))
            report("generate", min(i + options.batch, len(seeds)), len(seeds))
    if array_format == "npz":
        arrays = {"images": np.concatenate(held), "seeds": np.array(seeds), "recipe": np.array(recipe.to_json())}
        if bundle.channels:
            arrays["channels"] = np.array([channel.name for channel in bundle.channels])
            arrays["units"] = np.array([channel.unit for channel in bundle.channels])
        write_npz(files[0], arrays)
    return files


def _check_new(file: Path) -> None:
    check_writable(file)
    if file.exists():
        raise OutputError(f"cannot write {file}: it exists, and nothing in an array tells its origin; choose another folder")
