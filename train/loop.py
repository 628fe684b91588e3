"""The training loop: one state that a snapshot saves and restores whole.

The order of a step is the official one: generator, path length every 4th step, discriminator, R1 every 16th, then the
moving average. Regularised steps scale learning rate and Adam's betas by k / (k + 1), and the loss by k (lazy
regularisation, Karras et al. 2020a, appendix B).
"""

from __future__ import annotations

import copy
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stylert.runtime.errors import CheckpointError, DataError, StylertError
from stylert.train import losses
from stylert.train.checkpoint import write_generator
from stylert.train.dataset import ImageDataset
from stylert.train.networks import Discriminator, Generator
from stylert.train.presets import TrainConfig
from stylert.train.snapshot import read_snapshot, write_snapshot

HALF = {"none": None, "fp16": torch.float16, "bf16": torch.bfloat16}
ADAM_SLOTS = ("step", "exp_avg", "exp_avg_sq")
STATS_FILE = "stats.jsonl"
SNAPSHOT_FILE = "snapshot.safetensors"
GENERATOR_FILE = "model.safetensors"


class TrainingError(StylertError):
    """Training cannot go on: the losses are not finite."""


class Trainer:
    """The networks, optimizers and counters of one run.

    `nimg` counts images shown to the discriminator and `step` optimizer steps; with the seed they determine every draw
    of data, and the random state goes into the snapshot, so a resumed run takes the steps that it would have taken.
    """

    def __init__(self, cfg: TrainConfig, dataset: ImageDataset, device: torch.device | str = "cpu") -> None:
        if (dataset.resolution, dataset.images.shape[1]) != (cfg.generator.resolution, cfg.generator.img_channels):
            raise DataError(
                f"the dataset is {dataset.resolution} px with {dataset.images.shape[1]} channels, the networks take "
                f"{cfg.generator.resolution} px with {cfg.generator.img_channels}"
            )
        if dataset.c_dim != cfg.generator.c_dim:
            raise DataError(f"the dataset has {dataset.c_dim} label dimensions, the networks {cfg.generator.c_dim}")
        self.cfg, self.dataset, self.device = cfg, dataset, torch.device(device)
        torch.manual_seed(cfg.seed)
        # Channels last is the layout in which both oneDNN and cuDNN run these convolutions fastest.
        self.G = Generator(cfg.generator).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.D = Discriminator(cfg.discriminator).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        self.opt_G = _lazy_adam(self.G, cfg.lr, cfg.g_reg_interval if cfg.pl_weight > 0 else None)
        self.opt_D = _lazy_adam(self.D, cfg.lr, cfg.d_reg_interval if cfg.r1_gamma > 0 else None)
        self.pl_mean = torch.zeros([], device=self.device)
        self.nimg = self.step = 0
        self.half = HALF[cfg.half]

    def train_step(self) -> dict[str, float]:
        """One step of both networks on the next `batch` images; returns the losses by name."""
        cfg = self.cfg
        real, c = self._next_batch()
        stats: dict[str, Tensor] = {}

        self.D.requires_grad_(False)
        ws = losses.mixed_ws(self.G, self._z(), c, cfg.mixing_prob, update_w_avg=True)
        fake_logits = self.D(self.G.synthesis(ws, "random", self.half), c, self.half)
        stats["loss_G"] = losses.generator_loss(fake_logits)
        self._update(self.opt_G, stats["loss_G"])
        if cfg.pl_weight > 0 and self.step % cfg.g_reg_interval == 0:
            n = max(cfg.batch // cfg.pl_batch_shrink, 1)
            ws = losses.mixed_ws(self.G, self._z()[:n], None if c is None else c[:n], cfg.mixing_prob)
            stats["path_length"] = losses.path_length_penalty(self.G, ws, self.pl_mean, cfg.pl_decay, self.half)
            self._update(self.opt_G, stats["path_length"] * (cfg.pl_weight * cfg.g_reg_interval))

        self.D.requires_grad_(True)
        with torch.no_grad():
            fake = self.G.synthesis(losses.mixed_ws(self.G, self._z(), c, cfg.mixing_prob), "random", self.half)
        fake_logits, real_logits = self.D(fake, c, self.half), self.D(real, c, self.half)
        stats["loss_D"] = losses.discriminator_loss(fake_logits, real_logits)
        stats["real_sign"] = real_logits.detach().sign().mean()
        self._update(self.opt_D, stats["loss_D"])
        if cfg.r1_gamma > 0 and self.step % cfg.d_reg_interval == 0:
            stats["r1"] = losses.r1_penalty(self.D, real, c, cfg.r1_gamma, self.half)
            self._update(self.opt_D, stats["r1"] * cfg.d_reg_interval)

        self.step += 1
        self.nimg += cfg.batch
        self._update_ema()
        return {name: float(value.detach()) for name, value in stats.items()}

    def _next_batch(self) -> tuple[Tensor, Tensor | None]:
        index = self.dataset.batch_indices(self.nimg, self.cfg.batch, self.cfg.seed)
        images = torch.from_numpy(self.dataset.images[index]).to(self.device).float() / 127.5 - 1
        labels = None if self.dataset.labels is None else torch.from_numpy(self.dataset.labels[index]).to(self.device)
        return images.contiguous(memory_format=torch.channels_last), labels

    def _z(self) -> Tensor:
        return torch.randn(self.cfg.batch, self.cfg.generator.z_dim, device=self.device)

    @staticmethod
    def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def _update_ema(self) -> None:
        ema_nimg = self.cfg.ema_kimg * 1000
        if self.cfg.ema_rampup is not None:
            ema_nimg = min(ema_nimg, self.nimg * self.cfg.ema_rampup)
        beta = 0.5 ** (self.cfg.batch / max(ema_nimg, 1e-8))
        get_ema_multi_avg_fn(beta)(list(self.G_ema.parameters()), list(self.G.parameters()), self.step)
        for b_ema, b in zip(self.G_ema.buffers(), self.G.buffers(), strict=True):
            b_ema.copy_(b)

    # --- the whole state, out and in -------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON facts from which `load_state` makes this trainer again, bit for bit."""
        tensors: dict[str, Tensor] = {"pl_mean": self.pl_mean, "rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["rng_cuda"] = torch.cuda.get_rng_state(self.device)
        for name in ("G", "D", "G_ema"):
            tensors |= {f"{name}.{k}": v for k, v in getattr(self, name).state_dict().items()}
        for name, module in (("opt_G", self.G), ("opt_D", self.D)):
            names = {id(p): k for k, p in module.named_parameters()}
            for p, slots in getattr(self, name).state.items():
                tensors |= {f"{name}.{slot}.{names[id(p)]}": v for slot, v in slots.items()}
        return tensors, {"nimg": self.nimg, "step": self.step}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take over what `state` returned. CheckpointError when a tensor is missing."""
        wanted = {"pl_mean", "rng"} | {f"{n}.{k}" for n in ("G", "D", "G_ema") for k in getattr(self, n).state_dict()}
        if facts["step"] > 0:
            wanted |= {f"opt_{n}.{s}.{k}" for n in "GD" for k, _ in getattr(self, n).named_parameters() for s in ADAM_SLOTS}
        for name in sorted(wanted - tensors.keys()):
            raise CheckpointError(f"the snapshot lacks the tensor {name}")
        self.nimg, self.step = int(facts["nimg"]), int(facts["step"])
        self.pl_mean.copy_(tensors["pl_mean"])
        for name in ("G", "D", "G_ema"):
            prefix = f"{name}."
            getattr(self, name).load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        for name, module in (("opt_G", self.G), ("opt_D", self.D)):
            optimizer = getattr(self, name)
            for k, p in module.named_parameters():
                slots = {s: tensors[f"{name}.{s}.{k}"] for s in ADAM_SLOTS if f"{name}.{s}.{k}" in tensors}
                if slots:  # the moments in the memory layout of their parameter, as Adam would have made them
                    optimizer.state[p] = {
                        s: v.to(p.device, copy=True) if s == "step" else torch.empty_like(p).copy_(v) for s, v in slots.items()
                    }
        torch.set_rng_state(tensors["rng"].cpu())
        if "rng_cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng_cuda"].cpu(), self.device)


def _lazy_adam(module: nn.Module, lr: float, interval: int | None) -> torch.optim.Adam:
    ratio = 1.0 if interval is None else interval / (interval + 1)
    return torch.optim.Adam(module.parameters(), lr=lr * ratio, betas=(0.0**ratio, 0.99**ratio), eps=1e-8, fused=True)


def train(
    cfg: TrainConfig,
    dataset: ImageDataset,
    out: str | Path,
    *,
    resume: str | Path | None = None,
    start: Callable[[Trainer], None] | None = None,
    snap_kimg: float = 10.0,
    device: str = "cpu",
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train until `cfg.kimg` and return the path of the final generator file.

    `resume` is a snapshot to go on from; `start` may change the networks of a new run (see `transfer.transfer`).
    Writes into `out`: `snapshot.safetensors` (everything, for resuming) and `model.safetensors` (G_ema, for serving)
    every `snap_kimg`, samples `fakes-<kimg>.png`, and `stats.jsonl`. SIGTERM and Ctrl-C save, then stop. `report` gets
    each line of statistics.

    Raises TrainingError when a loss stops being finite; the last snapshot is kept.
    """
    out = Path(out)
    trainer = Trainer(cfg, dataset, device)
    if resume is not None:
        trainer.load_state(*read_snapshot(resume, cfg))
    elif start is not None:
        start(trainer)
    out.mkdir(parents=True, exist_ok=True)
    stop = _StopRequest()
    sums: dict[str, list[float]] = {}
    started, start_nimg = time.monotonic(), trainer.nimg
    next_snap = (np.floor(trainer.nimg / (snap_kimg * 1000)) + 1) * snap_kimg * 1000
    with stop:
        while trainer.nimg < cfg.kimg * 1000 and not stop.requested:
            losses_now = trainer.train_step()
            for name, value in losses_now.items():
                if not np.isfinite(value):
                    raise TrainingError(f"{name} is {value} at {trainer.nimg / 1000:.1f} kimg: lower --lr or raise --gamma")
                sums.setdefault(name, []).append(value)
            if trainer.step % 50 == 0:
                elapsed = time.monotonic() - started
                line = {
                    "kimg": trainer.nimg / 1000,
                    "step": trainer.step,
                    "sec_per_kimg": elapsed / (trainer.nimg - start_nimg) * 1000,
                    **{name: float(np.mean(values)) for name, values in sums.items()},
                }
                sums.clear()
                with open(out / STATS_FILE, "a") as f:
                    f.write(json.dumps(line) + "\n")
                if report is not None:
                    report(line)
            if trainer.nimg >= next_snap:
                next_snap += snap_kimg * 1000
                save(trainer, out)
        save(trainer, out)
    return out / GENERATOR_FILE


def save(trainer: Trainer, out: Path) -> None:
    """Snapshot, generator file and a grid of samples, each written whole or not at all."""
    from stylert.runtime.images import save_grid

    tensors, facts = trainer.state()
    write_snapshot(out / SNAPSHOT_FILE, trainer.cfg, tensors, facts)
    arrays = {k: v.cpu().numpy() for k, v in trainer.G_ema.state_dict().items()}
    write_generator(out / GENERATOR_FILE, trainer.cfg.generator, arrays, info={"kimg": trainer.nimg / 1000})
    save_grid(sample(trainer.G_ema, 64, trainer.device), out / f"fakes-{trainer.nimg // 1000:06d}.png")


@torch.no_grad()
def sample(generator: Generator, count: int, device: torch.device | str = "cpu", psi: float = 1.0) -> np.ndarray:
    """Images of seeds 0 to `count`, uint8 `[count, R, R, C]`; labels, if any, cycle through the classes."""
    from stylert.runtime.latents import z_from_seeds

    z = torch.from_numpy(z_from_seeds(range(count), generator.cfg.z_dim)).float().to(device)
    c = None
    if generator.cfg.c_dim:
        c = torch.eye(generator.cfg.c_dim, device=device)[torch.arange(count) % generator.cfg.c_dim]
    images = [generator(z[i : i + 16], None if c is None else c[i : i + 16], psi) for i in range(0, count, 16)]
    return to_uint8(torch.cat(images))


def to_uint8(images: Tensor) -> np.ndarray:
    """[-1, 1] float `[N, C, H, W]` to uint8 `[N, H, W, C]`, as the official tools: `x * 127.5 + 128`, clamped, truncated."""
    return (images.permute(0, 2, 3, 1) * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu().numpy()


class _StopRequest:
    """Turns SIGTERM and SIGINT into a flag while the loop runs; only the main thread can, others are left alone."""

    requested = False

    def __enter__(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        self.previous = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT) if main}

    def _handle(self, *_: object) -> None:
        self.requested = True

    def __exit__(self, *_: object) -> None:
        for s, handler in self.previous.items():
            signal.signal(s, handler)
