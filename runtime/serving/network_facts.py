"""The facts about a network that the page asks for, of a server or of a static site."""

from __future__ import annotations

from typing import Any

from stylert.runtime.bundle import Bundle
from stylert.runtime.style_levels import LEVELS, level_indices


def network_facts(bundle: Bundle) -> dict[str, Any]:
    """Sizes of the images and latents, the number of classes, and the latents of each style level, by name."""
    return {
        "resolution": max(bundle.height, bundle.width),
        "height": bundle.height,
        "width": bundle.width,
        "channels": bundle.model["img_channels"],
        "num_ws": bundle.num_ws,
        "w_dim": bundle.model["w_dim"],
        "z_dim": bundle.model["z_dim"],
        "classes": bundle.model["c_dim"],
        "levels": {level: level_indices(level, bundle.num_ws, bundle.kind) for level in LEVELS},
    }
