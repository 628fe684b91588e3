"""Estimates the cost of a run before it starts: parameters, operations, memory and least hours.

The networks are built on PyTorch's `meta` device, which computes shapes only. So the counts are those of the very steps
that the run takes, at any resolution, within seconds. `convolution_rate` measures the speed of the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stylert.models.projected_discriminator import ProjectedDiscriminator
from stylert.models.stylegan2.networks import Generator
from stylert.train import losses
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.trainer import HALF, new_discriminator

PROBE_SECONDS = 0.5
PROBE_BATCH, PROBE_CHANNELS, PROBE_SIZE = 4, 256, 32


@dataclass(frozen=True)
class TrainingCost:
    """Operations and memory of a run.

    Attributes:
        parameters_G: Parameters of the generator.
        parameters_D: Trained parameters of the discriminator.
        macs_per_image: Multiply-accumulates of convolutions and matrix products, forward and backward, per image of a
            training step. A regulariser counts by its share of the steps.
        state_bytes: Weights, moving averages, gradients and Adam's moments.
        activation_bytes: Activations kept for the backward pass of one micro-batch, in the phase that keeps most.
    """

    parameters_G: int
    parameters_D: int
    macs_per_image: int
    state_bytes: int
    activation_bytes: int

    def hours(self, kimg: float, macs_per_second: float) -> float:
        """Hours for `kimg` thousand images at this rate. A lower bound: memory-bound operations are not counted."""
        return self.macs_per_image * kimg * 1000 / macs_per_second / 3600


def training_cost(cfg: TrainConfig, world_size: int = 1) -> TrainingCost:
    """Count the operations and memory of a training step of `cfg`, on each of `world_size` processes."""
    phases = _MetaPhases(cfg, cfg.batch_gpu or max(cfg.batch // world_size, 1))
    shares: list[tuple[Callable[[], None], float]] = [(phases.generator, 1.0), (phases.discriminator, 1.0)]
    if cfg.pl_weight > 0:
        shares.append((phases.path_length, 1 / cfg.g_reg_interval))
    if cfg.r1_gamma > 0:
        shares.append((phases.r1, 1 / cfg.d_reg_interval))
    macs, activation_bytes = 0.0, 0
    for phase, share in shares:
        flops, kept_bytes = _count(phase)
        macs += flops / 2 * share
        activation_bytes = max(activation_bytes, kept_bytes)
    g, d = (sum(p.numel() for p in trained) for trained in (phases.G.parameters(), phases.trained))
    # Float32: weights, gradient and two moments of G and D, and the weights of G_ema.
    state_bytes = 4 * (5 * g + 4 * d)
    return TrainingCost(g, d, round(macs / phases.batch), state_bytes, activation_bytes)


def convolution_rate(device: str) -> float:
    """Multiply-accumulates per second of a float32 3x3 convolution (256 channels, 32 px), from half a second."""
    shape = (PROBE_BATCH, PROBE_CHANNELS, PROBE_SIZE, PROBE_SIZE)
    x = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    w = torch.randn(PROBE_CHANNELS, PROBE_CHANNELS, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    macs, runs = PROBE_BATCH * PROBE_CHANNELS**2 * 9 * PROBE_SIZE**2, 0
    F.conv2d(x, w, padding=1)
    _synchronize(device)
    start = time.perf_counter()
    while time.perf_counter() - start < PROBE_SECONDS:
        F.conv2d(x, w, padding=1)
        _synchronize(device)
        runs += 1
    return macs * runs / (time.perf_counter() - start)


class _MetaPhases:
    """The four phases of a training step for one micro-batch of `batch` images, on the meta device."""

    def __init__(self, cfg: TrainConfig, batch: int) -> None:
        self.cfg, self.batch, self.half = cfg, batch, HALF[cfg.half]
        if cfg.projected is not None:
            self.half = None  # its autocast does not know the meta device, so activations count as float32
        with torch.device("meta"):
            self.G = Generator(cfg.generator)
        self.D = new_discriminator(cfg).to("meta")
        self.loss = losses.ADVERSARIAL_LOSSES[cfg.loss]
        self.trained = [p for p in self.D.parameters() if p.requires_grad]
        self.labels = self._labels(batch)

    def generator(self) -> None:
        self.D.requires_grad_(False)
        images = self.G.synthesis(self._ws(self.batch), "random", self.half)
        fake_logits = self.D(images, self.labels, self.half)
        real_logits = None
        if self.loss.pairs:
            with torch.no_grad():
                real_logits = self.D(self._real_images(), self.labels, self.half)
        self.loss.generator(fake_logits, real_logits).backward()

    def path_length(self) -> None:
        self.D.requires_grad_(False)
        ws = self._ws(max(self.batch // self.cfg.pl_batch_shrink, 1))
        pl_mean = torch.zeros([], device="meta")
        losses.path_length_penalty(self.G, ws, pl_mean, self.cfg.pl_decay, self.half).backward()

    def discriminator(self) -> None:
        self._train_discriminator()
        with torch.no_grad():
            fake = self.G.synthesis(self._ws(self.batch), "random", self.half)
        fake_logits = self.D(fake, self.labels, self.half)
        real_logits = self.D(self._real_images(), self.labels, self.half)
        self.loss.discriminator(fake_logits, real_logits).backward()

    def r1(self) -> None:
        self._train_discriminator()
        for gamma in (self.cfg.r1_gamma, self.cfg.r2_gamma):
            if gamma > 0:
                if isinstance(self.D, ProjectedDiscriminator):
                    with torch.no_grad():
                        maps = self.D.maps(self._real_images())
                    penalty = losses.gradient_penalty(self.D.judge, maps, self.labels, gamma)
                else:
                    penalty = losses.gradient_penalty(self.D, self._real_images(), self.labels, gamma, self.half)
                penalty.backward()

    def _train_discriminator(self) -> None:
        for p in self.trained:
            p.requires_grad_(True)

    def _ws(self, count: int) -> Tensor:
        ws: Tensor = self.G.mapping(torch.empty(count, self.cfg.generator.z_dim, device="meta"), self._labels(count))
        return ws

    def _labels(self, count: int) -> Tensor | None:
        c_dim = self.cfg.generator.c_dim
        return torch.empty(count, c_dim, device="meta") if c_dim else None

    def _real_images(self) -> Tensor:
        g = self.cfg.generator
        return torch.empty(self.batch, g.img_channels, g.resolution, g.resolution, device="meta")


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _count(phase: Callable[[], None]) -> tuple[int, int]:
    """Floating-point operations of a phase, and bytes of the distinct tensors that it keeps for the backward pass."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if not isinstance(t, nn.Parameter):
            storages[storage._cdata] = storage  # the reference keeps its number from being used again
        return t

    with _FlopCounter() as counter, saved_tensors_hooks(keep, lambda t: t):
        phase()
    return counter.flops, sum(s.nbytes() for s in storages.values())


class _FlopCounter(TorchDispatchMode):
    """Counts floating-point operations with PyTorch's formulas.

    PyTorch's own `FlopCounterMode` also tracks modules, which fails through `torch.autograd.grad`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out
