"""Shape rules and attribute checks of the operators: the only place that has them, but for those of ONNX nodes.

The PyTorch references, the custom ops, the launchers of the kernels and the TensorRT plugins all call these functions.
`onnx_nodes.py` adds the checks that only a node needs. Shapes are sequences of ints, so torch is not imported.

Axes and sides have one order in every form: y before x, top before bottom, left before right.

- `up`, `down` and the sizes of images, filters and kernels are `(y, x)`. The `up` of ModulatedConv2d is one number for
  both axes.
- `padding` is `(top, bottom, left, right)`, in pixels after zero insertion. Two values `(y, x)` pad both sides of an
  axis alike.
- The four phases of a 2x up layer are numbered `2 * (y parity) + (x parity)`.

Python arguments, the schemas of the custom ops, the attributes of ONNX nodes and the fields of TensorRT plugins all
have this order. Other libraries have other orders, and the code that calls them converts. `torch.nn.functional.pad`
takes `(left, right, top, bottom)`, and the `pads` of ONNX are `(top, left, bottom, right)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stylert.plugins.constants import LRELU_SLOPE, activation_gain

#: The largest offset inside one sample. The kernels count offsets in 32 bits.
MAX_OFFSET = 2**31 - 1

#: Input name to number of dimensions, of the ONNX node Upfirdn2d.
UPFIRDN2D_RANKS = {"x": 4, "f": 2}

#: The same of ModulatedConv2d.
MODULATED_CONV2D_RANKS = {"x": 4, "weight": 4, "style": 2, "demod": 2, "noise": 4, "bias": 1, "f": 2}


@dataclass(frozen=True)
class Resampling:
    """The attributes of Upfirdn2d, each with a value for every axis and side.

    Attributes:
        up: Factors of zero insertion `(y, x)`.
        down: Factors of decimation `(y, x)`.
        padding: `(top, bottom, left, right)` in upsampled pixels. Negative values crop.
        flip: False convolves with the filter, True correlates.
        gain: Multiplies the result.
    """

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
        """From the arguments of a user. Factors and padding are one int or `(y, x)`; padding may also have four values.

        Raises:
            ValueError: A factor below 1, a wrong number of values, a value that is not whole, a `flip` other than True
                and False, or a gain that is not a finite number.
        """
        up_y, up_x = _whole_numbers(up, "up", (2,))
        down_y, down_x = _whole_numbers(down, "down", (2,))
        pads = _whole_numbers(padding, "padding", (2, 4))
        if min(up_y, up_x, down_y, down_x) < 1:
            raise ValueError(f"upfirdn2d: up and down must be at least 1, not up {(up_y, up_x)}, down {(down_y, down_x)}")
        if flip not in (False, True):
            raise ValueError(f"upfirdn2d: flip must be True or False, not {flip!r}")
        if isinstance(gain, bool | str | bytes) or gain is None or not math.isfinite(gain):
            raise ValueError(f"upfirdn2d: gain must be a finite number, not {gain!r}")
        top, bottom, left, right = (pads[0], pads[0], pads[1], pads[1]) if len(pads) == 2 else pads
        return cls((up_y, up_x), (down_y, down_x), (top, bottom, left, right), bool(flip), float(gain))

    @classmethod
    def upsampling(cls, taps: Sequence[int], up: int) -> Resampling:
        """Enlarges an image `up` times. Every pixel keeps its position, and the image its mean.

        Args:
            taps: Height and width of the filter, whose sum is 1.
            up: Factor of both axes.
        """
        return cls.of(up, padding=[pad for t in taps for pad in ((t + up - 1) // 2, (t - up) // 2)], gain=float(up * up))

    @classmethod
    def downsampling(cls, taps: Sequence[int], down: int) -> Resampling:
        """Computes one pixel from every `down` pixels of an axis, centred on them.

        Args:
            taps: Height and width of the filter.
            down: Factor of both axes.
        """
        return cls.of(down=down, padding=[pad for t in taps for pad in ((t - down + 1) // 2, (t - down) // 2)])

    @classmethod
    def after_transposed_convolution(cls, k: int, taps: int) -> Resampling:
        """The FIR filter behind a stride-2 transposed convolution.

        It cuts the `2 H + k - 2` pixels of that convolution to the `2 H` pixels of the output. Its gain of 4 makes up
        for the inserted zeros.

        Args:
            k: Width of the convolution's kernel.
            taps: Width of the square filter.
        """
        total = taps + 1 - k
        before = math.ceil(total / 2)
        return cls.of(padding=(before, total - before, before, total - before), gain=4.0)

    def sides(self, axis: int) -> tuple[int, int]:
        """Padding before and after the image on one axis: 0 is y, 1 is x."""
        return self.padding[2 * axis], self.padding[2 * axis + 1]

    def output_size(self, size: tuple[int, int], taps: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the result: `(H * up + top + bottom - fh) // down + 1`.

        Args:
            size: Height and width of the input.
            taps: Height and width of the filter.

        Raises:
            ValueError: The padded input is smaller than the filter, or one of them is empty.
        """
        if min(*size, *taps) < 1:
            raise ValueError(f"upfirdn2d: input {size} and filter {taps} must not be empty")
        out: tuple[int, int] = self.output_expressions(size, taps)
        if min(out) < 1:
            raise ValueError(f"upfirdn2d: padded input is smaller than the {taps[0]}x{taps[1]} filter")
        return out

    def output_expressions(self, size: tuple[Any, Any], taps: tuple[Any, Any]) -> tuple[Any, Any]:
        """`output_size` without its checks. Sizes may be symbolic: they need `+`, `*` and `//`."""
        top, bottom, left, right = self.padding
        room_y = size[0] * self.up[0] + (top + bottom) + taps[0] * -1
        room_x = size[1] * self.up[1] + (left + right) + taps[1] * -1
        return room_y // self.down[0] + 1, room_x // self.down[1] + 1

    def adjoint(self, size: tuple[int, int], taps: tuple[int, int]) -> Resampling:
        """The transpose of this linear map. It is an upfirdn too, and turns the gradient of the output into that of the input.

        With `y[o] = sum_k K[k] u[o * down + k - top]` and `u[up * i] = x[i]`, the gradient is

            dx[i] = sum_o dy[o] K[up * i + top - o * down]

        So the factors are exchanged, the filter is reversed, and `top' = fh - 1 - top`. The padding after the last row
        follows from the size of the input.

        Args:
            size: Height and width of the input of this map.
            taps: Height and width of the filter.
        """
        out = self.output_size(size, taps)
        top, _, left, _ = self.padding

        def padding_after(axis: int, before: int) -> int:
            return size[axis] * self.up[axis] - out[axis] * self.down[axis] + before - self.up[axis] + 1

        padding = (taps[0] - 1 - top, padding_after(0, top), taps[1] - 1 - left, padding_after(1, left))
        return Resampling(self.down, self.up, padding, not self.flip, self.gain)


@dataclass(frozen=True)
class Epilogue:
    """The end of a layer: `clamp(gain * leaky_relu(v, slope))`.

    Attributes:
        slope: Slope of the leaky ReLU for negative values, finite. 1 is a linear activation.
        gain: Positive and finite.
        clamp: Bound of the absolute value, finite. 0 is no bound.

    Raises:
        ValueError: A slope, gain or clamp out of its range.
    """

    slope: float = 1.0
    gain: float = 1.0
    clamp: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.slope):
            raise ValueError(f"the slope of the activation must be finite, not {self.slope}")
        if not (self.gain > 0 and math.isfinite(self.gain)):
            raise ValueError(f"gain must be positive and finite, not {self.gain}")
        if not (self.clamp >= 0 and math.isfinite(self.clamp)):
            raise ValueError(f"clamp must be finite and not negative, not {self.clamp}")

    @classmethod
    def of(cls, activation: str = "linear", gain: float | None = None, clamp: float | None = None) -> Epilogue:
        """From the arguments of a user.

        Args:
            activation: "linear" or "lrelu" (slope 0.2).
            gain: Positive and finite. None is the activation's own gain (1 and sqrt(2)).
            clamp: Positive and finite, or None.

        Raises:
            ValueError: An unknown activation, or a gain or a clamp out of its range.
        """
        resolved_gain = activation_gain(activation, gain)
        if clamp is not None and not (clamp > 0 and math.isfinite(clamp)):
            raise ValueError(f"clamp must be positive and finite, or None, not {clamp}")
        return cls(LRELU_SLOPE if activation == "lrelu" else 1.0, resolved_gain, float(clamp or 0.0))

    @property
    def activation(self) -> str | None:
        """The name of the activation with this slope, as `of` takes it. None if no name has it.

        A slope from an ONNX node is a float32, so it equals the constant only in about seven digits.
        """
        if self.slope == 1.0:
            return "linear"
        return "lrelu" if math.isclose(self.slope, LRELU_SLOPE, rel_tol=1e-7) else None


def upfirdn2d_shape(x: Sequence[int], f: Sequence[int], spec: Resampling) -> tuple[int, int, int, int]:
    """Shape `(N, C, H', W')` of the result of Upfirdn2d from the shapes of its operands.

    Raises:
        ValueError: A wrong number of dimensions, an empty operand, or a padded input smaller than the filter.
    """
    if len(x) != 4 or len(f) != 2:
        raise ValueError(f"upfirdn2d takes x [N, C, H, W] and a filter [fh, fw], not {list(x)} and {list(f)}")
    n, c, h, w = x
    return (n, c, *spec.output_size((h, w), (f[0], f[1])))


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
        ValueError: Operands that do not fit together, a kernel that is even or not square, `up` other than 1 and 2, or
            no FIR filter for `up` 2.
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
        raise ValueError(f"modulated_conv2d: up=2 needs the FIR filter f, square, not {None if f is None else list(f)}")
    out = (n, o, h * up, w * up)
    if noise is not None:
        padded = (1,) * (4 - len(noise)) + tuple(noise)
        allowed = (n, 1, out[2], out[3])
        if len(padded) != 4 or any(size not in (1, whole) for size, whole in zip(padded, allowed, strict=True)):
            raise ValueError(
                f"modulated_conv2d: noise {list(noise)} does not broadcast to {list(allowed)}, "
                "one value for all channels of a pixel"
            )
    return out


def check_bias_act(x: Sequence[int], b: Sequence[int] | None) -> None:
    """Check the shapes of the operands of bias_act: x `[N, C, ...]` and b `[C]` or None.

    Raises:
        ValueError: Fewer than two dimensions, or a bias that does not match the channels.
    """
    if len(x) < 2:
        raise ValueError(f"bias_act takes x [N, C, ...], not {list(x)}")
    if b is not None and tuple(b) != (x[1],):
        raise ValueError(f"bias_act: bias {list(b)} does not match {x[1]} channels")


def check_ranks(operator: str, shapes: Mapping[str, Sequence[Any]], expected: Mapping[str, int]) -> None:
    """Check how many dimensions the inputs of an ONNX node have. Sizes may be symbolic.

    Args:
        operator: Name of the operator, for the message.
        shapes: Input name to shape.
        expected: Input name to number of dimensions, with at least the names of `shapes`.

    Raises:
        ValueError: An input has another number of dimensions.
    """
    wrong = {name: len(shape) for name, shape in shapes.items() if len(shape) != expected[name]}
    if wrong:
        expected_ranks = ", ".join(f"{name} {expected[name]}" for name in wrong)
        ranks = ", ".join(f"{name} {rank}" for name, rank in wrong.items())
        raise ValueError(f"{operator}: wrong number of dimensions: {ranks}, not {expected_ranks}")


def phase_geometry(k: int, taps: int) -> tuple[int, int]:
    """Radius and shift of the phase kernels that a kernel of width `k` and a FIR of `taps` make.

    A phase kernel has `2 radius + 1` taps on an axis. Tap `t` of phase `r` is `g[r + shift + 2 (radius - t)]`; see
    `polyphase`.
    """
    shift = taps - 1 - Resampling.after_transposed_convolution(k, taps).padding[0]
    # The two parities need different radii. The larger one serves both.
    return max((1 + shift) // 2, (k + taps - 2 - shift) // 2), shift


def _whole_numbers(value: int | Sequence[int], name: str, counts: tuple[int, ...]) -> tuple[int, ...]:
    """One value twice, or as many values as one of `counts`."""
    values: tuple[Any, ...] = (value, value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        values = tuple(value)
    # The SymInt of torch.compile is whole, but it is no int. Both have `__index__`, and no float has it.
    if any(isinstance(v, bool) or not hasattr(v, "__index__") for v in values):
        raise ValueError(f"upfirdn2d: {name} must be whole numbers, not {value!r}")
    if len(values) not in counts:
        raise ValueError(f"upfirdn2d: {name} has 1{''.join(f' or {c}' for c in counts)} values, not {len(values)}")
    return values
