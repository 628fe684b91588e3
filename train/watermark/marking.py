"""From a generator to a marked one: patterns, fine-tuning, and the figures that tell how well it went."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from stylert.core.errors import InputError
from stylert.core.images.similarity import psnr_each
from stylert.core.progress import Progress
from stylert.models.stylegan2.networks import Generator
from stylert.train.sampling import BATCH, generate
from stylert.train.watermark.attacks import as_image, resize
from stylert.train.watermark.decoder import Decoder, check_capacity, whitening
from stylert.train.watermark.fine_tuning import TuningSettings, fine_tune
from stylert.train.watermark.residual import train_residual

#: Side at which decoders read whole images, at most. A larger image is reduced.
MAX_SIDE = 64
MIN_RESOLUTION = 16
#: Least share of a side that a crop may keep, as in `stylert.runtime.watermark.detector_file`.
LEAST_SHARE = 0.6
#: Unmarked images that each view is whitened by, the parts of so many that are cut at one place, and places where one is read.
VIEW_IMAGES, PARTS, PLACES = 512, 64, 4
#: Share of the mean variance in the covariance of a view.
SHRINKAGE = 0.05
#: First seed of the images that judge a mark. No training image has one of these seeds.
FIRST_TEST_SEED = 1_000_000
#: Purposes of the images in `image_seeds`.
WHITENING, TEST = "training and whitening of the decoder", "test of the mark"


@dataclass(frozen=True)
class MarkSettings:
    """Settings of `mark_generator`.

    Attributes:
        pattern_seed: The secret patterns follow from it.
        images: Images of the unmarked generator that train the decoder's network and whiten its outputs.
        decoder_steps: Training steps of the decoder's network.
        test_images: Images that judge the result.
        tuning: Settings of the fine-tuning.
    """

    pattern_seed: int
    images: int = 2048
    decoder_steps: int = 600
    test_images: int = 256
    tuning: TuningSettings = field(default_factory=TuningSettings)


@dataclass(frozen=True)
class ViewWhitening:
    """One way to read a picture.

    Attributes:
        length: Length of the picture's longer side in pixels of the decoder.
        mirrored: Whether the picture is mirrored, left to right.
        matrix: `[bits, bits]`, and
        mean: `[bits]`: these whiten the outputs for unmarked images, as in `decoder.whitening`.
    """

    length: int
    mirrored: bool
    matrix: np.ndarray
    mean: np.ndarray


@dataclass(frozen=True)
class MarkedGenerator:
    """The result of `mark_generator`.

    Attributes:
        generator: The marked generator, on the CPU.
        decoder: The decoder, on the CPU.
        views: The ways to read a picture.
        psnr: Mean PSNR to the original images in dB, and the worst.
        bits_read: Share of the key's bits that are read from images of the marked generator.
        bits_by_chance: The same for the original generator, about one half.
    """

    generator: Generator
    decoder: Decoder
    views: list[ViewWhitening]
    psnr: tuple[float, float]
    bits_read: float
    bits_by_chance: float

    def detector_arrays(self) -> dict[str, np.ndarray]:
        """The weights of a detector file by name."""
        matrices, means = (np.stack(arrays) for arrays in zip(*((v.matrix, v.mean) for v in self.views), strict=True))
        return {**self.decoder.arrays(), "view_matrices": matrices, "view_means": means}


def mark_generator(
    generator: Generator, key: Sequence[int], settings: MarkSettings, progress: Progress | None = None, device: str = "cpu"
) -> MarkedGenerator:
    """Mark a generator with a key.

    Args:
        generator: The original. Its weights stay as they are.
        key: Zeros and ones.
        settings: See `MarkSettings`.
        progress: Called while images are drawn, and in each training step.
        device: Device of the computation.

    Raises:
        InputError: The generator has neither grey nor RGB images, or they are too small for so many bits.
    """
    check_markable(generator)
    side = min(generator.cfg.resolution, MAX_SIDE)
    check_capacity(len(key), side)
    original = generator.to(device)
    seeds = image_seeds(settings)
    images = decoder_inputs(drawn_images(original, seeds[WHITENING].start, len(seeds[WHITENING]), progress), side)
    residual = train_residual(images.to(device), settings.decoder_steps, settings.tuning.seed, progress).cpu()
    decoder = Decoder.draw(len(key), side, settings.pattern_seed, residual).whiten(images)
    views = view_whitenings(decoder, images[:VIEW_IMAGES], random.Random(settings.tuning.seed))
    marked = fine_tune(original, decoder.to(device), torch.tensor(list(key)), settings.tuning, progress)
    before = drawn_images(original, seeds[TEST].start, len(seeds[TEST]))
    after = drawn_images(marked, seeds[TEST].start, len(seeds[TEST]))
    psnr = psnr_each(after, before)
    decoder = decoder.cpu()
    return MarkedGenerator(
        marked.cpu(),
        decoder,
        views,
        (float(psnr.mean()), float(psnr.min())),
        share_read(decoder, after, key),
        share_read(decoder, before, key),
    )


def image_seeds(settings: MarkSettings) -> dict[str, range]:
    """The seeds of all images that `mark_generator` draws, by their purpose. The latents of training steps have none.

    The views are whitened by the first images of those that whiten the decoder.
    """
    return {
        WHITENING: range(settings.images),
        TEST: range(FIRST_TEST_SEED, FIRST_TEST_SEED + settings.test_images),
    }


def check_markable(generator: Generator) -> None:
    """Raise InputError unless a generator draws grey or RGB images that are large enough for a mark."""
    generator.cfg.require_usual_shape("a mark")
    if generator.cfg.img_channels not in (1, 3):
        raise InputError(f"only grey or RGB images are marked, and this network has {generator.cfg.img_channels} channels")
    if generator.cfg.resolution < MIN_RESOLUTION:
        raise InputError(f"images of {generator.cfg.resolution} pixels hold no mark: {MIN_RESOLUTION} are needed")


@torch.no_grad()
def share_read(decoder: Decoder, images: np.ndarray, key: Sequence[int]) -> float:
    """The share of the key's bits that are read from whole images, uint8 `[N, R, R, 3]`."""
    read = decoder(decoder_inputs(images, decoder.side)).numpy() > 0
    return float((read == (np.asarray(key) > 0)).mean())


@torch.no_grad()
def view_whitenings(decoder: Decoder, images: Tensor, draws: random.Random) -> list[ViewWhitening]:
    """For each length of a side down to `LEAST_SHARE`, and for mirror images, how the outputs of unmarked images spread.

    A detector tries all views at all places. Outputs at a wrong place are correlated, and some of them large. Whitened ones
    compete alike.

    Args:
        decoder: A whitened decoder.
        images: Unmarked images `[N, 3, side, side]`.
        draws: Decides the parts of the images, and the places where they are read.
    """
    residuals = [torch.cat([decoder.residual(part) for part in x.split(BATCH)]) for x in (images, images.flip(3))]
    found = []
    for length in range(decoder.side, round(LEAST_SHARE * decoder.side) - 1, -1):
        room = decoder.side - length
        for mirrored in (False, True):
            outputs = []
            for group in residuals[mirrored].split(PARTS):
                top, left = draws.randint(0, room), draws.randint(0, room)
                part = group[:, top : top + length, left : left + length]
                places = [(draws.randint(0, room), draws.randint(0, room)) for _ in range(PLACES if room else 1)]
                outputs += [decoder.correlate(part, *place) for place in places]
            matrix, mean = whitening(torch.cat(outputs), SHRINKAGE)
            found.append(ViewWhitening(length, mirrored, matrix.float().numpy(), mean.float().numpy()))
    return found


def decoder_inputs(images: np.ndarray, side: int) -> Tensor:
    """Whole images, uint8 `[N, R, R, 3]`, as `[N, 3, side, side]` in [-1, 1]."""
    parts = [
        resize(as_image(torch.from_numpy(np.array(images[i : i + BATCH])).permute(0, 3, 1, 2).float()), side, side)
        for i in range(0, len(images), BATCH)
    ]
    return torch.cat(parts)


def drawn_images(generator: Generator, first: int, count: int, progress: Progress | None = None) -> np.ndarray:
    """Images of `count` seeds from `first` on with constant noise, uint8 `[count, R, R, 3]`."""
    batches = []
    for start in range(0, count, BATCH):
        n = min(BATCH, count - start)
        images = generate(generator, range(first + start, first + start + n))
        batches.append(np.repeat(images, 3, 3) if images.shape[3] == 1 else images)
        if progress is not None:
            progress("images", start + n, count)
    return np.concatenate(batches)
