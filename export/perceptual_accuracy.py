"""Mean perceptual distance of image pairs, in the features of EfficientNet-Lite0.

It is not LPIPS. The result is None without torch or the `metrics` extra, and for images that are neither grey nor RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stylert.core.errors import BackendError

BATCH = 8


def perceptual_distance(images: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> float | None:
    """The mean distance of pairs of images in the features of EfficientNet-Lite0.

    It is not LPIPS, so it compares only with other values of this function.

    Args:
        images: `[H, W, C]`, from 0 to 255.
        references: The images to compare with, of the same shape and in the same order.

    Returns:
        0 for identical images. None where torch or the `metrics` extra is not installed, and unless C is 1 or 3.
    """
    if images[0].shape[2] not in (1, 3):
        return None
    try:
        import torch

        from stylert.models.features.extractors import EffNetLite0
        from stylert.models.features.perceptual import EffNetLite0Distance

        distance = EffNetLite0Distance(EffNetLite0())
    except (ImportError, BackendError):
        return None

    def tensor(batch: Sequence[np.ndarray]) -> torch.Tensor:
        """float32 `[N, 3, H, W]`, from -1 to 1."""
        x = torch.from_numpy(np.stack(batch).astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
        return x.expand(-1, 3, -1, -1)

    with torch.no_grad():
        distances = [
            distance(tensor(images[i : i + BATCH]), tensor(references[i : i + BATCH])) for i in range(0, len(images), BATCH)
        ]
    return round(float(torch.cat(distances).mean()), 6)
