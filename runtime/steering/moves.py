"""Moves along directions, such as `smile=+2`: their text, and their effect on ws and on the styles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stylert.core.errors import InputError, shown
from stylert.core.numerals import read_number
from stylert.runtime.bundle import Bundle
from stylert.runtime.steering.directions_file import NAME, Directions
from stylert.runtime.style_levels import parse_levels

#: The largest size of a strength
MAX_STRENGTH = 1000.0
#: The most strengths of one move
MAX_STRENGTHS = 256


@dataclass(frozen=True)
class Move:
    """A direction and the strengths to move by.

    Attributes:
        name: Name of the direction.
        levels: Levels or latents that move, as text such as `coarse` or `0-3`. None for those of the direction.
        strengths: In standard deviations, one for each image of a row.
    """

    name: str
    levels: str | None
    strengths: tuple[float, ...]


class Steered(NamedTuple):
    """Latents after moves.

    Attributes:
        ws: float32 `[N, num_ws, w_dim]`.
        style_offsets: float32 `[N, S]`, or None if no move is in the space `styles`.
    """

    ws: np.ndarray
    style_offsets: np.ndarray | None


def parse_move(text: str) -> Move:
    """Read a move: `NAME=STRENGTH`, with further strengths after commas, such as `smile=-2,0,2`.

    `NAME@LEVELS=STRENGTH` moves these levels or latents alone, such as `pose@coarse=1.5` or `pose@0-3=1.5`.

    Raises:
        InputError: The text has another form.
    """
    target, equals, strengths = text.rpartition("=")
    name, at, levels = target.partition("@")
    try:
        if not equals or NAME.fullmatch(name) is None or (at and not levels):
            raise ValueError
        values = tuple(read_number(part) for part in strengths.split(","))
        if len(values) > MAX_STRENGTHS or not all(abs(value) <= MAX_STRENGTH for value in values):
            raise ValueError
    except ValueError:
        raise InputError(
            f"a move is NAME=STRENGTH, such as smile=+2, with strengths from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}, "
            f"not {shown(text)}"
        ) from None
    return Move(name, levels if at else None, values)


def columns_of(moves: Sequence[Move]) -> int:
    """The number of images that moves make of one: as many as a move has strengths.

    Raises:
        InputError: Two moves have different numbers of strengths, and neither has one.
    """
    counts = {len(move.strengths) for move in moves} - {1}
    if len(counts) > 1:
        raise InputError(f"moves have one strength, or all as many as the others, not {' and '.join(map(str, sorted(counts)))}")
    return max(counts, default=1)


def check_moves(directions: Directions, moves: Sequence[Move], bundle: Bundle) -> None:
    """Check moves against the directions and the network.

    Raises:
        BundleError: The directions belong to another network.
        InputError: A direction does not exist, levels do not fit, or the bundle lacks the input that a move needs.
    """
    directions.check_network(bundle)
    for move in moves:
        _moved_latents(directions, move)
        if directions[move.name].space == "styles" and bundle.style_channels != directions.style_channels:
            raise InputError(
                f"{move.name} moves a style, and bundle {bundle.path} has no input for styles: export it with --style-offsets"
            )


def steer(directions: Directions, ws: np.ndarray, moves: Sequence[Move], column: int = 0) -> Steered:
    """Move latents.

    Args:
        directions: The directions.
        ws: float32 `[N, num_ws, w_dim]`, which stays as it is.
        moves: The moves. Their effects add up.
        column: The index of the strength that counts in each move. A move with one strength has it in every column.

    Raises:
        InputError: A direction does not exist, or its levels do not fit.
    """
    moved = ws.copy()
    offsets = np.zeros((len(ws), directions.style_channels), np.float32) if _has_styles(directions, moves) else None
    for move in moves:
        direction, latents = directions[move.name], _moved_latents(directions, move)
        step = np.float32(move.strengths[column if len(move.strengths) > 1 else 0]) * direction.vector
        if direction.space == "w":
            moved[:, latents] += step
        elif offsets is not None:
            offsets += step
    return Steered(moved, offsets)


def steered_grid(directions: Directions, ws: np.ndarray, moves: Sequence[Move], apart: bool = False) -> Steered:
    """The latents of a grid in reading order, with a column for each strength.

    Args:
        directions: The directions.
        ws: float32 `[N, num_ws, w_dim]`.
        moves: The moves. All together make a row of each image.
        apart: Whether each move makes rows of its own, as on a contact sheet.

    Returns:
        `[rows * columns, num_ws, w_dim]`, and the style offsets if a move needs them.
    """
    columns = range(columns_of(moves))
    rows = [
        [steer(directions, ws, group, column) for column in columns] for group in ([[m] for m in moves] if apart else [moves])
    ]
    grid = np.concatenate([_interleaved([cell.ws for cell in row]) for row in rows])
    if not _has_styles(directions, moves):
        return Steered(grid, None)
    none = np.zeros((len(ws), directions.style_channels), np.float32)
    offsets = [_interleaved([none if cell.style_offsets is None else cell.style_offsets for cell in row]) for row in rows]
    return Steered(grid, np.concatenate(offsets))


def _interleaved(columns: Sequence[np.ndarray]) -> np.ndarray:
    """The first entry of each column, then the second of each, and so on."""
    stacked = np.stack(columns, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _has_styles(directions: Directions, moves: Sequence[Move]) -> bool:
    return any(directions[move.name].space == "styles" for move in moves)


def _moved_latents(directions: Directions, move: Move) -> list[int]:
    """The latents that a move moves. None in the space `styles`."""
    direction = directions[move.name]
    if direction.space == "styles":
        if move.levels is not None:
            raise InputError(f"{move.name} moves a style of one layer, so it takes no levels")
        return []
    return list(direction.latents) if move.levels is None else parse_levels(move.levels, directions.num_ws)
