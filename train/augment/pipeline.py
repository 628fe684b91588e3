"""An augmentation pipeline: groups of transformations, each drawn for each image with the same probability p."""

from __future__ import annotations

from torch import Tensor

from stylert.train.augment.color import draw_color, recolor
from stylert.train.augment.corruption import (
    add_noise,
    cut_out,
    draw_band_gains,
    draw_cutouts,
    draw_noise_deviations,
    filter_bands,
)
from stylert.train.augment.geometry import draw_geometry
from stylert.train.augment.pipelines import PIPELINES
from stylert.train.augment.resampling import blit, warp


def augment(images: Tensor, p: float, pipeline: str = "bgc") -> Tensor:
    """Augmented images (Karras et al. 2020b, figure 24), `[N, 1 or 3, S, S]` in about [-1, 1], on the device of `images`.

    Each transformation of each image is applied with probability `p`, alone. An image that drew none comes back bit for
    bit, so p = 0 is the identity. Differentiable in the images to any order.

    Raises ValueError on an unknown pipeline, a p outside of [0, 1], or images that are not square, grey or RGB.
    """
    if pipeline not in PIPELINES:
        raise ValueError(f"unknown augmentation pipeline {pipeline!r}: choose one of {', '.join(PIPELINES)}")
    if not 0 <= p <= 1:
        raise ValueError(f"the augmentation probability must lie in [0, 1], not {p}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
        raise ValueError(f"augmentation takes square grey or RGB images [N, 1 or 3, S, S], not {list(images.shape)}")
    if p == 0:
        return images
    n, size, groups = len(images), images.shape[2], PIPELINES[pipeline]
    if "blit" in groups or "geom" in groups:
        matrices = draw_geometry(n, size, p, "blit" in groups, "geom" in groups).matrices()
        images = warp(images, matrices) if "geom" in groups else blit(images, matrices)
    if "color" in groups:
        images = recolor(images, draw_color(n, p).matrices())
    if "filter" in groups:
        images = filter_bands(images, draw_band_gains(n, p))
    if "noise" in groups:
        images = add_noise(images, draw_noise_deviations(n, p))
    if "cutout" in groups:
        images = cut_out(images, draw_cutouts(n, p))
    return images
