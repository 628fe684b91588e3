"""The least time that a layer can take: its arithmetic and its memory traffic at a machine's rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stylert.models.stylegan2.config import GeneratorConfig, LayerSpec

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1, "fp8": 1}


@dataclass(frozen=True)
class Case:
    """One operator at one layer's shape. `spec` gives channels and sizes; for the resampling it is that of the image."""

    kernel: str  # modulated_conv2d, upfirdn2d or bias_act
    layer: str
    spec: LayerSpec

    def flops(self, batch: int) -> int:
        """Floating-point operations of the definition, a multiply-add being two."""
        s = self.spec
        outputs = batch * s.out_channels * s.resolution**2
        if self.kernel == "modulated_conv2d":
            product = 2 * batch * s.in_channels * s.out_channels * s.kernel**2 * (s.resolution // s.up) ** 2
            return product + (2 * 16 * outputs if s.up == 2 else 0)
        # Of the 16 taps of a 2x upsampling filter four meet a sample.
        return 2 * 4 * outputs if self.kernel == "upfirdn2d" else 4 * outputs

    def bytes(self, batch: int, dtype: str, activations: str | None = None) -> int:
        """Memory traffic when every operand is read and written once; `activations` are of the same dtype unless it is given."""
        s, size = self.spec, BYTES[activations or dtype]
        outputs = batch * s.out_channels * s.resolution**2
        if self.kernel == "bias_act":
            return 2 * outputs * size
        inputs = batch * s.in_channels * (s.resolution // s.up) ** 2
        weights = s.in_channels * s.out_channels * s.kernel**2 if self.kernel == "modulated_conv2d" else 0
        noise = 4 * s.resolution**2 if s.kind == "conv" and self.kernel == "modulated_conv2d" else 0
        return (inputs + outputs) * size + weights * BYTES[dtype] + noise


@dataclass(frozen=True)
class Ceiling:
    """What the machine can do: TFLOP/s by dtype and GB/s, and where the figures are from."""

    tflops: dict[str, float]
    bandwidth: float
    source: str

    def floor_ms(self, case: Case, batch: int, dtype: str, activations: str | None = None) -> float:
        """Milliseconds below which a layer cannot go, its product in `dtype` (see `Case.bytes`)."""
        arithmetic = case.flops(batch) / (self.tflops[dtype] * 1e12)
        return 1000 * max(arithmetic, case.bytes(batch, dtype, activations) / (self.bandwidth * 1e9))


def cases(config: GeneratorConfig, resolutions: Sequence[int]) -> Iterator[Case]:
    """The operators of every layer: convolutions, the RGB skip's upsampling, and the tail that training has by itself."""
    for spec in config.layers():
        if spec.resolution not in resolutions:
            continue
        yield Case("modulated_conv2d", spec.name, spec)
        if spec.kind == "conv" and spec.up == 1:
            yield Case("bias_act", f"{spec.name}.tail", spec)
        if spec.kind == "torgb" and spec.resolution > 4:
            skip = LayerSpec(
                f"b{spec.resolution}.skip", "torgb", spec.resolution, spec.out_channels, spec.out_channels, 4, 2, 0
            )
            yield Case("upfirdn2d", skip.name, skip)
