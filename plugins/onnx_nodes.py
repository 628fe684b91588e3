"""Reads the attributes and shapes of the operators' ONNX nodes, and refuses wrong ones in one line. No torch.

`onnx_functions.py` says what each attribute means, and `shapes.py` has the order of axes. The torch backend, the
TensorRT plugins and `onnx_functions.check_nodes` read nodes here, so none of them has rules of its own.

A function body cannot refuse. For example, the body of ModulatedConv2d computes `up` 3 as if it were 1. So a runtime
that runs only the body does not notice a wrong node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from stylert.plugins.shapes import (
    MAX_OFFSET,
    MODULATED_CONV2D_RANKS,
    UPFIRDN2D_RANKS,
    Epilogue,
    Resampling,
    check_ranks,
)

#: Height and width of the FIR filter of a ModulatedConv2d node with `up` 2.
FIR_TAPS = 4

#: Attribute name to type of its values and how many, of Upfirdn2d. None is one value that is not in a list.
UPFIRDN2D_ATTRIBUTES = {
    "up": (int, 2),
    "down": (int, 2),
    "padding": (int, 4),
    "flip": (int, None),
    "gain": (float, None),
    "group": (int, None),
}

#: The same of ModulatedConv2d.
MODULATED_CONV2D_ATTRIBUTES = {
    "up": (int, None),
    "alpha": (float, None),
    "gain": (float, None),
    "clamp": (float, None),
    "group": (int, None),
}

#: Attributes by which TensorRT's parser finds a plugin. They change no number.
PARSER_ATTRIBUTES = ("plugin_namespace", "plugin_version", "aot")

#: The sizes of a tensor. None is a size that only the running engine knows.
Sizes = Sequence[int | None]


@dataclass(frozen=True)
class Upfirdn2dNode:
    """The attributes of an Upfirdn2d node.

    Attributes:
        resampling: All of them but `group`.
        group: Number of channels.
    """

    #: Input name to number of dimensions, in the node's order.
    ranks: ClassVar[Mapping[str, int]] = UPFIRDN2D_RANKS

    resampling: Resampling
    group: int

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Upfirdn2dNode:
        """From the values of the attributes by name. Integers may be Python's or NumPy's, lists also arrays.

        Raises:
            ValueError: An attribute is missing, unknown, of another type or count, or out of its range.
        """
        values = checked_attributes("Upfirdn2d", attributes, UPFIRDN2D_ATTRIBUTES)
        group = values.pop("group")
        check_group("Upfirdn2d", group)
        try:
            return cls(Resampling.of(**values), group)
        except ValueError as error:
            raise ValueError(f"Upfirdn2d: {str(error).removeprefix('upfirdn2d: ')}") from None

    def check_shapes(self, shapes: Mapping[str, Sizes]) -> None:
        """Check the shapes of the inputs by name, as far as they are known.

        Raises:
            ValueError: A wrong number of dimensions, a `group` that is not the number of channels, or no output.
        """
        check_ranks("Upfirdn2d", shapes, self.ranks)
        x, f = shapes["x"], shapes["f"]
        if x[1] not in (None, self.group):
            raise ValueError(f"Upfirdn2d: group is {self.group}, not {x[1]}, the number of channels")
        for axis in (0, 1):
            size, taps, (before, after) = x[2 + axis], f[axis], self.resampling.sides(axis)
            if size is not None and taps is not None and size * self.resampling.up[axis] + before + after < taps:
                raise ValueError(f"Upfirdn2d: {size} pixels of axis {'yx'[axis]} after padding are fewer than {taps} taps")


@dataclass(frozen=True)
class ModulatedConv2dNode:
    """The attributes of a ModulatedConv2d node.

    Attributes:
        up: 1 or 2.
        epilogue: Slope (`alpha`), gain and clamp.
        group: Number of output channels.
    """

    #: Input name to number of dimensions, in the node's order.
    ranks: ClassVar[Mapping[str, int]] = MODULATED_CONV2D_RANKS

    up: int
    epilogue: Epilogue
    group: int

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> ModulatedConv2dNode:
        """From the values of the attributes by name.

        Raises:
            ValueError: An attribute is missing, unknown, of another type, or out of its range.
        """
        values = checked_attributes("ModulatedConv2d", attributes, MODULATED_CONV2D_ATTRIBUTES)
        if values["up"] not in (1, 2):
            raise ValueError(f"ModulatedConv2d: up must be 1 or 2, not {values['up']}")
        check_group("ModulatedConv2d", values["group"])
        try:
            epilogue = Epilogue(values["alpha"], values["gain"], values["clamp"])
        except ValueError as error:
            raise ValueError(f"ModulatedConv2d: {error}") from None
        return cls(values["up"], epilogue, values["group"])

    def check_shapes(self, shapes: Mapping[str, Sizes], folded: bool = False) -> None:
        """Check the shapes of the inputs, as far as they are known.

        Args:
            shapes: All inputs by name.
            folded: Whether the weight is folded and channels last: `[P, O, K, K, I]`, P 4 for `up` 2, else 1
                (`fir_folding.channels_last_phases`). Only the TensorRT plugin takes such weights.

        Raises:
            ValueError: A wrong number of dimensions, or sizes that do not fit together.
        """
        check_ranks("ModulatedConv2d", shapes, modulated_conv2d_ranks(folded))
        if folded:
            phases, o, kh, kw, i = shapes["weight"]
            check_phases(self.up, phases)
        else:
            o, i, kh, kw = shapes["weight"]
        if kh is not None and kw is not None:
            check_kernel(self.up, kh, kw)
        if o not in (None, self.group):
            raise ValueError(f"ModulatedConv2d: group is {self.group}, not {o}, the number of output channels")
        n, (_, _, h, w) = shapes["style"][0], shapes["x"]
        out_h, out_w = (None if size is None else size * self.up for size in (h, w))
        allowed: dict[str, list[tuple[int | None, ...]]] = {
            "x": [(1, n), (i,), (h,), (w,)],
            "style": [(n,), (i,)],
            "demod": [(n,), (self.group,)],
            "noise": [(1, n), (1,), (1, out_h), (1, out_w)],
            "bias": [(self.group,)],
        }
        if self.up == 2:
            allowed["f"] = [(FIR_TAPS,), (FIR_TAPS,)]
        for name, sizes in allowed.items():
            pairs = zip(shapes[name], sizes, strict=True)
            if any(size is not None and None not in choices and size not in choices for size, choices in pairs):
                expected = ", ".join(" or ".join(map(str, dict.fromkeys(choices))) for choices in sizes)
                raise ValueError(f"ModulatedConv2d: {name} is {list(shapes[name])}, not [{expected}]")


#: Name of each operator to the class that reads its nodes.
NODES: Mapping[str, type[Upfirdn2dNode] | type[ModulatedConv2dNode]] = {
    "Upfirdn2d": Upfirdn2dNode,
    "ModulatedConv2d": ModulatedConv2dNode,
}


def modulated_conv2d_ranks(folded: bool) -> dict[str, int]:
    """Input name to number of dimensions. A folded weight has a phase axis in front."""
    return MODULATED_CONV2D_RANKS | ({"weight": 5} if folded else {})


def check_phases(up: int, phases: int | None) -> None:
    """Refuse a folded weight with another number of phases than `up` has. None is not known.

    Raises:
        ValueError: It is not 4 for `up` 2, or not 1 for `up` 1.
    """
    if phases not in (None, up * up):
        raise ValueError(f"ModulatedConv2d: a folded weight has {up * up} phases for up {up}, not {phases}")


def check_kernel(up: int, kh: int, kw: int) -> None:
    """Refuse a kernel `kh` x `kw` that a ModulatedConv2d node does not define.

    Raises:
        ValueError: It is not square and odd, or `up` is 2 and it is not 3x3, or `up` is neither 1 nor 2.
    """
    if up not in (1, 2) or kh != kw or kh % 2 == 0 or (up == 2 and kh != 3):
        raise ValueError(f"ModulatedConv2d: up is 1 with a square, odd kernel, or 2 with a 3x3 one, not {up} with {kh}x{kw}")


def checked_attributes(
    operator: str, attributes: Mapping[str, Any], kinds: Mapping[str, tuple[type, int | None]]
) -> dict[str, Any]:
    """The attributes as Python's ints, floats and lists, each of the type and count that `kinds` asks for.

    Raises:
        ValueError: An attribute is missing, unknown, of another type or count, not finite, or beyond `MAX_OFFSET`.
    """
    given = {name: value for name, value in attributes.items() if name not in PARSER_ATTRIBUTES}
    missing, unknown = sorted(kinds.keys() - given.keys()), sorted(given.keys() - kinds.keys())
    if missing or unknown:
        parts = [f"{what} {', '.join(names)}" for what, names in (("lacks", missing), ("does not know", unknown)) if names]
        raise ValueError(f"{operator}: the node {' and '.join(parts)}")
    values = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in given.items()}
    for name, (kind, count) in kinds.items():
        value = values[name]
        numbers = value if count is not None and isinstance(value, list | tuple) else [value]
        noun = {int: "whole number", float: "floating-point number"}[kind]
        if len(numbers) != (count or 1) or any(type(number) is not kind for number in numbers):
            expected = f"a {noun}" if count is None else f"{count} {noun}s"
            raise ValueError(f"{operator}: {name} must be {expected}, not {value!r:.60}")
        if any(not math.isfinite(number) or (kind is int and abs(number) > MAX_OFFSET) for number in numbers):
            raise ValueError(f"{operator}: {name} is out of range: {value!r:.60}")
    return values


def check_group(operator: str, group: int) -> None:
    """Refuse a number of channels below 1 with a ValueError."""
    if group < 1:
        raise ValueError(f"{operator}: group must be at least 1, not {group}")
