"""The gradients of training, with the kernels in the interpreter, equal those of the networks in float64."""

import pytest
import torch

from stylert.models.stylegan2 import discriminator as discriminator_module
from stylert.models.stylegan2 import generator as generator_module
from stylert.models.stylegan2 import networks
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.plugins import ops
from stylert.train import losses
from stylert.train.augment.resampling import warp

TINY = {"resolution": 8, "channel_base": 32, "channel_max": 4, "mapping_layers": 1}


class Torch:
    """PyTorch with `dtype` in place of float32. It draws the same random numbers for every dtype."""

    def __init__(self, dtype):
        self.float32 = dtype

    def __getattr__(self, name):
        return getattr(torch, name)

    def randn(self, *shape, device=None):
        return torch.randn(*shape, dtype=torch.float64).to(self.float32)

    def randn_like(self, t):
        return self.randn(*t.shape)


@pytest.fixture
def in_dtype(monkeypatch):
    def use(dtype):
        for module in (generator_module, discriminator_module, losses):
            monkeypatch.setattr(module, "torch", Torch(dtype))
        monkeypatch.setattr(torch.Tensor, "float", lambda t: t.to(dtype))

    return use


def gradients(generator, discriminator, ws, real, seed):
    """The losses and penalties of a step, their gradients, and the smallest activation of a leaky ReLU."""
    smallest = []

    def watch(module, inputs, y):
        if getattr(module, "activation", None) == "lrelu" or isinstance(module, networks.SynthesisLayer):
            y = y.detach()
            smallest.append(float((y.abs() / y.square().mean().sqrt()).min()))

    hooks = [m.register_forward_hook(watch) for n in (generator, discriminator) for m in n.modules()]
    torch.manual_seed(seed)
    ws = ws.clone().requires_grad_()
    fake = generator.synthesis(ws, "random")
    results = {}
    for name, network, loss in (
        ("generator", generator.synthesis, losses.generator_loss(discriminator(fake))),
        ("path length", generator.synthesis, losses.path_length_penalty(generator, ws, torch.zeros([], dtype=ws.dtype))),
        ("discriminator", discriminator, losses.discriminator_loss(discriminator(fake.detach()), discriminator(real))),
        ("R1", discriminator, losses.gradient_penalty(discriminator, real, None, 2.0)),
    ):
        results[name] = loss.detach()
        parameters = dict(network.named_parameters())
        wanted = torch.autograd.grad(loss, parameters.values(), materialize_grads=True)
        results |= {f"{name} {k}": g for k, g in zip(parameters, wanted, strict=True)}
    for hook in hooks:
        hook.remove()
    return results, min(smallest)


@pytest.mark.slow
def test_the_gradients_of_a_step_on_the_kernels_are_those_in_float64(rng, in_dtype, monkeypatch):
    seed = int(rng.integers(2**31))
    generator = networks.Generator(GeneratorConfig(**TINY, z_dim=4, w_dim=4)).to(memory_format=torch.channels_last)
    discriminator = networks.Discriminator(DiscriminatorConfig(**TINY, mbstd_group_size=2)).to(
        memory_format=torch.channels_last
    )
    both = torch.nn.ModuleList([generator, discriminator])
    with torch.no_grad():
        for p in both.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    in_dtype(torch.float64)
    both.double()
    for _ in range(100):  # Near the kink of a leaky ReLU, float32 and float64 may be on different sides.
        ws, real = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((2, 4, 4), (2, 3, 8, 8)))
        exact, smallest = gradients(generator, discriminator, ws, real, seed)
        if smallest > 1e-5:
            break
    else:
        pytest.fail("each of a hundred draws is near a kink")

    in_dtype(torch.float32)
    both.to(torch.float32)
    launched = {"upfirdn2d": 0, "modulated_conv2d": 0, "bias_act": 0}
    for name in launched:
        op = getattr(torch.ops.stylert, name)

        def counted(*arguments, name=name, op=op):
            launched[name] += 1
            return op(*arguments)

        monkeypatch.setattr(torch.ops.stylert, name, counted)
    result, _ = gradients(generator, discriminator, ws.to(torch.float32), real.to(torch.float32), seed)
    assert min(launched.values()) > 0
    assert result.keys() == exact.keys()
    for name, expected in exact.items():
        error = (result[name].double() - expected).square().mean().sqrt()
        assert result[name].isfinite().all()
        assert error <= 1e-3 * expected.square().mean().sqrt() + 1e-9, name


def test_the_augmentation_resamples_on_the_kernels(rng, monkeypatch, assert_parity):
    images = torch.from_numpy(rng.uniform(-1, 1, (1, 3, 8, 8)))
    matrices = torch.eye(3, dtype=torch.float64)[None].clone()
    matrices[:, :2] += torch.from_numpy(rng.uniform(-0.3, 0.3, (1, 2, 3)))
    calls = []
    launch = ops.upfirdn2d_op.apply_resampling
    monkeypatch.setattr(ops.upfirdn2d_op, "apply_resampling", lambda *a: calls.append(1) or launch(*a))
    expected = warp(images, matrices)
    assert not calls
    # The positions are computed in float64 and rounded for float32 images, by at most 2^-19 of a pixel.
    result = warp(images.float(), matrices)
    assert len(calls) == 4
    assert (result.double() - expected).abs().max() < 1e-4
