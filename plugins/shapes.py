"""Shape rules and attribute checks of the operators, shared by fake kernels, launchers and plugins. No imports of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stylert.plugins.constants import ACTIVATION_GAIN, LRELU_SLOPE

#: Offsets inside one sample are 32-bit in the kernels.
MAX_OFFSET = 2**31 - 1


@dataclass(frozen=True)
class Resampling:
    """The attributes of Upfirdn2d, normalised: `up` and `down` are `(y, x)`, `padding` is `(top, bottom, left, right)`."""

    up: tuple[int, int] = (1, 1)
    down: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    flip: bool = False
    gain: float = 1.0

    @classmethod
    def of(
        cls,
        up: int | Sequence[int] = 1,
        down: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        flip: bool = False,
        gain: float = 1.0,
    ) -> Resampling:
        """From what a user may write: an int, `(y, x)`, and for the padding also four values.

        Raises:
            ValueError: a factor below 1, a wrong count of values, a value that is not whole, or a gain that is not finite.
        """
        up_y, up_x = _ints(up, "up", (2,))
        down_y, down_x = _ints(down, "down", (2,))
        pads = _ints(padding, "padding", (2, 4))
        if min(up_y, up_x, down_y, down_x) < 1:
            raise ValueError(f"upfirdn2d: up and down must be at least 1, not up {(up_y, up_x)}, down {(down_y, down_x)}")
        if not math.isfinite(gain):
            raise ValueError(f"upfirdn2d: gain must be finite, not {gain}")
        top, bottom, left, right = (pads[0], pads[0], pads[1], pads[1]) if len(pads) == 2 else pads
        return cls((up_y, up_x), (down_y, down_x), (top, bottom, left, right), bool(flip), float(gain))

    def output_size(self, size: tuple[int, int], taps: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the result: `(H * up + top + bottom - fh) // down + 1`.

        Raises:
            ValueError: the padded input is smaller than the filter, or one of them is empty.
        """
        if min(*size, *taps) < 1:
            raise ValueError(f"upfirdn2d: input {size} and filter {taps} must not be empty")
        out: tuple[int, int] = self.output_expressions(size, taps)
        if min(out) < 1:
            raise ValueError(f"upfirdn2d: padded input is smaller than the {taps[0]}x{taps[1]} filter")
        return out

    def output_expressions(self, size: tuple[Any, Any], taps: tuple[Any, Any]) -> tuple[Any, Any]:
        """`output_size`, unchecked, of sizes that are known only as expressions with `+`, `*` and `//`."""
        top, bottom, left, right = self.padding
        room_y = size[0] * self.up[0] + (top + bottom) + taps[0] * -1
        room_x = size[1] * self.up[1] + (left + right) + taps[1] * -1
        return room_y // self.down[0] + 1, room_x // self.down[1] + 1

    def adjoint(self, size: tuple[int, int], taps: tuple[int, int]) -> Resampling:
        """The transpose of this linear map, itself an upfirdn: it takes a gradient of the output back to `size`.

        With `y[o] = sum_k K[k] u[o * down + k - top]` and `u[up * i] = x[i]`, the gradient is
        `dx[i] = sum_o dy[o] K[up * i + top - o * down]`: factors exchanged, the filter reversed, and
        `top' = fh - 1 - top`. The padding after the last row is what makes the sizes meet.
        """
        out = self.output_size(size, taps)
        top, _, left, _ = self.padding

        def after(axis: int, before: int) -> int:
            return size[axis] * self.up[axis] - out[axis] * self.down[axis] + before - self.up[axis] + 1

        padding = (taps[0] - 1 - top, after(0, top), taps[1] - 1 - left, after(1, left))
        return Resampling(self.down, self.up, padding, not self.flip, self.gain)


@dataclass(frozen=True)
class Epilogue:
    """The end of a layer, `clamp(gain * leaky_relu(v, slope))`, with every default resolved; `clamp` 0 is none."""

    slope: float = 1.0
    gain: float = 1.0
    clamp: float = 0.0

    @classmethod
    def of(cls, activation: str = "linear", gain: float | None = None, clamp: float | None = None) -> Epilogue:
        """From what a user may write.

        Raises:
            ValueError: unknown activation, or a gain or clamp that is not positive and finite.
        """
        if activation not in ACTIVATION_GAIN:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATION_GAIN)}, not {activation!r}")
        resolved = ACTIVATION_GAIN[activation] if gain is None else float(gain)
        if not (resolved > 0 and math.isfinite(resolved)):
            raise ValueError(f"gain must be positive and finite, not {gain}")
        if clamp is not None and not (clamp > 0 and math.isfinite(clamp)):
            raise ValueError(f"clamp must be positive and finite, or None, not {clamp}")
        return cls(LRELU_SLOPE if activation == "lrelu" else 1.0, resolved, float(clamp or 0.0))


def modulated_conv2d_shape(
    x: Sequence[int],
    weight: Sequence[int],
    style: Sequence[int],
    demod: Sequence[int] | None,
    noise: Sequence[int] | None,
    bias: Sequence[int] | None,
    f: Sequence[int] | None,
    up: int,
) -> tuple[int, int, int, int]:
    """Shape `(N, O, H * up, W * up)` of the result of ModulatedConv2d from the shapes of its operands.

    Raises:
        ValueError: operands that do not fit together, an even or oblong kernel, `up` other than 1 and 2, no FIR for `up` 2.
    """
    if up not in (1, 2):
        raise ValueError(f"modulated_conv2d: up must be 1 or 2, not {up}")
    if len(x) != 4 or len(weight) != 4:
        raise ValueError(f"modulated_conv2d: x is [N, I, H, W] and weight [O, I, k, k], not {list(x)} and {list(weight)}")
    n, i, h, w = x
    o, weight_i, kh, kw = weight
    if kh != kw or kh % 2 == 0:
        raise ValueError(f"modulated_conv2d: the kernel must be square and odd, not {kh}x{kw}")
    if weight_i != i or tuple(style) != (n, i) or (demod is not None and tuple(demod) != (n, o)):
        raise ValueError(
            f"modulated_conv2d: x {list(x)}, weight {list(weight)}, style {list(style)} and demod "
            f"{None if demod is None else list(demod)} do not fit together"
        )
    if bias is not None and tuple(bias) != (o,):
        raise ValueError(f"modulated_conv2d: bias {list(bias)} does not match {o} channels")
    if up == 2 and (f is None or len(f) != 2 or f[0] != f[1]):
        raise ValueError(f"modulated_conv2d: up=2 needs a square FIR filter f, not {None if f is None else list(f)}")
    out = (n, o, h * up, w * up)
    if noise is not None:
        wanted = (1,) * (4 - len(noise)) + tuple(noise)
        if len(wanted) != 4 or any(a not in (1, b) for a, b in zip(wanted, (n, 1, out[2], out[3]), strict=True)):
            raise ValueError(
                f"modulated_conv2d: noise {list(noise)} does not broadcast to [{n}, 1, {out[2]}, {out[3]}], "
                "one value for all channels of a pixel"
            )
    return out


def phase_geometry(k: int, taps: int) -> tuple[int, int]:
    """How a kernel of `k` and a FIR of `taps` fold into phase kernels: their radius, and the shift of the first output.

    See `polyphase`: phase kernel `r` has `2 radius + 1` taps, of which tap `t` is `g[r + shift + 2 radius - 2 t]`.
    """
    shift = taps - 1 - (taps + 2 - k) // 2
    # Offsets reach from the last tap of g to the first, whichever parity goes further.
    return max((1 + shift) // 2, (k + taps - 2 - shift) // 2), shift


def _ints(value: int | Sequence[int], name: str, counts: tuple[int, ...]) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    # SymInts of torch.compile are whole but not int; they have no `is_integer`, floats do.
    if any(isinstance(v, bool | float | str) or v is None for v in values):
        raise ValueError(f"upfirdn2d: {name} must be whole numbers, not {value!r}")
    if len(values) not in counts:
        raise ValueError(f"upfirdn2d: {name} has 1{''.join(f' or {c}' for c in counts)} values, not {len(values)}")
    return values
