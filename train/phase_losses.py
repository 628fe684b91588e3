"""The losses of the four phases of a training step, for one micro-batch. `losses` holds their formulas."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stylert.models.projected_discriminator import ProjectedDiscriminator
from stylert.models.stylegan2.networks import Discriminator, Generator
from stylert.train import losses
from stylert.train.augment.pipeline import augment
from stylert.train.configuration.train_config import TrainConfig

HALF = {"none": None, "fp16": torch.float16, "bf16": torch.bfloat16}

#: A loss, a scalar to minimise, and its statistics by name.
LossAndStatistics = tuple[Tensor, dict[str, Tensor]]


class PhaseLosses:
    """The losses of one run. Their latents, noise and augmentations are drawn from PyTorch's random state.

    Each takes the real images of the micro-batch, `[N, C, R, R]` as the dataset has them, and their labels `[N, c_dim]` (or None), which
    generated images share. The regularisers are multiplied by their interval (lazy regularisation).

    Attributes:
        aug_p: Probability of the augmentations of the images that D sees. The trainer sets it for each step.
        run_synthesis: The synthesis network, or its compiled form.
        run_discriminator: The discriminator, or its compiled form.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        G: Generator,
        D: Discriminator | ProjectedDiscriminator,
        pl_mean: Tensor,
        compiled: bool = False,
    ) -> None:
        """Prepare the losses.

        Args:
            cfg: Configuration of the run.
            G: The generator. Each phase with latents updates its `w_avg`, as in the official code.
            D: The discriminator.
            pl_mean: Moving average of the path lengths, a scalar, which `path_length` updates in place.
            compiled: Whether to run the networks through torch.compile. The regularisers run without it, because
                PyTorch 2.13 cannot differentiate a compiled function twice.
        """
        self.cfg, self.G, self.D, self.pl_mean = cfg, G, D, pl_mean
        self.aug_p = 0.0
        self.half = HALF[cfg.half]
        adversarial = losses.ADVERSARIAL_LOSSES[cfg.loss]
        self.adversarial = adversarial if cfg.projected_pixels is None else losses.with_pixels(adversarial)
        self.run_synthesis: Callable[..., Tensor] = torch.compile(G.synthesis) if compiled else G.synthesis
        self.run_discriminator: Callable[..., Tensor] = torch.compile(D) if compiled else D

    def generator(self, images: Tensor, c: Tensor | None) -> LossAndStatistics:
        """The adversarial loss of G."""
        fake_logits = self._logits(self._generated(len(images), c), c)
        real_logits = None
        if self.adversarial.pairs:
            with torch.no_grad():
                real_logits = self._logits(_as_float(images), c)
        loss = self.adversarial.generator(fake_logits, real_logits)
        return loss, {"loss_G": loss}

    def path_length(self, images: Tensor, c: Tensor | None) -> LossAndStatistics:
        """Path length regularisation of G, for a part of the micro-batch."""
        cfg = self.cfg
        ws = self._random_ws(len(images), c, used=max(len(images) // cfg.pl_batch_shrink, 1))
        penalty = losses.path_length_penalty(self.G, ws, self.pl_mean, cfg.pl_decay, self.half)
        return penalty * (cfg.pl_weight * cfg.g_reg_interval), {"path_length": penalty}

    def discriminator(self, images: Tensor, c: Tensor | None) -> LossAndStatistics:
        """The adversarial loss of D."""
        with torch.no_grad():
            fake = self._generated(len(images), c)
        fake_logits = self._logits(fake, c)
        real_logits = self._logits(_as_float(images), c)
        loss = self.adversarial.discriminator(fake_logits, real_logits)
        stats = {"loss_D": loss}
        for name, logits in (("real", real_logits.detach()), ("fake", fake_logits.detach())):
            stats |= {f"{name}_score": logits.mean(), f"{name}_sign": logits.sign().mean()}
        return loss, stats

    def r1(self, images: Tensor, c: Tensor | None) -> LossAndStatistics:
        """R1 regularisation of D, and R2 if it has a weight. Their statistics include their weights."""
        cfg = self.cfg
        penalty = self._gradient_penalty(_as_float(images), c, cfg.r1_gamma, cfg.pixels_r1_gamma)
        stats = {"r1": penalty}
        if cfg.r2_gamma > 0:
            with torch.no_grad():
                fake = self._generated(len(images), c)
            stats["r2"] = self._gradient_penalty(fake, c, cfg.r2_gamma, 0.0)
            penalty = penalty + stats["r2"]
        return penalty * cfg.d_reg_interval, stats

    def _gradient_penalty(self, images: Tensor, c: Tensor | None, gamma: float, pixels_gamma: float) -> Tensor:
        """The penalty of D. In a projected one, `pixels_gamma` weights the pixels and `gamma` the maps of features."""
        if isinstance(self.D, ProjectedDiscriminator):
            with torch.no_grad():
                maps = self.D.maps(self._augmented(images), self.half)
            weights = [gamma] * len(self.D.heads) + [pixels_gamma] * (self.D.pixels is not None)
            return losses.gradient_penalty(self.D.judge, maps, c, weights, self.half)
        return losses.gradient_penalty(self._logits_without_compilation, images, c, gamma, self.half)

    def _logits(self, images: Tensor, c: Tensor | None) -> Tensor:
        """Logits of D for augmented images."""
        return self.run_discriminator(self._augmented(images), c, self.half)

    def _logits_without_compilation(self, images: Tensor, c: Tensor | None, half: torch.dtype | None) -> Tensor:
        logits: Tensor = self.D(self._augmented(images), c, half)
        return logits

    def _augmented(self, images: Tensor) -> Tensor:
        if self.aug_p == 0:
            return images
        return augment(images, self.aug_p, self.cfg.aug_pipeline).contiguous(memory_format=torch.channels_last)

    def _generated(self, count: int, c: Tensor | None) -> Tensor:
        """Images of random latents, `[count, C, R, R]`."""
        return self.run_synthesis(self._random_ws(count, c), "random", self.half)

    def _random_ws(self, drawn: int, c: Tensor | None, used: int | None = None) -> Tensor:
        """ws of the first `used` of `drawn` random latents, or of all."""
        z = torch.randn(drawn, self.cfg.generator.z_dim, device=self.pl_mean.device)[:used]
        return losses.mixed_ws(self.G, z, None if c is None else c[:used], self.cfg.mixing_prob, update_w_avg=True)


def _as_float(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]. Measured values are float32 already."""
    values = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images
    return values.contiguous(memory_format=torch.channels_last)
