"""Declares export, build, tune, generate, verify, demo and import with their options.

Longer bodies are in the modules beside this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylert.cli import tables
from stylert.cli.app import (
    Backends,
    Batch,
    BundlePath,
    JsonFile,
    NoSign,
    Precisions,
    Psi,
    Threads,
    app,
    check_choice,
    split_list,
)
from stylert.cli.console import print_line, print_note, progress
from stylert.cli.picture_options import MinPsnr, PictureOptions, with_picture_options
from stylert.core.errors import InputError
from stylert.core.files.outputs import check_output, write_json

FORMAT = "png or webp; npy (an array per image) or npz (one archive), with measured values in their units."


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="model.safetensors, a training snapshot, or a file that `stylert import` reads.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an older bundle in it is replaced.")],
    precision: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: fp32, fp16, bf16, int8, fp8. By default fp32,int8. StyleGAN1 has fp32,fp16,int8, StyleGAN3 fp32,fp16."
        ),
    ] = None,
    noise: Annotated[str, typer.Option(help="const (stored in the network), none, or input.")] = "const",
    output: Annotated[
        str | None,
        typer.Option(help="uint8 [N,H,W,C] or float [N,C,H,W]. By default uint8 for pictures, float for measured values."),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="Comma-separated: backends that get networks in their own graph form, beside the portable ones.")
    ] = "onnxruntime,openvino",
    min_psnr: Annotated[
        float | None,
        typer.Option(help="Least PSNR of int8 images, dB; layers stay out of 8 bits until it is reached. By default 33."),
    ] = None,
    verify_seeds: Annotated[
        int, typer.Option(min=0, help="Seeds to compare with PyTorch; the bundle keeps the accuracy. 0 compares none.")
    ] = 16,
    style_offsets: Annotated[
        bool,
        typer.Option("--style-offsets", help="Give the networks an input that moves single styles, for `stylert edit`."),
    ] = False,
) -> None:
    """Turn a checkpoint into a bundle of ONNX networks. Exit with 1 if a precision misses its PSNR; it is then left out."""
    from stylert.export.pipeline import export_bundle
    from stylert.export.verify import PsnrMissed
    from stylert.runtime.bundle import Bundle

    check_choice(noise, ("const", "none", "input"), "--noise")
    if output is not None:
        check_choice(output, ("uint8", "float"), "--output")
    with progress() as report:
        missed: PsnrMissed | None = None
        bundle: Bundle | None
        try:
            bundle = export_bundle(
                checkpoint,
                out,
                None if precision is None else split_list(precision) or [],
                noise,  # type: ignore[arg-type]
                output,  # type: ignore[arg-type]
                split_list(backend) or [],
                progress=report,
                min_psnr=min_psnr,
                verify_seeds=verify_seeds,
                style_offsets=style_offsets,
            )
        except PsnrMissed as e:
            missed, bundle = e, e.bundle
    if bundle is not None:
        for name, entry in bundle.files.items():
            print_line(f"{out / name}  {entry.bytes / 2**20:.1f} MiB  sha256 {entry.sha256[:12]}…")
        tables.show_bundle_accuracy(bundle)
    if missed is not None:
        print_note(f"stylert: {missed}", style="red")
        raise typer.Exit(1)


@app.command()
def build(
    bundle: BundlePath,
    backend: Backends = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated; by default all in the bundle. auto: one engine, the fastest that is accurate enough."
        ),
    ] = None,
    min_psnr: MinPsnr = None,
    threads: Threads = None,
    target: Annotated[
        str, typer.Option(help="current, or architectures such as sm_89,sm_120 for tensorrt-rtx, which builds without a GPU.")
    ] = "current",
    batch: Annotated[
        str,
        typer.Option(help="Least, best and largest batch of a GPU engine; 1,4:8:16 are two ranges with kernels of their own."),
    ] = "1:4:16",
    level: Annotated[int | None, typer.Option(help="TensorRT's builder optimisation level, 0 to 5.")] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="GPU engines: also run on later versions of the library.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="GPU engines: run on every GPU since Ampere.")
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="TensorRT: store no weights in the engine; they are read from the bundle.")
    ] = False,
    plugins: Annotated[bool, typer.Option("--plugins", help="TensorRT: stylert's kernels for the two operators.")] = False,
    hint: Annotated[
        str, typer.Option(help="latency, or throughput: OpenVINO then divides the cores among simultaneous calls.")
    ] = "latency",
    force: Annotated[bool, typer.Option(help="Build again even if a matching engine exists.")] = False,
) -> None:
    """Build engines into the bundle: for this machine, or ahead of time for another GPU. Ctrl-C leaves nothing behind."""
    from stylert.cli.pipeline.build import build_all, fastest_accurate, show_engines
    from stylert.runtime.build_options import parse_batch_ranges
    from stylert.runtime.bundle import Bundle

    options = {
        "threads": threads,
        "batch": parse_batch_ranges(batch),
        "level": level,
        "version_compatible": version_compatible,
        "hardware_compatible": hardware_compatible,
        "stripped": strip_weights,
        "plugins": plugins,
        "hint": hint,
    }
    targets = split_list(target) or []
    loaded, backends, precisions = Bundle.load(bundle), split_list(backend), split_list(precision)
    if precisions == ["auto"]:
        backends, precisions = fastest_accurate(loaded, backends, threads, min_psnr)
    elif min_psnr is not None:
        raise InputError("--min-psnr is for --precision auto")
    built, refused = build_all(loaded, backends, precisions, targets, options, force)
    show_engines(built)
    for reason in refused:
        print_note(f"stylert: {reason}", style="red")
    if refused:
        raise typer.Exit(2)


@app.command()
def tune(
    bundle: BundlePath,
    against: Annotated[Path, typer.Option(help="The checkpoint that the bundle was exported from.")],
    backend: Annotated[str, typer.Option(help="onnxruntime, onnxruntime-cuda or openvino.")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="A precision of the bundle.")] = "fp32",
    threads: Threads = None,
    batch: Batch = 1,
    minutes: Annotated[float, typer.Option(help="Time for the search.")] = 10.0,
    forget: Annotated[bool, typer.Option("--forget", help="Measure again what was measured before.")] = False,
) -> None:
    """Search, layer by layer, for the graph forms that are fastest on this machine. A faster network replaces the default."""
    from stylert.export.tuning.tune import tune_bundle

    with progress() as report:
        tuning = tune_bundle(bundle, against, backend, precision, threads, batch, minutes, forget, report)
    tables.show_tuning(tuning)


@app.command()
@with_picture_options
def generate(
    bundle: BundlePath,
    seeds: Annotated[str, typer.Option(help="Such as 0-31 or 3,7,9.")],
    out: Annotated[Path, typer.Option(help="Folder for the images.")],
    options: PictureOptions,
    psi: Psi = 1.0,
    grid: Annotated[bool, typer.Option("--grid", help="Write one grid.png instead of single images.")] = False,
    image_format: Annotated[str, typer.Option("--format", help=FORMAT)] = "png",
    shards: Annotated[
        int | None,
        typer.Option(min=1, help="Write this number of large files, for millions of seeds. A rerun makes what is missing."),
    ] = None,
    shard_format: Annotated[str, typer.Option(help="Of --shards: tar (WebDataset) or parquet.")] = "tar",
    picture: Annotated[str, typer.Option(help="Of --shards: png, webp or jpg.")] = "png",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Of --shards: a Ray cluster that makes them, such as auto or host:6379; local starts one here for the time.",
        ),
    ] = None,
) -> None:
    """Generate images from seeds. A seed gives the same image as in the official tools."""
    from stylert.cli.pipeline.generate import PICTURE_FORMATS, generate_images, generate_shards
    from stylert.cli.pipeline.generate_arrays import ARRAY_FORMATS, generate_arrays
    from stylert.core.seeds import parse_seeds

    check_choice(image_format, (*PICTURE_FORMATS, *ARRAY_FORMATS), "--format")
    if shards is not None:
        if grid:
            raise InputError("--grid writes one picture, and --shards writes large files: give one of them")
        if image_format != "png":
            raise InputError("--format is for single images; pictures in --shards have --picture")
        with progress() as report:
            made, images = generate_shards(bundle, seeds, out, psi, shards, (shard_format, picture), ray, options, report)
        print_line(f"wrote {made} of {shards} shards; {out} holds {images} images")
        return
    if (ray, shard_format, picture) != (None, "tar", "png"):
        raise InputError("--ray, --shard-format and --picture are for --shards")
    with progress() as report:
        if image_format in ARRAY_FORMATS:
            if grid:
                raise InputError(f"--grid writes one picture, and --format {image_format} arrays: give one of them")
            files = generate_arrays(bundle, parse_seeds(seeds), out, psi, image_format, options, report)
        else:
            files = generate_images(bundle, parse_seeds(seeds), out, psi, grid, options, report, image_format)
    print_line(f"wrote {files[0]}" if len(files) == 1 else f"wrote {len(files)} images to {out}")


@app.command()
def verify(
    bundle: BundlePath,
    against: Annotated[Path | None, typer.Option(help="The checkpoint of the bundle, for a comparison with PyTorch.")] = None,
    backend: Backends = None,
    precision: Precisions = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds to compare, from 0.")] = 32,
    psi: Annotated[float, typer.Option(help="Truncation.")] = 1.0,
    json: JsonFile = None,
) -> None:
    """Compare every precision and backend with the reference. Exit with 1 if one misses the PSNR that the bundle promises."""
    from stylert.export.verify import verify as run
    from stylert.runtime.bundle import Bundle

    check_output(json, "JSON", (against,))
    with progress() as report:
        rows = run(Bundle.load(bundle), against, split_list(backend), split_list(precision), seeds, psi, report)
    tables.show_accuracy(rows)
    if json is not None:
        write_json(json, {"accuracy": tables.accuracy_json(rows)})
    if not all(row.passed for row in rows):
        raise typer.Exit(1)


@app.command()
def demo(
    checkpoint: Annotated[Path, typer.Argument(help="model.safetensors.")],
    out: Annotated[Path, typer.Option(help="Folder for bundle, pictures and report.")] = Path("out/demo"),
    no_sign: NoSign = False,
) -> None:
    """Run the whole pipeline: export, build, verify against PyTorch, measure, and write a report."""
    from stylert.cli.pipeline.demo import run_demo

    if not run_demo(checkpoint, out):
        raise typer.Exit(1)


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="A .pkl of stylegan, stylegan2, stylegan2-ada, stylegan3; a .pt of a known port.")
    ],
    out: Annotated[Path, typer.Option(help="The generator, model.safetensors.")],
    training: Annotated[
        Path | None, typer.Option(help="Also start a training run in this folder, from the file's G and D.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Preset of that run.")] = "auto",
) -> None:
    """Convert a checkpoint of another project. No code from the file is run."""
    from stylert.cli.pipeline.importing import run_import

    run_import(file, out, training, preset)


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="model.safetensors, a run's snapshot, or a file that import reads.")],
    to: Annotated[str, typer.Option(help="Project: stylegan2-ada-pytorch, stylegan3 or rosinality.")],
    out: Annotated[Path, typer.Option(help="The checkpoint, .pkl or .pt.")],
) -> None:
    """Convert a checkpoint for the code of another project: the way back of import."""
    from stylert.cli.pipeline.importing import run_convert

    run_convert(checkpoint, to, out)
