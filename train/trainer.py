"""One training step and the state between steps.

The order of a step is the official one: generator, path length every 4th step, discriminator, R1 every 16th, then the
moving average. Regularised steps scale learning rate and Adam's betas by k / (k + 1), and the loss by k (lazy
regularisation, Karras et al. 2020a, appendix B).

A batch may be cut into micro-batches, whose gradients are added up, by one process or by several. Each then draws from a
random stream of its own, named by seed, step, phase and place, so the result does not depend on which process works on
which, but for the order of floating-point sums.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stylert.core.errors import CheckpointError, DataError, InputError
from stylert.models.stylegan2.networks import Discriminator, Generator
from stylert.train import losses
from stylert.train.augment.adaptive import AdaptiveP
from stylert.train.augment.pipeline import augment
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.loader import Loader
from stylert.train.parallel import Processes
from stylert.train.presets import TrainConfig

HALF = {"none": None, "fp16": torch.float16, "bf16": torch.bfloat16}
ADAM_SLOTS = ("step", "exp_avg", "exp_avg_sq")
PHASES = ("G", "path_length", "D", "r1")
#: What a gradient that overflowed float16 becomes.
LARGEST_GRADIENT = 1e5
ALONE = Processes()

#: A loss of one micro-batch, and what to show of it: from real images uint8 and labels.
Loss = Callable[[Tensor, Tensor | None], tuple[Tensor, dict[str, Tensor]]]


class Trainer:
    """The networks, optimizers and counters of one run.

    `nimg` counts images shown to the discriminator and `step` optimizer steps; with the seed they determine every draw
    of data, and the random state goes into the snapshot, so a resumed run takes the steps that it would have taken.
    `compiled` runs both networks through torch.compile where a loss has first derivatives only; it cannot differentiate what
    it compiled a second time (PyTorch 2.13), so the regularisers stay as they are. `compiled.unavailable_reason` says whether it can here.

    Raises DataError when the dataset does not fit the networks, InputError when the processes cannot share the batch.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        dataset: ImageDataset,
        device: torch.device | str = "cpu",
        processes: Processes = ALONE,
        compiled: bool = False,
    ) -> None:
        if (dataset.resolution, dataset.images.shape[1]) != (cfg.generator.resolution, cfg.generator.img_channels):
            raise DataError(
                f"the dataset is {dataset.resolution} px with {dataset.images.shape[1]} channels, the networks take "
                f"{cfg.generator.resolution} px with {cfg.generator.img_channels}"
            )
        if dataset.c_dim != cfg.generator.c_dim:
            raise DataError(f"the dataset has {dataset.c_dim} label dimensions, the networks {cfg.generator.c_dim}")
        self.cfg, self.dataset, self.device, self.processes = cfg, dataset, torch.device(device), processes
        self.micro = cfg.batch_gpu or max(cfg.batch // processes.world, 1)  # images that pass through the networks at once
        self.parts = cfg.batch // self.micro
        if cfg.batch % (self.micro * processes.world):
            raise InputError(f"{processes.world} processes cannot share a batch of {cfg.batch} in parts of {self.micro} images")
        share = self.parts // processes.world
        self.own = range(processes.rank * share, (processes.rank + 1) * share)
        self.loader = Loader(dataset, self.device, cfg.seed, share * self.micro, cfg.batch)
        torch.manual_seed(cfg.seed)
        # Channels last is the layout in which both oneDNN and cuDNN run these convolutions fastest.
        self.G = Generator(cfg.generator).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.D = Discriminator(cfg.discriminator).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        self.synthesize: Callable[..., Tensor] = torch.compile(self.G.synthesis) if compiled else self.G.synthesis
        self.discriminate: Callable[..., Tensor] = torch.compile(self.D) if compiled else self.D
        frozen = _outer_layers(self.D, cfg.freeze_d)
        #: What is trained, by network and name.
        self.trained = {
            "G": dict(self.G.named_parameters()),
            "D": {k: p for k, p in self.D.named_parameters() if k.rpartition(".")[0] not in frozen},
        }
        self.opt_G = _lazy_adam(self.trained["G"], cfg.lr, cfg.g_reg_interval if cfg.pl_weight > 0 else None)
        self.opt_D = _lazy_adam(self.trained["D"], cfg.lr, cfg.d_reg_interval if cfg.r1_gamma > 0 else None)
        self.pl_mean = torch.zeros([], device=self.device)
        self.ada = AdaptiveP(cfg.batch, cfg.ada_target, cfg.ada_kimg, cfg.aug_p) if cfg.aug == "ada" else None
        self.nimg = self.step = 0
        self.half = HALF[cfg.half]

    @property
    def aug_p(self) -> float:
        """The present probability of each augmentation."""
        if self.ada is not None:
            return self.ada.p
        return self.cfg.aug_p if self.cfg.aug == "fixed" else 0.0

    def train_step(self) -> dict[str, float]:
        """One step of both networks on the next `batch` images; returns the losses by name, means over the batch."""
        cfg = self.cfg
        images, labels = self.loader.batch(self.nimg + self.own.start * self.micro)
        stats: dict[str, Tensor] = {}

        self.D.requires_grad_(False)
        self._update("G", self._generator_loss, images, labels, stats)
        if cfg.pl_weight > 0 and self.step % cfg.g_reg_interval == 0:
            self._update("path_length", self._path_length, images, labels, stats)
        for p in self.trained["D"].values():
            p.requires_grad_(True)
        self._update("D", self._discriminator_loss, images, labels, stats)
        if cfg.r1_gamma > 0 and self.step % cfg.d_reg_interval == 0:
            self._update("r1", self._r1, images, labels, stats)

        self.processes.sum(list(stats.values()))
        result = {name: float(value) for name, value in stats.items()}
        if self.ada is not None:
            self.ada.update(result["real_sign"])
        self.step += 1
        self.nimg += cfg.batch
        self._update_ema()
        return result

    # --- the losses of one micro-batch -----------------------------------------------------------------------------

    def _generator_loss(self, images: Tensor, c: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        ws = losses.mixed_ws(self.G, self._z(len(images)), c, self.cfg.mixing_prob, update_w_avg=True)
        loss = losses.generator_loss(self._logits(self.synthesize(ws, "random", self.half), c, self.half))
        return loss, {"loss_G": loss}

    def _path_length(self, images: Tensor, c: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        cfg = self.cfg
        n = max(len(images) // cfg.pl_batch_shrink, 1)
        ws = losses.mixed_ws(self.G, self._z(len(images))[:n], None if c is None else c[:n], cfg.mixing_prob)
        penalty = losses.path_length_penalty(self.G, ws, self.pl_mean, cfg.pl_decay, self.half)
        return penalty * (cfg.pl_weight * cfg.g_reg_interval), {"path_length": penalty}

    def _discriminator_loss(self, images: Tensor, c: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            ws = losses.mixed_ws(self.G, self._z(len(images)), c, self.cfg.mixing_prob)
            fake = self.synthesize(ws, "random", self.half)
        fake_logits, real_logits = self._logits(fake, c, self.half), self._logits(_as_float(images), c, self.half)
        loss = losses.discriminator_loss(fake_logits, real_logits)
        return loss, {"loss_D": loss, "real_sign": real_logits.detach().sign().mean()}

    def _r1(self, images: Tensor, c: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        penalty = losses.r1_penalty(partial(self._logits, network=self.D), _as_float(images), c, self.cfg.r1_gamma, self.half)
        return penalty * self.cfg.d_reg_interval, {"r1": penalty}

    def _logits(
        self, images: Tensor, c: Tensor | None, half: torch.dtype | None, network: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """The discriminator behind the augmentation, through which both networks and R1 see every image."""
        if self.aug_p > 0:
            images = augment(images, self.aug_p, self.cfg.aug_pipeline).contiguous(memory_format=torch.channels_last)
        return (network or self.discriminate)(images, c, half)

    def _z(self, count: int) -> Tensor:
        return torch.randn(count, self.cfg.generator.z_dim, device=self.device)

    # --- one optimizer step over all micro-batches -----------------------------------------------------------------

    def _update(self, phase: str, loss: Loss, images: Tensor, labels: Tensor | None, stats: dict[str, Tensor]) -> None:
        network = "G" if phase in ("G", "path_length") else "D"
        optimizer = self.opt_G if network == "G" else self.opt_D
        # Each part starts from the same running means; the mean of what the parts make of them is what the batch makes.
        running = [self.G.mapping.w_avg, self.pl_mean]
        before, after = [t.clone() for t in running], [torch.zeros_like(t) for t in running]
        optimizer.zero_grad(set_to_none=True)
        for i, part in enumerate(self.own):
            if self.parts > 1:
                self._draw_from_own_stream(phase, part)
            for t, start in zip(running, before, strict=True):
                t.copy_(start)
            rows = slice(i * self.micro, (i + 1) * self.micro)
            value, shown = loss(images[rows], None if labels is None else labels[rows])
            (value / self.parts).backward()
            for total, t in zip(after, running, strict=True):
                total += t / self.parts
            for name, t in shown.items():
                stats[name] = stats.get(name, 0) + t.detach() / self.parts
        gradients = [p.grad for p in self.trained[network].values() if p.grad is not None]
        self.processes.sum(gradients)
        if self.half is torch.float16:
            for (
                g
            ) in gradients:  # one that overflowed costs a step, not the run; weights that are not finite still show in a loss
                torch.nan_to_num(g, nan=0.0, posinf=LARGEST_GRADIENT, neginf=-LARGEST_GRADIENT, out=g)
        self.processes.sum(after)
        for t, total in zip(running, after, strict=True):
            t.copy_(total)
        optimizer.step()

    def _draw_from_own_stream(self, phase: str, part: int) -> None:
        words = np.random.SeedSequence([self.cfg.seed, self.step, PHASES.index(phase), part]).generate_state(2, np.uint32)
        torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)

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
        for name, trained in self.trained.items():
            names = {id(p): k for k, p in trained.items()}
            for p, slots in getattr(self, f"opt_{name}").state.items():
                tensors |= {f"opt_{name}.{slot}.{names[id(p)]}": v for slot, v in slots.items()}
        facts: dict[str, Any] = {"nimg": self.nimg, "step": self.step}
        if self.ada is not None:
            facts["ada"] = self.ada.state()
        return tensors, facts

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take over what `state` returned; the state of the augmentation may be absent. CheckpointError when a tensor is."""
        wanted = {"pl_mean", "rng"} | {f"{n}.{k}" for n in ("G", "D", "G_ema") for k in getattr(self, n).state_dict()}
        if facts["step"] > 0:
            wanted |= {f"opt_{n}.{s}.{k}" for n, trained in self.trained.items() for k in trained for s in ADAM_SLOTS}
        for name in sorted(wanted - tensors.keys()):
            raise CheckpointError(f"the snapshot lacks the tensor {name}")
        if self.ada is not None and "ada" in facts:
            try:
                self.ada.load_state(facts["ada"])
            except (AttributeError, ValueError):
                raise CheckpointError("the snapshot holds no valid state of the adaptive augmentation") from None
        self.nimg, self.step = int(facts["nimg"]), int(facts["step"])
        self.pl_mean.copy_(tensors["pl_mean"])
        for name in ("G", "D", "G_ema"):
            prefix = f"{name}."
            getattr(self, name).load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        for name, trained in self.trained.items():
            optimizer = getattr(self, f"opt_{name}")
            for k, p in trained.items():
                slots = {s: tensors[f"opt_{name}.{s}.{k}"] for s in ADAM_SLOTS if f"opt_{name}.{s}.{k}" in tensors}
                if slots:  # the moments in the memory layout of their parameter, as Adam would have made them
                    optimizer.state[p] = {
                        s: v.to(p.device, copy=True) if s == "step" else torch.empty_like(p).copy_(v) for s, v in slots.items()
                    }
        torch.set_rng_state(tensors["rng"].cpu())
        if "rng_cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng_cuda"].cpu(), self.device)


def _as_float(images: Tensor) -> Tensor:
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _outer_layers(discriminator: Discriminator, count: int) -> set[str]:
    """Names of the first `count` layers that the image meets, `b64.fromrgb`, `b64.conv0`, ..., without the epilogue."""
    names = [name.rpartition(".")[0] for name, _ in discriminator.named_parameters()]
    layers = [name for name in dict.fromkeys(names) if name.startswith("b") and not name.startswith("b4.")]
    if count > len(layers):
        raise InputError(f"cannot freeze {count} layers of a discriminator that has {len(layers)}")
    return set(layers[:count])


def _lazy_adam(parameters: dict[str, nn.Parameter], lr: float, interval: int | None) -> torch.optim.Adam:
    ratio = 1.0 if interval is None else interval / (interval + 1)
    return torch.optim.Adam(parameters.values(), lr=lr * ratio, betas=(0.0**ratio, 0.99**ratio), eps=1e-8, fused=True)
