"""Runs pivot: tunes a generator until the latents of given pictures draw them, and writes the new checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stylert.cli.console import print_line, print_note, print_table, progress
from stylert.cli.latents.projecting import FOLDER, check_apart, perceptual_distance
from stylert.core.errors import InputError, OutputError, missing_extra
from stylert.core.files.digests import sha256_of
from stylert.core.files.locks import locked_folder
from stylert.core.files.outputs import check_output, is_within, write_json
from stylert.core.images.grids import as_uint8, make_grid
from stylert.core.images.similarity import psnr
from stylert.models.checkpoint import check_generator_output, generator_module, generator_shapes, write_generator
from stylert.models.importers.import_checkpoint import read_stylegan2_generator
from stylert.runtime.media.pictures import check_own_picture, save_image
from stylert.runtime.steering.latents_file import Latents, read_latents, write_latents

if TYPE_CHECKING:
    from stylert.models.stylegan2.networks import Generator
    from stylert.train.projection.pictures import TargetPicture

#: The stage, for the refusal of other networks
PURPOSE = "stylert pivot"
#: Files in --out
MODEL, LATENTS = "model.safetensors", "latents.safetensors"
#: Random images by which it is told how much other images have changed
OTHER_IMAGES = 64


@dataclass(frozen=True)
class PivotOptions:
    """The options of the command. The texts of `stylert pivot --help` describe them."""

    checkpoint: Path
    latents: Path
    out: Path
    steps: int
    rate: float
    locality: float
    pixel_weight: float
    lpips: tuple[Path, ...]
    transform: str
    seed: int
    json: Path | None


def pivot(places: Sequence[Path], options: PivotOptions) -> None:
    """Tune a generator.

    Args:
        places: Picture files, and folders or zips of them. Each has its latents, by name.
        options: The options.

    Raises:
        StylertError: A picture or file cannot be read or does not fit, an option is out of range, or a result cannot be written.
    """
    try:
        import torch

        from stylert.train.projection.objective import Objective
        from stylert.train.projection.pictures import read_pictures
        from stylert.train.projection.pivotal_tuning import TuningSettings, tune
        from stylert.train.projection.starts import latent_statistics
        from stylert.train.sampling import sample_images
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    _check_places(places, options)
    settings = TuningSettings(options.steps, options.rate, options.locality, seed=options.seed)
    weights = read_stylegan2_generator(options.checkpoint, PURPOSE)
    cfg, origin = weights.config, sha256_of(options.checkpoint)
    cfg.require_usual_shape("pivotal tuning")
    pictures = read_pictures(places, cfg.resolution, cfg.img_channels, options.transform)
    for picture in pictures:
        check_own_picture(_pair_file(options.out, picture.name))
        if picture.note:
            print_note(f"{picture.name}: {picture.note}")
    ws = _pivots(read_latents(options.latents), origin, pictures, options)
    generator = generator_module(weights)
    distance = perceptual_distance(options.lpips, cfg.resolution)
    objective = Objective(distance, options.pixel_weight)
    targets = [objective.target(picture.image) for picture in pictures]
    facts = {
        "checkpoint_sha256": origin,
        "pictures": [picture.name for picture in pictures],
        "steps": settings.steps,
        "rate": settings.rate,
        "locality": settings.locality,
        "pixel_weight": options.pixel_weight,
        "distance": distance.name,
        "seed": settings.seed,
    }
    with locked_folder(options.out):
        with progress() as report:
            tuned = tune(generator, latent_statistics(generator), objective, torch.from_numpy(ws), targets, settings, report)
        rows = _write_pairs(pictures, _images(generator, ws), _images(tuned, ws), options.out)
        others = [psnr(a, b) for a, b in zip(*(sample_images(g, OTHER_IMAGES) for g in (generator, tuned)), strict=True)]
        state = {name: tensor.numpy() for name, tensor in tuned.state_dict().items()}
        arrays = {name: state[name] for name in generator_shapes(cfg)}
        write_generator(options.out / MODEL, cfg, arrays, info={**weights.info, "pivotal_tuning": facts})
        names = tuple(picture.name for picture in pictures)
        write_latents(options.out / LATENTS, Latents(sha256_of(options.out / MODEL), ws, names, {"pivotal_tuning": facts}))
    if options.json is not None:
        content = {"settings": facts, "pictures": rows}
        write_json(options.json, {**content, "others_psnr_db": {"mean": float(np.mean(others)), "worst": min(others)}})
    _show(rows, others, options)


def _check_places(places: Sequence[Path], options: PivotOptions) -> None:
    inputs = (options.checkpoint, options.latents, *options.lpips, *places)
    check_output(options.json, "JSON", inputs)
    for place in places:
        if place.is_dir() and is_within(options.out, place):
            raise OutputError(f"cannot write into {options.out}: it lies among the pictures of {place}; choose another folder")
    if options.out.exists() and not options.out.is_dir():
        raise OutputError(f"cannot write into {options.out}: it is a file")
    check_generator_output(options.out / MODEL, inputs)
    check_output(options.out / LATENTS, "latents", inputs)
    if (options.out / LATENTS).exists() and not (options.out / MODEL).exists():
        raise OutputError(f"cannot replace {options.out / LATENTS}: it is not of `stylert pivot`; choose another folder")
    check_apart(options.json, options.out, options.out / MODEL, options.out / LATENTS)


def _pivots(latents: Latents, network: str, pictures: Sequence[TargetPicture], options: PivotOptions) -> np.ndarray:
    """ws `[N, num_ws, w_dim]` of the pictures.

    Raises:
        InputError: The latents are those of another network, or lack a picture.
    """
    if latents.network != network:
        raise InputError(
            f"{options.latents} belongs to the network {latents.network[:12]}, and {options.checkpoint} is {network[:12]}: "
            "project the pictures into this one"
        )
    missing = [picture.name for picture in pictures if picture.name not in latents.names]
    if missing:
        raise InputError(f"{options.latents} has no picture {missing[0]}, only {', '.join(latents.names[:8])}")
    return latents.ws[[latents.names.index(picture.name) for picture in pictures]]


def _images(generator: Generator, ws: np.ndarray) -> np.ndarray:
    """The images of ws with constant noise, uint8 `[N, R, R, C]`."""
    import torch

    with torch.no_grad():
        return np.concatenate([as_uint8(generator.synthesis(torch.from_numpy(w[None]), "const").numpy()) for w in ws])


def _write_pairs(pictures: Sequence[TargetPicture], before: np.ndarray, after: np.ndarray, out: Path) -> list[dict[str, Any]]:
    """Write each picture beside its image before and after. Returns its name and both PSNR."""
    rows = []
    for picture, old, new in zip(pictures, before, after, strict=True):
        facts = {"psnr_before_db": round(psnr(old, picture.pixels), 3), "psnr_db": round(psnr(new, picture.pixels), 3)}
        rows.append({"name": picture.name, **facts})
        comment = json.dumps({"AI-generated": True, "command": "pivot", "picture": picture.name, **facts})
        save_image(make_grid(np.stack([picture.pixels, old, new]), 3), _pair_file(out, picture.name), comment)
    return rows


def _pair_file(out: Path, name: str) -> Path:
    return out / FOLDER / f"{name}.png"


def _show(rows: Sequence[dict[str, Any]], others: Sequence[float], options: PivotOptions) -> None:
    print_table(
        "pictures",
        ["<name", "projected, dB", "tuned, dB"],
        [(row["name"], f"{row['psnr_before_db']:.2f}", f"{row['psnr_db']:.2f}") for row in rows],
    )
    print_line(
        f"{len(others)} random images differ by {np.mean(others):.2f} dB in the mean from those of the original network, "
        f"and by {min(others):.2f} dB at worst"
    )
    print_line(f"wrote {options.out / MODEL}, and {options.out / LATENTS} for it")
