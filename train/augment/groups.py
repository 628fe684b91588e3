"""The augmentation pipelines by name, and their groups of transformations. Loads without PyTorch."""

from __future__ import annotations

#: The groups of each pipeline, in the order in which they are applied. The letters of a union name its groups.
PIPELINES: dict[str, tuple[str, ...]] = {
    "blit": ("blit",),
    "geom": ("geom",),
    "color": ("color",),
    "filter": ("filter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
    "bg": ("blit", "geom"),
    "bgc": ("blit", "geom", "color"),
    "bgcf": ("blit", "geom", "color", "filter"),
    "bgcfn": ("blit", "geom", "color", "filter", "noise"),
    "bgcfnc": ("blit", "geom", "color", "filter", "noise", "cutout"),
    "diffaug": ("diffaug",),
}
#: Groups that take the channels for colors.
COLOR_GROUPS = frozenset({"color", "diffaug"})
