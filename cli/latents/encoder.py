"""Declares and runs `stylert encoder train` and `stylert encoder export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stylert.cli.app import CommandGroup, JsonFile, app, split_list
from stylert.cli.console import print_line, print_table, progress
from stylert.cli.latents.distance_options import PixelWeight, RandomSeed
from stylert.core.errors import InputError, StylertError, missing_extra
from stylert.core.files.digests import sha256_of
from stylert.core.files.outputs import check_output, is_same_file, write_json

#: Truncations of the held-out images.
PSIS = (1.0, 0.7)

encoder = CommandGroup(help="Train the encoder of a generator: pictures to latents in one pass.", no_args_is_help=True)
app.add_typer(encoder, name="encoder")


@encoder.callback()
def _group() -> None:
    """Train the encoder of a generator: pictures to latents in one pass."""


@encoder.command("train")
def train(
    checkpoint: Annotated[Path, typer.Argument(help="model.safetensors, or any file that `stylert export` reads.")],
    out: Annotated[Path, typer.Option(help="The encoder, a .safetensors file.")],
    steps: Annotated[int, typer.Option(min=1, max=10_000_000, help="Training steps.")] = 1500,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Images of the network per step.")] = 16,
    pixel_weight: PixelWeight = 50.0,
    test_images: Annotated[
        int, typer.Option(min=1, max=100_000, help="Images of fresh seeds that judge the encoder, for each psi.")
    ] = 64,
    seed: RandomSeed = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json: JsonFile = None,
) -> None:
    """Train an encoder on images of the network itself, and measure it on others.

    `stylert project --encoder` starts from its latents. It fits this checkpoint alone.
    """
    from stylert.cli.latents.projecting import perceptual_distance
    from stylert.models.checkpoint import generator_module
    from stylert.models.importers.import_checkpoint import read_stylegan2_generator
    from stylert.runtime.steering.encoder_file import EncoderWeights, write_encoder

    check_output(out, "encoder", (checkpoint,))
    check_output(json, "JSON", (checkpoint,))
    if json is not None and is_same_file(out, json):
        raise InputError(f"--out and --json both write {out}: choose another file")
    try:
        from stylert.train.encoder.curvature import mean_curvature
        from stylert.train.encoder.training import EncoderSettings, held_out, train_encoder
        from stylert.train.parallel import local_device
        from stylert.train.projection.objective import Objective
        from stylert.train.projection.starts import latent_statistics
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    place = local_device(device)
    weights, network = read_stylegan2_generator(checkpoint, "stylert encoder"), sha256_of(checkpoint)
    cfg = weights.config
    generator = generator_module(weights)
    statistics = latent_statistics(generator)
    objective = Objective(perceptual_distance((), cfg.resolution), pixel_weight)
    settings = EncoderSettings(steps, batch, seed=seed)
    with progress() as report:
        trained = train_encoder(generator.to(place), statistics, objective, settings, report)
        curvature = mean_curvature(generator, objective, batch, seed, report)
    found = {psi: held_out(trained, generator, statistics, objective, test_images, psi) for psi in PSIS}
    figures = [
        {"psi": psi, "psnr_db": round(row.psnr, 3), "distance": round(row.distance, 5), "latents": round(row.latents, 5)}
        for psi, row in found.items()
    ]
    facts: dict[str, Any] = {"steps": steps, "batch": batch, "pixel_weight": pixel_weight, "seed": seed}
    facts |= {"distance": objective.distance.name, "test_images": test_images, "held_out": figures}
    arrays = {name: tensor.cpu().numpy() for name, tensor in trained.state_dict().items()}
    sizes = (cfg.resolution, cfg.img_channels, cfg.num_ws, cfg.w_dim)
    write_encoder(out, EncoderWeights(network, *sizes, arrays, curvature.arrays(), facts))
    if json is not None:
        write_json(json, {"checkpoint_sha256": network, "encoder": facts})
    print_table(
        f"held out: {test_images} images of fresh seeds for each psi, drawn again",
        ["psi", "PSNR dB", "distance", "ws"],
        [(f"{psi:g}", f"{row.psnr:.2f}", f"{row.distance:.4f}", f"{row.latents:.3f}") for psi, row in found.items()],
    )
    print_line(f"wrote {out}")


@encoder.command("export")
def export(
    encoder: Annotated[Path, typer.Argument(help="The encoder, written by `stylert encoder train`.")],
    bundle: Annotated[Path, typer.Option(help="Bundle of the same checkpoint. The encoder is written into it.")],
    precision: Annotated[str, typer.Option(help="Precisions of the encoder, comma-separated.")] = "fp32,fp16,int8",
    test_images: Annotated[int, typer.Option(min=1, max=100_000, help="Images of fresh seeds that judge each precision.")] = 64,
    json: JsonFile = None,
) -> None:
    """Write an encoder into a bundle, so that `stylert encode` and Python turn pictures into latents without torch.

    Images of fresh seeds are encoded and drawn again. A precision that is farther from them than fp32 allows is left out.
    """
    from stylert.export.encoder.adding import MOST_LOST_DB, add_encoder
    from stylert.runtime.steering.encoder_file import read_encoder

    check_output(json, "JSON", (encoder, bundle))
    with progress() as report:
        rows = add_encoder(bundle, read_encoder(encoder), split_list(precision) or [], test_images, report)
    if json is not None:
        write_json(json, {"rows": [{**row._asdict(), "passed": row.passed} for row in rows]})
    print_table(
        f"{test_images} images of fresh seeds, encoded and drawn again",
        ["<precision", "PSNR dB", "worst dB", "below fp32 dB", "MB", "<"],
        [
            (
                row.precision,
                f"{row.psnr_db:.2f}",
                f"{row.worst_psnr_db:.2f}",
                f"{row.lost_db:.2f}",
                f"{row.bytes / 1e6:.1f}",
                "" if row.passed else "left out",
            )
            for row in rows
        ],
    )
    if missed := [row.precision for row in rows if not row.passed]:
        limits = ", ".join(f"{name} by {MOST_LOST_DB[name]:g} dB" for name in missed)
        raise StylertError(f"left out: farther from the pictures than fp32 allows, {limits}")
    print_line(f"wrote the encoder into {bundle}")
