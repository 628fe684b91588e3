"""Winograd's minimal filtering: a 3x3 convolution with fewer multiplications, exact but for rounding.

`F(m x m, 3x3)` computes a tile of m x m output pixels from (m + 2) x (m + 2) input pixels (Lavin & Gray 2015):

    Y = A^T [ (G g G^T) * (B^T d B) ] A

`d` is the input tile, `g` the kernel, and `*` the product of two numbers at each of the (m + 2)^2 positions. A direct
convolution multiplies 9 m^2 times per tile, channel and kernel. F(2x2) saves a factor of 2.25, and F(4x4) one of 4.

The three matrices come from interpolation (Toom-Cook). The product of two polynomials of degrees m - 1 and 2 has m + 2
coefficients, so m + 1 points and infinity determine it. A correlation is the transpose of this product. All numbers are
fractions, and the denominators are moved to `G`, so `A` and `B` are whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

#: Taps of the kernel in each axis.
TAPS = 3

#: The points of interpolation for each tile size m. The smallest numbers give the smallest rounding errors.
POINTS = {2: (0, 1, -1), 4: (0, 1, -1, 2, -2)}


@dataclass(frozen=True, eq=False)
class Transforms:
    """The matrices of F(m, 3) on one axis, float64.

    Attributes:
        output: A^T, `[m, m + 2]`.
        kernel: G, `[m + 2, 3]`.
        input: B^T, `[m + 2, m + 2]`.
    """

    output: np.ndarray
    kernel: np.ndarray
    input: np.ndarray

    @property
    def output_2d(self) -> np.ndarray:
        """`[m, m, (m + 2)^2]`: the contribution of each position to each pixel of the output tile."""
        return _both_axes(self.output)

    @property
    def kernel_2d(self) -> np.ndarray:
        """`[9, (m + 2)^2]`: the contribution of each tap to each position."""
        positions = len(self.kernel) ** 2
        return np.einsum("py,qx->yxpq", self.kernel, self.kernel).reshape(TAPS * TAPS, positions)

    @property
    def input_2d(self) -> np.ndarray:
        """`[(m + 2)^2, m + 2, m + 2]`: the contribution of each pixel of the input tile to each position."""
        positions = len(self.input) ** 2
        return np.einsum("py,qx->pqyx", self.input, self.input).reshape(positions, *self.input.shape)


@cache
def transforms(tile: int) -> Transforms:
    """The matrices of F(`tile`, 3).

    Raises:
        ValueError: `POINTS` has no such tile.
    """
    if tile not in POINTS:
        raise ValueError(f"Winograd tiles are {' or '.join(map(str, POINTS))} pixels wide, not {tile}")
    exact = exact_transforms(POINTS[tile])
    return Transforms(*(np.array(matrix, dtype=np.float64) for matrix in exact))


def exact_transforms(points: Sequence[int | Fraction]) -> tuple[list[list[Fraction]], ...]:
    """A^T, G and B^T for these points and infinity, as fractions.

    With a polynomial's values at the points as its coordinates, a product is a product of values. `A` evaluates one
    factor and `G` the other. `B` interpolates, by Lagrange's basis. Its denominators are in `G`.
    """
    p = [Fraction(point) for point in points]
    m = len(p) - TAPS + 2
    basis = [_product_of_roots(p[:i] + p[i + 1 :]) for i in range(len(p))]
    denominators = [_value(polynomial, point) for polynomial, point in zip(basis, p, strict=True)]
    output = [[point**row for point in p] + [Fraction(row == m - 1)] for row in range(m)]
    kernel = [[point**tap / d for tap in range(TAPS)] for point, d in zip(p, denominators, strict=True)]
    kernel.append([Fraction(tap == TAPS - 1) for tap in range(TAPS)])
    inputs = [[*polynomial, Fraction(0)] for polynomial in basis] + [_product_of_roots(p)]
    return output, kernel, inputs


def _product_of_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of the product of `x - root`, the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [-root * c for c in coefficients] + [Fraction(0)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _value(coefficients: Sequence[Fraction], point: Fraction) -> Fraction:
    return sum((c * point**power for power, c in enumerate(coefficients)), Fraction(0))


def _both_axes(matrix: np.ndarray) -> np.ndarray:
    rows, columns = matrix.shape
    return np.einsum("ip,jq->ijpq", matrix, matrix).reshape(rows, rows, columns * columns)
