"""One training step.

A step has four phases, in the order of the official code:

1. `G`: the generator's loss.
2. `path_length`: path length regularisation, every `g_reg_interval` steps.
3. `D`: the discriminator's loss.
4. `r1`: R1 regularisation, and R2 if it has a weight, every `d_reg_interval` steps.

`phase_losses` computes the loss of each phase. A phase is one step of Adam. After all phases, the moving average G_ema is
updated.

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
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stylert.core.errors import DataError, InputError
from stylert.models.projected_discriminator import ProjectedDiscriminator
from stylert.models.stylegan2.config import CONST_SIDE, DiscriminatorConfig
from stylert.models.stylegan2.networks import Discriminator, Generator
from stylert.train.augment.adaptive import AdaptiveProbability
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.loader import BatchLoader
from stylert.train.parallel import Processes
from stylert.train.phase_losses import LossAndStatistics, PhaseLosses
from stylert.train.reporting.phase_timer import PhaseTimer
from stylert.train.selection import training_images

PHASES = ("G", "path_length", "D", "r1")
#: Replaces infinite gradients, which overflowed float16. NaN becomes 0.
MAX_GRADIENT = 1e5
SINGLE_PROCESS = Processes()

#: A method of `PhaseLosses`: from the images and labels of a micro-batch to its loss and statistics.
PhaseLoss = Callable[[Tensor, Tensor | None], LossAndStatistics]


class Trainer:
    """The networks, optimizers and counters of one run. `snapshots.trainer_state` saves and restores them.

    Attributes:
        G: The generator.
        D: The discriminator.
        G_ema: The moving average of G, which is served.
        trainable: Parameters that are trained, by network and name. Layers frozen by `freeze_d` are left out.
        opt_G: Adam for the trainable parameters of G.
        opt_D: Adam for those of D.
        pl_mean: Moving average of the path lengths, a scalar.
        ada: The adaptive probability of the augmentation; None with another augmentation.
        nimg: Number of real images shown to the discriminator.
        step: Number of steps made.
        timer: Seconds of each phase, and of waiting for images (`data`).
        changes: The settings that resumed runs changed: for each of these runs its kimg, and by name the old and new value.
        kept: The numbered snapshots that the run has written (`snapshots.run_folder`): by name the `nimg` of each.
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
            compiled: Whether to run the networks through torch.compile. See `compile_check.unavailable_reason`.

        Raises:
            DataError: The dataset does not fit the networks, is smaller than the subset, or has no classes to balance.
            InputError: The processes cannot share the batch, D has fewer layers than are to be frozen, or its pixels are more
                than those of the images.
        """
        _check_shapes(dataset, cfg)
        self.cfg, self.device, self.processes = cfg, torch.device(device), processes
        self.dataset = training_images(dataset, cfg)
        self.timer = PhaseTimer(self.device)
        self.changes: list[dict[str, Any]] = []
        self.kept: dict[str, int] = {}
        self._split_batch()
        torch.manual_seed(cfg.seed)
        # oneDNN and cuDNN run these convolutions fastest in the channels-last layout.
        self.G = Generator(cfg.generator).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.D = new_discriminator(cfg).to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        self.trainable = {"G": dict(self.G.named_parameters()), "D": trained_parameters(self.D, cfg.freeze_d)}
        self.opt_G = _lazy_adam(self.trainable["G"], cfg.lr, cfg.g_reg_interval)
        self.opt_D = _lazy_adam(self.trainable["D"], cfg.d_lr or cfg.lr, cfg.d_reg_interval, pixels_lr=cfg.lr)
        self.pl_mean = torch.zeros([], device=self.device)
        self.phase_losses = PhaseLosses(cfg, self.G, self.D, self.pl_mean, compiled)
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
            them; `r1` and `r2` include their weights. `grad_norm_G` and `grad_norm_D` are the norms of the gradients of the
            two losses, without regularisers.
        """
        cfg, losses = self.cfg, self.phase_losses
        losses.aug_p = self.aug_p
        with self.timer.phase("data"):
            images, labels = self.loader.batch(self.nimg + self.own_micro_batches.start * self.micro_batch)
        stats: dict[str, Tensor] = {}

        self.D.requires_grad_(False)
        self._run_phase("G", losses.generator, images, labels, stats)
        if cfg.pl_weight > 0 and self.step % cfg.g_reg_interval == 0:
            self._run_phase("path_length", losses.path_length, images, labels, stats)
        for p in self.trainable["D"].values():
            p.requires_grad_(True)
        if isinstance(self.D, ProjectedDiscriminator):
            self.D.update_spectral_norms()
        self._run_phase("D", losses.discriminator, images, labels, stats)
        if cfg.has_r1 and self.step % cfg.d_reg_interval == 0:
            self._run_phase("r1", losses.r1, images, labels, stats)

        self.processes.sum(list(stats.values()))
        result = {name: float(value) for name, value in stats.items()}
        if self.ada is not None:
            self.ada.update(result["real_sign"])
        self._update_ema()
        self.step += 1
        self.nimg += cfg.batch
        return result

    def _run_phase(self, phase: str, loss: PhaseLoss, images: Tensor, labels: Tensor | None, stats: dict[str, Tensor]) -> None:
        """Add up the gradients of all micro-batches of all processes, and make one step of the optimizer.

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
            if self.cfg.half == "fp16":
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
        """Give a micro-batch a random stream of its own, whichever process computes it."""
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


def _check_shapes(dataset: ImageDataset, cfg: TrainConfig) -> None:
    """Raise DataError if the images or labels have another shape than the networks take."""
    img_channels, g = dataset.images.shape[1], cfg.generator
    if dataset.images.shape[1:] != (g.img_channels, g.height, g.width):
        raise DataError(
            f"the dataset is {dataset.size_text} with {img_channels} channels, the networks take "
            f"{g.size_text} with {g.img_channels}"
        )
    if dataset.image_channels != g.image_channels:
        raise DataError("the channels of the dataset have other names, units or ranges than those of the networks")
    if dataset.c_dim != g.c_dim:
        raise DataError(f"the dataset has {dataset.c_dim} label dimensions, the networks {g.c_dim}")


def new_discriminator(cfg: TrainConfig) -> Discriminator | ProjectedDiscriminator:
    """The discriminator that a configuration names, with initial weights.

    Raises:
        InputError: The discriminator of pixels is for larger images than those of the run.
    """
    if cfg.projected is None:
        return Discriminator(cfg.discriminator)
    if cfg.projected_pixels is not None and cfg.projected_pixels > cfg.generator.width:
        raise InputError(
            f"projected_pixels {cfg.projected_pixels} is larger than the images, which have {cfg.generator.size_text}"
        )
    group_size = cfg.discriminator.mbstd_group_size
    return ProjectedDiscriminator(cfg.projected, cfg.generator.c_dim, group_size, pixels_discriminator(cfg))


def pixels_discriminator(cfg: TrainConfig) -> DiscriminatorConfig | None:
    """The discriminator of pixels in a projected one, or None.

    Raises:
        ValueError: It has no channels at its resolution.
    """
    if cfg.projected_pixels is None:
        return None
    side = cfg.projected_pixels
    return dataclasses.replace(cfg.discriminator, resolution=side, const_height=CONST_SIDE, const_width=CONST_SIDE)


def trained_parameters(D: nn.Module, freeze_d: int) -> dict[str, nn.Parameter]:
    """The parameters of D that are trained, by name: all but fixed ones, and those of the first `freeze_d` layers.

    Layers are counted from the image: `b64.fromrgb`, `b64.conv0`, ... The 4 px block always learns.

    Raises:
        InputError: D has fewer layers.
    """
    layer_of = {name: name.rpartition(".")[0] for name, _ in D.named_parameters()}
    layers = [layer for layer in dict.fromkeys(layer_of.values()) if layer.startswith("b") and not layer.startswith("b4.")]
    if freeze_d > len(layers):
        raise InputError(f"cannot freeze {freeze_d} layers of a discriminator that has {len(layers)}")
    frozen = layers[:freeze_d]
    return {name: p for name, p in D.named_parameters() if p.requires_grad and layer_of[name] not in frozen}


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


def _lazy_adam(
    parameters: dict[str, nn.Parameter], lr: float, interval: int, pixels_lr: float | None = None
) -> torch.optim.Adam:
    """Adam for a network that is regularised every `interval` steps. `pixels_lr` is for the pixels of a projected one."""
    ratio = interval / (interval + 1)
    pixels = [p for name, p in parameters.items() if name.startswith("pixels.")]
    others = [p for name, p in parameters.items() if not name.startswith("pixels.")]
    groups: list[dict[str, Any]] = [{"params": others, "lr": lr * ratio}]
    if pixels and pixels_lr is not None:
        groups.append({"params": pixels, "lr": pixels_lr * ratio})
    return torch.optim.Adam(groups, betas=(0.0**ratio, 0.99**ratio), eps=1e-8, fused=True)
