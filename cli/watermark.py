"""Declares `stylert watermark`: marks a generator, and reads the mark from pictures."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from stylert.cli.app import CommandGroup, JsonFile, app
from stylert.cli.console import print_line, print_note, progress
from stylert.core.errors import InputError, PictureError, missing_extra
from stylert.core.files.digests import sha256_of
from stylert.core.files.outputs import check_output, is_same_file, write_json

#: The false-positive rate of `detect`, unless it is given.
DEFAULT_RATE = 1e-6
#: A mark of which less is read from clean images is lost in edited ones.
LEAST_READ = 0.97

watermark = CommandGroup(help="Mark a generator, and read the mark from pictures.", no_args_is_help=True)
app.add_typer(watermark, name="watermark")


@watermark.callback()
def _group() -> None:
    """Mark a generator, and read the mark from pictures."""


@watermark.command("train")
def train(
    checkpoint: Annotated[Path, typer.Argument(help="model.safetensors, or any file that `stylert export` reads.")],
    out: Annotated[Path, typer.Option(help="The marked generator, a .safetensors file.")],
    detector: Annotated[
        Path | None, typer.Option(help="The detector, which holds the key; by default OUT with .detector.onnx as its end.")
    ] = None,
    bits: Annotated[int, typer.Option(min=4, max=128, help="Bits of the key.")] = 32,
    psnr: Annotated[float, typer.Option(min=20, max=60, help="Likeness to the unmarked images, in dB.")] = 39.0,
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Training steps of the generator.")] = 400,
    decoder_steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Training steps of the decoder.")] = 600,
    images: Annotated[int, typer.Option(min=64, max=100_000, help="Unmarked images that the decoder learns from.")] = 2048,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31, help="Seed of the training. Key and patterns are always drawn anew.")
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a detector that is there. Its key is lost.")] = False,
) -> None:
    """Train the last layers of a generator until all of its images carry a key, and write it and its detector.

    Keep the detector to yourself: with it the mark can be removed, or forged.
    """
    from stylert.models.checkpoint import check_generator_output, digest, generator_module, write_generator
    from stylert.models.importers.import_checkpoint import read_stylegan2_generator
    from stylert.models.stylegan2.state_dict import generator_shapes
    from stylert.runtime.watermark.detector_file import (
        FORMAT_VERSION,
        DetectorFacts,
        View,
        check_detector_output,
        new_detector,
    )
    from stylert.runtime.watermark.false_positives import matches_needed

    place = detector or out.with_name(f"{out.stem}.detector.onnx")
    check_generator_output(out, (checkpoint,))
    check_detector_output(place, (checkpoint,), replace)
    if out.suffix != ".safetensors":
        raise InputError(f"--out is a .safetensors file, not {out.name}")
    if is_same_file(out, place):
        raise InputError(f"--out and --detector both write {out}: choose another file")
    try:
        from stylert.train.parallel import local_device
        from stylert.train.watermark.fine_tuning import TuningSettings
        from stylert.train.watermark.marking import MarkSettings, mark_generator
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    weights = read_stylegan2_generator(checkpoint, "stylert watermark")
    key = [secrets.randbits(1) for _ in range(bits)]
    if matches_needed(bits, DEFAULT_RATE) is None:
        print_note(f"a key of {bits} bits has a false-positive rate of {2.0**-bits:.2g} at best, so detect needs --fpr")
    tuning = TuningSettings(steps=steps, psnr=psnr, seed=seed)
    settings = MarkSettings(secrets.randbits(128), images, decoder_steps, tuning=tuning)
    with progress() as bar:
        marked = mark_generator(generator_module(weights), key, settings, bar, local_device(device))
    state = {name: tensor.numpy() for name, tensor in marked.generator.state_dict().items()}
    arrays = {name: state[name] for name in generator_shapes(weights.config)}
    facts: dict[str, Any] = {
        "bits": bits,
        "psnr_mean_db": round(marked.psnr[0], 3),
        "psnr_worst_db": round(marked.psnr[1], 3),
        "bits_read": round(marked.bits_read, 5),
        "bits_by_chance": round(marked.bits_by_chance, 5),
        "steps": steps,
        "decoder_steps": decoder_steps,
        "seed": seed,
        "unmarked_sha256": sha256_of(checkpoint),
    }
    views = tuple(View(view.length, view.mirrored) for view in marked.views)
    text = "".join(map(str, key))
    info = {**weights.info, "watermark": {"bits": bits, "psnr": facts["psnr_mean_db"]}}
    contents = DetectorFacts(FORMAT_VERSION, text, views, digest(arrays), weights.config.resolution, facts)
    with new_detector(place, marked.detector_arrays(), contents, replace):
        write_generator(out, weights.config, arrays, info=info)
    print_line(f"bits read     {100 * marked.bits_read:.2f} % of {bits}; by chance {100 * marked.bits_by_chance:.2f} %")
    print_line(f"PSNR          {marked.psnr[0]:.2f} dB to the unmarked images, {marked.psnr[1]:.2f} dB at worst")
    if marked.bits_read < LEAST_READ:
        print_note(
            "this mark is too weak to be found in all images: train it with more --steps, --decoder-steps or --images", "yellow"
        )
    print_line(f"wrote {out}")
    print_line(f"wrote {place}: keep it to yourself, since it holds the key")


@watermark.command("detect")
def detect(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures.")],
    detector: Annotated[Path, typer.Option(help="The detector that `stylert watermark train` wrote.")],
    fpr: Annotated[
        float, typer.Option(min=0, max=1, help="Share of unmarked pictures that may be taken for marked ones.")
    ] = DEFAULT_RATE,
    json: JsonFile = None,
) -> None:
    """Say of each picture whether it carries the mark. Exit with 1 if one does not."""
    from stylert.runtime.watermark.detection import Detector
    from stylert.runtime.watermark.false_positives import matches_needed

    check_output(json, "JSON", (*images, detector))
    reader = Detector.load(detector)
    bits = len(reader.facts.key)
    needed = matches_needed(bits, fpr)
    if needed is None:
        raise InputError(
            f"a mark of {bits} bits cannot be found at a false-positive rate of {fpr:g}: at least {2.0**-bits:.2g}"
        )
    rows: list[dict[str, Any]] = []
    is_missing = False
    read = 0
    for path in images:
        try:
            finding = reader.detect_file(path)
        except PictureError as e:
            print_note(f"stylert: {e}", style="red")
            is_missing = True
            continue
        read += 1
        marked = finding.matched >= needed
        rate = finding.false_positive_rate
        rows.append(
            {"file": str(path), "matched": finding.matched, "bits": bits, "false_positive_rate": rate, "marked": marked}
            | {"view": finding.share, "mirrored": finding.mirrored}
        )
        words = "marked" if marked else "no mark found"
        print_line(f"{path}: {words}, {finding.matched} of {bits} bits match, false-positive rate {rate:.2g}")
    if len(images) > 1:
        unread = "" if read == len(images) else f", and {len(images) - read} could not be read"
        print_line(f"{sum(row['marked'] for row in rows)} of {read} pictures are marked{unread}")
    if json is not None:
        write_json(json, {"fpr": fpr, "matches_needed": needed, "pictures": rows})
    if is_missing or not all(row["marked"] for row in rows):
        raise typer.Exit(2 if is_missing else 1)
