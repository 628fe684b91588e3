"""An encoder has a head for each level, begins at the average w, and follows its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stylert.core.errors import InputError
from stylert.models.latent_encoder import EncoderConfig, LatentEncoder, encoder_module
from stylert.runtime.style_levels import level_indices

pytest.importorskip("efficientnet_lite_pytorch")


@pytest.mark.parametrize("resolution", [4, 8, 16, 32, 64, 1024])
def test_the_latents_of_a_head_are_those_of_a_style_level(resolution: int) -> None:
    num_ws = 2 * resolution.bit_length() - 4
    config = EncoderConfig(resolution, 3, num_ws, 8)
    expected = [len(level_indices(level, num_ws)) for level in ("coarse", "middle", "fine")]
    assert list(config.levels) == [count for count in expected if count]
    assert config.side % 32 == 0
    assert max(config.side, resolution) % min(config.side, resolution) == 0 or resolution < config.side


@pytest.mark.parametrize(("resolution", "channels"), [(8, 1), (64, 3), (512, 3)])
def test_a_new_encoder_gives_the_average_of_w_for_every_image(resolution: int, channels: int) -> None:
    encoder = LatentEncoder(EncoderConfig(resolution, channels, 2 * resolution.bit_length() - 4, 5))
    w = torch.randn(200, 5) * torch.tensor([3.0, 1, 1, 0.1, 0]) + 2
    encoder.set_statistics(w)
    torch.testing.assert_close(encoder.components.T @ encoder.components, torch.cov(w.T), atol=1e-4, rtol=1e-4)
    ws = encoder(torch.rand(2, channels, resolution, resolution) * 2 - 1)
    torch.testing.assert_close(ws, w.mean(0).expand_as(ws))


def test_the_fine_head_reads_finer_maps_than_the_coarse_one() -> None:
    """The heads as they are defined, written once more from the maps of the trunk."""
    encoder = LatentEncoder(EncoderConfig(64, 3, 10, 6)).requires_grad_(False)
    for head in encoder.heads:
        torch.nn.init.normal_(head.out.weight)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    coarse, middle, fine = (lateral(maps) for maps, lateral in zip(encoder.trunk(image)[::-1], encoder.lateral, strict=False))
    assert [maps.shape[2] for maps in (coarse, middle, fine)] == [3, 6, 12]
    middle = middle + coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    fine = fine + middle.repeat_interleave(2, 2).repeat_interleave(2, 3)
    parts = []
    for maps, head, count in zip((coarse, middle, fine), encoder.heads, (3, 4, 3), strict=True):
        x = F.conv2d(maps, head.conv.weight, head.conv.bias, padding=1)
        x = torch.maximum(x, 0.2 * x)
        side = x.shape[2] // 3
        x = x.reshape(1, 64, 3, side, 3, side).mean((3, 5)).flatten(1)
        x = x @ head.hidden.weight.T + head.hidden.bias
        parts.append((torch.maximum(x, 0.2 * x) @ head.out.weight.T + head.out.bias).reshape(1, count, 6))
    torch.testing.assert_close(encoder(image), torch.cat(parts, 1), atol=1e-4, rtol=1e-4)


def test_an_encoder_comes_back_from_its_weights_and_only_from_these() -> None:
    config = EncoderConfig(16, 3, 6, 5)
    encoder = LatentEncoder(config).requires_grad_(False)
    for head in encoder.heads:
        torch.nn.init.normal_(head.out.weight)
    arrays = {name: tensor.numpy() for name, tensor in encoder.state_dict().items()}
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(encoder_module(config, arrays)(image), encoder(image))
    missing = {name: array for name, array in arrays.items() if name != "mean"}
    for wrong in (missing, arrays | {"more": np.zeros(1, np.float32)}, arrays | {"mean": np.zeros(4, np.float32)}):
        with pytest.raises(InputError, match="the encoder is damaged"):
            encoder_module(config, wrong)
