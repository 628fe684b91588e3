"""A distance that compares pixels, so that the tests of projections need no network of features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class PixelDistance:
    """The mean squared difference, in place of a network of features."""

    name = "pixels"

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return self.compare(self.maps(a), self.maps(b))

    def maps(self, images: Tensor) -> list[Tensor]:
        self.sides = images.shape[2:]
        return [images]

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        return (a[0] - b[0]).square().mean((1, 2, 3))
