"""Applies an augmentation pipeline to images. Each image draws each transformation of the groups with probability p."""

from __future__ import annotations

from torch import Tensor

from stylert.train.augment.color import apply_color, random_color
from stylert.train.augment.corruption import (
    add_noise,
    cut_out,
    filter_bands,
    random_band_gains,
    random_cutouts,
    random_noise_std,
)
from stylert.train.augment.diffaug import diffaugment
from stylert.train.augment.geometry import random_geometry
from stylert.train.augment.groups import COLOR_GROUPS, PIPELINES
from stylert.train.augment.resampling import blit, warp


def augment(images: Tensor, p: float, pipeline: str = "bgc") -> Tensor:
    """Augment images (Karras et al. 2020b, figure 24). Differentiable in the images to any order.

    An image that draws no transformation stays bit for bit, so p = 0 is the identity.

    Args:
        images: `[N, C, H, W]` in about [-1, 1], on any device. Pipelines that change colors take 1 or 3 channels.
        p: Probability of each transformation of each image.
        pipeline: A name of `PIPELINES`.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: The pipeline is unknown, p is out of [0, 1], or these are no images, or not grey or RGB as its colors
            need.
    """
    if pipeline not in PIPELINES:
        raise ValueError(f"unknown augmentation pipeline {pipeline!r}: choose one of {', '.join(PIPELINES)}")
    if not 0 <= p <= 1:
        raise ValueError(f"the augmentation probability must lie in [0, 1], not {p}")
    if images.ndim != 4:
        raise ValueError(f"augmentation takes images [N, C, H, W], not {list(images.shape)}")
    if images.shape[1] not in (1, 3) and COLOR_GROUPS & set(PIPELINES[pipeline]):
        raise ValueError(f"augmentation by {pipeline} takes grey or RGB images [N, 1 or 3, H, W], not {list(images.shape)}")
    if p == 0:
        return images
    n, size, groups = len(images), (images.shape[3], images.shape[2]), PIPELINES[pipeline]
    if "blit" in groups or "geom" in groups:
        matrices = random_geometry(n, size, p, "blit" in groups, "geom" in groups).matrices()
        images = warp(images, matrices) if "geom" in groups else blit(images, matrices)
    if "color" in groups:
        images = apply_color(images, random_color(n, p).matrices())
    if "filter" in groups:
        images = filter_bands(images, random_band_gains(n, p))
    if "noise" in groups:
        images = add_noise(images, random_noise_std(n, p))
    if "cutout" in groups:
        images = cut_out(images, random_cutouts(n, p))
    if "diffaug" in groups:
        images = diffaugment(images, p)
    return images
