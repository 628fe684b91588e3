"""What a run will take before it starts: parameters, operations, memory; counted by running its steps without data.

The networks are built on PyTorch's `meta` device, which computes shapes alone, so that the counts are of the very steps that
will run, at any resolution, in a second or two and next to no memory.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stylert.models.stylegan2.networks import Discriminator, Generator
from stylert.train import losses
from stylert.train.presets import TrainConfig
from stylert.train.trainer import HALF

PROBE_SECONDS = 0.5


@dataclass(frozen=True)
class Plan:
    """Counts of a run. Operations are multiply-accumulates of convolutions and matrix products, forward and backward."""

    parameters_G: int
    parameters_D: int
    macs_per_image: int  # of a whole training step, regularisers by their share
    state_bytes: int  # weights, averages, gradients and Adam's moments
    activation_bytes: int  # what backward passes keep of one micro-batch, in the phase that keeps most

    def hours(self, kimg: float, macs_per_second: float) -> float:
        """At this rate; real runs also spend time on memory-bound operations, so it is a lower bound."""
        return self.macs_per_image * kimg * 1000 / macs_per_second / 3600


def plan(cfg: TrainConfig, processes: int = 1) -> Plan:
    """Count what a step of `cfg` computes and keeps, on each of `processes`."""
    with torch.device("meta"):
        generator, discriminator = Generator(cfg.generator), Discriminator(cfg.discriminator)
    n, half = cfg.batch_gpu or max(cfg.batch // processes, 1), HALF[cfg.half]

    def ws(count: int) -> Tensor:
        z = torch.empty(count, cfg.generator.z_dim, device="meta")
        c = torch.empty(count, cfg.generator.c_dim, device="meta") if cfg.generator.c_dim else None
        ws: Tensor = generator.mapping(z, c)
        return ws

    def images() -> Tensor:
        g = cfg.generator
        return torch.empty(n, g.img_channels, g.resolution, g.resolution, device="meta")

    labels = torch.empty(n, cfg.generator.c_dim, device="meta") if cfg.generator.c_dim else None

    def generator_phase() -> None:
        losses.generator_loss(discriminator(generator.synthesis(ws(n), "random", half), labels, half)).backward()

    def path_length_phase() -> None:
        latents = ws(max(n // cfg.pl_batch_shrink, 1))
        losses.path_length_penalty(generator, latents, torch.zeros([], device="meta"), cfg.pl_decay, half).backward()

    def discriminator_phase() -> None:
        with torch.no_grad():
            fake = generator.synthesis(ws(n), "random", half)
        logits = discriminator(fake, labels, half), discriminator(images(), labels, half)
        losses.discriminator_loss(*logits).backward()

    def r1_phase() -> None:
        losses.r1_penalty(discriminator, images(), labels, cfg.r1_gamma, half).backward()

    macs, kept = 0.0, 0
    discriminator.requires_grad_(False)
    phases: list[tuple[Any, float]] = [(generator_phase, 1.0)]
    if cfg.pl_weight > 0:
        phases.append((path_length_phase, 1 / cfg.g_reg_interval))
    for phase, share in phases:
        flops, bytes_ = _count(phase)
        macs, kept = macs + flops / 2 * share, max(kept, bytes_)
    discriminator.requires_grad_(True)
    phases = [(discriminator_phase, 1.0)]
    if cfg.r1_gamma > 0:
        phases.append((r1_phase, 1 / cfg.d_reg_interval))
    for phase, share in phases:
        flops, bytes_ = _count(phase)
        macs, kept = macs + flops / 2 * share, max(kept, bytes_)
    g, d = _size(generator), _size(discriminator)
    # G, G_ema, gradient and two moments; D without an average.
    return Plan(g, d, round(macs / n), 4 * (5 * g + 4 * d), kept)


def convolution_rate(device: str) -> float:
    """Multiply-accumulates per second of a 3x3 convolution of 256 channels at 32 px, forward, measured for half a second."""
    x = torch.randn(4, 256, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    w = torch.randn(256, 256, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    macs, runs = x.shape[0] * 256 * 256 * 9 * 32 * 32, 0
    F.conv2d(x, w, padding=1)
    _finish(device)
    start = time.perf_counter()
    while time.perf_counter() - start < PROBE_SECONDS:
        F.conv2d(x, w, padding=1)
        _finish(device)
        runs += 1
    return macs * runs / (time.perf_counter() - start)


def _finish(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _count(phase: Any) -> tuple[int, int]:
    """Floating-point operations of a phase, and the bytes of the distinct tensors that it keeps for its backward passes."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if not isinstance(t, nn.Parameter):
            storages[storage._cdata] = storage  # held, so that no later storage gets the same number
        return t

    with _Counter() as counter, saved_tensors_hooks(keep, lambda t: t):
        phase()
    return counter.flops, sum(s.nbytes() for s in storages.values())


class _Counter(TorchDispatchMode):
    """PyTorch's own formulas; its `FlopCounterMode` also follows modules, and cannot do that through `autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
