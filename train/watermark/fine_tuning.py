"""Trains the noise maps of a generator's last layers until a decoder reads the key from every image.

StyleGAN2 adds to each layer a map of noise, which is constant in a bundle by default. The maps of the marked generator are as
large as noise, but carry the key. The original generator draws the same latents, and the images may differ from it by a given
PSNR. A multiplier weighs this bound against the bits, and is adapted in each step until the mean difference meets the bound.

Images answer differently to the same map, and dark flat parts answer most. So a single image, and a small part of one, have
bounds of their own.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylert.core.progress import Progress
from stylert.models.stylegan2.networks import Generator, SynthesisLayer
from stylert.train.watermark.attacks import random_view, saved
from stylert.train.watermark.decoder import Decoder

#: Least truncation of the training images, and how often two latents are mixed.
LEAST_PSI, MIXING = 0.5, 0.25
#: Each output is to exceed this, in standard deviations of unmarked images. The missing part counts by its square, so that weak
#: bits gain most.
MARGIN = 3.0
#: How many dB less the first steps allow. The bound rises from there to the wanted PSNR in this share of the steps.
FIRST_SLACK, ANNEALED = 3.0, 0.4
#: How many dB one image may lie below the PSNR of all, and the weight of what exceeds this.
IMAGE_SLACK, IMAGE_WEIGHT = 3.0, 100.0
#: The same for a part of so many pixels across.
PART_SLACK, PART_WEIGHT, PART = 8.0, 50.0, 8
#: Rate at which the weight of the bound adapts.
ADAPTATION = 0.05
LEAST_WEIGHT, GREATEST_WEIGHT = 0.02, 50.0


@dataclass(frozen=True)
class TuningSettings:
    """Settings of `fine_tune`.

    Attributes:
        steps: Training steps.
        psnr: PSNR to the original images in dB, which the mean squared difference meets.
        batch: Images per step.
        lr: Learning rate of Adam at first, for maps in units of the activations and 35 dB. Below 35 dB it is larger, as the change
            is. It falls to zero.
        blocks: Number of highest resolutions whose maps are trained.
        seed: Seed of latents and attacks.
    """

    steps: int = 400
    psnr: float = 39.0
    batch: int = 8
    lr: float = 2e-3
    blocks: int = 2
    seed: int = 0


def fine_tune(
    generator: Generator, decoder: Decoder, key: Tensor, settings: TuningSettings, progress: Progress | None = None
) -> Generator:
    """Train a marked copy of a generator.

    Args:
        generator: The original, which stays as it is.
        decoder: A whitened decoder, on the device of the generator.
        key: Zeros and ones `[bits]`.
        settings: See `TuningSettings`.
        progress: Called after each step.

    Returns:
        The marked generator, frozen.
    """
    device = next(generator.parameters()).device
    marked = copy.deepcopy(generator).requires_grad_(False)
    layers = marked_layers(marked, settings.blocks)
    resolutions = generator.cfg.block_resolutions
    lower, upper = resolutions[: -settings.blocks], resolutions[-settings.blocks :]
    rate = settings.lr * (squared_difference(settings.psnr) / squared_difference(35)) ** 0.5
    optimizer = torch.optim.Adam([_open_map(layer) for layer in layers], rate, betas=(0.7, 0.99))
    signs, draws, weight = key.to(device).float() * 2 - 1, random.Random(settings.seed), 1.0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        for step in range(settings.steps):
            share = step / settings.steps
            optimizer.param_groups[0]["lr"] = rate * min(1.0, 20 * (share + 0.01)) * (1 + math.cos(math.pi * share)) / 2
            psnr = settings.psnr - FIRST_SLACK * (1 - min(share / ANNEALED, 1.0))
            ws = _latents(generator, settings.batch, draws)
            with torch.no_grad():
                shared = _through(generator, lower, (None, None), ws)
                original = saved(_image(_through(generator, upper, shared, ws)))
            image = saved(_image(_through(marked, upper, shared, ws)))
            outputs = decoder(*random_view(image.expand(-1, 3, -1, -1), decoder.side, draws))
            bits_loss = F.relu(MARGIN - signs * outputs).square().mean()
            error = (image - original).square().mean(1, keepdim=True) / squared_difference(psnr)
            difference = error.mean()
            optimizer.zero_grad()
            (bits_loss + weight * difference + excess(error)).backward()
            optimizer.step()
            weight *= math.exp(ADAPTATION * min(float(difference.detach()) - 1, 1.0))
            weight = min(max(weight, LEAST_WEIGHT), GREATEST_WEIGHT)
            if progress is not None:
                progress("marking", step + 1, settings.steps)
    for layer in layers:
        _close_map(layer)
    return marked


def marked_layers(generator: Generator, blocks: int) -> list[SynthesisLayer]:
    """The layers at the highest resolutions whose noise maps carry the mark."""
    found = []
    for resolution in generator.cfg.block_resolutions[-blocks:]:
        block = getattr(generator.synthesis, f"b{resolution}")
        found += [getattr(block, spec.name_in_block) for spec in block.specs if spec.kind == "conv"]
    return found


def _through(
    generator: Generator, resolutions: Sequence[int], features: tuple[Tensor | None, Tensor | None], ws: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The activation and the image behind some blocks. Both networks share those below the blocks that are trained."""
    x, image = features
    for resolution in resolutions:
        x, image = getattr(generator.synthesis, f"b{resolution}")(x, image, ws, "const", None)
    return x, image


def _image(features: tuple[Tensor | None, Tensor | None]) -> Tensor:
    """The image behind the last block."""
    image = features[1]
    assert image is not None
    return image


def squared_difference(psnr: float) -> float:
    """The mean squared difference of images in [-1, 1] at a PSNR in dB."""
    return 4.0 / 10 ** (psnr / 10)


def excess(error: Tensor) -> Tensor:
    """By how much images and their parts exceed their bounds: the weighed mean. `error` `[N, 1, R, R]` is in units of the wanted mean."""
    images = F.relu(error.mean((1, 2, 3)) / 10 ** (IMAGE_SLACK / 10) - 1).mean()
    parts = F.relu(F.avg_pool2d(error, PART) / 10 ** (PART_SLACK / 10) - 1).mean()
    return IMAGE_WEIGHT * images + PART_WEIGHT * parts


def _open_map(layer: SynthesisLayer) -> nn.Parameter:
    """Make the noise map of a layer a parameter, in units of the activations: the strength becomes 1."""
    field = nn.Parameter((layer.noise_const * layer.noise_strength).detach().clone())
    del layer._buffers["noise_const"]
    layer.noise_const = field
    layer.noise_strength.fill_(1.0)
    return field


@torch.no_grad()
def _close_map(layer: SynthesisLayer) -> None:
    """Make the map a buffer again, of mean square 1 as noise has it, and let the strength be its size."""
    field = layer.noise_const.detach()
    strength = field.square().mean().sqrt().clamp_min(1e-8)
    del layer._parameters["noise_const"]
    layer.register_buffer("noise_const", field / strength)
    layer.noise_strength.copy_(strength)


@torch.no_grad()
def _latents(generator: Generator, count: int, draws: random.Random) -> Tensor:
    """Random ws `[N, num_ws, w_dim]`: truncated by a random psi, and sometimes mixed from two latents."""
    cfg, device = generator.cfg, next(generator.parameters()).device
    psi = 1.0 if draws.random() < 0.5 else draws.uniform(LEAST_PSI, 1.0)

    def mapped() -> Tensor:
        z = torch.randn(count, cfg.z_dim, device=device)
        c = torch.eye(cfg.c_dim, device=device)[torch.randint(0, cfg.c_dim, (count,))] if cfg.c_dim else None
        ws: Tensor = generator.mapping(z, c, psi)
        return ws

    ws = mapped()
    if draws.random() < MIXING:
        crossover = draws.randrange(1, cfg.num_ws)
        ws = torch.cat([ws[:, :crossover], mapped()[:, crossover:]], 1)
    return ws
