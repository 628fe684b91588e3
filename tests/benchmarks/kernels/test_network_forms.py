"""The measured forms of the network, in Triton's interpreter, give the images of the PyTorch network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stylert.benchmarks.kernels.network_forms import (
    PEERS,
    PRECISIONS,
    STYLERT_FORMS,
    peer_synthesis,
    random_network,
    stylert_synthesis,
    torch_graph,
)
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.runtime.backends.torch_network.launches import ConvLaunch

#: Least PSNR in dB of images in bytes. int8 and FP8 have one activation scale per layer, from the largest activation of the
#: drawn latents.
LEAST_PSNR = {"fp32": 55, "fp16": 40, "int8": 26, "fp8": 22}


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture(scope="module")
def network() -> Any:
    return random_network(GeneratorConfig(8, w_dim=12, channel_base=128, channel_max=16, conv_clamp=256.0))


def latents(rng: np.random.Generator, network: Any, n: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal((n, network.cfg.num_ws, network.cfg.w_dim), np.float32))


def psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    """In dB over the range of the reference: images of random weights leave [-1, 1]."""
    value_range = float(reference.max() - reference.min())
    return 20 * float(np.log10(value_range / max(float((image - reference).square().mean().sqrt()), 1e-9)))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_image_is_that_of_the_pytorch_network(rng: np.random.Generator, network: Any, precision: str) -> None:
    ws = latents(rng, network, int(rng.integers(1, 3)))
    expected = (network(ws, noise_mode="const").permute(0, 2, 3, 1) * 127.5 + 128).clamp(0, 255).floor().double()
    graph = torch_graph(network, precision, ws)
    for form in STYLERT_FORMS:
        assert psnr(stylert_synthesis(graph, form, ws)(ws).double(), expected) >= LEAST_PSNR[precision]


@pytest.mark.parametrize(("precision", "dtype"), [("int8", torch.int8), ("fp8", torch.float8_e4m3fn)])
def test_the_convolutions_from_8_px_up_are_8_bit_and_scale_their_operands_once(
    rng: np.random.Generator, network: Any, precision: str, dtype: torch.dtype
) -> None:
    graph = torch_graph(network, precision, latents(rng, network, 2))
    launches = {node.name: node.run for node in graph.nodes if isinstance(node.run, ConvLaunch)}
    assert {name: launch.weight.dtype for name, launch in launches.items()} == {
        "b4.conv1 b4.torgb": torch.float16, "b8.conv0": dtype, "b8.conv1 b8.torgb": dtype,
    }  # fmt: skip
    names = [node.name for node in graph.nodes]
    assert names.count("unit_styles_scaled") == names.count("demods_scaled") == 1
    assert not {"unit_styles_float16", "demods_float16"} & set(names)


@pytest.mark.parametrize("form", PEERS)
def test_a_peer_gives_the_same_image(rng: np.random.Generator, network: Any, form: str) -> None:
    ws = latents(rng, network, 2)
    images = peer_synthesis(network, form, "cpu")(ws).double()
    assert psnr(images, network(ws, noise_mode="const").double()) >= 40
