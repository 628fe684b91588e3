"""The network on the kernels, in Triton's interpreter, gives the images of the PyTorch network."""

import numpy as np
import pytest
import torch

from stylert.benchmarks.kernels import synthesis as kernel_synthesis
from stylert.benchmarks.kernels.synthesis import KernelSynthesis, calibrate, prepare
from stylert.core.errors import InputError
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.networks import SynthesisNetwork


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def network(rng, **changes):
    cfg = GeneratorConfig(
        **{"resolution": 8, "w_dim": 12, "channel_base": 128, "channel_max": 16, "conv_clamp": 256.0, **changes}
    )
    torch.manual_seed(int(rng.integers(2**31)))
    net = SynthesisNetwork(cfg).requires_grad_(False)
    for name, p in net.named_parameters():
        if name.endswith(("noise_strength", ".bias")):
            p += 0.2 * torch.randn_like(p)
    return net


def latents(rng, net, n):
    return torch.from_numpy(rng.standard_normal((n, net.cfg.num_ws, net.cfg.w_dim)).astype(np.float32))


def psnr(image, reference):
    """In dB over the range of the reference; images of random weights leave [-1, 1]."""
    value_range = float(reference.max() - reference.min())
    return 20 * np.log10(value_range / float((image - reference).square().mean().sqrt()))


def float32_images(net, ws):
    return net(ws, noise_mode="const").permute(0, 2, 3, 1).double()


#: Least PSNR in dB. int8 and FP8 have one activation scale per layer, from the largest activation of the drawn latents.
LEAST_PSNR = {"fp32": 90, "fp16": 45, "bf16": 28, "int8": 24, "fp8": 20}


@pytest.mark.parametrize(
    ("precision", "fused"),
    [(p, True) for p in LEAST_PSNR] + [("fp16", False)],
    ids=lambda v: {True: "fused", False: "separate"}.get(v, v),
)
def test_the_image_is_that_of_the_pytorch_network(rng, precision, fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(kernel_synthesis, "RGB_CHANNELS", 0)
    net = network(rng, img_channels=int(rng.integers(1, 5)), conv_clamp=[None, 256.0][int(rng.integers(2))])
    n = int(rng.integers(1, 3))
    ws = latents(rng, net, n)
    prepared = calibrate(net, prepare(net, precision, "cpu"), ws)
    image = KernelSynthesis(prepared, n, output="float")(ws).double()
    assert psnr(image, float32_images(net, ws)) >= LEAST_PSNR[precision]


def test_the_bytes_are_those_of_the_float_image(rng):
    net = network(rng)
    ws = latents(rng, net, 2)
    prepared = prepare(net, "fp32", "cpu")
    expected = (KernelSynthesis(prepared, 2, output="float")(ws) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    assert torch.equal(KernelSynthesis(prepared, 2)(ws), expected)


def test_unsupported_networks_precisions_and_outputs_are_refused(rng):
    net = network(rng)
    for wrong in (network(rng, architecture="resnet"), network(rng, resample_filter=(1, 2, 1))):
        with pytest.raises(InputError, match="skip architecture"):
            prepare(wrong, "fp32", "cpu")
    with pytest.raises(InputError, match="unknown precision"):
        prepare(net, "fp64", "cpu")
    with pytest.raises(InputError, match="calibrate"):
        KernelSynthesis(prepare(net, "int8", "cpu"), 1)
    for changes in ({"batch": 0}, {"batch": 1, "output": "png"}):
        with pytest.raises(InputError, match="uint8 or float"):
            KernelSynthesis(prepare(net, "fp32", "cpu"), **changes)
