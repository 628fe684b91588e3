"""Moves along directions, such as `smile=+2`: their text, and their effect on ws and on the styles."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stylert.core.errors import InputError, shown
from stylert.core.numerals import read_number
from stylert.runtime.bundle import Bundle
from stylert.runtime.input_checks import finite_number, host_floats, whole_number, yes_or_no
from stylert.runtime.steering.directions_file import NAME, Directions, check_directions
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
        strengths: In standard deviations, one for each image of a row. Numbers of Python or NumPy.

    Raises:
        InputError: The name or the levels are no text, or the strengths are no such numbers.
    """

    name: str
    levels: str | None
    strengths: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not isinstance(self.levels, str | None):
            raise InputError(f"a move has a name and perhaps levels, as text, not {shown(self.name)} and {shown(self.levels)}")
        if not isinstance(self.strengths, Sequence) or not 1 <= len(self.strengths) <= MAX_STRENGTHS:
            raise InputError(f"a move has 1 to {MAX_STRENGTHS} strengths, not {shown(self.strengths)}")
        strengths = tuple(finite_number(strength, "a strength") for strength in self.strengths)
        if not all(abs(strength) <= MAX_STRENGTH for strength in strengths):
            raise InputError(f"a strength is from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}, not {shown(self.strengths)}")
        object.__setattr__(self, "strengths", strengths)


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
    target, equals, strengths = text.rpartition("=") if isinstance(text, str) else ("", "", "")
    name, at, levels = target.partition("@")
    try:
        if not equals or NAME.fullmatch(name) is None or (at and not levels):
            raise ValueError
        return Move(name, levels if at else None, tuple(read_number(part) for part in strengths.split(",")))
    except (ValueError, InputError):
        raise InputError(
            f"a move is NAME=STRENGTH, such as smile=+2, with strengths from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}, "
            f"not {shown(text)}"
        ) from None


def columns_of(moves: Sequence[Move]) -> int:
    """The number of images that moves make of one: as many as a move has strengths.

    Raises:
        InputError: Two moves have different numbers of strengths, and neither has one. Or these are no moves.
    """
    _check_are_moves(moves)
    counts = {len(move.strengths) for move in moves} - {1}
    if len(counts) > 1:
        raise InputError(f"moves have one strength, or all as many as the others, not {' and '.join(map(str, sorted(counts)))}")
    return max(counts, default=1)


def check_moves(directions: Directions, moves: Sequence[Move], bundle: Bundle) -> None:
    """Check moves against the directions and the network.

    Raises:
        BundleError: The directions belong to another network.
        InputError: A direction does not exist, levels do not fit, or the bundle lacks the input that a move needs. Or an
            argument is of another type.
    """
    _check_are_moves(moves)
    check_directions(directions, [move.name for move in moves])
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
        ws: Float array `[N, num_ws, w_dim]`, which stays as it is.
        moves: The moves. Their effects add up.
        column: The index of the strength that counts in each move. A move with one strength has it in every column.

    Raises:
        InputError: A direction does not exist, or its levels do not fit. Or `ws`, `moves` or `column` are no such things.
    """
    columns = columns_of(moves)
    check_directions(directions, [move.name for move in moves])
    column = whole_number(column, "the column of a move", 0, columns - 1 if columns > 1 else None)
    return _steered(directions, _checked_ws(directions, ws), moves, column)


def _steered(directions: Directions, ws: np.ndarray, moves: Sequence[Move], column: int) -> Steered:
    """`steer` of arguments that were checked."""
    moved = ws.copy()
    offsets = np.zeros((len(ws), directions.style_channels), np.float32) if _has_styles(directions, moves) else None
    for move in moves:
        direction, latents = directions[move.name], _moved_latents(directions, move)
        with np.errstate(over="ignore"):  # values that are not finite are refused by the network's inputs
            step = np.float32(move.strengths[column if len(move.strengths) > 1 else 0]) * direction.vector.astype(np.float32)
            if direction.space == "w":
                moved[:, latents] += step
            elif offsets is not None:
                offsets += step
    return Steered(moved, offsets)


def steered_batches(
    directions: Directions, ws: np.ndarray, moves: Sequence[Move], batch: int, apart: bool = False
) -> Iterator[Steered]:
    """The latents of a grid in reading order, with a column for each strength. Only those of one batch are in memory.

    Args:
        directions: The directions.
        ws: Float array `[N, num_ws, w_dim]`.
        moves: The moves. All together make a row of each image.
        batch: The number of images in each item, at least 1.
        apart: Whether each move makes rows of its own, as on a contact sheet.

    Returns:
        An iterator of `[<= batch, num_ws, w_dim]`, and the style offsets if a move needs them.

    Raises:
        InputError: As `steer`, or `batch` is out of range. Nothing is computed before.
    """
    columns = columns_of(moves)
    check_directions(directions, [move.name for move in moves])
    for move in moves:
        _moved_latents(directions, move)
    batch, apart = whole_number(batch, "batch", 1), yes_or_no(apart, "apart")
    return _batches(directions, _checked_ws(directions, ws), moves, columns, batch, apart)


def _batches(
    directions: Directions, ws: np.ndarray, moves: Sequence[Move], columns: int, batch: int, apart: bool
) -> Iterator[Steered]:
    groups = [[move] for move in moves] if apart else [moves]
    cells = itertools.product(groups, range(len(ws)), range(columns))
    batch = min(batch, len(groups) * len(ws) * columns)
    has_styles = _has_styles(directions, moves)
    none = np.zeros((1, directions.style_channels), np.float32)
    while chosen := list(itertools.islice(cells, batch)):
        steered = [_steered(directions, ws[i : i + 1], group, column) for group, i, column in chosen]
        offsets = [none if cell.style_offsets is None else cell.style_offsets for cell in steered]
        yield Steered(np.concatenate([cell.ws for cell in steered]), np.concatenate(offsets) if has_styles else None)


def _check_are_moves(moves: object) -> None:
    if not isinstance(moves, Sequence) or not all(isinstance(move, Move) for move in moves):
        raise InputError(f"moves are a list of Move, as parse_move reads them, not {shown(moves)}")


def _checked_ws(directions: Directions, ws: object) -> np.ndarray:
    return host_floats(ws, ("N", directions.num_ws, directions.w_dim), "ws")


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
