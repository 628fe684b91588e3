"""`stylert project --encoder`: latents of an encoder, refined in a few steps for several pictures at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stylert.core.errors import InputError
from stylert.core.files.digests import sha256_of
from stylert.core.progress import Progress
from stylert.runtime.steering.encoder_file import read_encoder

if TYPE_CHECKING:
    from stylert.cli.latents.projecting import Found, ProjectOptions
    from stylert.models.latent_encoder import LatentEncoder
    from stylert.train.encoder.refinement import Refiner
    from stylert.train.projection.objective import Objective
    from stylert.train.projection.pictures import TargetPicture
    from stylert.train.projection.projector import Space

#: Steps, unless they are given
STEPS = 40
#: Pictures that are encoded and refined together. The last bits of a result depend on the size of the batch, so a group is computed
#: as a whole again if a picture of it is missing.
GROUP = 16


@dataclass(frozen=True)
class _Loaded:
    encoder: LatentEncoder
    refiner: Refiner


class Encoding:
    """From the latents of an encoder, several pictures at once (`Refiner`). See `projecting.Method`."""

    def __init__(self, path: Path, options: ProjectOptions) -> None:
        """Read the encoder.

        Raises:
            InputError: It is damaged or belongs to another checkpoint, or an option needs a projection without an encoder.
        """
        from stylert.train.encoder.refinement import RefinementSettings

        if options.noise != "const" or options.explore or options.video:
            raise InputError("--noise optimised, --explore and --video are for a projection without --encoder")
        steps = STEPS if options.steps is None else options.steps
        self.settings = RefinementSettings(cast("Space", options.space or "w+"), steps)
        self.weights = read_encoder(path)
        self.weights.check_network(sha256_of(options.checkpoint))

    @property
    def facts(self) -> dict[str, Any]:
        """See `Method`."""
        return {"space": self.settings.space, "steps": self.settings.steps, "encoder_sha256": self.weights.sha256}

    def load(self, generator: Any, objective: Objective) -> _Loaded:
        """See `Method`. Raises InputError if the sizes of the encoder are not those of the generator."""
        from stylert.models.latent_encoder import EncoderConfig, encoder_module
        from stylert.train.encoder.curvature import curvature_of
        from stylert.train.encoder.refinement import Refiner

        cfg, weights = generator.cfg, self.weights
        config = EncoderConfig(weights.resolution, weights.img_channels, weights.num_ws, weights.w_dim)
        if config != EncoderConfig(cfg.resolution, cfg.img_channels, cfg.num_ws, cfg.w_dim):
            raise InputError("the encoder is damaged: its sizes are not those of the checkpoint")
        curvature = curvature_of(weights.curvature, config.num_ws * config.w_dim)
        return _Loaded(encoder_module(config, weights.arrays), Refiner(generator, objective, curvature, self.settings))

    def groups(self, pictures: Sequence[TargetPicture], ready: Collection[str]) -> list[Sequence[TargetPicture]]:
        """See `Method`. A picture stays with the same others, whichever are there."""
        groups = [pictures[begin : begin + GROUP] for begin in range(0, len(pictures), GROUP)]
        return [group for group in groups if any(picture.name not in ready for picture in group)]

    def find(self, loaded: _Loaded, group: Sequence[TargetPicture], report: Progress) -> Iterator[Found]:
        """See `Method`."""
        import torch

        images = torch.cat([picture.image for picture in group])
        with torch.no_grad():
            ws = loaded.encoder(images)
        for picture, found in zip(group, loaded.refiner.refine(images, ws, report), strict=True):
            yield picture, found, None
