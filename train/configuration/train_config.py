"""All hyperparameters of a run, and the range of each.

Field names are those of the official code: `kimg`, `r1_gamma`, `pl_weight`, `ema_kimg`, `ada_target`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import msgspec

from stylert.core.errors import shown
from stylert.core.ranges import check_ranges
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.train.augment.groups import COLOR_GROUPS, PIPELINES

#: Most steps, images or repetitions.
MAX_COUNT = 2**31 - 1
#: Greatest length in thousands of images, and greatest weight of a loss.
MAX_KIMG = MAX_WEIGHT = 1e9
#: Least and greatest value of every number in `TrainConfig`.
RANGES: dict[str, tuple[float, float]] = {
    "batch": (1, 65536),
    "batch_gpu": (1, 65536),
    "kimg": (0, MAX_KIMG),
    "lr": (0, 1000),
    "d_lr": (0, 1000),
    "projected": (32, 4096),
    "projected_pixels": (8, 4096),
    "r1_gamma": (0, MAX_WEIGHT),
    "pixels_r1_gamma": (0, MAX_WEIGHT),
    "r2_gamma": (0, MAX_WEIGHT),
    "pl_weight": (0, MAX_WEIGHT),
    "pl_decay": (0, 1),
    "pl_batch_shrink": (1, 65536),
    "mixing_prob": (0, 1),
    "g_reg_interval": (1, MAX_COUNT),
    "d_reg_interval": (1, MAX_COUNT),
    "ema_kimg": (0, MAX_KIMG),
    "ema_rampup": (0, MAX_KIMG),
    "aug_p": (0, 1),
    "ada_target": (-1, 1),
    "ada_kimg": (0, MAX_KIMG),
    "freeze_d": (0, 65536),
    "subset": (1, MAX_COUNT),
    "seed": (0, 2**63 - 1),
}
#: The choices of `TrainConfig.loss`.
LOSSES = ("logistic", "relativistic", "hinge")


@dataclass(frozen=True)
class TrainConfig:
    """All hyperparameters of a run. Together with the dataset, they determine its result.

    Attributes:
        generator: Configuration of G.
        discriminator: Configuration of D.
        batch: Images per step, over all processes.
        kimg: Length of the run in thousands of real images shown to D.
        lr: Learning rate of both Adam optimizers, before the factor of lazy regularisation.
        d_lr: Learning rate of D instead; None for `lr`. The discriminator of `projected_pixels` has `lr` all the same.
        loss: The adversarial loss, a name of `losses.ADVERSARIAL_LOSSES`.
        projected: Side in pixels of the images that a projected discriminator sees (Sauer et al. 2021), a multiple of
            32. None trains StyleGAN2's discriminator. A projected one uses only `mbstd_group_size` of `discriminator`.
        projected_pixels: Side in pixels of the images that StyleGAN2's discriminator sees beside a projected one (Kumari et
            al. 2022), a power of two. It has the logistic loss, and `discriminator` with this resolution. None: none.
        r1_gamma: Weight of R1; 0 trains without.
        pixels_r1_gamma: Weight of R1 in the discriminator of `projected_pixels`, in the steps of R1.
        r2_gamma: Weight of R2, in the steps of R1; 0 trains without. R3GAN gives it the value of `r1_gamma`.
        pl_weight: Weight of path length regularisation; 0 trains without.
        pl_decay: Weight of the new lengths in the moving average `pl_mean`.
        pl_batch_shrink: Path length uses a batch that is smaller by this factor.
        mixing_prob: Probability of style mixing.
        g_reg_interval: Steps between two path length regularisations.
        d_reg_interval: Steps between two R1 regularisations.
        ema_kimg: Half-life of the moving average G_ema, in thousands of images.
        ema_rampup: Limits the half-life to this share of the images shown so far; None for no limit.
        half: Type of the `num_fp16_res` highest resolutions: none, fp16 or bf16. See `half_precision` for CPUs.
        seed: Seed of initial weights, data order and all random numbers.
        aug: Augmentation: noaug, fixed (with probability `aug_p`) or ada (adaptive, starting from `aug_p`).
        aug_pipeline: A name of `PIPELINES`.
        aug_p: Probability of each transformation.
        ada_target: Target of the overfitting heuristic r_t, the mean sign of D(real).
        ada_kimg: Thousands of images in which p can rise from 0 to 1.
        batch_gpu: Images that pass through the networks at once; None for the whole share of a process.
        freeze_d: Number of layers of D, beginning at the image, that are not trained (Mo et al. 2020).
        subset: Number of random images of the dataset to train on; None for all.
        mirror: Whether to train on the mirror image of each image as well.
        class_balanced: Whether to draw each class equally often.

    Raises:
        ValueError: A value is out of range, or values do not fit together.
    """

    generator: GeneratorConfig
    discriminator: DiscriminatorConfig
    batch: int
    kimg: float
    lr: float = 0.002
    d_lr: float | None = None
    loss: str = "logistic"
    projected: int | None = None
    projected_pixels: int | None = None
    r1_gamma: float = 10.0
    pixels_r1_gamma: float = 0.0
    r2_gamma: float = 0.0
    pl_weight: float = 2.0
    pl_decay: float = 0.01
    pl_batch_shrink: int = 2
    mixing_prob: float = 0.9
    g_reg_interval: int = 4
    d_reg_interval: int = 16
    ema_kimg: float = 10.0
    ema_rampup: float | None = None
    half: str = "none"
    seed: int = 0
    aug: str = "noaug"
    aug_pipeline: str = "bgc"
    aug_p: float = 0.0
    ada_target: float = 0.6
    ada_kimg: float = 500.0
    batch_gpu: int | None = None
    freeze_d: int = 0
    subset: int | None = None
    mirror: bool = False
    class_balanced: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("generator", GeneratorConfig), ("discriminator", DiscriminatorConfig)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be a {kind.__name__}, not {shown(getattr(self, name))}")
        for field in dataclasses.fields(self):
            _check_type(field.name, str(field.type), getattr(self, field.name))
        if (self.generator.height, self.generator.width) != (self.discriminator.height, self.discriminator.width):
            raise ValueError(f"G makes images of {self.generator.size_text}, and D takes {self.discriminator.size_text}")
        check_ranges(self, RANGES)  # infinity and NaN lie in no range
        if self.lr <= 0 or self.d_lr == 0 or self.ada_kimg <= 0:
            raise ValueError("lr, d_lr and ada_kimg must be positive")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {shown(self.loss)}")
        if self.r2_gamma > 0 and self.r1_gamma == 0:
            raise ValueError("r2_gamma needs r1_gamma: R2 runs in the steps of R1")
        if self.projected is not None:
            self._check_projected(self.projected)
        if self.projected_pixels is not None:
            self._check_projected_pixels(self.projected_pixels)
        if self.half not in ("none", "fp16", "bf16"):
            raise ValueError(f"half must be none, fp16 or bf16, not {shown(self.half)}")
        if self.aug not in ("noaug", "fixed", "ada"):
            raise ValueError(f"aug must be noaug, fixed or ada, not {shown(self.aug)}")
        if not isinstance(self.aug_pipeline, str) or self.aug_pipeline not in PIPELINES:
            raise ValueError(f"aug_pipeline must be one of {', '.join(PIPELINES)}, not {shown(self.aug_pipeline)}")
        if (
            self.aug != "noaug"
            and self.generator.img_channels not in (1, 3)
            and COLOR_GROUPS & set(PIPELINES[self.aug_pipeline])
        ):
            raise ValueError(
                f"augmentation of colors takes grey or RGB images: train with aug noaug, or with another aug_pipeline than "
                f"{self.aug_pipeline}, such as bg"
            )
        name, micro_batch = ("batch", self.batch) if self.batch_gpu is None else ("batch_gpu", self.batch_gpu)
        if self.batch % micro_batch:
            raise ValueError(f"batch {self.batch} must be a multiple of batch_gpu {micro_batch}")
        group = min(self.discriminator.mbstd_group_size or micro_batch, micro_batch)
        if micro_batch % group:
            raise ValueError(f"{name} {micro_batch} must be a multiple of the minibatch-std group {group}")

    def _check_projected(self, size: int) -> None:
        if size % 32:
            raise ValueError(f"projected must be a multiple of 32, not {size}")
        if self.generator.img_channels not in (1, 3):
            raise ValueError("a projected discriminator takes grey or RGB images")
        if self.generator.height != self.generator.width:
            raise ValueError(f"a projected discriminator takes square images, not {self.generator.size_text}")
        if self.freeze_d > 0:
            raise ValueError("a projected discriminator has no layers to freeze: leave out freeze_d")

    def _check_projected_pixels(self, side: int) -> None:
        if self.projected is None:
            raise ValueError("projected_pixels needs projected: without it, StyleGAN2's discriminator sees whole images")
        if side & (side - 1):
            raise ValueError(f"projected_pixels must be a power of two, not {side}")

    @property
    def has_r1(self) -> bool:
        """Whether a part of D has R1."""
        return self.r1_gamma > 0 or (self.projected_pixels is not None and self.pixels_r1_gamma > 0)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, as a snapshot stores them."""
        networks = {"generator": self.generator.to_dict(), "discriminator": self.discriminator.to_dict()}
        return dataclasses.asdict(self) | networks

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainConfig:
        """The configuration that `to_dict` wrote. Fields that an older version did not have get their defaults.

        Raises:
            ValueError: A field is unknown, missing or wrong. The message names it.
        """
        if not isinstance(data, dict):
            raise ValueError(f"a configuration is a dictionary, not {shown(data)}")
        unknown = sorted(set(map(str, data)) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}")
        networks: dict[str, Any] = {"generator": GeneratorConfig, "discriminator": DiscriminatorConfig}
        for name, config in networks.items():
            if not isinstance(data.get(name), dict):
                raise ValueError(f"{name} is missing")
            data = {**data, name: config.from_dict(data[name])}
        return msgspec.convert(data, cls)


def _check_type(name: str, annotation: str, value: object) -> None:
    """Refuse a value of another type than the annotation of its field says. Texts are compared with those that are known."""
    if value is None and annotation.endswith("| None"):
        return
    if annotation == "bool" and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {shown(value)}")
    if annotation.startswith("int") and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError(f"{name} must be a whole number, not {shown(value)}")
    if annotation.startswith("float") and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise ValueError(f"{name} must be a number, not {shown(value)}")
