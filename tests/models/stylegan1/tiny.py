"""Small networks of StyleGAN1, and random configurations."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from stylert.models.stylegan1.config import GeneratorConfig
from stylert.models.stylegan1.networks import Generator

TINY: dict[str, Any] = {
    "resolution": 16, "z_dim": 5, "w_dim": 7, "channel_base": 64, "channel_max": 6, "mapping_layers": 2,
}  # fmt: skip


def tiny_config(**changes: Any) -> GeneratorConfig:
    """A generator of 16 px with 6 latents of 7 values, from z of 5 values."""
    return GeneratorConfig(**{**TINY, **changes})


def randomized(cfg: GeneratorConfig, seed: int) -> Generator:
    """A generator with no parameter or running average at its initial value, in evaluation mode."""
    torch.manual_seed(seed)
    generator = Generator(cfg)
    with torch.no_grad():
        for name, p in generator.named_parameters():
            p.add_(torch.randn_like(p) * (5 if name.startswith("mapping") else 0.3))
        generator.mapping.w_avg.copy_(torch.randn_like(generator.mapping.w_avg))
    return generator.eval().requires_grad_(False)


@st.composite
def configurations(draw: st.DrawFn, **fixed: Any) -> GeneratorConfig:
    """Any small network, with the fields in `fixed` as they are given."""
    fields: dict[str, Any] = {
        "resolution": draw(st.sampled_from([8, 16, 32])),
        "z_dim": draw(st.integers(1, 6)),
        "c_dim": draw(st.sampled_from([0, 0, 3])),
        "w_dim": draw(st.integers(1, 6)),
        "img_channels": draw(st.integers(1, 4)),
        "channel_base": 2 * draw(st.integers(16, 100)),
        "channel_max": draw(st.integers(1, 6)),
        "channel_decay": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "mapping_layers": draw(st.integers(1, 3)),
        "norm_eps": draw(st.sampled_from([1e-8, 1e-5])),
        "bias_before_blur": draw(st.booleans()),
    }
    return GeneratorConfig(**{**fields, **fixed})
