#!/usr/bin/env python3
"""Measure every snapshot that a run kept: FD-EffNetLite0 to real images, as JSON, a curve, and a strip of samples.

    stylert train --preset cpu --data cats32.zip --out run --pl-weight 0 --kimg 0 --keep 99
    stylert train --data cats32.zip --out run --resume --kimg 40 --snap 2 --keep 99
    python examples/training_curve.py run --every 8 --data cats32.zip --floor floor32.zip --out docs/training/cats32

Generated images have random noise, as in the metrics of training. The floor is the distance between two sets of real
images; the noise is the standard error of each distance. The distance depends on the number of images, which is therefore
the same for all, and at most that of the smaller set of real images. Progress goes to stderr.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import math
import re
from pathlib import Path

import numpy as np

from stylert.benchmarks.report.plots import PNG_MARK, import_pyplot
from stylert.cli.console import progress
from stylert.core.errors import DataError, shown
from stylert.core.files.atomic import atomic_file
from stylert.core.files.cache import cache_folder
from stylert.core.files.outputs import check_not_input, check_output, write_json
from stylert.core.files.safetensors_files import digest
from stylert.core.images.grids import make_grid
from stylert.core.programs.runner import run_program
from stylert.core.progress import Progress
from stylert.models.checkpoint import load_generator, read_generator
from stylert.models.features.extractors import EffNetLite0
from stylert.runtime.media.pictures import check_own_picture, save_image
from stylert.train.data.dataset import ImageDataset
from stylert.train.metrics.distances import frechet_distance
from stylert.train.metrics.features import generated_features, real_features
from stylert.train.sampling import generate
from stylert.train.snapshots.best_snapshot import NOISE

BLOCKS = 6
MAX_IMAGES = 1_000_000
COLUMNS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder with snapshot-<kimg>.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="real images")
    parser.add_argument("--floor", type=Path, required=True, help="other real images")
    parser.add_argument("--images", type=int, default=5000, help="images a side")
    parser.add_argument("--every", type=float, default=0.001, help="only snapshots whose kimg is a multiple")
    parser.add_argument("--out", type=Path, required=True, help="path without suffix: .json, .png and -samples.png are written")
    args = parser.parse_args()
    if not args.out.name:
        parser.error(f"--out is a path that ends in a name, not {shown(str(args.out))}")
    table, curve, samples = outputs(args.out)
    if not (2 * BLOCKS <= args.images <= MAX_IMAGES and 1e-6 <= args.every <= 1e6):
        parser.error(f"--images is from {2 * BLOCKS} to {MAX_IMAGES}, and --every a number from 0.000001 to 1000000")
    check_output(table, "JSON", (args.data, args.floor))
    for picture in (curve, samples):
        check_not_input(picture, (args.data, args.floor))
        check_own_picture(picture)
    found = {
        float(m[1]): p for p in args.run.iterdir() if (m := re.fullmatch(r"snapshot-([0-9]+(\.[0-9]+)?)\.safetensors", p.name))
    }
    snapshots = {kimg: found[kimg] for kimg in sorted(found) if math.isclose(kimg, round(kimg / args.every) * args.every)}
    if not snapshots:
        raise DataError(f"{args.run} keeps no snapshots: train with --keep")

    with progress() as report:
        measure(args, snapshots, report)


def measure(args: argparse.Namespace, snapshots: dict[float, Path], report: Progress) -> None:
    """Measure the snapshots, by their kimg, and write the three files."""
    datasets = [ImageDataset(source, limit=args.images) for source in (args.data, args.floor)]
    for source, dataset in zip((args.data, args.floor), datasets, strict=True):
        if len(dataset) < args.images:
            raise DataError(f"{source} has {len(dataset)} images: --images {len(dataset)} is the most that it gives")
    extractor, cache = EffNetLite0(), cache_folder() / "features"
    real, other = (
        real_features(extractor, dataset, args.images, report, cache, f"real images of {source}")
        for source, dataset in zip((args.data, args.floor), datasets, strict=True)
    )
    floor = frechet_distance(other, real)

    def features_of(path: Path, kimg: float) -> np.ndarray:
        """Features of a snapshot. The cache keeps them by the hash of the weights, so a repeated call computes only new ones."""
        kept = cache / f"generated-{digest(read_generator(path).arrays)}-{args.images}-{NOISE}.npy"
        if not kept.exists():
            with atomic_file(kept) as temporary, open(temporary, "wb") as f:
                generator = load_generator(path)
                np.save(f, generated_features(extractor, generator, args.images, stage_of(report, kimg), noise_mode=NOISE))
        return np.load(kept)

    rows = []
    for kimg, path in snapshots.items():
        features = features_of(path, kimg)
        row = {"kimg": kimg, "FD-EffNetLite0": frechet_distance(features, real), "noise": noise(features, real)}
        rows.append(row)
        print(row, flush=True)
    strip = [generate(load_generator(path), range(COLUMNS), noise_mode=NOISE) for path in snapshots.values()]
    facts = {"images": args.images, "generator noise": NOISE, "floor": floor, "snapshots": rows}
    table, curve, samples = outputs(args.out)
    write_json(table, facts)
    save_image(make_grid(np.concatenate(strip), COLUMNS), samples, comment='{"command": "train"}', generated=True)
    draw(facts, curve)
    print(f"floor {floor:.2f}")


def outputs(out: Path) -> tuple[Path, Path, Path]:
    """The table, the curve and the samples."""
    return out.with_suffix(".json"), out.with_suffix(".png"), Path(f"{out}-samples.png")


def stage_of(report: Progress, kimg: float) -> Progress:
    """Progress of one snapshot, with its name."""
    return lambda stage, done, total: report(f"{stage} at {kimg:g} kimg", done, total)


def noise(features: np.ndarray, real: np.ndarray) -> float:
    """Standard error of the distance over generated images: a jackknife over blocks of images."""
    parts = np.array_split(features, BLOCKS)
    without = [frechet_distance(np.concatenate(parts[:i] + parts[i + 1 :]), real) for i in range(BLOCKS)]
    return float(np.sqrt((BLOCKS - 1) / BLOCKS * np.square(without - np.mean(without)).sum()))


def draw(facts: dict, path: Path) -> None:
    plt = import_pyplot()
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    x = [row["kimg"] for row in facts["snapshots"]]
    y, error = ([row[name] for row in facts["snapshots"]] for name in ("FD-EffNetLite0", "noise"))
    axes.errorbar(x, y, error, marker="o", capsize=3, label="generated")
    axes.axhline(facts["floor"], color="0.5", linestyle="--", label="other real images")
    axes.set(xlabel="thousands of images shown to the discriminator", ylabel="FD-EffNetLite0", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata=PNG_MARK)


if __name__ == "__main__":
    run_program("training_curve", main)
