"""Keeps the features of the last calls, as many as fit into a bound of memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

#: All features that a session keeps, bytes. Those of an image of StyleGAN2's config F at 1024 px take 140 MiB in float32.
MAX_BYTES = 512 * 2**20
#: Calls whose features are kept at once
MAX_CALLS = 4

#: The inputs and outputs of the stages of one call, by the tensor's name
Features = Mapping[str, np.ndarray]


class KeptFeatures:
    """The features of the last calls, the latest first."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_calls: int = MAX_CALLS) -> None:
        self._max_bytes, self._max_calls = max_bytes, max_calls
        self._calls: list[Features] = []

    def __iter__(self) -> Iterator[Features]:
        return iter(tuple(self._calls))

    @property
    def nbytes(self) -> int:
        """Bytes of all features. Those that two calls share count once."""
        return _nbytes(self._calls)

    def keep(self, features: Features, replaced: Features | None = None) -> bool:
        """Keep the features of a call, and forget those of the oldest calls that have no room.

        Args:
            features: The features. Nobody may change them afterwards.
            replaced: A kept call from which they were made. It is forgotten.

        Returns:
            Whether they fit into the bound.
        """
        self._calls = [features, *(call for call in self._calls if call is not replaced)][: self._max_calls]
        while self._calls and self.nbytes > self._max_bytes:
            self._calls.pop()
        return bool(self._calls)

    def clear(self) -> None:
        self._calls = []


def _nbytes(calls: Sequence[Features]) -> int:
    return sum({id(value): value.nbytes for call in calls for value in call.values()}.values())
