"""Each operator in the forms that `layers.py` compares: on random operands, calls that compute the same numbers."""

from __future__ import annotations

from typing import Any

from stylert.benchmarks.kernels.command_line import Call, eight_bit_product
from stylert.benchmarks.machine.roofline import Case


def forms_of(case: Case, batch: int, dtype: str, device: str) -> tuple[dict[str, Call], Any]:
    """The calls by name, and what they should give in float32. `dtype` is torch's name of one, or int8 or fp8 for the weights."""
    import torch

    if dtype in ("int8", "fp8"):
        return _eight_bit_forms(case, batch, torch.int8 if dtype == "int8" else torch.float8_e4m3fn, device)
    make = {"modulated_conv2d": _modulated_conv2d_forms, "upfirdn2d": _upfirdn2d_forms, "bias_act": _bias_act_forms}
    return make[case.kernel](case, batch, getattr(torch, dtype), device)


def _modulated_conv2d_forms(case: Case, batch: int, dtype: Any, device: str) -> tuple[dict[str, Call], Any]:
    import torch
    import torch.nn.functional as F

    from stylert.plugins.polyphase import fold
    from stylert.plugins.reference.modulated_conv2d import demodulation, modulated_conv2d
    from stylert.plugins.reference.upfirdn2d import setup_filter
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.modulated_conv2d import conv_problem, modulated_conv2d_into, workspace_elements
    from stylert.plugins.triton.tiles import choose_tile

    s, conv = case.spec, case.spec.kind == "conv"
    size = s.resolution // s.up
    exact: dict[str, Any] = {"device": device, "dtype": torch.float32}
    x, style = torch.randn(batch, s.in_channels, size, size, **exact), torch.randn(batch, s.in_channels, **exact)
    weight = torch.randn(s.out_channels, s.in_channels, s.kernel, s.kernel, **exact) / (s.in_channels * s.kernel**2) ** 0.5
    demod = demodulation(weight, style) if conv else None
    noise = torch.randn(s.resolution, s.resolution, **exact) if conv else None
    bias, f = torch.randn(s.out_channels, **exact), setup_filter().to(device)
    activation = "lrelu" if conv else "linear"
    named: dict[str, Any] = {"up": s.up, "f": f if s.up == 2 else None, "activation": activation, "clamp": 256.0}
    x, weight = x.to(dtype), weight.to(dtype)
    reference = modulated_conv2d(x.float(), weight.float(), style, demod, noise, bias, **named)

    phases = (fold(weight.float(), f).to(dtype) if s.up == 2 else weight[None]).permute(0, 1, 3, 4, 2).contiguous()
    nhwc, tail = x.permute(0, 2, 3, 1).contiguous(), Epilogue.of(activation, clamp=256.0)
    y = torch.full((batch, s.resolution, s.resolution, s.out_channels), float("nan"), device=device, dtype=dtype)
    noise_map = None if noise is None else noise.expand(batch, -1, -1)
    # The interpreter cannot multiply bfloat16.
    precision = "ieee" if device == "cpu" and dtype == torch.bfloat16 else "tf32x3"

    tile = choose_tile(conv_problem(nhwc, phases))
    elements = workspace_elements(batch, size**2, s.out_channels, s.up**2, tile.splits)
    work = torch.empty(elements, device=device) if elements else None

    def kernel() -> Any:
        modulated_conv2d_into(
            y, nhwc, phases, style, demod, noise_map, bias, tail=tail, tile=tile, precision=precision, workspace=work
        )
        return y.permute(0, 3, 1, 2)

    def definition() -> Any:
        return modulated_conv2d(x, weight, style, demod, noise, bias, **named)

    x_last, w_last = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    transposed = weight.transpose(0, 1).contiguous(memory_format=torch.channels_last)
    blur = (f * 4).to(dtype).expand(s.out_channels, 1, 4, 4).contiguous()
    style_4, noise_4, bias_4 = style.to(dtype)[:, :, None, None], noise if noise is None else noise.to(dtype), bias.to(dtype)

    def cudnn() -> Any:
        v = x_last * style_4
        if s.up == 2:
            v = F.conv2d(F.conv_transpose2d(v, transposed, stride=2), blur, padding=1, groups=s.out_channels)
        else:
            v = F.conv2d(v, w_last, padding=s.kernel // 2)
        if demod is not None and noise_4 is not None:
            v = v * demod.to(dtype)[:, :, None, None] + noise_4
        v = v + bias_4[:, None, None]
        return (F.leaky_relu(v, 0.2) * 2**0.5 if conv else v).clamp(-256, 256)

    return {"kernel": kernel, "eager": definition, "compile": _compiled(definition, device), "cudnn": cudnn}, reference


def _eight_bit_forms(case: Case, batch: int, narrow: Any, device: str) -> tuple[dict[str, Call], Any]:
    """A convolution with weights and modulated activations in 8 bits, float16 in and out."""
    import torch
    import torch.nn.functional as F

    from stylert.plugins.eight_bit import LARGEST, layer_operands, quantize_weight
    from stylert.plugins.polyphase import fold
    from stylert.plugins.reference.bias_act import bias_act
    from stylert.plugins.reference.modulated_conv2d import demodulation
    from stylert.plugins.reference.upfirdn2d import setup_filter
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.modulated_conv2d import conv_problem, modulated_conv2d_into, workspace_elements
    from stylert.plugins.triton.tiles import choose_tile

    s, largest = case.spec, LARGEST[narrow]
    size = s.resolution // s.up
    x = torch.randn(batch, size, size, s.in_channels, device=device).half()
    style, bias = torch.randn(batch, s.in_channels, device=device), torch.randn(s.out_channels, device=device)
    noise = torch.randn(s.resolution, s.resolution, device=device).expand(batch, -1, -1)
    weight = torch.randn(s.out_channels, s.in_channels, s.kernel, s.kernel, device=device)
    folded = fold(weight, setup_filter().to(device)) if s.up == 2 else weight[None]
    phases, scale = quantize_weight(folded.permute(0, 1, 3, 4, 2), narrow)
    phases = phases.contiguous()
    activation_scale = float((x.float() * style[:, None, None]).abs().max()) / largest
    style, demod = layer_operands(style, demodulation(weight, style), activation_scale, scale)
    y = torch.full((batch, s.resolution, s.resolution, s.out_channels), float("nan"), device=device, dtype=torch.float16)
    tail, tile = Epilogue.of("lrelu", clamp=256.0), choose_tile(conv_problem(x, phases))
    elements = workspace_elements(batch, size**2, s.out_channels, s.up**2, tile.splits)
    work = (
        torch.empty(elements, device=device, dtype=torch.int32 if narrow == torch.int8 else torch.float32) if elements else None
    )
    # The interpreter cannot round to FP8.
    precision = "ieee" if device == "cpu" and narrow != torch.int8 else "tf32x3"

    def kernel() -> Any:
        modulated_conv2d_into(
            y, x, phases, style, demod, noise, bias, tail=tail, tile=tile, precision=precision, workspace=work
        )
        return y

    def rounded() -> Any:
        units = (x.float() * style[:, None, None]).clamp(-largest, largest)
        return (units.round() if narrow == torch.int8 else units).to(narrow)

    def finished(sums: Any) -> Any:
        """From `[N, H, W, phase, O]`."""
        v = (sums.float() * demod[:, None, None, None]).reshape(batch, size, size, s.up, s.up, s.out_channels)
        v = v.permute(0, 1, 3, 2, 4, 5).reshape(y.shape) + noise[..., None]
        return bias_act(v.permute(0, 3, 1, 2), bias, activation="lrelu", clamp=256.0).permute(0, 2, 3, 1)

    # Bytes are moved as int8, for which every operation is there. The sides of the product are padded to what cuBLAS takes; those
    # of config F are so by themselves, but for the rows of a single image of 4 px.
    columns = phases.view(torch.int8).reshape(s.up**2 * s.out_channels, -1)
    columns = F.pad(columns, (0, -columns.shape[1] % 16, 0, -columns.shape[0] % 16)).contiguous().view(narrow)
    products = batch * size**2

    def definition() -> Any:
        around = F.pad(rounded().view(torch.int8), (0, 0, *[s.kernel // 2] * 4)).unfold(1, s.kernel, 1).unfold(2, s.kernel, 1)
        rows = around.permute(0, 1, 2, 4, 5, 3).reshape(products, -1)
        rows = F.pad(rows, (0, columns.shape[1] - rows.shape[1], 0, max(0, 32 - products)))
        sums = eight_bit_product(rows.view(narrow), columns)[:products, : s.up**2 * s.out_channels]
        return finished(sums.reshape(batch, size, size, s.up**2, s.out_channels)).half()

    # The sums of the rounded numbers are exact in float64.
    values = F.pad(rounded().double().permute(0, 3, 1, 2), [s.kernel // 2] * 4)
    exact = [F.conv2d(values, taps.double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1) for taps in phases]
    reference = finished(torch.stack(exact, 3))
    return {"kernel": kernel, "eager": definition, "compile": _compiled(definition, device)}, reference


def _upfirdn2d_forms(case: Case, batch: int, dtype: Any, device: str) -> tuple[dict[str, Call], Any]:
    import torch
    import torch.nn.functional as F

    from stylert.plugins.reference.upfirdn2d import setup_filter, upsample2d
    from stylert.plugins.shapes import Resampling
    from stylert.plugins.triton.upfirdn2d import upfirdn2d_into

    s, f = case.spec, setup_filter().to(device)
    x = torch.randn(batch, s.in_channels, s.resolution // 2, s.resolution // 2, device=device).to(dtype)
    reference, spec = upsample2d(x.float(), f), Resampling.of(up=2, padding=(2, 1, 2, 1), gain=4.0)
    y = torch.full(reference.shape, float("nan"), device=device, dtype=dtype)
    taps = (f * 4).to(dtype).expand(s.in_channels, 1, 4, 4).contiguous()

    def kernel() -> Any:
        upfirdn2d_into(y, x, f, spec)
        return y

    def definition() -> Any:
        return upsample2d(x, f)

    def cudnn() -> Any:  # zero insertion and filter in one depthwise transposed convolution
        return F.conv_transpose2d(x, taps, stride=2, padding=1, groups=s.in_channels)

    return {"kernel": kernel, "eager": definition, "compile": _compiled(definition, device), "cudnn": cudnn}, reference


def _bias_act_forms(case: Case, batch: int, dtype: Any, device: str) -> tuple[dict[str, Call], Any]:
    import torch

    from stylert.plugins.reference.bias_act import bias_act
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.bias_act import bias_act_into

    s, tail = case.spec, Epilogue.of("lrelu", clamp=256.0)
    x = torch.randn(batch, s.out_channels, s.resolution, s.resolution, device=device).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    b, y = torch.randn(s.out_channels, device=device), torch.full_like(x, float("nan"))
    step = 1 if x.stride(1) == 1 else s.resolution**2
    reference = bias_act(x.float(), b, activation="lrelu", clamp=256.0)

    def kernel() -> Any:
        bias_act_into(y, x, b, tail, step=step)
        return y

    def definition() -> Any:
        return bias_act(x, b, activation="lrelu", clamp=256.0)

    return {"kernel": kernel, "eager": definition, "compile": _compiled(definition, device)}, reference


def _compiled(definition: Call, device: str) -> Call:
    import torch

    # Every layer compiles anew, and would otherwise be taken for one function with ever more shapes.
    torch._dynamo.reset()
    compiled: Call = torch.compile(definition, backend="inductor" if device == "cuda" else "aot_eager", dynamic=False)
    return compiled
