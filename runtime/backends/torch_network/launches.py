"""Launches of the kernels, which replace the nodes of a layer. Each has its weights ready: folded, laid out, on the device.

Tensors are `[N, C, H, W]` between the nodes, as in the ONNX file, and channels last in memory, as the kernels take them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stylert.core.errors import BundleError

if TYPE_CHECKING:
    import torch

    from stylert.plugins.onnx_nodes import ModulatedConv2dNode
    from stylert.plugins.triton.to_rgb import Rgb

#: torgb runs within the convolution up to this many output channels. The registers of a program hold no larger tile.
RGB_CHANNELS = 128


@dataclass(frozen=True)
class RgbLaunch:
    """torgb, the upsampled image of the block below, their sum, and at the end of the network the conversion to bytes.

    Attributes:
        name: The layer.
        weight: `[C, I]`, float32.
        bias: `[C]`, float32.
        clamp: Bound of torgb's result, or 0.
        style_index: Position of the style in the tensor of all styles.
        size: Height and width of the image.
        f: `[4, 4]`, the FIR filter of the upsampling, or None in the first block.
        bytes_out: Whether the image is uint8 `[N, H, W, C]`.
    """

    name: str
    weight: torch.Tensor
    bias: torch.Tensor
    clamp: float
    style_index: int
    size: tuple[int, int]
    f: torch.Tensor | None
    bytes_out: bool

    def __call__(self, operands: list[torch.Tensor]) -> torch.Tensor:
        """The image from the activations, all styles `[L, N, width]`, and with `f` the image of the block below."""
        from stylert.plugins.triton.to_rgb import to_rgb_into

        x, *others = operands
        rgb = self.operands(len(x), (x.shape[2], x.shape[3]), others)
        to_rgb_into(x.permute(0, 2, 3, 1).contiguous(), rgb)
        return self.result(rgb)

    def operands(self, n: int, size: tuple[int, int], others: list[torch.Tensor]) -> Rgb:
        """The kernel's operands, with memory for the image.

        Args:
            n: Number of images.
            size: Height and width of the activations.
            others: The operands of the launch after the activations.

        Raises:
            BundleError: The network gives the image another size.
        """
        import torch

        from stylert.plugins.triton.to_rgb import Rgb

        if size != self.size:
            raise BundleError(f"the network reshapes the image of {self.name} from {list(size)} to {list(self.size)} pixels")
        styles, *skip = others
        channels, i = self.weight.shape
        style = styles[self.style_index, :, :i].contiguous()
        dtype = torch.uint8 if self.bytes_out else torch.float32
        image = torch.empty(n, *size, channels, dtype=dtype, device=self.weight.device)
        below = skip[0].permute(0, 2, 3, 1).contiguous() if skip else None
        return Rgb(image, self.weight, style, self.bias, below, self.f, self.clamp)

    def result(self, rgb: Rgb) -> torch.Tensor:
        """The image as the nodes give it."""
        image: torch.Tensor = rgb.image
        return image if self.bytes_out else image.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class ConvLaunch:
    """A modulated convolution, or with `rgb` also the torgb behind it.

    Attributes:
        name: The layer.
        node: The attributes of the ONNX node.
        shapes: Shapes of the constant operands in the ONNX file, by name.
        weight: `[P, O, k, k, I]`, folded for 2x up, in the type of the activations or in 8 bits.
        bias: `[O]`.
        has_noise: Whether noise is among the operands.
        rgb: torgb, or None.
        keep: Whether the activations are a result beside the image.
    """

    name: str
    node: ModulatedConv2dNode
    shapes: dict[str, tuple[int, ...]]
    weight: torch.Tensor
    bias: torch.Tensor
    has_noise: bool
    rgb: RgbLaunch | None = None
    keep: bool = True

    def with_rgb(self, rgb: RgbLaunch, keep: bool) -> ConvLaunch:
        """The launch that makes the image, too."""
        return replace(self, name=f"{self.name} {rgb.name}", rgb=rgb, keep=keep)

    def __call__(self, operands: list[torch.Tensor]) -> Any:
        """The activations, the image, or both.

        Args:
            operands: x, style, demod, with `has_noise` the noise, and with `rgb` all but the first operand of that.

        Raises:
            BundleError: Their shapes are not those of the operator.
        """
        import torch

        from stylert.plugins.triton.modulated_conv2d import conv_problem, modulated_conv2d_into, workspace_elements
        from stylert.plugins.triton.tiles import choose_tile

        x, style, demod, *others = operands
        noise = others.pop(0) if self.has_noise else None
        self._check_shapes(x, style, demod, noise)
        n, (phases, o) = len(style), self.weight.shape[:2]
        x = x.expand(n, -1, -1, -1).permute(0, 2, 3, 1).contiguous()
        height, width = x.shape[1] * self.node.up, x.shape[2] * self.node.up
        y = torch.empty(n, height, width, o, dtype=x.dtype, device=x.device) if self.keep else None
        rgb = None if self.rgb is None else self.rgb.operands(n, (height, width), others)
        tile = choose_tile(conv_problem(x, self.weight), allow_splits=rgb is None, min_channels=0 if rgb is None else o)
        elements = workspace_elements(n, x.shape[1] * x.shape[2], o, phases, tile.splits)
        accumulator = torch.int32 if self.weight.dtype == torch.int8 else torch.float32
        modulated_conv2d_into(
            y, x, self.weight, style.contiguous(), demod.contiguous(),
            None if noise is None else noise.expand(n, 1, height, width)[:, 0], self.bias,
            epilogue=self.node.epilogue, tile=tile, precision=_precision(self.weight),
            workspace=torch.empty(elements, dtype=accumulator, device=x.device) if elements else None, rgb=rgb,
        )  # fmt: skip
        activations = None if y is None else y.permute(0, 3, 1, 2)
        if self.rgb is None or rgb is None:
            return activations
        image = self.rgb.result(rgb)
        return image if activations is None else (activations, image)

    def _check_shapes(self, x: Any, style: Any, demod: Any, noise: Any) -> None:
        shapes = self.shapes | {"x": tuple(x.shape), "style": tuple(style.shape), "demod": tuple(demod.shape)}
        shapes["noise"] = (1, 1, 1, 1) if noise is None else tuple(noise.shape)
        try:
            self.node.check_shapes(shapes)
        except ValueError as e:
            raise BundleError(f"the network has a node that is not defined: {e}") from None


def _precision(weight: torch.Tensor) -> str:
    """Float32 as three TF32 products. Triton's interpreter on a CPU multiplies neither bfloat16 nor FP8."""
    on_cpu = weight.device.type == "cpu"
    return "ieee" if on_cpu and str(weight.dtype) in ("torch.bfloat16", "torch.float8_e4m3fn") else "tf32x3"
