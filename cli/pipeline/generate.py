"""Runs `stylert generate`: draws the images of seeds in batches and writes them to files, or to the files of shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from stylert.cli.picture_options import PictureOptions
from stylert.core.errors import InputError, OutputError
from stylert.core.images.channels import viewable
from stylert.core.images.grids import Grid, as_uint8
from stylert.core.progress import Progress
from stylert.core.provenance.signing import active_signer, active_signer_sha256
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.pictures import check_own_picture, save_image
from stylert.runtime.media.rendering import Sources, check_call, check_fits
from stylert.runtime.shards.making import make_shards
from stylert.runtime.shards.work import ShardWork

#: Formats of single pictures that hold alpha and a recipe.
PICTURE_FORMATS = ("png", "webp")


def generate_images(
    bundle_path: Path,
    seeds: list[int],
    out: Path,
    psi: float,
    grid: bool,
    options: PictureOptions,
    report: Progress,
    image_format: str = "png",
) -> list[Path]:
    """Write `seed<number>.png` for each seed, or one `grid.png`. Each file carries its recipe.

    Channels that are no colors are shown as grey tiles, side by side.

    With `--latents`, seeds are numbers of pictures, and each file has the name of its picture.

    Args:
        bundle_path: Folder of the bundle.
        seeds: One image each. A seed that is named twice is twice in a grid, and one file otherwise.
        out: Folder of the files.
        psi: Truncation.
        grid: Whether to write one grid instead of single images.
        options: How images are drawn.
        report: Called after each batch.
        image_format: One of `PICTURE_FORMATS`, also the suffix of the files.

    Returns:
        The files that were written.

    Raises:
        InputError: An option does not fit the bundle.
        OutputError: `out` cannot be written.
    """
    bundle = Bundle.load(bundle_path, options.require_signature)
    bundle.check_no_noise_inputs()
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot write into {out}: it is a file")
    seeds = seeds if grid else list(dict.fromkeys(seeds))
    latents = options.read_latents(bundle)
    recipe = options.recipe(bundle, "grid", seeds, [psi], latents, batch=min(options.batch, len(seeds)))
    check_call(bundle, recipe.batch)
    stems = [seed_name(seed) for seed in seeds] if latents is None else [latents.name(n) for n in seeds]
    names, grid_name = [f"{stem}.{image_format}" for stem in stems], f"grid.{image_format}"
    with Generator.load(bundle, recipe.backend, recipe.precision, options.threads) as generator:
        # Mistakes in the options are found before the long part: by mapping one latent, and by the place of the first file.
        sources = Sources(generator, recipe, latents)
        sources.check()
        if grid:
            check_fits(generator, recipe, latents=latents)
            comment = recipe.to_json()
        for name in [grid_name] if grid else names if out.exists() else names[:1]:
            check_own_picture(out / name)
        active_signer()  # a credential that cannot sign is told here, too
        files: list[Path] = []
        tiles = Grid(len(seeds))
        for i in range(0, len(seeds), options.batch):
            chunk = seeds[i : i + options.batch]
            images = viewable(as_uint8(generator.synthesize(sources.ws(chunk))), bool(bundle.channels))
            if grid:
                tiles.add(images)
            else:
                for seed, name, image in zip(chunk, names[i : i + options.batch], images, strict=True):
                    files.append(out / name)
                    single = dataclasses.replace(recipe, command="generate", seeds=(seed,), together=tuple(chunk))
                    save_image(image, files[-1], single.to_json())
            report("generate", min(i + options.batch, len(seeds)), len(seeds))
    if grid:
        files.append(out / grid_name)
        save_image(tiles.picture, files[-1], comment)
    return files


def generate_shards(
    bundle_path: Path,
    seeds: str,
    out: Path,
    psi: float,
    shards: int,
    kind: tuple[str, str],
    ray: str | None,
    options: PictureOptions,
    report: Progress,
) -> tuple[int, int]:
    """Write the images of many seeds as shards, in this process or on a Ray cluster. Shards that are there are not made again.

    Args:
        bundle_path: Folder of the bundle.
        seeds: The seeds as text. None may be there twice.
        out: Folder of the shards.
        psi: Truncation.
        shards: Number of shards.
        kind: The format of the shards, and that of the pictures in them.
        ray: Address of a Ray cluster; None for this process.
        options: How images are drawn.
        report: Called after each shard.

    Returns:
        How many shards were made now, and the number of images.

    Raises:
        StylertError: As `make_shards` and `make_shards_on_ray`.
    """
    if options.latents is not None:
        raise InputError("--shards writes the images of seeds, and takes no --latents")
    bundle = Bundle.load(bundle_path, options.require_signature)
    facts = options.recipe(bundle, "grid", [0], [psi])
    work = ShardWork(
        bundle=facts.bundle,
        backend=facts.backend,
        precision=facts.precision,
        psi=psi,
        cutoff=options.cutoff,
        label=facts.label,
        label_vector=facts.label_vector,
        batch=options.batch,
        seeds=seeds,
        shards=shards,
        format=kind[0],
        picture=kind[1],
        signer=active_signer_sha256(),
    )
    if ray is None:
        return make_shards(work, bundle, out, options.threads, report), work.images
    from stylert.runtime.shards.ray_tasks import make_shards_on_ray

    return make_shards_on_ray(work, bundle, out, ray, options.threads or 1, report), work.images


def seed_name(seed: int) -> str:
    """The name of a seed's file, without suffix."""
    return f"seed{seed:04d}"
