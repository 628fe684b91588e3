"""The measurement of a whole generator: its latents, thresholds and sums, with a reader that knows w."""

import numpy as np
import pytest
import torch

from stylert.core.errors import InputError
from stylert.models.checkpoint import load_generator
from stylert.train.disentanglement import measurement
from stylert.train.disentanglement.attributes import Attribute
from stylert.train.disentanglement.leakage import LatentMove
from stylert.train.disentanglement.measurement import MeasureSettings, measure, random_latents
from stylert.train.sampling import labels_of_seeds
from tests.train.projection.pixel_distance import PixelDistance


class Known:
    """Returns values that a test has chosen, in place of those of images."""

    def __init__(self, attributes, values):
        self.attributes, self.values, self.first = attributes, values, 0

    def __call__(self, images):
        rows = self.values[self.first : self.first + len(images)]
        self.first += len(images)
        return rows


def test_a_coordinate_of_w_is_separable_in_w_and_chance_is_in_neither(checkpoint, rng):
    generator = load_generator(checkpoint)
    settings = MeasureSettings(images=400, paths=0, edits=2, strengths=(1.0,), seed=5)
    _, ws = random_latents(generator, 400, 5)
    values = np.stack([ws[:, 0, 0], rng.normal(size=400), ws[:, 0, 0], ws[:, 0, 0] - 1e3], axis=1)
    attributes = (
        Attribute("coordinate", "scores", 0.9, 0.3),
        Attribute("chance", "scores", 0.9, 0.5),
        Attribute("badly read", "scores", 0.4, 0.5),
        Attribute("nowhere", "parts", 0.9),
    )
    result = measure(generator, PixelDistance(), [Known(attributes, values)], [], settings)
    coordinate, chance, badly, nowhere = result.attributes
    assert coordinate.entropies["w"] == pytest.approx(0, abs=0.1)
    assert coordinate.entropies["w"] < coordinate.entropies["z"]
    assert chance.entropies["z"] > 0.6 < chance.entropies["w"]
    assert [a.counts for a in result.attributes] == [True, True, False, False]
    assert badly.entropies == nowhere.entropies == {"z": None, "w": None}
    assert [round(a.share, 6) for a in result.attributes] == [0.3, 0.5, 0.5, 0]
    assert coordinate.deviation == pytest.approx(values[:, 0].std())
    for space in "zw":
        total = coordinate.entropies[space] + chance.entropies[space]
        assert result.separability[space] == pytest.approx(np.exp(total))


def test_latents_are_those_of_the_mapping_network_with_all_classes_in_turn(make_checkpoint):
    generator = load_generator(make_checkpoint(c_dim=3))
    z, ws = random_latents(generator, 40, 7)
    with torch.no_grad():
        expected = generator.mapping(torch.from_numpy(z), labels_of_seeds(generator, range(40)))
    np.testing.assert_allclose(ws, expected.numpy(), atol=1e-5)
    assert abs(z.mean()) < 0.2
    assert z.std() == pytest.approx(1, abs=0.1)


def test_without_readers_directions_have_distances_alone(checkpoint):
    generator = load_generator(checkpoint)
    cfg = generator.cfg
    move = LatentMove("d", np.ones((cfg.num_ws, cfg.w_dim), np.float32))
    stages = []
    result = measure(
        generator, PixelDistance(), [], [move], MeasureSettings(50, 2, 3, (-1.0, 1.0)), lambda *stage: stages.append(stage)
    )
    assert result.effects[0].slopes.shape == (0,)
    assert result.effects[0].distances[1] == 0 < result.effects[0].distances[0]
    assert (result.attributes, result.separability) == ((), {})
    assert set(result.path_lengths) == {"z", "z, ends", "w", "w, ends"}
    assert {"PPL z", "PPL w, ends", "directions"} <= {stage for stage, _, _ in stages}


def test_a_network_whose_images_are_not_finite_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr(measurement, "path_distances", lambda *_, **__: np.array([1.0, np.nan]))
    with pytest.raises(InputError, match="not finite"):
        measure(load_generator(checkpoint), PixelDistance(), [], [], MeasureSettings(50, 2, 2, (1.0,)))
