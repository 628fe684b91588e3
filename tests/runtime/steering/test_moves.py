"""Moves add strength times vector to the right latents and styles, and nothing to others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import InputError
from stylert.runtime.bundle import Bundle
from stylert.runtime.steering.directions_file import Direction, Directions
from stylert.runtime.steering.moves import Move, check_moves, columns_of, parse_move, steer, steered_batches
from tests.runtime.steering.random_files import NUM_WS, STYLES, W_DIM, random_directions


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("smile=+2", Move("smile", None, (2.0,))),
        ("pose.1=-1.5,0,1e-3", Move("pose.1", None, (-1.5, 0.0, 1e-3))),
        ("a@coarse,5=1", Move("a", "coarse,5", (1.0,))),
        ("a@0-3=-1", Move("a", "0-3", (-1.0,))),
    ],
)
def test_a_move_is_read(text: str, move: Move) -> None:
    assert parse_move(text) == move


@pytest.mark.parametrize(
    "text",
    [
        None,
        3,
        b"smile=1",
        "",
        "smile",
        "smile=",
        "=2",
        "smile=two",
        "smile=nan",
        "smile=1001",
        "smile=1,,2",
        "@0=1",
        "a@=1",
        "a b=1",
        "a=1_0",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="NAME=STRENGTH"):
        parse_move(text)


def test_moves_add_up_and_leave_other_latents_alone(rng: np.random.Generator) -> None:
    directions = random_directions(rng)
    ws = rng.standard_normal((3, NUM_WS, W_DIM)).astype(np.float32)
    before = ws.copy()
    moves = [parse_move(text) for text in ("smile=2", "pose.1=-1", "smile@3-4=0.5", "b4.conv1.7=3")]
    moved, offsets = steer(directions, ws, moves)
    smile, pose = directions["smile"].vector, directions["pose.1"].vector
    expected = before + 2 * smile
    expected[:, :2] -= pose
    expected[:, 3:5] += 0.5 * smile
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(offsets, np.tile(3 * directions["b4.conv1.7"].vector, (3, 1)), rtol=1e-6)
    np.testing.assert_array_equal(ws, before)
    assert (moved.dtype, offsets.dtype, offsets.shape) == (np.float32, np.float32, (3, STYLES))  # type: ignore[union-attr]
    assert steer(directions, ws, moves[:3]).style_offsets is None


@pytest.mark.parametrize("apart", [False, True])
def test_a_grid_has_a_column_for_each_strength(apart: bool, rng: np.random.Generator) -> None:
    directions = random_directions(rng)
    ws = rng.standard_normal((1 if apart else 2, NUM_WS, W_DIM)).astype(np.float32)
    moves = [parse_move(text) for text in ("smile=-1,0,1", "pose.1=2" if not apart else "pose.1=2,3,4", "b4.conv1.7=1,2,3")]
    batches = list(steered_batches(directions, ws, moves, 4, apart))
    assert {len(batch.ws) for batch in batches[:-1]} <= {4}
    grid, offsets = np.concatenate([b.ws for b in batches]), np.concatenate([b.style_offsets for b in batches])  # type: ignore[misc]
    rows = [[move] for move in moves] if apart else [moves] * len(ws)
    for i, group in enumerate(rows):
        for column in range(3):
            cell, cell_offsets = steer(directions, ws[:1] if apart else ws[i : i + 1], group, column)
            np.testing.assert_array_equal(grid[3 * i + column], cell[0])
            none = np.zeros(STYLES, np.float32)
            np.testing.assert_array_equal(
                offsets[3 * i + column],
                none if cell_offsets is None else cell_offsets[0],
            )
    assert len(grid) == len(offsets) == 3 * len(rows)
    assert {batch.style_offsets for batch in steered_batches(directions, ws, moves[:2], 4, apart)} == {None}


def test_moves_of_different_lengths_are_refused() -> None:
    assert columns_of([parse_move("a=1,2"), parse_move("b=1"), parse_move("c=3,4")]) == 2
    with pytest.raises(InputError, match="2 and 3"):
        columns_of([parse_move("a=1,2"), parse_move("b=1,2,3")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frown=1", "no direction"),
        ("smile@9=1", "latents are 0 to 5"),
        ("smile@fine=1", "no fine level"),
        ("b4.conv1.7@0=1", "takes no levels"),
        ("b4.conv1.7=1", "--style-offsets"),
    ],
)
def test_moves_that_do_not_fit_are_refused(text: str, message: str, bundle: Bundle, rng: np.random.Generator) -> None:
    directions = random_directions(rng, bundle.provenance["checkpoint_sha256"])
    check_moves(directions, [parse_move("smile=1")], bundle)
    check_moves(directions, [parse_move("b4.conv1.7=1")], replace(bundle, style_channels=STYLES))
    with pytest.raises(InputError, match=message):
        check_moves(directions, [parse_move("smile=1"), parse_move(text)], bundle)


def test_numbers_of_numpy_are_the_same_numbers(rng: np.random.Generator) -> None:
    directions = random_directions(rng)
    ws = rng.standard_normal((2, NUM_WS, W_DIM)).astype(np.float32)
    expected = steer(directions, ws, [parse_move("smile=1,2")], 1).ws
    for strengths, column in (((np.float32(1), np.float64(2)), np.int64(1)), ((np.int64(1), np.float16(2)), np.uint8(1))):
        moved = steer(directions, ws, [Move("smile", None, strengths)], column).ws  # type: ignore[arg-type]
        np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(steer(directions, ws.astype(np.float64), [parse_move("smile=1,2")], 1).ws, expected)


WRONG_MOVES: list[tuple[object, object, object]] = [
    (None, None, (1.0,)),
    ("smile", 3, (1.0,)),
    ("smile", None, ()),
    ("smile", None, None),
    ("smile", None, 1.0),
    ("smile", None, (float("nan"),)),
    ("smile", None, (np.float32("inf"),)),
    ("smile", None, (1001.0,)),
    ("smile", None, ("1",)),
    ("smile", None, (10**400,)),
]


@pytest.mark.parametrize(("name", "levels", "strengths"), WRONG_MOVES)
def test_a_move_of_other_values_is_refused_in_one_line(name: str, levels: str, strengths: tuple[float, ...]) -> None:
    with pytest.raises(InputError) as e:
        Move(name, levels, strengths)
    assert "\n" not in str(e.value)


def test_wrong_latents_moves_and_columns_are_refused_in_one_line(rng: np.random.Generator) -> None:
    directions, ws = random_directions(rng), np.zeros((1, NUM_WS, W_DIM), np.float32)
    smile = [parse_move("smile=1,2")]
    wrong_moves: list[object] = [None, "smile=1", ["smile=1"], [None], 3]
    wrong_ws: list[object] = [None, ws[0], ws[:, :2], ws.astype(int), np.full_like(ws, np.nan), np.full_like(ws, 3e38)]
    calls = [(ws, moves, 0) for moves in wrong_moves] + [(given, smile, 0) for given in wrong_ws]
    calls += [(ws, smile, column) for column in (-1, 2, 0.5, None, True)]
    for given, moves, column in calls:
        with pytest.raises(InputError) as e:
            steer(directions, given, moves, column)  # type: ignore[arg-type]
        assert "\n" not in str(e.value)


def test_a_direction_beyond_float32_warns_of_nothing_and_is_refused_by_the_network(rng: np.random.Generator) -> None:
    directions = random_directions(rng)
    long = replace(directions["smile"], vector=np.full(W_DIM, 3e38, np.float32))
    ws = np.zeros((1, NUM_WS, W_DIM), np.float32)
    moved = steer(replace(directions, by_name={"smile": long}), ws, [parse_move("smile=2")]).ws
    assert np.isinf(moved).all()


FLOATS = np.ones(W_DIM, np.float32)
WRONG_DIRECTIONS: dict[str, Any] = {
    "nothing": Direction("w", None, (0,)),  # type: ignore[arg-type]
    "a list": Direction("w", FLOATS.tolist(), (0,)),  # type: ignore[arg-type]
    "another length": Direction("w", FLOATS[1:], (0,)),
    "two axes": Direction("w", FLOATS[None], (0,)),
    "no axis": Direction("w", np.array(1.0), (0,)),
    "whole numbers": Direction("w", FLOATS.astype(int), (0,)),
    "complex numbers": Direction("w", FLOATS.astype(complex), (0,)),
    "objects": Direction("w", FLOATS.astype(object), (0,)),
    "NaN": Direction("w", np.full_like(FLOATS, np.nan), (0,)),
    "values beyond float32": Direction("w", np.full(W_DIM, 1e39), (0,)),
    "a style of another length": Direction("styles", FLOATS),
    "an unknown space": Direction("z", FLOATS, (0,)),  # type: ignore[arg-type]
    "a latent that is not there": Direction("w", FLOATS, (NUM_WS,)),
    "half a latent": Direction("w", FLOATS, (0.5,)),  # type: ignore[arg-type]
    "no list of latents": Direction("w", FLOATS, 3),  # type: ignore[arg-type]
    "a name of latents": Direction("w", FLOATS, "0"),  # type: ignore[arg-type]
    "no direction": None,
}


@pytest.mark.parametrize("wrong", WRONG_DIRECTIONS)
def test_a_direction_made_by_hand_that_does_not_fit_is_refused_by_its_name(
    wrong: str, bundle: Bundle, rng: np.random.Generator
) -> None:
    directions = random_directions(rng, bundle.provenance["checkpoint_sha256"])
    directions = replace(directions, by_name={**directions.by_name, "made": WRONG_DIRECTIONS[wrong]})
    ws, moves = np.zeros((1, NUM_WS, W_DIM), np.float32), [parse_move("made=1")]
    for use in (
        lambda: steer(directions, ws, moves),
        lambda: steered_batches(directions, ws, moves, 1),
        lambda: check_moves(directions, moves, bundle),
    ):
        with pytest.raises(InputError, match="made") as e:
            use()
        assert str(e.value).isprintable()
    assert len(steer(directions, ws, [parse_move("smile=1")]).ws) == 1  # which does not move along it


def test_a_vector_of_float64_moves_as_the_same_vector_of_float32(rng: np.random.Generator) -> None:
    directions, ws = random_directions(rng), np.zeros((1, NUM_WS, W_DIM), np.float32)
    wide = {name: replace(d, vector=d.vector.astype(np.float64)) for name, d in directions.by_name.items()}
    for text in ("smile=2", "b4.conv1.7=2"):
        expected, moved = (steer(d, ws, [parse_move(text)]) for d in (directions, replace(directions, by_name=wide)))
        for one, other in zip(expected, moved, strict=True):
            np.testing.assert_array_equal(other, one)
            assert one is None or other.dtype == np.float32


NO_DIRECTIONS: list[Any] = [None, 3, "d.safetensors", {"smile": FLOATS}, [Direction("w", FLOATS, (0,))]]
NO_SIZES: list[dict[str, Any]] = [
    {"num_ws": 0}, {"num_ws": None}, {"num_ws": 2**70}, {"w_dim": "20"}, {"w_dim": float("nan")}, {"w_dim": True},
    {"style_channels": -1}, {"style_channels": 2**40}, {"by_name": None}, {"by_name": [1]}, {"network": None}, {"network": ""},
]  # fmt: skip


def test_what_is_no_directions_and_no_bundle_is_refused_in_one_line(bundle: Bundle, rng: np.random.Generator) -> None:
    right = random_directions(rng, bundle.provenance["checkpoint_sha256"])
    ws, moves = np.zeros((1, NUM_WS, W_DIM), np.float32), [parse_move("smile=1")]
    wrong: list[Directions] = [*NO_DIRECTIONS, *(replace(right, **changed) for changed in NO_SIZES)]
    for directions in wrong:
        for use in (
            lambda: steer(directions, ws, moves),  # noqa: B023
            lambda: steered_batches(directions, ws, moves, 1),  # noqa: B023
            lambda: check_moves(directions, moves, bundle),  # noqa: B023
        ):
            with pytest.raises(InputError, match="directions") as e:
                use()
            assert str(e.value).isprintable()
    for other in (None, 3, str(bundle.path), bundle.path, {}):
        with pytest.raises(InputError, match="a bundle is a Bundle"):
            check_moves(right, moves, other)  # type: ignore[arg-type]
    for no_moves in (None, "smile=1", ["smile=1"], {"smile": 1}):
        with pytest.raises(InputError, match="moves are a list of Move"):
            check_moves(right, no_moves, bundle)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [0, -1, 0.5, None, True, "1", float("nan"), [1]])
def test_a_batch_that_is_no_number_of_images_is_refused_before_the_first_item(batch: Any, rng: np.random.Generator) -> None:
    ws = np.zeros((1, NUM_WS, W_DIM), np.float32)
    with pytest.raises(InputError, match="batch is a whole number from 1"):
        steered_batches(random_directions(rng), ws, [parse_move("smile=1")], batch)
    (whole,) = steered_batches(random_directions(rng), ws, [parse_move("smile=1")], 2**70)
    assert len(whole.ws) == 1
    assert not list(steered_batches(random_directions(rng), ws, [], 1, apart=True))
