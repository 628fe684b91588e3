"""The seeds of the images that judge a mark, and the check that nothing has seen these images before.

The latents of the fine-tuning come from PyTorch's random numbers. So they are of no image's seed, and the seed of the training
is kept apart all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from stylert.core.errors import InputError
from stylert.export.quantization.calibration_latents import (
    CALIBRATION_FIRST_SEED,
    CALIBRATION_SAMPLES,
    SEARCH_FIRST_SEED,
    SEARCH_SAMPLES,
)
from stylert.train.metrics.features import FIRST_SEED as FIRST_FD_SEED
from stylert.train.watermark.marking import MarkSettings, image_seeds

#: Images of earlier tables. The losses, bounds and views of the mark were chosen by these.
EARLIER = {
    "judged images of earlier tables": range(2_000_000, 2_010_000),
    "attackers' images of earlier tables": range(5_000_000, 6_010_000),
    "images of the tables of a filter as the decoder": range(7_000_000, 10_001_000),
    "images of the tables of a network as the decoder": range(11_000_000, 18_001_000),
}
#: Distance of the ranges of one run.
STRIDE = 1_000_000


@dataclass(frozen=True)
class TableSeeds:
    """The seeds of one run.

    Attributes:
        judged: Marked images and, for the PSNR, their unmarked twins.
        unmarked: Images without the mark, which a detector may not find.
        attacker: Images of the marked network that an attacker has.
        attacker_unmarked: Images of the unmarked network that an attacker has.
        distance: Images of the FD.
    """

    judged: range
    unmarked: range
    attacker: range
    attacker_unmarked: range
    distance: range

    @staticmethod
    def of(first: int, images: int, unmarked: int, attacker: int, distance: int) -> TableSeeds:
        """The seeds from `first` on, for so many images of each purpose."""
        starts = (first + i * STRIDE for i in range(4))
        counts = (images, unmarked, attacker, attacker)
        judged, plain, owned, owned_plain = (range(start, start + n) for start, n in zip(starts, counts, strict=True))
        return TableSeeds(judged, plain, owned, owned_plain, range(FIRST_FD_SEED, FIRST_FD_SEED + distance))


def used_seeds(marks: Sequence[MarkSettings]) -> dict[str, range]:
    """The seeds that training, views, calibration and earlier tables used, by purpose."""
    used = {
        "calibration of 8 bits": range(CALIBRATION_FIRST_SEED, CALIBRATION_FIRST_SEED + 2 * CALIBRATION_SAMPLES),
        "search for sensitive layers": range(SEARCH_FIRST_SEED, SEARCH_FIRST_SEED + SEARCH_SAMPLES),
        **EARLIER,
    }
    for settings in marks:
        seed = settings.tuning.seed
        used |= image_seeds(settings) | {f"fine-tuning with seed {seed}": range(seed, seed + 1)}
    return used


def check_fresh(tables: Mapping[str, range], used: Mapping[str, range]) -> None:
    """Check that no seed of the tables was used before, and that none has two purposes in them.

    Raises:
        InputError: Two ranges share a seed. Both are named.
    """
    pairs = [*combinations(tables.items(), 2), *((a, b) for a in tables.items() for b in used.items())]
    for (name, seeds), (other, others) in pairs:
        common = range(max(seeds.start, others.start), min(seeds.stop, others.stop))
        if common:
            raise InputError(f"seeds from {common.start} on are of {name} and of {other}: choose another --first-seed")
