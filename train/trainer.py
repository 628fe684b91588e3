"""One training step, and the state between steps.

A step has four phases, in the order of the official code:

1. `G`: the generator's loss.
2. `path_length`: path length regularisation, every `g_reg_interval` steps.
3. `D`: the discriminator's loss.
4. `r1`: R1 regularisation, and R2 if it has a weight, every `d_reg_interval` steps.

Each phase is one step of Adam. Then the moving average G_ema is updated.

Lazy regularisation (Karras et al. 2020a, appendix B): a regulariser that runs every k steps has its loss multiplied by
k. Adam's learning rate is multiplied by `c = k / (k + 1)`, and each of its betas becomes `beta^c`. This holds for a
regulariser of weight 0 as well. A phase of a regulariser of weight 0 makes no step.

A phase may split its batch into micro-batches, in one process or in several, and adds up their gradients. Each
micro-batch has its own random stream, seeded by (seed, step, phase, index).

The moving averages `w_avg` and `pl_mean` are updated after each micro-batch of a process, and several processes take
their mean after the phase. Everything else does not depend on which process computes which micro-batch, up to the order
of floating-point sums.
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
from stylert.models.projected_discriminator import ProjectedDiscriminator
from stylert.models.stylegan2.networks import Discriminator, Generator
from stylert.train import losses
from stylert.train.augment.adaptive import AdaptiveProbability
from stylert.train.augment.pipeline import augment
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.loader import BatchLoader
from stylert.train.parallel import Processes
from stylert.train.reporting.phase_timer import PhaseTimer
from stylert.train.selection import training_images

HALF = {"none": None, "fp16": torch.float16, "bf16": torch.bfloat16}
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
PHASES = ("G", "path_length", "D", "r1")
#: Replaces infinite gradients, which overflowed float16. NaN becomes 0.
MAX_GRADIENT = 1e5
SINGLE_PROCESS = Processes()

#: From uint8 images `[N, C, R, R]` and labels `[N, c_dim]` (or None): the loss of a micro-batch, and statistics.
Loss = Callable[[Tensor, Tensor | None], tuple[Tensor, dict[str, Tensor]]]


class Trainer:
    """The networks, optimizers and counters of one run.

    Attributes:
        G: The generator.
        D: The discriminator.
        G_ema: The moving average of G, which is served.
        nimg: Number of real images shown to the discriminator.
        step: Number of steps made.
        pl_mean: Moving average of the path lengths, a scalar.
        trainable: Parameters that are trained, by network and name. Layers frozen by `freeze_d` are left out.
        timer: Seconds of each phase, and of waiting for images (`data`).
        changes: The settings that resumed runs changed, see `resumed_settings`.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        dataset: ImageDataset,
        device: torch.device | str = "cpu",
        processes: Processes = SINGLE_PROCESS,
        compiled: bool = False,
    ) -> None:
        """Initialise the networks from `cfg.seed`.

        Args:
            cfg: Configuration of the run.
            dataset: The real images. The run trains on `training_images` of them.
            device: Device of the networks.
            processes: This process among those that train together.
            compiled: Whether to run the networks through torch.compile. The regularisers run without it, because
                PyTorch 2.13 cannot differentiate a compiled function twice. See `compiled.unavailable_reason`.

        Raises:
            DataError: The dataset does not fit the networks, or is smaller than the subset.
            InputError: The processes cannot share the batch.
        """
        img_channels = dataset.images.shape[1]
        if (dataset.resolution, img_channels) != (cfg.generator.resolution, cfg.generator.img_channels):
            raise DataError(
                f"the dataset is {dataset.resolution} px with {img_channels} channels, the networks take "
                f"{cfg.generator.resolution} px with {cfg.generator.img_channels}"
            )
        if dataset.c_dim != cfg.generator.c_dim:
            raise DataError(f"the dataset has {dataset.c_dim} label dimensions, the networks {cfg.generator.c_dim}")
        self.cfg, self.device, self.processes = cfg, torch.device(device), processes
        self.dataset = training_images(dataset, cfg)
        self.timer = PhaseTimer(self.device)
        self.changes: list[dict[str, Any]] = []
        self.half = HALF[cfg.half]
        self._split_batch()
        torch.manual_seed(cfg.seed)
        # oneDNN and cuDNN run these convolutions fastest in the channels-last layout.
        self.G = Generator(cfg.generator).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.D = new_discriminator(cfg).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        self.run_synthesis: Callable[..., Tensor] = torch.compile(self.G.synthesis) if compiled else self.G.synthesis
        self.run_discriminator: Callable[..., Tensor] = torch.compile(self.D) if compiled else self.D
        frozen = _outer_layers(self.D, cfg.freeze_d)
        self.trainable = {
            "G": dict(self.G.named_parameters()),
            "D": {k: p for k, p in self.D.named_parameters() if p.requires_grad and k.rpartition(".")[0] not in frozen},
        }
        self.loss = losses.ADVERSARIAL_LOSSES[cfg.loss]
        self.opt_G = _lazy_adam(self.trainable["G"], cfg.lr, cfg.g_reg_interval)
        self.opt_D = _lazy_adam(self.trainable["D"], cfg.d_lr or cfg.lr, cfg.d_reg_interval)
        self.pl_mean = torch.zeros([], device=self.device)
        self.ada = AdaptiveProbability(cfg.batch, cfg.ada_target, cfg.ada_kimg, cfg.aug_p) if cfg.aug == "ada" else None
        self.nimg = self.step = 0

    def _split_batch(self) -> None:
        """Divide the batch into micro-batches, and give each process a consecutive range of them."""
        cfg, processes = self.cfg, self.processes
        self.micro_batch = cfg.batch_gpu or max(cfg.batch // processes.world_size, 1)
        self.num_micro_batches = cfg.batch // self.micro_batch
        if cfg.batch % (self.micro_batch * processes.world_size):
            raise InputError(
                f"{processes.world_size} processes cannot share a batch of {cfg.batch} in parts of {self.micro_batch} images"
            )
        per_process = self.num_micro_batches // processes.world_size
        self.own_micro_batches = range(processes.rank * per_process, (processes.rank + 1) * per_process)
        self.loader = BatchLoader(self.dataset, self.device, cfg.seed, per_process * self.micro_batch, cfg.batch)

    @property
    def aug_p(self) -> float:
        """The current probability of each transformation of the augmentation."""
        if self.ada is not None:
            return self.ada.p
        return self.cfg.aug_p if self.cfg.aug == "fixed" else 0.0

    def train_step(self) -> dict[str, float]:
        """Make one step on the next `batch` images.

        Returns:
            Statistics as means over the batch: `loss_G`, `loss_D`, `real_score` and `fake_score` (the mean logits of D),
            `real_sign` and `fake_sign` (their mean signs), and `path_length`, `r1` and `r2` in the steps that have
            them. `grad_norm_G` and `grad_norm_D` are the norms of the gradients of the two losses, without regularisers.
        """
        cfg = self.cfg
        with self.timer.phase("data"):
            images, labels = self.loader.batch(self.nimg + self.own_micro_batches.start * self.micro_batch)
        stats: dict[str, Tensor] = {}

        self.D.requires_grad_(False)
        self._run_phase("G", self._generator_loss, images, labels, stats)
        if cfg.pl_weight > 0 and self.step % cfg.g_reg_interval == 0:
            self._run_phase("path_length", self._path_length, images, labels, stats)
        for p in self.trainable["D"].values():
            p.requires_grad_(True)
        if isinstance(self.D, ProjectedDiscriminator):
            self.D.update_spectral_norms()
        self._run_phase("D", self._discriminator_loss, images, labels, stats)
        if cfg.r1_gamma > 0 and self.step % cfg.d_reg_interval == 0:
            self._run_phase("r1", self._r1, images, labels, stats)

        self.processes.sum(list(stats.values()))
        result = {name: float(value) for name, value in stats.items()}
        if self.ada is not None:
            self.ada.update(result["real_sign"])
        self._update_ema()
        self.step += 1
        self.nimg += cfg.batch
        return result

    # --- the losses of one micro-batch -----------------------------------------------------------------------------

    def _generator_loss(self, images: Tensor, c: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        ws = self._random_ws(len(images), len(images), c)
        fake_logits = self._logits(self.run_synthesis(ws, "random", self.half), c, self.half)
        real_logits = None
        if self.loss.pairs:
            with torch.no_grad():
                real_logits = self._logits(_as_float(images), c, self.half)
        loss = self.loss.generator(fake_logits, real_logits)
        return loss, {"loss_G": loss}

    def _path_length(self, images: Tensor, c: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        cfg = self.cfg
        n = max(len(images) // cfg.pl_batch_shrink, 1)
        ws = self._random_ws(len(images), n, c)
        penalty = losses.path_length_penalty(self.G, ws, self.pl_mean, cfg.pl_decay, self.half)
        return penalty * (cfg.pl_weight * cfg.g_reg_interval), {"path_length": penalty}

    def _discriminator_loss(self, images: Tensor, c: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            ws = self._random_ws(len(images), len(images), c)
            fake = self.run_synthesis(ws, "random", self.half)
        fake_logits = self._logits(fake, c, self.half)
        real_logits = self._logits(_as_float(images), c, self.half)
        loss = self.loss.discriminator(fake_logits, real_logits)
        stats = {"loss_D": loss}
        for name, logits in (("real", real_logits.detach()), ("fake", fake_logits.detach())):
            stats |= {f"{name}_score": logits.mean(), f"{name}_sign": logits.sign().mean()}
        return loss, stats

    def _r1(self, images: Tensor, c: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        cfg = self.cfg
        penalty = self._gradient_penalty(_as_float(images), c, cfg.r1_gamma)
        stats = {"r1": penalty}
        if cfg.r2_gamma > 0:
            with torch.no_grad():
                fake = self.run_synthesis(self._random_ws(len(images), len(images), c), "random", self.half)
            stats["r2"] = self._gradient_penalty(fake, c, cfg.r2_gamma)
            penalty = penalty + stats["r2"]
        return penalty * cfg.d_reg_interval, stats

    def _gradient_penalty(self, images: Tensor, c: Tensor | None, gamma: float) -> Tensor:
        if not isinstance(self.D, ProjectedDiscriminator):
            return losses.gradient_penalty(partial(self._logits, network=self.D), images, c, gamma, self.half)
        with torch.no_grad():
            maps = self.D.maps(self._augmented(images), self.half)
        return losses.gradient_penalty(self.D.judge, maps, c, gamma, self.half)

    def _logits(
        self, images: Tensor, c: Tensor | None, half: torch.dtype | None, network: Callable[..., Tensor] | None = None
    ) -> Tensor:
        """Logits of augmented images. `network` replaces the (compiled) discriminator."""
        return (network or self.run_discriminator)(self._augmented(images), c, half)

    def _augmented(self, images: Tensor) -> Tensor:
        if self.aug_p > 0:
            images = augment(images, self.aug_p, self.cfg.aug_pipeline).contiguous(memory_format=torch.channels_last)
        return images

    def _random_ws(self, drawn: int, used: int, c: Tensor | None) -> Tensor:
        """ws of the first `used` of `drawn` random latents. They move `w_avg`, as in every phase of the official code."""
        z = torch.randn(drawn, self.cfg.generator.z_dim, device=self.device)[:used]
        return losses.mixed_ws(self.G, z, None if c is None else c[:used], self.cfg.mixing_prob, update_w_avg=True)

    # --- one phase: an optimizer step over all micro-batches -------------------------------------------------------

    def _run_phase(self, phase: str, loss: Loss, images: Tensor, labels: Tensor | None, stats: dict[str, Tensor]) -> None:
        """Add up the gradients of all micro-batches, and make one step of the optimizer.

        Args:
            phase: One of `PHASES`.
            loss: The loss of a micro-batch.
            images: The real images of this process.
            labels: Their labels, or None.
            stats: Receives the statistics of the loss, as means over the batch.
        """
        with self.timer.phase(phase):
            network = "G" if phase in ("G", "path_length") else "D"
            optimizer = self.opt_G if network == "G" else self.opt_D
            optimizer.zero_grad(set_to_none=True)
            for i, index in enumerate(self.own_micro_batches):
                if self.num_micro_batches > 1:
                    self._seed_micro_batch(phase, index)
                rows = slice(i * self.micro_batch, (i + 1) * self.micro_batch)
                value, loss_stats = loss(images[rows], None if labels is None else labels[rows])
                (value / self.num_micro_batches).backward()
                for name, t in loss_stats.items():
                    stats[name] = stats.get(name, 0) + t.detach() / self.num_micro_batches
            gradients = _all_gradients(self.trainable[network])
            self.processes.sum(gradients)
            if self.half is torch.float16:
                # An overflow costs one step, not the run. Weights that are not finite still show in the next loss.
                for g in gradients:
                    torch.nan_to_num(g, nan=0.0, posinf=MAX_GRADIENT, neginf=-MAX_GRADIENT, out=g)
            if phase == network:
                # Every process has this value, and the sum over them is taken later.
                stats[f"grad_norm_{network}"] = nn.utils.get_total_norm(gradients) / self.processes.world_size
            self._average_over_processes([self.G.mapping.w_avg, self.pl_mean])
            optimizer.step()

    def _average_over_processes(self, averages: list[Tensor]) -> None:
        """Replace each moving average by its mean over the processes."""
        if self.processes.world_size > 1:
            for t in averages:
                t /= self.processes.world_size
            self.processes.sum(averages)

    def _seed_micro_batch(self, phase: str, index: int) -> None:
        sequence = np.random.SeedSequence([self.cfg.seed, self.step, PHASES.index(phase), index])
        high, low = (int(word) for word in sequence.generate_state(2, np.uint32))
        torch.manual_seed(high << 31 | low >> 1)

    @torch.no_grad()
    def _update_ema(self) -> None:
        """`G_ema = beta * G_ema + (1 - beta) * G` for parameters; buffers are copied.

        `nimg` does not count the images of this step yet. So with a ramp-up, the first step copies G.
        """
        ema_nimg = self.cfg.ema_kimg * 1000
        if self.cfg.ema_rampup is not None:
            ema_nimg = min(ema_nimg, self.nimg * self.cfg.ema_rampup)
        ema_beta = 0.5 ** (self.cfg.batch / max(ema_nimg, 1e-8))
        get_ema_multi_avg_fn(ema_beta)(list(self.G_ema.parameters()), list(self.G.parameters()), self.step)
        for b_ema, b in zip(self.G_ema.buffers(), self.G.buffers(), strict=True):
            b_ema.copy_(b)

    # --- save and restore the whole state --------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values from which `load_state` restores this trainer, bit for bit.

        Tensor names: `G.*`, `D.*` and `G_ema.*` for the networks, `opt_G.<slot>.<parameter>` and `opt_D.…` for Adam,
        `pl_mean`, and `rng` and `rng_cuda` for the random state. The values are `nimg`, `step`, `ada` with ADA,
        and `changes` after a resumed run changed settings.
        """
        tensors: dict[str, Tensor] = {"pl_mean": self.pl_mean, "rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["rng_cuda"] = torch.cuda.get_rng_state(self.device)
        for name in ("G", "D", "G_ema"):
            tensors |= {f"{name}.{k}": v for k, v in getattr(self, name).state_dict().items()}
        for name, parameters in self.trainable.items():
            names = {id(p): k for k, p in parameters.items()}
            for p, slots in getattr(self, f"opt_{name}").state.items():
                tensors |= {f"opt_{name}.{slot}.{names[id(p)]}": v for slot, v in slots.items()}
        facts: dict[str, Any] = {"nimg": self.nimg, "step": self.step}
        if self.ada is not None:
            facts["ada"] = self.ada.state()
        if self.changes:
            facts["changes"] = self.changes
        return tensors, facts

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Restore what `state` returned. Without a state of ADA, p starts at `aug_p`.

        Raises:
            CheckpointError: A tensor is missing, or the state of ADA or the list of changes is not valid.
        """
        self._check_tensors(tensors, facts)
        self.changes = facts.get("changes", [])
        if not isinstance(self.changes, list):
            raise CheckpointError("the snapshot holds no valid list of changed settings")
        if self.ada is not None and "ada" in facts:
            try:
                self.ada.load_state(facts["ada"])
            except (AttributeError, ValueError):
                raise CheckpointError("the snapshot holds no valid state of the adaptive augmentation") from None
        self.nimg, self.step = int(facts["nimg"]), int(facts["step"])
        self.pl_mean.copy_(tensors["pl_mean"])
        for name in ("G", "D", "G_ema"):
            prefix = f"{name}."
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            getattr(self, name).load_state_dict(own)
        self._load_optimizers(tensors)
        torch.set_rng_state(tensors["rng"].cpu())
        if "rng_cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng_cuda"].cpu(), self.device)

    def _check_tensors(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        required = {"pl_mean", "rng"} | {f"{n}.{k}" for n in ("G", "D", "G_ema") for k in getattr(self, n).state_dict()}
        if facts["step"] > 0:
            for n, parameters in self.trainable.items():
                required |= {f"opt_{n}.{slot}.{k}" for k in parameters for slot in ADAM_STATE}
        missing = sorted(required - tensors.keys())
        if missing:
            raise CheckpointError(f"the snapshot lacks the tensor {missing[0]}")

    def _load_optimizers(self, tensors: dict[str, Tensor]) -> None:
        for name, parameters in self.trainable.items():
            optimizer = getattr(self, f"opt_{name}")
            for k, p in parameters.items():
                keys = {slot: f"opt_{name}.{slot}.{k}" for slot in ADAM_STATE}
                state: dict[str, Tensor] = {}
                for slot, key in keys.items():
                    if key not in tensors:
                        continue
                    if slot == "step":
                        state[slot] = tensors[key].to(p.device, copy=True)
                    else:  # moments in the memory layout of their parameter, as Adam creates them
                        state[slot] = torch.empty_like(p).copy_(tensors[key])
                if state:
                    optimizer.state[p] = state


def new_discriminator(cfg: TrainConfig) -> Discriminator | ProjectedDiscriminator:
    """The discriminator that a configuration names, with initial weights."""
    if cfg.projected is None:
        return Discriminator(cfg.discriminator)
    return ProjectedDiscriminator(cfg.projected, cfg.generator.c_dim, cfg.discriminator.mbstd_group_size)


def _as_float(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _outer_layers(discriminator: nn.Module, count: int) -> set[str]:
    """Names of the first `count` layers after the image: `b64.fromrgb`, `b64.conv0`, ... The 4 px block is left out."""
    names = [name.rpartition(".")[0] for name, _ in discriminator.named_parameters()]
    layers = [name for name in dict.fromkeys(names) if name.startswith("b") and not name.startswith("b4.")]
    if count > len(layers):
        raise InputError(f"cannot freeze {count} layers of a discriminator that has {len(layers)}")
    return set(layers[:count])


def _all_gradients(parameters: dict[str, nn.Parameter]) -> list[Tensor]:
    """The gradients of all parameters. A parameter that the loss does not depend on gets zeros.

    So each phase is a step for Adam in every parameter, and all step counters of a network agree.
    """
    gradients = []
    for p in parameters.values():
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        gradients.append(p.grad)
    return gradients


def _lazy_adam(parameters: dict[str, nn.Parameter], lr: float, interval: int) -> torch.optim.Adam:
    """Adam for a network that is regularised every `interval` steps."""
    ratio = interval / (interval + 1)
    return torch.optim.Adam(parameters.values(), lr=lr * ratio, betas=(0.0**ratio, 0.99**ratio), eps=1e-8, fused=True)
