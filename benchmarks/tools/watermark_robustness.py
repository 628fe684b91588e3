"""Prints how well marks survive edits of the image, runtimes and attacks, and how often other images match by chance.

    for bits in 8 16 24 32; do
        stylert watermark train examples/cats64.safetensors --bits $bits --out marked$bits.safetensors
    done
    python examples/make_cats.py --count 2048 --seed 9 --out real.zip
    python benchmarks/tools/watermark_robustness.py examples/cats64.safetensors marked{8,16,24,32}.safetensors --real real.zip

The detector of each network lies beside it, as `watermark train` writes it. The edits are those of Pillow, and the detector knows
of none. The networks run in the precisions of an exported bundle. Images are of seeds that no training saw. The last network is
also measured on each runtime, on images without its mark, and against somebody who averages many of its images.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from stylert.core.files.temporary import temporary_folder
from stylert.core.images.similarity import psnr_each
from stylert.export.pipeline import export_bundle
from stylert.runtime import Generator
from stylert.runtime.backends import backend as backend_named
from stylert.runtime.watermark.detection import Detector, Finding
from stylert.runtime.watermark.false_positives import matches_needed

#: First seeds of the images that are judged, and of those that an attacker has.
FIRST_SEED, ATTACKER_SEED = 2_000_000, 5_000_000
PRECISIONS, BACKENDS = ("fp32", "fp16", "bf16", "int8"), ("onnxruntime", "openvino", "mnn")
RATE, COARSE_RATE = 1e-6, 1e-2
TABLES = ("marks", "edits", "runtimes", "attacker", "chance")
#: Images that the attacker has, and the bound of one difference in an average of theirs, in levels.
ATTACKER_IMAGES, ATTACKER_BOUND = (10, 100, 1000), 12

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]


@dataclass(frozen=True)
class Marked:
    """A marked network: its bundle, detector, and images."""

    bundle: Path
    detector: Detector
    images: np.ndarray

    @property
    def bits(self) -> int:
        return len(self.detector.facts.key)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("original", type=Path)
    parser.add_argument("marked", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=128, help="images per row")
    parser.add_argument("--unmarked", type=int, default=2048, help="images without the mark")
    parser.add_argument("--real", type=Path, help="zip or folder of real images of one size")
    parser.add_argument("--other", type=Path, nargs="*", default=[], help="checkpoints of other networks")
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=TABLES)
    given = parser.parse_args()
    with temporary_folder("watermark") as folder:
        plain = exported(given.original, folder / "original", ("fp32",))
        networks = []
        for i, file in enumerate(given.marked):
            is_last = i == len(given.marked) - 1 and "runtimes" in given.tables
            bundle = exported(file, folder / f"marked{i}", PRECISIONS if is_last else ("fp32",))
            detector = Detector.load(file.with_name(f"{file.stem}.detector.onnx"), threads=1)
            networks.append(Marked(bundle, detector, drawn(bundle, given.images)))
        others = {file.name: exported(file, folder / f"other{i}", ("fp32",)) for i, file in enumerate(given.other)}
        last = networks[-1]
        if "marks" in given.tables:
            print_marks(networks, plain)
        if "edits" in given.tables:
            print_edits(networks)
        if "runtimes" in given.tables:
            print_runtimes(last, given.images)
        if "attacker" in given.tables:
            print_attacker(last, plain)
        if "chance" in given.tables:
            unmarked = {"of the original network": drawn(plain, given.unmarked)}
            unmarked |= {f"of the network with {n.bits} other bits": drawn(n.bundle, given.unmarked) for n in networks[:-1]}
            unmarked |= {f"of {name}": drawn(bundle, given.unmarked) for name, bundle in others.items()}
            if given.real is not None:
                unmarked["real"] = real_images(given.real, given.unmarked)
            print_chance(last.detector, unmarked)


def print_marks(networks: list[Marked], plain: Path) -> None:
    """The PSNR of marked images to unmarked ones."""
    print("| bits | PSNR, mean | worst | PSNR at psi 0.7, mean | worst | matches needed |\n|---:|---:|---:|---:|---:|---:|")
    for network in networks:
        cells = []
        for psi in (1.0, 0.7):
            marked = network.images if psi == 1 else drawn(network.bundle, len(network.images), psi=psi)
            psnr = psnr_each(marked, drawn(plain, len(network.images), psi=psi))
            cells += [f"{psnr.mean():.2f}", f"{psnr.min():.2f}"]
        needed = matches_needed(network.bits, RATE)
        print(f"| {network.bits} | {' | '.join(cells)} | {needed or 'none'} |", flush=True)


def print_edits(networks: list[Marked]) -> None:
    """The share of bits that are read after each edit, and in brackets that of images that are found."""
    print(f"\nBits read, % (images found at {RATE:g}, %):\n")
    print(f"| edit | {' | '.join(f'{network.bits} bits' for network in networks)} |")
    print(f"|---|{'---:|' * len(networks)}")
    for name, edit in edits().items():
        print_row(name, [[n.detector.detect(edited(image, edit, i)) for i, image in enumerate(n.images)] for n in networks])
    truncated = [drawn(network.bundle, len(network.images), psi=0.7) for network in networks]
    rows = {"psi 0.7": lambda image, _: image, "psi 0.7, JPEG 75": edits()["JPEG 75"]}
    for name, edit in rows.items():
        found = [
            [network.detector.detect(edited(image, edit, i)) for i, image in enumerate(images)]
            for network, images in zip(networks, truncated, strict=True)
        ]
        print_row(name, found)


def print_runtimes(network: Marked, count: int) -> None:
    """The same for the runtimes and precisions that this machine has."""
    print(f"\n| runtime, {network.bits} bits | clean | JPEG 75 |\n|---|---:|---:|")
    jpeg = edits()["JPEG 75"]
    for name in BACKENDS:
        chosen = backend_named(name)
        if (reason := chosen.unavailable_reason()) is not None:
            print(f"{name} was left out: {reason}")
            continue
        for precision in (p for p in PRECISIONS if p in chosen.facts.precisions):
            images = drawn(network.bundle, count, precision, backend=name)
            clean = [network.detector.detect(image) for image in images]
            print_row(
                f"{name}, {precision.upper()}",
                [clean, [network.detector.detect(edited(image, jpeg, i)) for i, image in enumerate(images)]],
            )


def print_attacker(network: Marked, plain: Path) -> None:
    """Somebody who averages images of the network subtracts the average from marked images, or adds it to others."""
    print(
        "\n| attacker's images | removed: bits read | PSNR to the marked image | forged: bits read | PSNR to the other image |"
    )
    print("|---|---:|---:|---:|---:|")
    count = len(network.images)
    marked, unmarked = (
        drawn(b, max(ATTACKER_IMAGES), first=ATTACKER_SEED + i * 10**6) for i, b in enumerate((network.bundle, plain))
    )
    victims = drawn(plain, count)
    for number in ATTACKER_IMAGES:
        alone = mean_difference(marked[:number])
        for name, pattern in (("", alone), (", as many unmarked", alone - mean_difference(unmarked[:number]))):
            cells = []
            for images, sign in ((network.images, -1), (victims, 1)):
                changed = (images + sign * pattern).round().clip(0, 255).astype(np.uint8)
                cells += [
                    cell([network.detector.detect(image) for image in changed]),
                    f"{psnr_each(changed, images).mean():.1f}",
                ]
            print(f"| {number} marked{name} | {' | '.join(cells)} |", flush=True)


def print_chance(detector: Detector, images: dict[str, np.ndarray]) -> None:
    """How well images without the mark match the key."""
    bits, jpeg = len(detector.facts.key), edits()["JPEG 75"]
    coarse = matches_needed(bits, COARSE_RATE)
    print(
        f"\n| images without the mark | number | matches of {bits}, mean | variance | most | found at {COARSE_RATE:g} | at {RATE:g} |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, group in images.items():
        for edit, suffix in ((None, ""), (jpeg, ", JPEG 75")):
            findings = [detector.detect(image if edit is None else edited(image, edit, i)) for i, image in enumerate(group)]
            matched = np.array([finding.matched for finding in findings])
            found = sum(finding.is_marked(COARSE_RATE) for finding in findings), sum(f.is_marked(RATE) for f in findings)
            cells = (len(matched), f"{matched.mean():.2f}", f"{matched.var():.2f}", matched.max(), *found)
            print(f"| {name}{suffix} | {' | '.join(map(str, cells))} |", flush=True)
    print(
        f"\nFair coins have the mean {bits / 2:g} and the variance {bits / 4:g}. Needed: {coarse} at {COARSE_RATE:g}, ", end=""
    )
    print(f"{matches_needed(bits, RATE)} at {RATE:g}.")


def edits() -> dict[str, Edit]:
    """The edits by name."""
    return {
        "none (PNG, 8 bits)": lambda image, _: image,
        "JPEG 90": lambda image, _: in_file(image, "JPEG", 90),
        "JPEG 75": lambda image, _: in_file(image, "JPEG", 75),
        "JPEG 50": lambda image, _: in_file(image, "JPEG", 50),
        "WebP 75": lambda image, _: in_file(image, "WEBP", 75),
        "resize to 75 %": lambda image, _: resized(image, 0.75),
        "resize to 50 %": lambda image, _: resized(image, 0.5),
        "resize to 200 %": lambda image, _: resized(image, 2.0),
        "crop to 90 % of each side": lambda image, draws: cropped(image, 0.9, draws),
        "crop to 80 % of each side": lambda image, draws: cropped(image, 0.8, draws),
        "crop to 60 % of each side": lambda image, draws: cropped(image, 0.6, draws),
        "crop to 80 %, enlarged again": lambda image, draws: cropped(image, 0.8, draws).resize(image.size),
        "crop to 80 %, then JPEG 75": lambda image, draws: in_file(cropped(image, 0.8, draws), "JPEG", 75),
        "blur, sigma 0.5": lambda image, _: image.filter(ImageFilter.GaussianBlur(0.5)),
        "blur, sigma 1": lambda image, _: image.filter(ImageFilter.GaussianBlur(1)),
        "noise, 5 levels": lambda image, draws: noisy(image, 5, draws),
        "noise, 10 levels": lambda image, draws: noisy(image, 10, draws),
        "brightness 1.2": lambda image, _: ImageEnhance.Brightness(image).enhance(1.2),
        "brightness 0.8": lambda image, _: ImageEnhance.Brightness(image).enhance(0.8),
        "contrast 0.8": lambda image, _: ImageEnhance.Contrast(image).enhance(0.8),
        "grey": lambda image, _: image.convert("L").convert("RGB"),
        "mirrored": lambda image, _: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "rotated by 2 degrees": lambda image, _: image.rotate(2, Image.Resampling.BICUBIC),
    }


def edited(image: np.ndarray, edit: Edit, index: int) -> Image.Image:
    """An image `[H, W, 3]` after an edit, whose random part follows from the index."""
    return edit(Image.fromarray(image), np.random.default_rng(index))


def in_file(image: Image.Image, kind: str, quality: int) -> Image.Image:
    """The picture after it was written to a file and read back."""
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return Image.open(file, formats=(kind,)).convert("RGB")


def resized(image: Image.Image, share: float) -> Image.Image:
    """The picture in another size, by Pillow's bicubic filter."""
    return image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float, draws: np.random.Generator) -> Image.Image:
    """A part at a random place with `share` of each side."""
    width, height = round(image.width * share), round(image.height * share)
    left, top = int(draws.integers(image.width - width + 1)), int(draws.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def noisy(image: Image.Image, deviation: float, draws: np.random.Generator) -> Image.Image:
    """The picture with normal noise."""
    pixels = np.asarray(image, np.float32)
    return Image.fromarray((pixels + draws.normal(0, deviation, pixels.shape)).round().clip(0, 255).astype(np.uint8))


def mean_difference(images: np.ndarray) -> np.ndarray:
    """The mean of the bounded fine differences of images `[N, H, W, 3]`: an estimate of the pattern that they share, `[H, W, 3]`."""
    total = np.zeros(images.shape[1:])
    for image in images:
        smooth = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5)), np.float64)
        total += (image - smooth).clip(-ATTACKER_BOUND, ATTACKER_BOUND)
    return total / len(images)


def exported(checkpoint: Path, folder: Path, precisions: tuple[str, ...]) -> Path:
    """The bundle of a checkpoint."""
    export_bundle(checkpoint, folder, precisions)
    return folder


def drawn(
    bundle: Path, count: int, precision: str = "fp32", psi: float = 1.0, backend: str = "onnxruntime", first: int = FIRST_SEED
) -> np.ndarray:
    """Images of a bundle, uint8 `[count, R, R, 3]`."""
    with Generator.load(bundle, backend=backend, precision=precision, threads=1) as generator:
        starts = range(first, first + count, 64)
        parts = [generator(range(start, min(start + 64, first + count)), psi) for start in starts]
    images = np.concatenate(parts)
    return np.repeat(images, 3, 3) if images.shape[3] == 1 else images


def real_images(data: Path, count: int) -> np.ndarray:
    """Random real images, uint8 `[N, R, R, 3]`."""
    from stylert.train.selection import random_sample

    return random_sample(data, count).images[:count].transpose(0, 2, 3, 1)


def print_row(name: str, columns: Iterable[list[Finding]]) -> None:
    """One row of a table."""
    print(f"| {name} | {' | '.join(map(cell, columns))} |", flush=True)


def cell(findings: list[Finding]) -> str:
    """The share of bits that are read and, where so many bits can be found at all, that of images that are found."""
    read = 100 * np.mean([finding.matched / finding.bits for finding in findings])
    if matches_needed(findings[0].bits, RATE) is None:
        return f"{read:.2f}"
    return f"{read:.2f} ({100 * np.mean([finding.is_marked(RATE) for finding in findings]):.0f})"


if __name__ == "__main__":
    main()
