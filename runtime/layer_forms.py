"""The graph forms that ONNX Runtime gets in float32, by the class of the processor.

A bundle is portable, and holds the layers as operator nodes. So the forms are chosen when a network is opened, or built
into an engine. `stylert tune` measures single layers on one machine and writes a file of its own, which stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylert.core.errors import BackendError, BundleError, shown_line
from stylert.core.machine.processor_class import AMX, ARM, AVX2, AVX512_VNNI, OTHER, ProcessorClass, processor_class
from stylert.runtime.network_files import MAX_BYTES, may_hold_our_nodes, parsed

if TYPE_CHECKING:
    from stylert.plugins.winograd_rewrite import ConvNode


#: Room for the constants that the forms add to a file.
SPARE_BYTES = 2**26


@dataclass(frozen=True)
class WinogradRule:
    """The layers that are computed by Winograd's F(m x m, 3x3). All others are direct or transposed convolutions.

    Attributes:
        tile: m.
        min_channels: The least number of output channels. With few, the transforms cost more than the products.
        sides: The least and the greatest input size of a layer without upsampling, in pixels.
        up_sides: The same of an upsampling layer.
        reason: Where the rule comes from.
    """

    tile: int
    min_channels: int
    sides: tuple[int, int]
    up_sides: tuple[int, int]
    reason: str

    def tile_of(self, conv: ConvNode) -> int | None:
        """The tile size for a layer, or None."""
        least, greatest = self.sides if conv.up == 1 else self.up_sides
        fits = conv.out_channels >= self.min_channels and least <= min(conv.size) <= max(conv.size) <= greatest
        return self.tile if fits else None

    @property
    def name(self) -> str:
        """The layers in words. Engines are known by it."""
        (least, greatest), (up_least, up_greatest) = self.sides, self.up_sides
        layers = f"{least} to {greatest} px, upsampling {up_least} to {up_greatest} px"
        return f"winograd {self.tile}x{self.tile} in layers of {self.min_channels} channels and more: {layers}"


_MEASURED = WinogradRule(4, 128, (16, 256), (64, 128), "measured on an AMD Zen 4, docs/decisions/export-winograd.md")


def _like_measured(reason: str) -> WinogradRule:
    return replace(_MEASURED, reason=reason)


#: A row for each class. Multiplications in float32 limit ONNX Runtime's direct convolution on all of them.
RULES: dict[ProcessorClass, WinogradRule] = {
    AVX512_VNNI: _MEASURED,
    AMX: _like_measured("the same rule gains on a Xeon with AMX, docs/decisions/export-openvino-passes.md"),
    AVX2: _like_measured("single layers measured on an AMD Zen 3; narrower vectors make multiplications dearer still"),
    ARM: _like_measured("not measured: narrower vectors make multiplications dearer still"),
    OTHER: _like_measured("not measured: without wide vectors, multiplications limit a convolution"),
}


def layer_forms(network: Path) -> tuple[bytes | None, dict[str, Any]]:
    """The float32 network of a file in the forms of this processor's class.

    Returns:
        The network, or None where the file is best as it is; and the facts for `engine.json`.

    Raises:
        BundleError: The file cannot be read, or its operator nodes are not valid.
        BackendError: There is too little memory.
    """
    chosen = processor_class()
    rule = RULES[chosen]
    facts: dict[str, Any] = {"class": chosen.name, "winograd": [], "rule": rule.name, "reason": rule.reason}
    if not may_hold_our_nodes(network):  # such as the mapping network
        return None, facts
    from stylert.plugins.onnx_functions import check_nodes  # imports onnx, which takes as long as opening a small network
    from stylert.plugins.winograd_rewrite import rewrite_as_winograd

    try:
        # A file near the limit of protobuf has no room for the tables of pixels.
        is_full = network.stat().st_size > MAX_BYTES - SPARE_BYTES
        model = parsed(network)
        check_nodes(model)
        rewritten = [] if is_full else rewrite_as_winograd(model, rule.tile_of)
        facts["winograd"] = [conv.name for conv in rewritten]
        return model.SerializeToString() if rewritten else None, facts
    except MemoryError as e:
        raise BackendError(f"not enough memory to load {network}") from e
    except BundleError:
        raise
    except Exception as e:  # a network that is not valid fails in many ways
        raise BundleError(f"{network}: {shown_line(str(e)) or type(e).__name__}") from None
