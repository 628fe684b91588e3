"""Runs of a few steps on seven images of 8 px, for the tests of the loop and of resuming."""

import numpy as np
import pytest
import torch

from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.data.dataset import ImageDataset
from stylert.train.snapshots.trainer_state import trainer_state

NETWORK = {"resolution": 8, "channel_base": 32, "channel_max": 4, "mapping_layers": 1}


def config(c_dim=0, **changes):
    run = {"batch": 4, "kimg": 0.02, "g_reg_interval": 2, "d_reg_interval": 3, "ema_kimg": 0.01, "ema_rampup": 0.5}
    return TrainConfig(
        GeneratorConfig(**NETWORK, z_dim=4, w_dim=4, c_dim=c_dim, num_fp16_res=1),
        DiscriminatorConfig(**NETWORK, c_dim=c_dim, mbstd_group_size=2, num_fp16_res=1),
        **(run | changes),
    )


@pytest.fixture
def dataset(rng, write_dataset):
    """Seven labelled images: batches of four do not end with an epoch."""
    images = {f"{i}.png": rng.integers(0, 256, (8, 8, 3), np.uint8) for i in range(7)}
    return ImageDataset(write_dataset(images, [[f"{i}.png", i % 2] for i in range(7)]), use_labels=True)


@pytest.fixture
def unlabelled(dataset):
    dataset.labels = None
    return dataset


def assert_same_state(a, b):
    (tensors, facts), (others, other_facts) = trainer_state(a), trainer_state(b)
    assert facts == other_facts
    assert tensors.keys() == others.keys()
    for name, t in tensors.items():
        assert torch.equal(t, others[name]), name
