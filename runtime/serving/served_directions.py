"""The directions that served bundles have: of each file, the bundles that were exported from its network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylert.core.errors import BundleError, InputError
from stylert.runtime.bundle import Bundle
from stylert.runtime.steering.directions_file import Directions, read_directions


def check_directions(files: Sequence[Path], bundles: Sequence[Bundle]) -> None:
    """Check files of directions before a network is loaded.

    Raises:
        InputError: A file is damaged or missing, two belong to one network, or no bundle can move along any direction of a file.
        BundleError: A file belongs to the network of no bundle.
    """
    for file in files:
        directions, refusals = read_directions(file), []
        for bundle in bundles:
            try:
                directions.check_network(bundle)
            except BundleError as e:
                refusals.append(e)
        if len(refusals) == len(bundles):
            raise BundleError(f"{file}: {refusals[0]}" if len(bundles) == 1 else _no_bundle(file, directions, bundles))
    for bundle in bundles:
        directions_of(bundle, files)


def directions_of(bundle: Bundle, files: Sequence[Path]) -> Directions | None:
    """The directions of a bundle's network, of which it can move along one at least. None if no file has them.

    Raises:
        InputError: A file is damaged or missing, two belong to this network, or the bundle can move along none.
    """
    chosen: tuple[Path, Directions] | None = None
    for file in files:
        directions = read_directions(file)
        try:
            directions.check_network(bundle)
        except BundleError:
            continue
        if chosen is not None:
            raise InputError(
                f"{chosen[0]} and {file} belong to one network: write them into one with `stylert directions join`"
            )
        chosen = file, directions
    if chosen is None:
        return None
    if not usable_names(chosen[1], bundle):
        raise InputError(
            f"{chosen[0]} moves styles alone, and bundle {bundle.path} has no input for styles: export it with --style-offsets"
        )
    return chosen[1]


def usable_names(directions: Directions, bundle: Bundle) -> list[str]:
    """The directions that a bundle can move along. Those of styles need an input of the network."""
    has_styles = bundle.style_channels == directions.style_channels
    return [name for name, direction in directions.by_name.items() if has_styles or direction.space == "w"]


def direction_facts(directions: Directions, bundle: Bundle) -> list[dict[str, Any]]:
    """The facts about each direction that a bundle can move along, for pages and programs."""
    chosen = {name: directions[name] for name in usable_names(directions, bundle)}
    return [
        {"name": name, "space": d.space, "latents": list(d.latents), "method": d.method, "facts": dict(d.facts)}
        for name, d in chosen.items()
    ]


def _no_bundle(file: Path, directions: Directions, bundles: Sequence[Bundle]) -> str:
    names = ", ".join(str(bundle.path) for bundle in bundles)
    return f"{file} has directions of the network {directions.network[:12]}, from which none of these bundles was exported: {names}"
