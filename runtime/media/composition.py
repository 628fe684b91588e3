"""Images that several seeds make: each latent from a seed of its own, a step towards another seed, then moves along directions.

A composition is the picture that a person makes in a page: the coarse styles of one image, the fine ones of another, halfway to
a third. Then it smiles more. `composed_ws` maps many of them with few calls of the mapping network, and `moved_ws` moves them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stylert.core.errors import InputError, shown
from stylert.core.seeds import MAX_SEED, z_from_seeds
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.input_checks import finite_number, one_hot, whole_number
from stylert.runtime.media.interpolation import lerp
from stylert.runtime.steering.directions_file import Directions
from stylert.runtime.steering.moves import Move, Steered, check_moves, columns_of, parse_move, steer

#: The largest size of a truncation factor, as in recipes
MAX_PSI = 1000.0


@dataclass(frozen=True)
class Composition:
    """One image.

    Attributes:
        latents: The seed of each latent in ws, `num_ws` of them. An image of one seed has it in every place.
        psi: Truncation.
        cutoff: How many latents are truncated; None for all.
        label: The class, or the label as numbers; None for a network without labels.
        toward: The seed that the image moves to.
        at: The part of the way to `toward` in w, from 0 to 1. 0 is the image of `latents` alone.
        moves: Moves after all of these, as text such as `smile=+2`. Each has one strength.
    """

    latents: tuple[int, ...]
    psi: float = 1.0
    cutoff: int | None = None
    label: int | tuple[float, ...] | None = None
    toward: int | None = None
    at: float = 0.0
    moves: tuple[str, ...] = ()

    @property
    def parsed_moves(self) -> list[Move]:
        return [parse_move(text) for text in self.moves]

    @property
    def only_seed(self) -> int | None:
        """The seed, if the image has no other. It may have moves."""
        return self.latents[0] if self.toward is None and len(set(self.latents)) == 1 else None

    def check(self, bundle: Bundle, directions: Directions | None = None) -> None:
        """Check every value against the network, and the moves against their directions.

        Raises:
            InputError: A value has another type or range, or the network does not take it, or there is no such direction.
            BundleError: The directions belong to another network.
        """
        if not isinstance(self.latents, tuple):
            raise InputError(f"the latents of a composition are a tuple of seeds, not {shown(self.latents)}")
        if len(self.latents) != bundle.num_ws:
            raise InputError(f"this network has {bundle.num_ws} latents, not {len(self.latents)}")
        for seed in self.latents if self.toward is None else (*self.latents, self.toward):
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
                raise InputError(f"a seed is a whole number from 0 to {MAX_SEED}, not {shown(seed)}")
        if abs(finite_number(self.psi, "psi")) > MAX_PSI:
            raise InputError(f"psi is from {-MAX_PSI:g} to {MAX_PSI:g}, not {self.psi:g}")
        if self.cutoff is not None:
            whole_number(self.cutoff, "cutoff", 0, bundle.num_ws)
        if not 0 <= finite_number(self.at, "at") <= 1:
            raise InputError(f"at is the part of the way, from 0 to 1, not {self.at:g}")
        if bundle.model["c_dim"]:
            one_hot(None if self.label is None else [self.label], 1, bundle.model["c_dim"])  # type: ignore[list-item]
        elif self.label is not None:
            raise InputError("this network takes no labels")
        if self.moves:
            if directions is None:
                raise InputError(f"the move {shown(self.moves[0])} needs a file of directions")
            moves = self.parsed_moves
            check_moves(directions, moves, bundle)
            if columns_of(moves) > 1:
                raise InputError("each move of one image has one strength")


def composed_ws(generator: Generator, compositions: Sequence[Composition]) -> np.ndarray:
    """The latents of compositions before their moves. Each composition was checked before.

    Returns:
        ws, float32 `[N, num_ws, w_dim]`.

    Raises:
        InputError: There are none.
    """
    if not compositions:
        raise InputError("no images to compose")
    c_dim = generator.bundle.model["c_dim"]
    # One call of the mapping network has one truncation. Each (seed, label) in it is mapped once.
    calls: dict[tuple[float, int | None], dict[tuple[int, object], int]] = defaultdict(dict)
    for item in compositions:
        call = calls[item.psi, item.cutoff]
        for seed in item.latents if item.toward is None else (*item.latents, item.toward):
            call.setdefault((seed, item.label), len(call))
    mapped = {}
    for (psi, cutoff), rows in calls.items():
        z = z_from_seeds([seed for seed, _ in rows], generator.bundle.model["z_dim"])
        labels = np.concatenate([one_hot([label], 1, c_dim) for _, label in rows]) if c_dim else None  # type: ignore[list-item]
        mapped[psi, cutoff] = generator.map(z, psi, cutoff, labels)
    composed = []
    for item in compositions:
        rows, ws = calls[item.psi, item.cutoff], mapped[item.psi, item.cutoff]
        own = np.stack([ws[rows[seed, item.label], i] for i, seed in enumerate(item.latents)])
        composed.append(own if item.toward is None else lerp(own, ws[rows[item.toward, item.label]], item.at))
    return np.stack(composed)


def moved_ws(ws: np.ndarray, moves: Sequence[Sequence[Move]], directions: Directions | None) -> Steered:
    """Move the latents of images, each by its own moves.

    Args:
        ws: float32 `[N, num_ws, w_dim]`, which stays as it is.
        moves: The moves of each image, which were checked before.
        directions: None is enough if no image has moves.

    Returns:
        The latents, and the style offsets if an image needs them. Those of the other images are 0.
    """
    if directions is None or not any(moves):
        return Steered(ws, None)
    each = [steer(directions, ws[i : i + 1], own) for i, own in enumerate(moves)]
    moved = np.concatenate([one.ws for one in each])
    if all(one.style_offsets is None for one in each):
        return Steered(moved, None)
    none = np.zeros((1, directions.style_channels), np.float32)
    return Steered(moved, np.concatenate([none if one.style_offsets is None else one.style_offsets for one in each]))
