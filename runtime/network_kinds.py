"""The facts about a kind of network that the runtime needs. A bundle names its kind in its configuration, under `network`.

The rooms of the package let the runtime read no configuration of `models`, so it knows these few facts of its own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkKind:
    """One kind of network.

    Attributes:
        title: Its name for people.
        latents: The least and the greatest number of latents, `num_ws`; None where the resolution gives the number.
        has_levels: Whether its latents belong to resolutions, and so to the levels coarse, middle and fine.
        fields: Fields of its configuration that no other kind has.
        tensor: Name of a tensor that stands in each of its synthesis networks and in none of another kind; None if it has none.
        first_latents: Number of latents that belong to 4 px, where latents belong to resolutions.
    """

    title: str
    latents: tuple[int, int] | None
    has_levels: bool
    fields: frozenset[str]
    tensor: str | None = None
    first_latents: int = 1

    def takes_latents(self, num_ws: int, resolution: int) -> bool:
        """Whether a network of this resolution in pixels, a power of two, can have so many latents."""
        if self.latents is None:
            return num_ws == 2 * (resolution.bit_length() - 1) - 2
        least, greatest = self.latents
        return least <= num_ws <= greatest


STYLEGAN3_FIELDS = frozenset(
    {
        "num_layers", "num_critical", "first_cutoff", "first_stopband", "last_stopband_rel", "margin_size", "output_scale",
        "conv_kernel", "filter_size", "lrelu_upsampling", "use_radial_filters", "magnitude_ema_beta",
    }
)  # fmt: skip
#: Its first two latents style the constant and the convolution at 4 px. The tensor holds the constant before its style.
STYLEGAN1 = NetworkKind(
    "StyleGAN1",
    None,
    has_levels=True,
    fields=frozenset({"channel_decay", "norm_eps", "bias_before_blur"}),
    tensor="b4.input.normalized",
    first_latents=2,
)
STYLEGAN2_FIELDS = frozenset({"architecture", "resample_filter", "const_height", "const_width", "image_channels"})
STYLEGAN2 = NetworkKind("StyleGAN2", None, has_levels=True, fields=STYLEGAN2_FIELDS)
#: Its layers have the same number of latents at every resolution. The tensor holds the frequencies of the Fourier features.
STYLEGAN3 = NetworkKind("StyleGAN3", (4, 66), has_levels=False, fields=STYLEGAN3_FIELDS, tensor="input.freqs")

#: By the name in the configuration. StyleGAN2's bundles are older than the field.
DEFAULT_NETWORK = "stylegan2"
NETWORK_KINDS = {"stylegan1": STYLEGAN1, DEFAULT_NETWORK: STYLEGAN2, "stylegan3": STYLEGAN3}
