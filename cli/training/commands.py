"""Declares dataset, augment-preview, train and metrics with their options. The modules beside this one run them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylert.cli.app import JsonFile, app, split_list
from stylert.core.errors import InputError
from stylert.core.files.outputs import check_output, write_json

HALF = "Type of the highest resolutions: none, fp16, bf16."
AUGMENTATION = "ada (adapts p), fixed (--p), or noaug; by default the preset decides."
PIPELINE = "blit, geom, color, filter, noise, cutout, the unions bg, bgc, bgcf, bgcfn, bgcfnc, or diffaug."
MICRO = "Images per forward and backward pass; the gradients of the passes are added."
LOSS = "logistic (StyleGAN2), relativistic (R3GAN, with R2), or hinge (the default with --projected)."
PROJECTED = "Train a projected discriminator on EfficientNet-Lite0, with images of this side, such as 128."
PIXELS = "Beside it, train StyleGAN2's discriminator on images of this side, such as 32."
SETTING = "NAME=VALUE for any other value in the plan of --dry-run, such as --set ema_kimg=20. May be repeated."
BEST = (
    "Measure every snapshot by fd2k, kid2k, fid2k or fid50k_full; the first metric decides which snapshot is best.safetensors."
)
METRICS = (
    "Comma-separated: fd, fd_vgg, fid, kid, pr, is, ppl_z, ppl_w (_end, _crop), modes, ls_z, ls_w; fd5k takes 5,000 images, "
    "fd5k_full compares them with all real ones."
)
CHANNELS = (
    'Of arrays: JSON such as [{"name": "t2m", "unit": "K", "low": 220, "high": 320}], a channel each. Limits are optional.'
)
NOISE = "Noise of the generated images: random, as in the official metrics, const, or none."
BALANCED = "Draw each class equally often, with --cond."
WANDB = "Also send statistics and images to this project of Weights & Biases; WANDB_MODE=offline keeps them in --out."
RESUME = "Continue from the snapshot in --out; --kimg, --lr, --gamma and the augmentation may change. --resume FILE is --transfer FILE."
TRANSFER = "Start from the networks of this snapshot, generator or official pickle; it may be of a lower resolution."


@app.command()
def dataset(
    source: Annotated[
        Path, typer.Argument(help="Folder, zip, LMDB, CIFAR or MNIST archive, Parquet, Arrow, or arrays (.npy, .npz).")
    ],
    out: Annotated[Path, typer.Option(help="The dataset, a zip of the official layout.")],
    resolution: Annotated[
        str, typer.Option(help="Side of square images, a power of two; or width and height, such as 256x128.")
    ],
    transform: Annotated[
        str, typer.Option(help="none (keeps proportions), center-crop, center-crop-wide (4:3), pad.")
    ] = "none",
    grey: Annotated[bool, typer.Option("--grey", help="Convert to grey.")] = False,
    alpha: Annotated[
        bool, typer.Option("--alpha", help="Keep transparency as a channel, which is else laid over white.")
    ] = False,
    layout: Annotated[str, typer.Option(help="Of arrays: chw (channels first) or hwc.")] = "chw",
    channels: Annotated[Path | None, typer.Option(help=CHANNELS, metavar="FILE")] = None,
    skip_corrupt: Annotated[bool, typer.Option("--skip-corrupt", help="Leave out pictures that cannot be decoded.")] = False,
    max_images: Annotated[int | None, typer.Option(min=1, help="Largest number of pictures, from the first.")] = None,
) -> None:
    """Prepare pictures, or arrays of measured values, for training: square, of one size, in one zip, with their labels."""
    from stylert.cli.training.dataset import ConversionOptions, parse_size, run_prepare

    check_output(out, "zip", (source, channels))
    options = ConversionOptions(parse_size(resolution), transform, grey, alpha, skip_corrupt, max_images, layout, channels)
    run_prepare(source, out, options)


@app.command("augment-preview")
def augment_preview(
    data: Annotated[Path, typer.Argument(help="Zip or folder of square PNG or JPEG images, official layout.")],
    out: Annotated[Path, typer.Option(help="The sheet, such as sheet.png.")],
    images: Annotated[int, typer.Option(min=1, max=16, help="How many images, from the first.")] = 4,
    augpipe: Annotated[str | None, typer.Option(help="Comma-separated pipelines; all groups by default.")] = None,
    p: Annotated[str, typer.Option("--p", help="Comma-separated probabilities.")] = "0,0.25,0.5,1",
    tile: Annotated[int, typer.Option(min=16, max=512, help="Pixels of one image on the sheet.")] = 96,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed.")] = 0,
) -> None:
    """Show the effect of each augmentation group on images, at several probabilities."""
    from stylert.cli.training.augment_preview import run_preview

    run_preview(data, out, images, augpipe, p, tile, seed)


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="Zip or folder of square PNG or JPEG images, official layout.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    source: Annotated[Path | None, typer.Argument(metavar="", hidden=True)] = None,
    preset: Annotated[
        str, typer.Option(help="auto, stylegan2, paper256, paper512, paper1024, cifar, cpu, cpu-small.")
    ] = "auto",
    kimg: Annotated[float | None, typer.Option(min=0, help="Length, thousands of images.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step, over all processes.")] = None,
    batch_gpu: Annotated[int | None, typer.Option(min=1, help=MICRO)] = None,
    loss: Annotated[str | None, typer.Option(help=LOSS)] = None,
    projected: Annotated[int | None, typer.Option(min=32, help=PROJECTED)] = None,
    projected_pixels: Annotated[int | None, typer.Option(min=8, help=PIXELS)] = None,
    gamma: Annotated[float | None, typer.Option(min=0, help="R1 weight.")] = None,
    pl_weight: Annotated[float | None, typer.Option(min=0, help="Path length weight; 0 trains without.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Learning rate.")] = None,
    channel_base: Annotated[int | None, typer.Option(min=1, help="Capacity: channels times resolution.")] = None,
    channel_max: Annotated[int | None, typer.Option(min=1, help="Most channels of a layer.")] = None,
    half: Annotated[str | None, typer.Option(help=HALF)] = None,
    aug: Annotated[str | None, typer.Option(help=AUGMENTATION)] = None,
    p: Annotated[float | None, typer.Option("--p", min=0, max=1, help="Probability of fixed augmentation.")] = None,
    target: Annotated[float | None, typer.Option(min=-1, max=1, help="Mean sign of D(real) that ada keeps.")] = None,
    augpipe: Annotated[str | None, typer.Option(help=PIPELINE)] = None,
    freeze_d: Annotated[
        int | None, typer.Option(min=0, help="Number of outer layers of the discriminator that are not trained.")
    ] = None,
    subset: Annotated[int | None, typer.Option(min=1, help="Train on this number of random images; all by default.")] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Train on the mirror image of each image as well.")] = False,
    class_balanced: Annotated[bool, typer.Option("--class-balanced", help=BALANCED)] = False,
    labels: Annotated[bool, typer.Option("--cond", help="Train on the labels of dataset.json.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    snap: Annotated[float, typer.Option(min=0.01, help="Kimg between snapshots.")] = 10.0,
    keep: Annotated[int, typer.Option(min=0, help="Number of older snapshots to keep, beside the newest.")] = 0,
    metrics: Annotated[str | None, typer.Option(help=BEST)] = None,
    inception: Annotated[Path | None, typer.Option(help="Weights of the FID Inception network, for --metrics fid.")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Run the networks through torch.compile.")] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", help=SETTING)] = None,
    resume: Annotated[bool, typer.Option("--resume", help=RESUME)] = False,
    transfer: Annotated[Path | None, typer.Option(help=TRANSFER)] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write statistics and images for TensorBoard.")
    ] = False,
    wandb: Annotated[str | None, typer.Option(metavar="PROJECT", help=WANDB)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan of the run and its cost, then stop.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train StyleGAN2 on images. Ctrl-C saves and stops; --resume continues exactly there.

    On several GPUs or CPUs: torchrun --nproc-per-node N -m stylert.cli.main train ...
    """
    from stylert.cli.training.train import Options, read_settings, run_training

    if source is not None:  # as in the official tool: --resume FILE starts from other networks
        if not resume or transfer is not None:
            raise InputError(f"got an unexpected argument: {source}")
        resume, transfer = False, source
    overrides = {
        "kimg": kimg,
        "batch": batch,
        "batch_gpu": batch_gpu,
        "loss": loss,
        "projected": projected,
        "projected_pixels": projected_pixels,
        "r1_gamma": gamma,
        "pl_weight": pl_weight,
        "lr": lr,
        "channel_base": channel_base,
        "channel_max": channel_max,
        "half": half,
        "aug": aug,
        "aug_p": p,
        "ada_target": target,
        "aug_pipeline": augpipe,
        "freeze_d": freeze_d,
        "subset": subset,
        "mirror": mirror or None,
        "class_balanced": class_balanced or None,
        "seed": seed,
    }
    given = {k: v for k, v in overrides.items() if v is not None} | read_settings(settings or [])
    run_training(
        Options(
            data=data,
            out=out,
            preset=preset,
            overrides=given,
            labels=labels,
            snap=snap,
            keep=keep,
            resume=resume,
            transfer=transfer,
            tensorboard=tensorboard,
            dry_run=dry_run,
            device=device,
            metrics=metrics,
            inception=inception,
            compiled=compiled,
            wandb=wandb,
        )
    )


@app.command()
def metrics(
    checkpoint: Annotated[Path, typer.Argument(help="model.safetensors, a training snapshot, or an official file.")],
    data: Annotated[Path | None, typer.Option(help="Zip or folder of real images.")] = None,
    floor: Annotated[Path | None, typer.Option(help="Other real images: their distance to --data is the floor.")] = None,
    names: Annotated[str, typer.Option("--metrics", help=METRICS)] = "fd",
    images: Annotated[int, typer.Option(min=2, help="Number of images, for metrics whose name holds none.")] = 5000,
    inception: Annotated[Path | None, typer.Option(help="Weights of the FID Inception network, torch-fidelity's .pth.")] = None,
    lpips: Annotated[str | None, typer.Option(help="Comma-separated files: VGG16's weights and LPIPS's.")] = None,
    noise: Annotated[str, typer.Option(help=NOISE)] = "random",
    json: JsonFile = None,
) -> None:
    """Measure a checkpoint: distances to real images, path lengths, modes.

    Without --inception and --lpips the features are those of EfficientNet-Lite0. Such values are not FID, KID or PPL.
    """
    from stylert.cli.training.metrics import run_metrics

    files = [Path(name) for name in split_list(lpips) or []]
    check_output(json, "JSON", (checkpoint, data, floor, inception, *files))
    facts = run_metrics(checkpoint, data, floor, images, names, inception, lpips, noise)
    if json is not None:
        write_json(json, facts)
