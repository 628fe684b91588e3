"""The commands of the pipeline: export, build, generate, verify, demo, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylert.cli import tables as report
from stylert.cli.app import (
    Backends,
    Batch,
    BundlePath,
    Cutoff,
    JsonFile,
    Label,
    OneBackend,
    OnePrecision,
    Precisions,
    Psi,
    Threads,
    app,
    check_choice,
    split_list,
)
from stylert.cli.console import console, errors, progress
from stylert.core.atomic import check_writable


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="model.safetensors, a training snapshot, or what `stylert import` takes.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an older bundle there is replaced.")],
    precision: Annotated[str, typer.Option(help="Comma-separated: fp32, fp16, bf16, int8, fp8.")] = "fp32,int8",
    noise: Annotated[str, typer.Option(help="const (baked in), none, or input.")] = "const",
    output: Annotated[str, typer.Option(help="uint8 [N,H,W,C] or float [N,C,H,W].")] = "uint8",
    backend: Annotated[
        str, typer.Option(help="Comma-separated: backends that get networks in their own form beside the portable ones.")
    ] = "onnxruntime,openvino",
    min_psnr: Annotated[
        float | None,
        typer.Option(help="dB that int8 images must have; as few layers as it takes stay out of 8 bits. 33 if not given."),
    ] = None,
    verify_seeds: Annotated[
        int, typer.Option(min=0, help="Seeds to compare with PyTorch; the accuracy is kept in the bundle. 0 for none.")
    ] = 16,
) -> None:
    """Turn a checkpoint into a bundle of ONNX networks."""
    from stylert.export.pipeline import export_bundle

    check_choice(noise, ("const", "none", "input"), "--noise")
    check_choice(output, ("uint8", "float"), "--output")
    with progress() as bar:
        bundle = export_bundle(
            checkpoint,
            out,
            split_list(precision) or [],
            noise,  # type: ignore[arg-type]
            output,  # type: ignore[arg-type]
            split_list(backend) or [],
            progress=bar,
            min_psnr=min_psnr,
            verify_seeds=verify_seeds,
        )
    for name, entry in bundle.files.items():
        console.print(
            f"{out / name}  {entry.bytes / 2**20:.1f} MiB  sha256 {entry.sha256[:12]}…", highlight=False, soft_wrap=True
        )
    report.bundle_accuracy(bundle)


@app.command()
def build(
    bundle: BundlePath,
    backend: Backends = None,
    precision: Precisions = None,
    threads: Threads = None,
    target: Annotated[
        str, typer.Option(help="current, or sm_89,sm_120,… for tensorrt-rtx, which builds without a GPU.")
    ] = "current",
    batch: Annotated[
        str,
        typer.Option(help="Least, best and largest batch of a GPU engine; 1,4:8:16 are two ranges, each with its own kernels."),
    ] = "1:4:16",
    level: Annotated[int | None, typer.Option(help="TensorRT's builder optimisation level, 0 to 5.")] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="GPU engines: run on later versions.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="GPU engines: run on every GPU from Ampere on.")
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="TensorRT: a small engine that takes its weights from the bundle.")
    ] = False,
    plugins: Annotated[bool, typer.Option("--plugins", help="TensorRT: our own kernels for the two operators.")] = False,
    hint: Annotated[
        str, typer.Option(help="latency, or throughput: OpenVINO divides the cores among calls that come at once.")
    ] = "latency",
    force: Annotated[bool, typer.Option(help="Build again even where a matching engine exists.")] = False,
) -> None:
    """Build engines into the bundle: for this machine, or ahead of time for a GPU elsewhere. Ctrl-C leaves nothing behind."""
    from stylert.cli.pipeline.build import build_all, show_engines
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
    built, refused = build_all(Bundle.load(bundle), split_list(backend), split_list(precision), targets, options, force)
    show_engines(built)
    for reason in refused:
        errors.print(f"stylert: {reason}", style="red", highlight=False, markup=False, soft_wrap=True)
    if refused:
        raise typer.Exit(2)


@app.command()
def tune(
    bundle: BundlePath,
    against: Annotated[Path, typer.Option(help="The checkpoint that the bundle was exported from.")],
    backend: Annotated[str, typer.Option(help="onnxruntime, onnxruntime-cuda or openvino.")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="One that the bundle holds.")] = "fp32",
    threads: Threads = None,
    batch: Batch = 1,
    minutes: Annotated[float, typer.Option(help="Time for the search.")] = 10.0,
    forget: Annotated[bool, typer.Option("--forget", help="Measure everything anew.")] = False,
) -> None:
    """Search the forms that are fastest on this machine, layer by layer; a faster network takes the default's place in the bundle."""
    from stylert.export.tuning.tune import tune_bundle

    with progress() as bar:
        found = tune_bundle(bundle, against, backend, precision, threads, batch, minutes, forget, bar)
    report.tuning(found)


@app.command()
def generate(
    bundle: BundlePath,
    seeds: Annotated[str, typer.Option(help="Such as 0-31 or 3,7,9.")],
    out: Annotated[Path, typer.Option(help="Folder for the images.")],
    psi: Psi = 1.0,
    cutoff: Cutoff = None,
    label: Label = None,
    grid: Annotated[bool, typer.Option("--grid", help="Write one grid.png instead of single images.")] = False,
    backend: OneBackend = "onnxruntime",
    precision: OnePrecision = None,
    batch: Batch = 8,
    threads: Threads = None,
) -> None:
    """Generate images from seeds; a seed means the same image as in the official tools."""
    from stylert.cli.pipeline.generate import Drawing, generate_images
    from stylert.core.seeds import parse_seeds

    drawing = Drawing(cutoff, label, backend, precision, batch, threads)
    with progress() as bar:
        files = generate_images(bundle, parse_seeds(seeds), out, psi, grid, drawing, bar)
    console.print(
        f"wrote {files[0]}" if len(files) == 1 else f"wrote {len(files)} images to {out}", highlight=False, soft_wrap=True
    )


@app.command()
def verify(
    bundle: BundlePath,
    against: Annotated[
        Path | None, typer.Option(help="The checkpoint that the bundle was made from; compares with PyTorch.")
    ] = None,
    backend: Backends = None,
    precision: Precisions = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to compare, from 0.")] = 32,
    psi: Annotated[float, typer.Option(help="Truncation.")] = 1.0,
    json: JsonFile = None,
) -> None:
    """Compare every precision and backend with the reference; exit 1 when one is under the bundle's threshold."""
    from stylert.export.verify import verify as run
    from stylert.runtime.bundle import Bundle

    check_writable(json)
    with progress() as bar:
        rows = run(Bundle.load(bundle), against, split_list(backend), split_list(precision), seeds, psi, bar)
    report.accuracy(rows)
    if json is not None:
        report.write_json(json, {"accuracy": report.accuracy_json(rows)})
    if not all(row.passed for row in rows):
        raise typer.Exit(1)


@app.command()
def demo(
    checkpoint: Annotated[Path, typer.Argument(help="model.safetensors.")],
    out: Annotated[Path, typer.Option(help="Folder for bundle, pictures and report.")] = Path("out/demo"),
) -> None:
    """The whole road: export, build, verify against PyTorch, measure, and write a report."""
    from stylert.cli.pipeline.demo import run_demo

    if not run_demo(checkpoint, out):
        raise typer.Exit(1)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .pkl of stylegan2-ada-pytorch, stylegan3 or TensorFlow; a rosinality .pt.")],
    out: Annotated[Path, typer.Option(help="The generator, model.safetensors.")],
    training: Annotated[Path | None, typer.Option(help="Also start a training run in this folder from its G and D.")] = None,
    preset: Annotated[str, typer.Option(help="Of that run.")] = "auto",
) -> None:
    """Convert a checkpoint of another project; no code from the file runs."""
    from stylert.cli.pipeline.importing import run_import

    run_import(file, out, training, preset)
