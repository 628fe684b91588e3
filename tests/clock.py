"""A clock for tests, so that their result does not depend on the speed of the machine."""

from __future__ import annotations


class Clock:
    """A clock in seconds that starts at 0 and advances only by `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
