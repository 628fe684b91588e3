"""Estimates the cost of a run before it starts: parameters, operations, memory and least hours. Refuses one without the memory.

The networks are built on PyTorch's `meta` device, which computes shapes only. So the counts are those of the very steps
that the run takes, at any resolution, within seconds. `convolution_rate` measures the speed of the device.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stylert.core.errors import OutOfMemory
from stylert.core.machine.host import memory_limit_bytes
from stylert.models.stylegan2.networks import Generator
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.phase_losses import PhaseLosses
from stylert.train.trainer import PhaseLoss, new_discriminator, trained_parameters

#: A step of the networks that people train keeps less than so many times the bytes of its images in float32.
MOST_PER_IMAGE_BYTE = 10_000
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
    """Count the operations and memory of a training step of `cfg`, on each of `world_size` processes.

    Augmentation and style mixing are not counted.
    """
    # Mixing is random, and the autocast of a projected discriminator does not know the meta device.
    cfg = dataclasses.replace(cfg, mixing_prob=0.0, half=cfg.half if cfg.projected is None else "none")
    with torch.device("meta"):
        G, pl_mean = Generator(cfg.generator), torch.zeros([])
    D = new_discriminator(cfg).to("meta")
    phases = PhaseLosses(cfg, G, D, pl_mean)
    trained = trained_parameters(D, cfg.freeze_d).values()
    counted: list[tuple[PhaseLoss, bool, float]] = [(phases.generator, False, 1.0), (phases.discriminator, True, 1.0)]
    if cfg.pl_weight > 0:
        counted.append((phases.path_length, False, 1 / cfg.g_reg_interval))
    if cfg.has_r1:
        counted.append((phases.r1, True, 1 / cfg.d_reg_interval))
    images, labels = _micro_batch(cfg, cfg.batch_gpu or max(cfg.batch // world_size, 1))
    macs, activation_bytes = 0.0, 0
    for loss, trains_discriminator, share in counted:
        D.requires_grad_(False)
        for p in trained:
            p.requires_grad_(trains_discriminator)
        flops, kept_bytes = _count(loss, images, labels)
        macs += flops / 2 * share
        activation_bytes = max(activation_bytes, kept_bytes)
    g, d, all_d = (sum(p.numel() for p in parameters) for parameters in (G.parameters(), trained, D.parameters()))
    # Float32: the weights of G, G_ema and D, and of what is trained the gradient and two moments.
    state_bytes = 4 * (2 * g + all_d + 3 * (g + d))
    return TrainingCost(g, d, round(macs / len(images)), state_bytes, activation_bytes)


def check_memory(cfg: TrainConfig, world_size: int, device: str) -> None:
    """Check that a training step fits into the memory of the device, whatever else is in it.

    The estimate takes seconds, so it is made only for a large batch.

    Raises:
        OutOfMemory: The images, the weights, and the activations of one micro-batch need more than the device has.
    """
    memory = _memory_bytes(device)
    g, count = cfg.generator, cfg.batch_gpu or max(cfg.batch // world_size, 1)
    values = g.img_channels * g.height * g.width
    batch_bytes = cfg.batch // world_size * values  # as bytes, until they are shown to D
    if memory is None or batch_bytes + 4 * count * values * MOST_PER_IMAGE_BYTE < memory:
        return
    cost = training_cost(cfg, world_size)
    # The projected discriminator is counted in float32.
    share = 2 if cfg.projected is not None and cfg.half != "none" else 1
    needed = batch_bytes + cost.state_bytes + cost.activation_bytes // share
    if needed > memory:
        raise OutOfMemory(
            f"a training step of {cfg.batch} images, {count} at once, needs {needed / 2**30:.1f} GiB, and {device} has "
            f"{memory / 2**30:.1f}: choose a smaller --batch, or --batch-gpu"
        )


def _memory_bytes(device: str) -> int | None:
    """All memory that this process can have on a device, or None if the system does not tell."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory_limit_bytes()


@contextmanager
def named_memory_errors(cfg: TrainConfig, device: str) -> Iterator[None]:
    """Raise OutOfMemory for an allocation of PyTorch or Python that fails. On a CPU, PyTorch's is a RuntimeError."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not isinstance(e, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(e):
            raise
        raise OutOfMemory(
            f"a training step of {cfg.batch} images needs more memory than {device} has left: choose a smaller --batch, or --batch-gpu"
        ) from None


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


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _micro_batch(cfg: TrainConfig, count: int) -> tuple[Tensor, Tensor | None]:
    """`count` real images and their labels, on the meta device."""
    g = cfg.generator
    images = torch.empty(count, g.img_channels, g.height, g.width, dtype=torch.uint8, device="meta")
    return images, torch.empty(count, g.c_dim, device="meta") if g.c_dim else None


def _count(loss: PhaseLoss, images: Tensor, labels: Tensor | None) -> tuple[int, int]:
    """Floating-point operations of a phase, and bytes of the distinct tensors that it keeps for the backward pass."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if not isinstance(t, nn.Parameter):
            storages[storage._cdata] = storage  # the reference keeps its number from being used again
        return t

    with _FlopCounter() as counter, saved_tensors_hooks(keep, lambda t: t):
        value, _ = loss(images, labels)
        value.backward()
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
