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
from stylert.runtime.media.composition import Composition, composed_ws
from stylert.runtime.media.recipes import Recipe, bundle_hash
from stylert.runtime.media.rendering import picture


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
