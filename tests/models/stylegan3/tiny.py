"""Small networks of StyleGAN3, and random configurations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from stylert.models.stylegan3.config import GeneratorConfig
from stylert.models.stylegan3.networks import Generator

TINY: dict[str, Any] = {
    "resolution": 16, "z_dim": 5, "w_dim": 7, "channel_base": 96, "channel_max": 5, "num_layers": 4, "margin_size": 3,
}  # fmt: skip


def tiny_config(**changes: Any) -> GeneratorConfig:
    """A generator of 16 px with 4 layers of at most 5 channels."""
    return GeneratorConfig(**{**TINY, **changes})


def randomized(cfg: GeneratorConfig, seed: int) -> Generator:
    """A generator with no parameter or running average at its initial value, in evaluation mode."""
    torch.manual_seed(seed)
    generator = Generator(cfg)
    with torch.no_grad():
        for name, p in generator.named_parameters():
            p.add_(torch.randn_like(p) * (5 if name.startswith("mapping") else 0.3))
        for name, b in generator.named_buffers():
            if name.endswith("magnitude_ema"):
                b.copy_(torch.rand([]) * 3 + 0.2)
        generator.mapping.w_avg.copy_(torch.randn_like(generator.mapping.w_avg))
    return generator.eval().requires_grad_(False)


@st.composite
def configurations(draw: st.DrawFn) -> GeneratorConfig:
    """Any small network: both kernels, all filters, odd and even sizes, several rates and bands."""
    num_layers = draw(st.integers(2, 5))
    first_cutoff = draw(st.floats(0.7, 3.0))
    return GeneratorConfig(
        resolution=draw(st.sampled_from([8, 16, 32])),
        z_dim=draw(st.integers(1, 6)),
        c_dim=draw(st.sampled_from([0, 0, 3])),
        w_dim=draw(st.integers(1, 6)),
        img_channels=draw(st.integers(1, 4)),
        channel_base=draw(st.integers(32, 200)),
        channel_max=draw(st.integers(1, 6)),
        mapping_layers=draw(st.integers(1, 3)),
        num_layers=num_layers,
        num_critical=draw(st.integers(1, num_layers - 1)),
        first_cutoff=first_cutoff,
        first_stopband=first_cutoff * draw(st.floats(1.2, 2.5)),
        last_stopband_rel=2 ** draw(st.floats(0.1, 0.6)),
        margin_size=draw(st.integers(0, 5)),
        output_scale=draw(st.sampled_from([0.25, 1.0])),
        num_fp16_res=draw(st.integers(0, 4)),
        conv_kernel=draw(st.sampled_from([1, 3, 5])),
        filter_size=draw(st.integers(1, 6)),
        lrelu_upsampling=draw(st.sampled_from([1, 2, 4])),
        use_radial_filters=draw(st.booleans()),
        conv_clamp=draw(st.sampled_from([None, 256.0, 1.5])),
    )


def rigid_transform(angle: float, shift: tuple[float, float]) -> torch.Tensor:
    """The matrix `[3, 3]` for an image turned by `angle` radians and then shifted by `shift` image widths `(x, y)`.

    The network takes the inverse: the position in the untransformed image of each position in the image.
    """
    c, s = math.cos(angle), math.sin(angle)
    forward = torch.tensor([[c, s, shift[0]], [-s, c, shift[1]], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return torch.linalg.inv(forward).float()


def random_transforms(rng: np.random.Generator, n: int) -> torch.Tensor:
    """`[n, 3, 3]`: a turn, a shift and a scale each. Images that shrink have frequencies beyond the band, which fade out."""
    turned = [rigid_transform(rng.uniform(-3, 3), (rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3))) for _ in range(n)]
    scales = [torch.diag(torch.tensor([scale, scale * rng.uniform(0.8, 1.2), 1.0]).float()) for scale in rng.uniform(0.3, 5, n)]
    return torch.stack([turn @ scale for turn, scale in zip(turned, scales, strict=True)])
