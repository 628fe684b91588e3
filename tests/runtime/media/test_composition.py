"""Compositions are the latents of their parts, and the recipe of one makes it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stylert.core.errors import InputError
from stylert.core.seeds import z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.media.composition import Composition, composed_ws, moved_ws
from stylert.runtime.media.recipes import Recipe, bundle_hash
from stylert.runtime.media.rendering import check_fits, picture
from stylert.runtime.steering.directions_file import Directions, read_directions, write_directions
from tests.runtime.steering.random_files import random_directions


def test_a_composition_takes_each_latent_from_its_seed_and_then_a_step(bundle: Bundle, rng: np.random.Generator) -> None:
    with Generator.load(bundle) as g:
        items = []
        for _ in range(7):
            latents = tuple(int(s) for s in rng.integers(0, 5, g.bundle.num_ws))
            items.append(
                Composition(latents, float(rng.choice([0.5, 1.0])), None, None, int(rng.integers(5)), float(rng.random()))
            )
        for item, ws in zip(items, composed_ws(g, items), strict=True):
            apart = g.map(z_from_seeds(item.latents, 24), item.psi)
            own = np.stack([apart[i, i] for i in range(len(apart))])
            end = g.map(z_from_seeds([item.toward or 0], 24), item.psi)[0]
            np.testing.assert_allclose(ws, own + item.at * (end - own), rtol=0, atol=1e-5)


def test_a_composition_of_one_seed_is_its_image(bundle: Bundle) -> None:
    with Generator.load(bundle) as g:
        ws = composed_ws(g, [Composition((7,) * bundle.num_ws, 0.7, 2)])
        np.testing.assert_array_equal(g.synthesize(ws), g([7], 0.7, 2))


def test_classes_and_label_vectors_reach_the_network(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    bundle = export_bundle(make_checkpoint(c_dim=3), tmp_path / "bundle", ["fp32"], verify_seeds=0)
    with Generator.load(bundle) as g:
        labels = [0, 2, (0.0, 0.5, 0.5)]
        ws = composed_ws(g, [Composition((4,) * bundle.num_ws, label=label) for label in labels])
        vectors = np.array([[1, 0, 0], [0, 0, 1], [0, 0.5, 0.5]], np.float32)
        np.testing.assert_allclose(ws, g.map(z_from_seeds([4, 4, 4], 24), labels=vectors), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": (1, 2)}, "has 6 latents"),
        ({"latents": (1, 1, 1, 1, 1, -1)}, "a seed is"),
        ({"latents": (1, 1, 1, 1, 1, True)}, "a seed is"),
        ({"toward": 2**32}, "a seed is"),
        ({"psi": float("nan")}, "psi"),
        ({"psi": 1001.0}, "psi is from"),
        ({"cutoff": 7}, "cutoff"),
        ({"at": 1.5}, "at is the part"),
        ({"label": 0}, "no labels"),
    ],
)
def test_a_wrong_value_is_refused_by_name(bundle: Bundle, changes: dict[str, object], message: str) -> None:
    good = Composition((1,) * bundle.num_ws)
    good.check(bundle)
    with pytest.raises(InputError, match=message):
        replace(good, **changes).check(bundle)  # type: ignore[arg-type]


def test_the_recipe_of_a_composition_makes_it_again(bundle: Bundle) -> None:
    latents = (1, 1, 2, 2, 3, 3)
    recipe = Recipe(command="compose", bundle=bundle_hash(bundle), backend="onnxruntime", precision="fp32", batch=1,
                    seeds=(1,), psi=(0.8,), latents=latents, toward=5, at=0.25)  # fmt: skip
    with Generator.load(bundle) as g:
        expected = g.synthesize(composed_ws(g, [Composition(latents, 0.8, toward=5, at=0.25)]))[0]
        np.testing.assert_array_equal(picture(g, Recipe.from_json(recipe.to_json())), expected)
        with pytest.raises(InputError, match="has 6 latents"):
            picture(g, replace(recipe, latents=(1, 2)))


@pytest.fixture
def directions(bundle: Bundle, rng: np.random.Generator, tmp_path: Path) -> Directions:
    """Random directions of the network of the bundle, from a file."""
    write_directions(tmp_path / "d.safetensors", random_directions(rng, bundle.provenance["checkpoint_sha256"]))
    return read_directions(tmp_path / "d.safetensors")


def test_each_image_of_a_batch_makes_its_own_moves(directions: Directions, rng: np.random.Generator) -> None:
    ws = rng.standard_normal((4, directions.num_ws, directions.w_dim)).astype(np.float32)
    moves = [(), ("smile=2", "pose.1@3=-1"), ("b4.conv1.7=3",), ("pose.1=0.5",)]
    moved = moved_ws(ws, [Composition((0,), moves=own).parsed_moves for own in moves], directions)
    expected, smile, pose = ws.copy(), directions["smile"].vector, directions["pose.1"].vector
    expected[1] += 2 * smile
    expected[1, 3] -= pose
    expected[3, :2] += np.float32(0.5) * pose
    np.testing.assert_array_equal(moved.ws, expected)
    assert moved.style_offsets is not None
    np.testing.assert_array_equal(moved.style_offsets[2], 3 * directions["b4.conv1.7"].vector)
    assert not moved.style_offsets[[0, 1, 3]].any()
    assert moved_ws(ws, [()] * 4, directions).ws is ws


def test_the_recipe_of_a_composition_with_moves_makes_it_again(bundle: Bundle, directions: Directions) -> None:
    latents, moves = (1, 1, 2, 2, 3, 3), ("smile=1.5", "pose.1@2-3=-2")
    recipe = Recipe(command="compose", bundle=bundle_hash(bundle), backend="onnxruntime", precision="fp32", batch=1, seeds=(1,),
                    psi=(0.8,), latents=latents, toward=5, at=0.25, directions=directions.sha256, moves=moves)  # fmt: skip
    with Generator.load(bundle) as g:
        ws = composed_ws(g, [Composition(latents, 0.8, toward=5, at=0.25)])
        ws += np.float32(1.5) * directions["smile"].vector
        ws[:, 2:4] += np.float32(-2) * directions["pose.1"].vector
        again = Recipe.from_json(recipe.to_json())
        np.testing.assert_array_equal(picture(g, again, directions=directions), g.synthesize(ws)[0])
        for changes, given, message in (
            ({}, None, "needs the file of directions"),
            ({"directions": "0" * 64}, directions, "needs the file of directions"),
            ({"moves": ("smile=1,2",)}, directions, "has one strength"),
            ({"moves": ("smil=1",)}, directions, "only smile, pose.1"),
            ({"moves": ("b4.conv1.7=1",)}, directions, "has no input for styles"),
        ):
            with pytest.raises(InputError, match=message):
                check_fits(g, replace(recipe, **changes), given)


def test_moves_without_directions_are_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="needs a file of directions"):
        Composition((1,) * bundle.num_ws, moves=("smile=1",)).check(bundle)
