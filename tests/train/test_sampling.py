"""Images by seed: labels are rows of the table, random noise is repeatable and leaves PyTorch's random state alone."""

import numpy as np
import pytest
import torch

from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.networks import Generator
from stylert.train.sampling import generate, labels_of_seeds


@pytest.fixture
def generator(rng):
    cfg = GeneratorConfig(8, z_dim=4, w_dim=4, c_dim=3, channel_base=32, channel_max=4, mapping_layers=1)
    generator = Generator(cfg)
    for name, p in generator.named_parameters():
        if name.endswith("noise_strength"):
            p.data.fill_(1)
    return generator


def test_labels_are_rows_of_the_table_as_often_as_there(generator):
    table = np.repeat(np.array([[0.2, 1.5, -1], [0, 0, 1], [1, 0, 0]], np.float32), [90, 9, 1], axis=0)
    labels = labels_of_seeds(generator, range(5, 3005), table).numpy()
    rows, counts = np.unique(labels, axis=0, return_counts=True)
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(np.unique(table, axis=0), axis=0))
    for row, count in zip(rows, counts, strict=True):
        p = (table == row).all(1).mean()
        assert abs(count - 3000 * p) < 5 * np.sqrt(3000 * p)


def test_the_label_of_an_image_depends_on_its_seed_alone(generator):
    table = np.random.default_rng(0).normal(size=(50, 3))
    many = labels_of_seeds(generator, range(100), table)
    for seed in (0, 17, 99):
        assert torch.equal(labels_of_seeds(generator, [seed], table)[0], many[seed])


def test_without_a_table_the_classes_take_turns(generator):
    assert labels_of_seeds(generator, [4, 5, 6]).argmax(1).tolist() == [1, 2, 0]


def test_random_noise_is_repeatable_and_leaves_the_random_state_alone(generator):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = generate(generator, range(4), noise_mode="random")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    np.testing.assert_array_equal(generate(generator, range(4), noise_mode="random"), first)
    assert not np.array_equal(generate(generator, range(4), noise_mode="const"), first)
