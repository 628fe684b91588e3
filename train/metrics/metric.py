"""The metrics by name, as a command names them: `fd5k`, `fid50k`, `fid50k_full`, `ppl_w_end`, `modes`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stylert.core.errors import InputError, shown
from stylert.train.metrics.distances import NEIGHBOURS, SPLITS

FEATURE_METRICS = ("fd", "fd_vgg", "fid", "kid", "pr", "is")
PATH_METRICS = tuple(f"ppl_{space}{end}{crop}" for space in "zw" for end in ("", "_end") for crop in ("", "_crop"))
PART_METRICS = ("modes", "ls_z", "ls_w")
METRICS = (*FEATURE_METRICS, *PATH_METRICS, *PART_METRICS)
#: Metrics that compare with real images. They may use all real images, whatever the number of generated ones.
COMPARING_METRICS = ("fd", "fd_vgg", "fid", "kid", "pr")
FULL = "_full"
#: Metrics that are one number, where lower is better. A training run can choose its best snapshot by them.
DISTANCES = ("fd", "fd_vgg", "fid", "kid")
#: The fewest images that a metric can be computed from; 2 for the others.
MIN_IMAGES = {"pr": NEIGHBOURS + 1, "is": SPLITS, "ls_z": 4, "ls_w": 4}


@dataclass(frozen=True)
class Metric:
    """A metric and the number of generated images that it uses.

    Attributes:
        name: One of `METRICS`.
        images: Number of generated images.
        full: Whether to compare with all real images. Otherwise with as many as generated ones, or all if there are fewer.
    """

    name: str
    images: int
    full: bool = False

    @classmethod
    def parse(cls, text: str, images: int) -> Metric:
        """A metric from its text, such as `kid5000`, `fid50k_full` or `ppl_w`.

        Args:
            text: One of `METRICS`, and optionally a number of images, where `k` stands for thousands. One of
                `COMPARING_METRICS` may end in `_full`.
            images: The number of images where the text has none.

        Raises:
            InputError: The name is unknown, or the number is too small for this metric.
        """
        if not isinstance(text, str):
            raise InputError(f"a metric is named by text, such as fd5k, not {shown(text)}")
        full = text.endswith(FULL) and text.startswith(COMPARING_METRICS)
        match = re.fullmatch(r"([a-z_]+?)(?:(\d{1,7})(k?))?", text.removesuffix(FULL) if full else text)
        if match is None or match[1] not in METRICS:
            raise InputError(
                f"unknown metric {text!r}: choose of {', '.join(METRICS)}, with a number of images behind, as in fd5k"
            )
        name, number, thousands = match.groups()
        count = images if number is None else int(number) * (1000 if thousands else 1)
        least = MIN_IMAGES.get(name, 2)
        if count < least:
            raise InputError(f"{name} takes {least} images or more, not {count}")
        return cls(name, count, full)
