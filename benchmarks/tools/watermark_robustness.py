"""Trains marks and measures what they survive and cost, from a checkpoint to tables in one command.

    python benchmarks/tools/watermark_robustness.py --bits 32 32 --fd 1000 --out results

The folder gets `watermark.json` and `watermark.md`. Every image is of a seed that no training, calibration or earlier table used,
and the run stops if one is not (`watermark_seeds`). All marks are judged by edits of Pillow, of which the detector knows none, and
on each runtime. The last one is also tried on images without its mark, and by somebody who averages many of its images.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from stylert.benchmarks.machine.facts import installed_version, machine_facts
from stylert.benchmarks.tools import watermark_measurements as measured
from stylert.benchmarks.tools.watermark_marks import Marked, drawn, mark_settings, marked_network
from stylert.benchmarks.tools.watermark_seeds import TableSeeds, check_fresh, used_seeds
from stylert.benchmarks.tools.watermark_tables import MARKDOWN_MARK, page
from stylert.core.child_processes import python_command
from stylert.core.errors import InputError, OutputError, StylertError, printable
from stylert.core.files.atomic import atomic_file
from stylert.core.files.outputs import check_output, write_json
from stylert.core.files.temporary import temporary_folder
from stylert.core.programs.runner import run_program
from stylert.export.pipeline import export_bundle
from stylert.models.checkpoint import digest, generator_module
from stylert.models.importers.import_checkpoint import read_stylegan2_generator
from stylert.train.selection import random_sample

ROOT = Path(__file__).parents[2]
CHECKPOINT = "examples/cats64.safetensors"
#: Seed of the real images. The training images had seed 0.
REAL_SEED = 9
#: Values of `--quick`, which shows that every part works. Its figures say nothing.
QUICK: dict[str, Any] = {"steps": 2, "decoder_steps": 2, "whitening": 64, "images": 3, "unmarked": 4, "attacker_images": [2, 3]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of this tool."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argument_parser()
    options = parser.parse_args(given)
    if options.quick:
        vars(options).update(QUICK)
    try:
        check_outputs(options.out)
        document = {"command": shlex.join(["python", "benchmarks/tools/watermark_robustness.py", *given]), **measure(options)}
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / "watermark.json", document)
        with atomic_file(options.out / "watermark.md") as temporary:
            temporary.write_text(page(document), encoding="utf-8")
    except StylertError as e:
        parser.error(printable(str(e)))
    print(page(document))


def argument_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for watermark.json and watermark.md")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / CHECKPOINT, help=f"by default {CHECKPOINT}")
    parser.add_argument("--bits", type=int, nargs="+", default=[32], help="bits of the key of each mark")
    parser.add_argument("--psnr", type=float, default=39.0, help="likeness that the training keeps, in dB")
    parser.add_argument("--steps", type=int, default=400, help="training steps")
    parser.add_argument("--decoder-steps", type=int, default=600, help="training steps of the decoder")
    parser.add_argument("--whitening", type=int, default=2048, help="unmarked images that the decoder learns from")
    parser.add_argument("--seed", type=int, default=100, help="seed of the first mark; each further one has the next")
    parser.add_argument("--first-seed", type=int, default=19_000_000, help="seed of the first image that is judged")
    parser.add_argument("--images", type=int, default=64, help="marked images per row")
    parser.add_argument("--unmarked", type=int, default=256, help="images of each kind without the mark")
    parser.add_argument("--attacker-images", type=int, nargs="+", default=[10, 100, 1000], help="images that the attacker has")
    parser.add_argument("--real", type=Path, help="zip or folder of real images, by default those of examples/make_cats.py")
    parser.add_argument("--fd", type=int, default=0, help="images a side for the FD, which takes long; 0 leaves it out")
    parser.add_argument("--quick", action="store_true", help="few steps and images, to try the tool")
    return parser


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train the marks, and take all measurements. Returns the document without its command."""
    settings = [
        mark_settings(options.seed + i, options.steps, options.decoder_steps, options.whitening, options.psnr)
        for i in range(len(options.bits))
    ]
    counts = (options.images, options.unmarked, max(options.attacker_images), options.fd)
    seeds, used = TableSeeds.of(options.first_seed, *counts), used_seeds(settings)
    tables = {name.replace("_", " "): each for name, each in vars(seeds).items() if each}
    check_fresh(tables, used)
    created, weights = (
        datetime.now(UTC).isoformat(timespec="seconds"),
        read_stylegan2_generator(options.checkpoint, "watermarking"),
    )
    with temporary_folder("watermark") as folder:
        plain, real = folder / "plain", options.real
        export_bundle(options.checkpoint, plain, ("fp32",))
        if real is None:
            real = folder / "real.zip"
            draw_cats(real, max(options.unmarked, options.fd), weights.config.resolution)
        networks = []
        for i, (bits, each) in enumerate(zip(options.bits, settings, strict=True)):
            networks.append(marked_network(weights, bits, each, folder / f"marked{i}", measured.PRECISIONS))
            report(f"trained and exported {networks[-1].name}")
        document: dict[str, Any] = {"kind": "watermark robustness", "created": created, "machine": machine()}
        document["checkpoint"] = {"file": options.checkpoint.name, "sha256": digest(weights.arrays)}
        document["settings"] = {
            "bits": options.bits,
            "images": options.images,
            "distance images": options.fd,
            "marks": [asdict(each) for each in settings],
        }
        document["seeds"] = {"tables": ends(tables), "used before": ends(used)}
        document["marks"] = measured.likeness(networks, plain, seeds)
        report("measured the likeness")
        document["edits"] = measured.edit_rows(networks, seeds)
        report("measured the edits")
        document["runtimes"] = measured.runtime_rows(networks, seeds)
        report("measured the runtimes")
        document["attacker"] = measured.attacker_rows(networks[-1], plain, seeds, options.attacker_images)
        report("measured the attackers")
        groups = unmarked_images(networks, plain, real, seeds)
        document["chance"] = measured.chance_rows(networks[-1].detector, groups, seeds.unmarked)
        report("measured the images without the mark")
        document["distances"] = {}
        if options.fd:
            by_name = {"without a mark": generator_module(weights), **{n.name: n.network for n in networks}}
            document["distances"] = measured.frechet_distances(by_name, real, options.fd)
    return document


def unmarked_images(networks: Sequence[Marked], plain: Path, real: Path, seeds: TableSeeds) -> dict[str, np.ndarray]:
    """Images without the last mark: of the original network, of the networks with other marks, and real ones."""
    groups = {"of the original network": drawn(plain, seeds.unmarked)}
    groups |= {f"of the network with {n.name}": drawn(n.bundle, seeds.unmarked) for n in networks[:-1]}
    count = len(seeds.unmarked)
    return groups | {"real": random_sample(real, count).images[:count].transpose(0, 2, 3, 1)}


def check_outputs(folder: Path) -> None:
    """Raise OutputError if a file would be replaced that this tool did not write."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot write {folder}: it is no folder")
    check_output(folder / "watermark.json" if folder.exists() else None, "JSON")
    text = folder / "watermark.md"
    if text.exists() and not text.read_text(encoding="utf-8", errors="replace").startswith(MARKDOWN_MARK):
        raise OutputError(f"cannot write {text}: another program wrote the file there")


def draw_cats(zip_file: Path, count: int, resolution: int) -> None:
    """Draw the real images of the shipped network's kind, in a process of its own."""
    script = python_command(ROOT / "examples" / "make_cats.py", "--seed", REAL_SEED)
    size = ["--count", str(count), "--resolution", str(resolution)]
    done = subprocess.run([*script, *size, "--out", str(zip_file)], capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise InputError(f"the real images were not drawn: {done.stderr.strip().splitlines()[-1]}")


def machine() -> dict[str, Any]:
    """Facts about the machine, with the version of the library that edits pictures."""
    facts = machine_facts()
    facts["packages"]["pillow"] = installed_version("pillow")
    return facts


def ends(ranges: dict[str, range]) -> dict[str, list[int]]:
    """The first and last seed of each range."""
    return {name: [each[0], each[-1]] for name, each in ranges.items()}


def report(text: str) -> None:
    """Say on stderr how far the run is."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_program("watermark_robustness", main)
