"""The network on our kernels, in Triton's interpreter, against the PyTorch network."""

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
    """dB over the range of the reference, which random weights do not keep within [-1, 1]."""
    reach = float(reference.max() - reference.min())
    return 20 * np.log10(reach / float((image - reference).square().mean().sqrt()))


def exact(net, ws):
    """In float32, which the network's float32 styles are."""
    return net(ws, noise_mode="const").permute(0, 2, 3, 1).double()


#: At least this many dB; int8 and FP8 are scaled by the largest activation alone, of the latents that are drawn.
FLOOR = {"fp32": 90, "fp16": 45, "bf16": 28, "int8": 24, "fp8": 20}


@pytest.mark.parametrize(
    ("precision", "fused"),
    [(p, True) for p in FLOOR] + [("fp16", False)],
    ids=lambda v: {True: "fused", False: "apart"}.get(v, v),
)
def test_the_image_is_the_networks(rng, precision, fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(kernel_synthesis, "RGB_CHANNELS", 0)
    net = network(rng, img_channels=int(rng.integers(1, 5)), conv_clamp=[None, 256.0][int(rng.integers(2))])
    n = int(rng.integers(1, 3))
    ws = latents(rng, net, n)
    prepared = calibrate(net, prepare(net, precision, "cpu"), ws)
    image = KernelSynthesis(prepared, n, output="float")(ws).double()
    assert psnr(image, exact(net, ws)) >= FLOOR[precision]


def test_the_bytes_are_those_of_the_float_image(rng):
    net = network(rng)
    ws = latents(rng, net, 2)
    prepared = prepare(net, "fp32", "cpu")
    expected = (KernelSynthesis(prepared, 2, output="float")(ws) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    assert torch.equal(KernelSynthesis(prepared, 2)(ws), expected)


def test_what_the_kernels_cannot_run_is_refused(rng):
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
