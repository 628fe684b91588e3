"""The operators of each layer, with the arithmetic and the memory traffic of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stylert.core.roofline import PeakRates, lower_bound_ms
from stylert.models.stylegan2.config import GeneratorConfig, LayerSpec
from stylert.plugins.triton.tiles import ITEMSIZE

#: Taps of the 4x4 FIR.
FIR_TAPS = 16
#: Taps that meet an input sample in a 2x upsampling, in which three of four samples are inserted zeros.
FIR_TAPS_UP2 = 4


@dataclass(frozen=True)
class LayerOperator:
    """One operator at the shape of one layer.

    Attributes:
        name: `modulated_conv2d`, `upfirdn2d` or `bias_act`.
        layer: Name of the layer.
        spec: Channels and sizes of the layer. For `upfirdn2d` they are those of the RGB image.
    """

    name: str
    layer: str
    spec: LayerSpec

    def flops(self, batch: int) -> int:
        """Floating-point operations of the definition.

        A multiplication with an addition counts as two. A transposed convolution counts at the size of its input.
        """
        spec = self.spec
        outputs = batch * spec.out_channels * spec.height * spec.width
        if self.name == "upfirdn2d":
            return 2 * FIR_TAPS_UP2 * outputs
        if self.name == "bias_act":
            return 4 * outputs
        pixels = (spec.height // spec.up) * (spec.width // spec.up)
        convolution = 2 * batch * spec.in_channels * spec.out_channels * spec.kernel**2 * pixels
        fir = 2 * FIR_TAPS * outputs if spec.up == 2 else 0
        return convolution + fir

    def bytes_moved(self, batch: int, dtype: str, activation_dtype: str | None = None) -> int:
        """Bytes of memory traffic when every operand is read once and every result is written once.

        Args:
            batch: Images.
            dtype: Format of the weights.
            activation_dtype: Format of the activations; `dtype` by default.
        """
        spec = self.spec
        activation_bytes = ITEMSIZE[activation_dtype or dtype]
        outputs = batch * spec.out_channels * spec.height * spec.width
        if self.name == "bias_act":
            return 2 * outputs * activation_bytes
        inputs = batch * spec.in_channels * (spec.height // spec.up) * (spec.width // spec.up)
        activations = (inputs + outputs) * activation_bytes
        if self.name == "upfirdn2d":
            return activations
        weights = spec.in_channels * spec.out_channels * spec.kernel**2 * ITEMSIZE[dtype]
        noise = 4 * spec.height * spec.width if spec.kind == "conv" else 0
        return activations + weights + noise

    def lower_bound_ms(self, batch: int, dtype: str, rates: PeakRates, activation_dtype: str | None = None) -> float:
        """Milliseconds that the operator takes at least; arguments as in `bytes_moved`."""
        return lower_bound_ms(self.flops(batch), self.bytes_moved(batch, dtype, activation_dtype), dtype, rates)


def layer_operators(config: GeneratorConfig, resolutions: Sequence[int]) -> Iterator[LayerOperator]:
    """The operators of every layer at `resolutions`, in the order of the network.

    They are the convolutions, the upsampling of the RGB image, and the `bias_act` that training runs by itself.
    """
    for spec in config.layers():
        if spec.resolution not in resolutions:
            continue
        yield LayerOperator("modulated_conv2d", spec.name, spec)
        if spec.kind == "conv" and spec.up == 1:
            yield LayerOperator("bias_act", f"{spec.name}.tail", spec)
        if spec.kind == "torgb" and spec.resolution > 4:
            channels = spec.out_channels
            name = f"b{spec.resolution}.skip"
            upsampling = LayerSpec(name, "torgb", spec.resolution, channels, channels, 4, 2, 0, spec.height, spec.width)
            yield LayerOperator("upfirdn2d", name, upsampling)
