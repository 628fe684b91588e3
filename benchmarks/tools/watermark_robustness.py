"""Prints how well a mark survives edits of the image, as a table in Markdown, and how often unmarked images match by chance.

    python benchmarks/tools/watermark_robustness.py examples/cats64.safetensors marked.safetensors marked.detector.onnx

The edits are those of Pillow. The networks run on ONNX Runtime, in the precisions of a bundle that is exported for it. Images
are of seeds that no training saw. `--real DATA` also reads real images, a zip or folder of one size.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from stylert.core.files.temporary import temporary_folder
from stylert.core.images.similarity import psnr_each
from stylert.export.pipeline import export_bundle
from stylert.runtime import Generator
from stylert.runtime.watermark.detection import Detector, Finding
from stylert.runtime.watermark.false_positives import matches_needed

#: First seed of the images.
FIRST_SEED = 2_000_000
PRECISIONS = ("fp32", "fp16", "int8")
RATE = 1e-6

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("original", type=Path)
    parser.add_argument("marked", type=Path)
    parser.add_argument("detector", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--unmarked", type=int, default=2048, help="images that nothing marked")
    parser.add_argument("--real", type=Path, help="zip or folder of real images")
    given = parser.parse_args()
    detector = Detector.load(given.detector, threads=1)
    bits = len(detector.facts.key)
    with temporary_folder("watermark") as folder:
        export_bundle(given.marked, folder / "marked", PRECISIONS, backends=("onnxruntime",))
        export_bundle(given.original, folder / "original", ("fp32",), backends=("onnxruntime",))
        marked = {name: drawn(folder / "marked", name, given.images) for name in PRECISIONS}
        unmarked = drawn(folder / "original", "fp32", max(given.unmarked, given.images))
        truncated = drawn(folder / "marked", "fp32", given.images, psi=0.7)
    psnr = psnr_each(marked["fp32"], unmarked[: given.images])
    print(f"PSNR to the unmarked images, {given.images} seeds: {psnr.mean():.2f} dB, at worst {psnr.min():.2f} dB\n")
    print(f"| edit | bits read, % | images found at {RATE:g}, % |")
    print("|---|---:|---:|")
    for name, edit in edits().items():
        print_row(name, [detector.detect(edited(image, edit, i)) for i, image in enumerate(marked["fp32"])])
    for name in PRECISIONS[1:]:
        print_row(f"{name.upper()} network", [detector.detect(image) for image in marked[name]])
    jpeg = edits()["JPEG 75"]
    print_row("INT8 network, JPEG 75", [detector.detect(edited(image, jpeg, i)) for i, image in enumerate(marked["int8"])])
    print_row("psi 0.7", [detector.detect(image) for image in truncated])
    print(f"\n| images without the mark | number | bits matched of {bits}, mean | variance | most | found at {RATE:g} |")
    print("|---|---:|---:|---:|---:|---:|")
    print_chance("of the original network", [detector.detect(image) for image in unmarked])
    print_chance("the same, JPEG 75", [detector.detect(edited(image, jpeg, i)) for i, image in enumerate(unmarked)])
    if given.real is not None:
        print_chance("real", [detector.detect(image) for image in real_images(given.real, given.unmarked)])
    print(f"\nFair coins have the mean {bits / 2:g} and the variance {bits / 4:g}.")
    print(f"{matches_needed(bits, RATE)} of {bits} matches are needed at {RATE:g}.")


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
        "crop to 80 % of each side": lambda image, draws: cropped(image, 0.8, draws),
        "crop to 60 % of each side": lambda image, draws: cropped(image, 0.6, draws),
        "crop to 80 %, enlarged again": lambda image, draws: cropped(image, 0.8, draws).resize(image.size),
        "crop to 80 %, then JPEG 75": lambda image, draws: in_file(cropped(image, 0.8, draws), "JPEG", 75),
        "blur, sigma 0.5": lambda image, _: image.filter(ImageFilter.GaussianBlur(0.5)),
        "blur, sigma 1": lambda image, _: image.filter(ImageFilter.GaussianBlur(1)),
        "noise, 5 levels": lambda image, draws: noisy(image, 5, draws),
        "brightness 1.2": lambda image, _: ImageEnhance.Brightness(image).enhance(1.2),
        "brightness 0.8": lambda image, _: ImageEnhance.Brightness(image).enhance(0.8),
        "mirrored": lambda image, _: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
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


def drawn(bundle: Path, precision: str, count: int, psi: float = 1.0) -> np.ndarray:
    """Images of a bundle, uint8 `[count, R, R, 3]`."""
    with Generator.load(bundle, precision=precision, threads=1) as generator:
        parts = [
            generator(range(FIRST_SEED + start, FIRST_SEED + min(start + 64, count)), psi) for start in range(0, count, 64)
        ]
    return np.concatenate(parts)


def real_images(data: Path, count: int) -> np.ndarray:
    """Random real images, uint8 `[N, R, R, 3]`."""
    from stylert.train.selection import random_sample

    return random_sample(data, count).images[:count].transpose(0, 2, 3, 1)


def print_row(name: str, findings: list[Finding]) -> None:
    """One row of the first table."""
    read = np.mean([finding.matched / finding.bits for finding in findings])
    found = np.mean([finding.is_marked(RATE) for finding in findings])
    print(f"| {name} | {100 * read:.2f} | {100 * found:.1f} |", flush=True)


def print_chance(name: str, findings: list[Finding]) -> None:
    """One row of the second table."""
    matched = np.array([finding.matched for finding in findings])
    found = sum(finding.is_marked(RATE) for finding in findings)
    print(f"| {name} | {len(matched)} | {matched.mean():.2f} | {matched.var():.2f} | {matched.max()} | {found} |", flush=True)


if __name__ == "__main__":
    main()
