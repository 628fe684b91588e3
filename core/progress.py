"""The callback by which a long call reports its progress."""

from collections.abc import Callable

#: Called as `progress(stage, done, total)`: the name of the stage, and how many of its `total` units are done.
Progress = Callable[[str, int, int], None]
