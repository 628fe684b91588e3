"""The effect of directions, on attributes that are linear functions of w, and on styles."""

import numpy as np
import pytest
import torch

from stylert.models.checkpoint import load_generator
from stylert.models.stylegan2.style_space import style_slices
from stylert.train.disentanglement import leakage as module
from stylert.train.disentanglement.leakage import Effect, LatentMove, leakage, measure_move, moved_images, read
from tests.train.projection.pixel_distance import PixelDistance


@pytest.fixture
def linear_world(monkeypatch, rng):
    """Attributes that are linear in the second latent, in place of a generator: images are latents, and none is drawn."""
    num_ws, w_dim, count = 4, 6, 3
    weights = rng.normal(size=(w_dim, count))

    def draw(_, ws, move, strength):
        return torch.from_numpy(ws + np.float32(strength) * move.ws)[:, None]

    monkeypatch.setattr(module, "moved_images", draw)
    monkeypatch.setattr(module, "read", lambda _, images: images[:, 0, 1].double().numpy() @ weights)
    monkeypatch.setattr(module, "as_uint8", lambda images: np.zeros((len(images), 2, 2, 3), np.uint8))
    return num_ws, w_dim, weights


def test_the_change_of_a_linear_attribute_is_the_product_with_the_direction(linear_world, rng):
    num_ws, w_dim, weights = linear_world
    ws = rng.normal(size=(20, num_ws, w_dim)).astype(np.float32)
    step, deviations = np.zeros((num_ws, w_dim), np.float32), np.array([0.5, 2.0, 4.0])
    step[1] = rng.normal(size=w_dim)
    step[3] = 7  # no attribute reads this latent
    effect = measure_move(None, ws, LatentMove("d", step), [1, -2.5], [], deviations, PixelDistance())
    expected = step[1].astype(np.float64) @ weights / deviations
    np.testing.assert_array_equal(effect.strengths, [-2.5, 0, 1])
    np.testing.assert_allclose(effect.changes, effect.strengths[:, None] * expected, atol=1e-5)
    np.testing.assert_allclose(effect.slopes, expected, atol=1e-5)
    np.testing.assert_allclose(effect.sizes, np.abs(expected), atol=1e-5)
    np.testing.assert_allclose(effect.distances, np.square(effect.strengths) * np.square(step).mean(), rtol=1e-4)
    for others, counted in ([True, True, True], [0, 2]), ([True, False, False], [0]):
        by_hand = np.abs(expected[counted]).mean() / abs(expected[1])
        assert leakage(effect, 1, np.array(others)) == pytest.approx(by_hand, rel=1e-4)


def effect_of(slopes, sizes):
    none = np.empty(0)
    return Effect(LatentMove("d", none), none, none, np.array(slopes), np.array(sizes), none, none)


def test_a_change_without_a_common_sense_is_leakage_but_no_progress():
    assert leakage(effect_of([1.0, 0.0], [1.0, 0.5]), 0, np.array([True, True])) == 0.5
    assert leakage(effect_of([0.0, 1.0], [1.0, 1.0]), 0, np.array([True, True])) is None  # the target does not change
    assert leakage(effect_of([1.0, 1.0], [1.0, 1.0]), 0, np.array([True, False])) is None  # there is no other attribute


def test_an_attribute_that_rises_in_some_images_and_falls_in_others_has_a_size(monkeypatch):
    def draw(_, ws, move, strength):
        sense = np.where(np.arange(len(ws)) % 2, 1, -1)[:, None, None]
        return torch.from_numpy(ws + np.float32(strength) * sense * move.ws)[:, None].float()

    monkeypatch.setattr(module, "moved_images", draw)
    monkeypatch.setattr(module, "read", lambda _, images: images[:, 0, 0, :1].double().numpy())
    monkeypatch.setattr(module, "as_uint8", lambda images: np.zeros((len(images), 2, 2, 3), np.uint8))
    move = LatentMove("d", np.full((2, 3), 0.25, np.float32))
    effect = measure_move(None, np.zeros((20, 2, 3), np.float32), move, [-2, 2], [], np.ones(1), PixelDistance())
    assert (effect.slopes[0], effect.sizes[0]) == (0, 0.25)


def test_a_move_of_a_style_equals_an_edit_of_the_bias_and_is_undone(checkpoint, rng):
    generator, edited = load_generator(checkpoint), load_generator(checkpoint)
    cfg = generator.cfg
    places = style_slices(cfg)
    offsets = rng.normal(size=max(place.stop for place in places.values())).astype(np.float32)
    with torch.no_grad():
        for name, place in places.items():
            bias = edited.synthesis.get_submodule(name).affine.bias
            bias += torch.from_numpy(1.5 * offsets[place])
    ws = rng.normal(size=(2, cfg.num_ws, cfg.w_dim)).astype(np.float32)
    none = np.zeros(ws.shape[1:], np.float32)
    before = moved_images(generator, ws, LatentMove("d", none), 1)
    moved = moved_images(generator, ws, LatentMove("d", none, offsets), 1.5)
    torch.testing.assert_close(moved, moved_images(edited, ws, LatentMove("d", none), 1), atol=1e-5, rtol=1e-4)
    assert (moved - before).abs().max() > 0.01
    assert torch.equal(moved_images(generator, ws, LatentMove("d", none), 1), before)


def test_a_move_adds_to_the_latents_that_it_names(checkpoint, rng):
    generator = load_generator(checkpoint)
    cfg = generator.cfg
    ws, step = rng.normal(size=(2, 3, cfg.num_ws, cfg.w_dim)).astype(np.float32)
    expected = moved_images(generator, ws - 2 * step[:1], LatentMove("none", np.zeros_like(ws[0])), 0)
    torch.testing.assert_close(moved_images(generator, ws, LatentMove("d", step[0]), -2), expected)


def test_attributes_of_all_readers_stand_beside_each_other(rng):
    images = torch.from_numpy(rng.uniform(-1, 1, (3, 3, 4, 4)).astype(np.float32))
    readers = [lambda x: x.mean((1, 2), dtype=np.float64), lambda x: np.ones((len(x), 1))]
    values = read(readers, images)
    assert values.shape == (3, 4)
    np.testing.assert_allclose(values[:, :3], images.numpy().mean((2, 3)) * 127.5 + 127.5, atol=1)
    assert read([], images).shape == (3, 0)
