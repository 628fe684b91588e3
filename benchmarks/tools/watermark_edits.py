"""Edits of a picture by Pillow, by which marks are judged. No training and no detector uses them."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]

CLEAN, JPEG, RESIZE, CROP = "none (PNG, 8 bits)", "JPEG 75", "resize to 75 %", "crop to 80 % of each side"


def edits() -> dict[str, Edit]:
    """The edits by name."""
    return {
        CLEAN: lambda image, _: image,
        "JPEG 90": lambda image, _: in_file(image, "JPEG", 90),
        JPEG: lambda image, _: in_file(image, "JPEG", 75),
        "JPEG 50": lambda image, _: in_file(image, "JPEG", 50),
        "WebP 75": lambda image, _: in_file(image, "WEBP", 75),
        RESIZE: lambda image, _: resized(image, 0.75),
        "resize to 50 %": lambda image, _: resized(image, 0.5),
        "resize to 200 %": lambda image, _: resized(image, 2.0),
        "crop to 90 % of each side": lambda image, draws: cropped(image, 0.9, draws),
        CROP: lambda image, draws: cropped(image, 0.8, draws),
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


def edited(image: np.ndarray, edit: Edit, seed: int) -> Image.Image:
    """An image `[H, W, 3]` after an edit, whose random part follows from the seed of the image."""
    return edit(Image.fromarray(image), np.random.default_rng(seed))


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
