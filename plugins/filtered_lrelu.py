"""Attributes and shapes of FilteredLrelu, the filtered nonlinearity of StyleGAN3. No torch.

    y = down(clamp(gain * leaky_relu(up(x + b))))

A pointwise nonlinearity makes frequencies that the sampling rate cannot hold. So it runs at a higher rate: `up` inserts
zeros, pads or crops, and filters with `fu`; `down` filters with `fd` and decimates (Karras et al. 2021, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stylert.plugins.shapes import Epilogue, Resampling

#: Input name to number of dimensions, of the ONNX node FilteredLrelu.
FILTERED_LRELU_RANKS = {"x": 4, "bias": 1, "fu": 2, "fd": 2}


@dataclass(frozen=True)
class FilteredLrelu:
    """The attributes of FilteredLrelu.

    Attributes:
        up: Zero insertion, padding, and a gain of `up_y * up_x`, which makes up for the zeros.
        down: Decimation. It has no padding, so only whole windows of the filter count.
        epilogue: Slope, gain and clamp between the two filters.
    """

    up: Resampling = field(default_factory=Resampling)
    down: Resampling = field(default_factory=Resampling)
    epilogue: Epilogue = field(default_factory=Epilogue)

    @classmethod
    def of(
        cls,
        up: int | Sequence[int] = 1,
        down: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        slope: float = 1.0,
        gain: float = 1.0,
        clamp: float | None = None,
    ) -> FilteredLrelu:
        """From the arguments of a user.

        Args:
            up: Factors of zero insertion, one or `(y, x)`.
            down: Factors of decimation, one or `(y, x)`.
            padding: In pixels after zero insertion: one value, `(y, x)` or `(top, bottom, left, right)`. Negative crops.
            slope: Slope of the leaky ReLU for negative values.
            gain: Positive and finite.
            clamp: Positive bound of the absolute value between the filters, or None.

        Raises:
            ValueError: A value out of its range, or of another type or count.
        """
        try:
            upsampling, downsampling = Resampling.of(up=up, padding=padding), Resampling.of(down=down)
            area = float(upsampling.up[0] * upsampling.up[1])
            upsampling = Resampling.of(up, padding=padding, gain=area)
        except ValueError as error:
            raise ValueError(f"filtered_lrelu: {str(error).removeprefix('upfirdn2d: ')}") from None
        if clamp is not None and not clamp > 0:
            raise ValueError(f"filtered_lrelu: clamp must be positive and finite, or None, not {clamp}")
        return cls(upsampling, downsampling, Epilogue(slope, gain, float(clamp or 0.0)))

    def output_size(self, size: tuple[int, int], fu: tuple[int, int], fd: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the result: `(H * up + top + bottom - fu - fd + 1) // down + 1`.

        Args:
            size: Height and width of the input.
            fu: Height and width of the filter behind the zero insertion.
            fd: Height and width of the filter in front of the decimation.

        Raises:
            ValueError: The padded input is smaller than the filters, or one of them is empty.
        """
        try:
            return self.down.output_size(self.up.output_size(size, fu), fd)
        except ValueError:
            raise ValueError(
                f"filtered_lrelu: an input of {size[0]}x{size[1]} with padding {list(self.up.padding)} leaves no output "
                f"behind filters of {fu[0]}x{fu[1]} and {fd[0]}x{fd[1]}"
            ) from None


def filter_size(f: Sequence[int]) -> tuple[int, int]:
    """Height and width of a filter from its shape: `[t]`, the same taps on both axes, or `[fh, fw]`.

    Raises:
        ValueError: Another number of dimensions.
    """
    if len(f) not in (1, 2):
        raise ValueError(f"filtered_lrelu: a filter is [t] or [fh, fw], not {list(f)}")
    return f[0], f[-1]


def filtered_lrelu_shape(
    x: Sequence[int], b: Sequence[int] | None, fu: Sequence[int], fd: Sequence[int], spec: FilteredLrelu
) -> tuple[Any, Any, int, int]:
    """Shape `(N, C, H', W')` of the result from the shapes of the operands.

    Raises:
        ValueError: Operands that do not fit together, or that leave no output.
    """
    if len(x) != 4:
        raise ValueError(f"filtered_lrelu takes x [N, C, H, W], not {list(x)}")
    n, c, h, w = x
    if b is not None and tuple(b) != (c,):
        raise ValueError(f"filtered_lrelu: bias {list(b)} does not match {c} channels")
    return (n, c, *spec.output_size((h, w), filter_size(fu), filter_size(fd)))
