"""The forms of each operator that `layers.py` compares: functions that compute the same numbers from random operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stylert.benchmarks.kernels.gpu_rates import eight_bit_product
from stylert.benchmarks.machine.layer_operators import LayerOperator

#: One way to compute an operator: it takes nothing and returns the result.
Form = Callable[[], Any]

#: Largest error of a form, relative to the largest value of its reference, by dtype of the weights.
TOLERANCE = {"float16": 1e-2, "bfloat16": 8e-2, "float32": 5e-3, "int8": 1e-2, "fp8": 1e-2}


def operator_forms(operator: LayerOperator, batch: int, dtype: str, device: str) -> tuple[dict[str, Form], Any]:
    """The forms of one operator by name, and its reference result.

    Args:
        operator: The operator and its shape.
        batch: Images.
        dtype: Name of a torch dtype, or `int8` or `fp8` for the weights alone.
        device: `cuda`, or `cpu` for Triton's interpreter.

    Returns:
        Forms and the float32 result that they should give. Both are of the same operands and of the same layout.
    """
    import torch

    if dtype in ("int8", "fp8"):
        return _eight_bit_forms(operator, batch, torch.int8 if dtype == "int8" else torch.float8_e4m3fn, device)
    make_forms = {"modulated_conv2d": _modulated_conv2d_forms, "upfirdn2d": _upfirdn2d_forms, "bias_act": _bias_act_forms}
    return make_forms[operator.name](operator, batch, getattr(torch, dtype), device)


def _modulated_conv2d_forms(operator: LayerOperator, batch: int, dtype: Any, device: str) -> tuple[dict[str, Form], Any]:
    import torch
    import torch.nn.functional as F

    from stylert.plugins.fir_folding import fold
    from stylert.plugins.reference.modulated_conv2d import demodulation, modulated_conv2d
    from stylert.plugins.reference.upfirdn2d import setup_filter
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.modulated_conv2d import conv_problem, modulated_conv2d_into, workspace_elements
    from stylert.plugins.triton.tiles import choose_tile

    spec = operator.spec
    is_conv = spec.kind == "conv"
    size = spec.resolution // spec.up
    activation = "lrelu" if is_conv else "linear"

    # The operands of the definition.
    x = torch.randn(batch, spec.in_channels, size, size, device=device)
    style = torch.randn(batch, spec.in_channels, device=device)
    weight = torch.randn(spec.out_channels, spec.in_channels, spec.kernel, spec.kernel, device=device)
    weight = weight / (spec.in_channels * spec.kernel**2) ** 0.5
    demod = demodulation(weight, style) if is_conv else None
    noise = torch.randn(spec.resolution, spec.resolution, device=device) if is_conv else None
    bias = torch.randn(spec.out_channels, device=device)
    f = setup_filter().to(device)
    options: dict[str, Any] = {"up": spec.up, "f": f if spec.up == 2 else None, "activation": activation, "clamp": 256.0}
    x, weight = x.to(dtype), weight.to(dtype)
    reference = modulated_conv2d(x.float(), weight.float(), style, demod, noise, bias, **options)

    # The same in the layouts of the kernel.
    folded = fold(weight.float(), f).to(dtype) if spec.up == 2 else weight[None]
    phases = folded.permute(0, 1, 3, 4, 2).contiguous()
    x_nhwc = x.permute(0, 2, 3, 1).contiguous()
    noise_maps = None if noise is None else noise.expand(batch, -1, -1)
    # An element that the kernel does not write stays NaN.
    y = torch.full((batch, spec.resolution, spec.resolution, spec.out_channels), float("nan"), device=device, dtype=dtype)
    epilogue = Epilogue.of(activation, clamp=256.0)
    tile = choose_tile(conv_problem(x_nhwc, phases))
    elements = workspace_elements(batch, size**2, spec.out_channels, spec.up**2, tile.splits)
    workspace = torch.empty(elements, device=device) if elements else None
    # The interpreter cannot multiply bfloat16.
    precision = "ieee" if device == "cpu" and dtype == torch.bfloat16 else "tf32x3"

    def kernel() -> Any:
        modulated_conv2d_into(
            y, x_nhwc, phases, style, demod, noise_maps, bias,
            epilogue=epilogue, tile=tile, precision=precision, workspace=workspace,
        )  # fmt: skip
        return y.permute(0, 3, 1, 2)

    def definition() -> Any:
        return modulated_conv2d(x, weight, style, demod, noise, bias, **options)

    # The same in the layouts and dtypes of cuDNN.
    x_last, weight_last = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    transposed = weight.transpose(0, 1).contiguous(memory_format=torch.channels_last)
    blur = (f * 4).to(dtype).expand(spec.out_channels, 1, 4, 4).contiguous()
    style_nchw = style.to(dtype)[:, :, None, None]
    demod_nchw = None if demod is None else demod.to(dtype)[:, :, None, None]
    noise_map = None if noise is None else noise.to(dtype)
    bias_nchw = bias.to(dtype)[:, None, None]

    def cudnn() -> Any:
        v = x_last * style_nchw
        if spec.up == 2:
            v = F.conv2d(F.conv_transpose2d(v, transposed, stride=2), blur, padding=1, groups=spec.out_channels)
        else:
            v = F.conv2d(v, weight_last, padding=spec.kernel // 2)
        if demod_nchw is not None and noise_map is not None:
            v = v * demod_nchw + noise_map
        v = v + bias_nchw
        if is_conv:
            v = F.leaky_relu(v, 0.2) * 2**0.5
        return v.clamp(-256, 256)

    return {"kernel": kernel, "eager": definition, "compile": _compiled(definition, device), "cudnn": cudnn}, reference


def _eight_bit_forms(operator: LayerOperator, batch: int, eight_bit: Any, device: str) -> tuple[dict[str, Form], Any]:
    """A convolution whose weights and modulated activations are 8-bit; it reads and writes float16 `[N, H, W, C]`."""
    import torch
    import torch.nn.functional as F

    from stylert.plugins.eight_bit import LARGEST, layer_operands, quantize_weight
    from stylert.plugins.fir_folding import fold
    from stylert.plugins.reference.bias_act import bias_act
    from stylert.plugins.reference.modulated_conv2d import demodulation
    from stylert.plugins.reference.upfirdn2d import setup_filter
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.modulated_conv2d import conv_problem, modulated_conv2d_into, workspace_elements
    from stylert.plugins.triton.tiles import choose_tile

    spec, largest = operator.spec, LARGEST[eight_bit]
    is_int8 = eight_bit == torch.int8
    size = spec.resolution // spec.up
    pixels, phase_count = batch * size**2, spec.up**2

    x = torch.randn(batch, size, size, spec.in_channels, device=device).half()
    style = torch.randn(batch, spec.in_channels, device=device)
    bias = torch.randn(spec.out_channels, device=device)
    noise = torch.randn(spec.resolution, spec.resolution, device=device).expand(batch, -1, -1)
    weight = torch.randn(spec.out_channels, spec.in_channels, spec.kernel, spec.kernel, device=device)
    folded = fold(weight, setup_filter().to(device)) if spec.up == 2 else weight[None]
    phases, weight_scale = quantize_weight(folded.permute(0, 1, 3, 4, 2), eight_bit)
    phases = phases.contiguous()
    activation_scale = float((x.float() * style[:, None, None]).abs().max()) / largest
    style, demod = layer_operands(style, demodulation(weight, style), activation_scale, weight_scale)

    # An element that the kernel does not write stays NaN.
    shape = (batch, spec.resolution, spec.resolution, spec.out_channels)
    y = torch.full(shape, float("nan"), device=device, dtype=torch.float16)
    epilogue = Epilogue.of("lrelu", clamp=256.0)
    tile = choose_tile(conv_problem(x, phases))
    elements = workspace_elements(batch, size**2, spec.out_channels, phase_count, tile.splits)
    accumulator = torch.int32 if is_int8 else torch.float32
    workspace = torch.empty(elements, device=device, dtype=accumulator) if elements else None
    # The interpreter cannot round to FP8.
    precision = "ieee" if device == "cpu" and not is_int8 else "tf32x3"

    def kernel() -> Any:
        modulated_conv2d_into(
            y, x, phases, style, demod, noise, bias,
            epilogue=epilogue, tile=tile, precision=precision, workspace=workspace,
        )  # fmt: skip
        return y

    def quantized_activations() -> Any:
        scaled = (x.float() * style[:, None, None]).clamp(-largest, largest)
        return (scaled.round() if is_int8 else scaled).to(eight_bit)

    def apply_epilogue(sums: Any) -> Any:
        """From sums `[N, H, W, phase, O]` to the layer's result in float32."""
        v = (sums.float() * demod[:, None, None, None]).reshape(batch, size, size, spec.up, spec.up, spec.out_channels)
        v = v.permute(0, 1, 3, 2, 4, 5).reshape(shape) + noise[..., None]
        return bias_act(v.permute(0, 3, 1, 2), bias, activation="lrelu", clamp=256.0).permute(0, 2, 3, 1)

    # cuBLAS takes matrices of at least 17 rows with sides that are multiples of 16, so both factors are padded. They are moved
    # as int8, since PyTorch has few operations for FP8.
    factor = phases.view(torch.int8).reshape(phase_count * spec.out_channels, -1)
    factor = F.pad(factor, (0, -factor.shape[1] % 16, 0, -factor.shape[0] % 16)).contiguous().view(eight_bit)

    def definition() -> Any:
        padded = F.pad(quantized_activations().view(torch.int8), (0, 0, *[spec.kernel // 2] * 4))
        windows = padded.unfold(1, spec.kernel, 1).unfold(2, spec.kernel, 1)
        rows = windows.permute(0, 1, 2, 4, 5, 3).reshape(pixels, -1)
        rows = F.pad(rows, (0, factor.shape[1] - rows.shape[1], 0, max(0, 32 - pixels)))
        sums = eight_bit_product(rows.view(eight_bit), factor)[:pixels, : phase_count * spec.out_channels]
        return apply_epilogue(sums.reshape(batch, size, size, phase_count, spec.out_channels)).half()

    # In float64 the sums of the rounded numbers are exact.
    values = F.pad(quantized_activations().double().permute(0, 3, 1, 2), [spec.kernel // 2] * 4)
    sums = [F.conv2d(values, taps.double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1) for taps in phases]
    reference = apply_epilogue(torch.stack(sums, 3))
    return {"kernel": kernel, "eager": definition, "compile": _compiled(definition, device)}, reference


def _upfirdn2d_forms(operator: LayerOperator, batch: int, dtype: Any, device: str) -> tuple[dict[str, Form], Any]:
    import torch
    import torch.nn.functional as F

    from stylert.plugins.reference.upfirdn2d import setup_filter, upsample2d
    from stylert.plugins.shapes import Resampling
    from stylert.plugins.triton.upfirdn2d import upfirdn2d_into

    spec, f = operator.spec, setup_filter().to(device)
    x = torch.randn(batch, spec.in_channels, spec.resolution // 2, spec.resolution // 2, device=device).to(dtype)
    reference = upsample2d(x.float(), f)
    resampling = Resampling.of(up=2, padding=(2, 1, 2, 1), gain=4.0)
    y = torch.full(reference.shape, float("nan"), device=device, dtype=dtype)
    taps = (f * 4).to(dtype).expand(spec.in_channels, 1, 4, 4).contiguous()

    def kernel() -> Any:
        upfirdn2d_into(y, x, f, resampling)
        return y

    def definition() -> Any:
        return upsample2d(x, f)

    def cudnn() -> Any:
        """Zero insertion and FIR as one depthwise transposed convolution."""
        return F.conv_transpose2d(x, taps, stride=2, padding=1, groups=spec.in_channels)

    return {"kernel": kernel, "eager": definition, "compile": _compiled(definition, device), "cudnn": cudnn}, reference


def _bias_act_forms(operator: LayerOperator, batch: int, dtype: Any, device: str) -> tuple[dict[str, Form], Any]:
    import torch

    from stylert.plugins.reference.bias_act import bias_act
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.bias_act import bias_act_into

    spec, epilogue = operator.spec, Epilogue.of("lrelu", clamp=256.0)
    x = torch.randn(batch, spec.out_channels, spec.resolution, spec.resolution, device=device).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    bias, y = torch.randn(spec.out_channels, device=device), torch.full_like(x, float("nan"))
    channel_stride = 1 if x.stride(1) == 1 else spec.resolution**2
    reference = bias_act(x.float(), bias, activation="lrelu", clamp=256.0)

    def kernel() -> Any:
        bias_act_into(y, x, bias, epilogue, channel_stride=channel_stride)
        return y

    def definition() -> Any:
        return bias_act(x, bias, activation="lrelu", clamp=256.0)

    return {"kernel": kernel, "eager": definition, "compile": _compiled(definition, device)}, reference


def _compiled(definition: Form, device: str) -> Form:
    import torch

    # Without a reset, torch.compile takes the layers for one function with ever more shapes.
    torch._dynamo.reset()
    compiled: Form = torch.compile(definition, backend="inductor" if device == "cuda" else "aot_eager", dynamic=False)
    return compiled
