"""How a long call tells its caller how far it is."""

from collections.abc import Callable

#: `(stage, done, total)`
Progress = Callable[[str, int, int], None]
