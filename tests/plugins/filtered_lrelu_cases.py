"""Random calls of FilteredLrelu, and its definition in float64 by SciPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.signal
from hypothesis import strategies as st

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Call:
    """One call. Its attributes are those of the ONNX node. `None` taps are a filter of one dimension, the same on both axes."""

    size: tuple[int, int]
    up: tuple[int, int]
    down: tuple[int, int]
    padding: tuple[int, int, int, int]
    up_taps: tuple[int, int] | int
    down_taps: tuple[int, int] | int
    slope: float
    gain: float
    clamp: float
    channels: int
    seed: int

    @property
    def attributes(self) -> dict[str, Any]:
        values = {"up": list(self.up), "down": list(self.down), "padding": list(self.padding)}
        return values | {"alpha": self.slope, "gain": self.gain, "clamp": self.clamp, "group": self.channels}

    @property
    def inputs(self) -> dict[str, Array]:
        """x of two samples, a bias, and filters without any symmetry, float64. Filters are `[t]` where `taps` is one number."""
        rng = np.random.default_rng(self.seed)
        return {
            "x": rng.standard_normal((2, self.channels, *self.size)),
            "bias": rng.standard_normal(self.channels),
            "fu": rng.standard_normal(self.up_taps),
            "fd": rng.standard_normal(self.down_taps),
        }

    @property
    def node_inputs(self) -> dict[str, Array]:
        """The same for an ONNX node, float32. It takes filters of two dimensions alone."""
        return {
            k: (np.outer(a, a) if k in ("fu", "fd") and a.ndim == 1 else a).astype(np.float32) for k, a in self.inputs.items()
        }

    def leaves_output(self) -> bool:
        sides = [self.size[axis] * self.up[axis] + sum(self.padding[2 * axis : 2 * axis + 2]) for axis in (0, 1)]
        return all(side >= pair(self.up_taps)[axis] + pair(self.down_taps)[axis] - 1 for axis, side in enumerate(sides))


def pair(taps: tuple[int, int] | int) -> tuple[int, int]:
    return (taps, taps) if isinstance(taps, int) else taps


def by_scipy(call: Call, inputs: dict[str, Array] | None = None) -> Array:
    """One plane after the other: zeros, padding, `fu`, leaky ReLU, `fd`, decimation."""
    x, bias, fu, fd = (a.astype(np.float64) for a in (inputs or call.inputs).values())
    fu, fd = (np.outer(f, f) if f.ndim == 1 else f for f in (fu, fd))
    bound = call.clamp or math.inf

    def plane(values: Array) -> Array:
        inserted = np.zeros((values.shape[0] * call.up[0], values.shape[1] * call.up[1]))
        inserted[:: call.up[0], :: call.up[1]] = values
        wide = np.pad(inserted, 20)
        top, bottom, left, right = call.padding
        wide = wide[20 - top : len(wide) - 20 + bottom, 20 - left : wide.shape[1] - 20 + right]
        y = scipy.signal.convolve2d(wide, fu, mode="valid") * (call.up[0] * call.up[1])
        y = np.clip(call.gain * np.where(y > 0, y, call.slope * y), -bound, bound)
        return np.asarray(scipy.signal.convolve2d(y, fd, mode="valid")[:: call.down[0], :: call.down[1]])

    return np.array([[plane(channel + b) for channel, b in zip(sample, bias, strict=True)] for sample in x])


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
taps = st.integers(1, 5) | st.tuples(st.integers(1, 5), st.integers(1, 5))
calls = st.builds(
    Call,
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    up=pairs,
    down=pairs,
    padding=st.tuples(*[st.integers(-4, 6)] * 4),
    up_taps=taps,
    down_taps=taps,
    slope=st.sampled_from([0.2, 1.0, 0.0, -0.3]),
    gain=st.floats(0.3, 3),
    clamp=st.sampled_from([0.0, 0.7, 3.0]),
    channels=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
).filter(Call.leaves_output)
