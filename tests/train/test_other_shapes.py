"""Training on images that are not square, with alpha, or of measured values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylert.core.errors import DataError
from stylert.models.checkpoint import read_generator
from stylert.train.augment.pipeline import augment
from stylert.train.configuration.presets import resolve
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.data.array_tool import convert_arrays
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset
from stylert.train.run_cost import training_cost
from stylert.train.snapshots.run_folder import save, save_first_grids
from stylert.train.snapshots.snapshot_file import read_config
from stylert.train.trainer import Trainer

SMALL = {"channel_base": 64, "channel_max": 8, "batch": 4, "mapping_layers": 1, "z_dim": 4, "w_dim": 4}


def pictures(folder: Path, rng: np.random.Generator, height: int, width: int, channels: int) -> Path:
    folder.mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (height, width, channels), np.uint8)).save(folder / f"{i}.png")
    return folder


def config(dataset: ImageDataset, **changes: object) -> TrainConfig:
    height, width = dataset.images.shape[2:]
    sides = {"const_height": height // (dataset.resolution // 4), "const_width": width // (dataset.resolution // 4)}
    facts = {"img_channels": dataset.images.shape[1], "image_channels": dataset.image_channels, **sides}
    return resolve("cpu-small", dataset.resolution, **facts, **{**SMALL, **changes})


@pytest.mark.parametrize(("height", "width"), [(16, 32), (24, 40), (28, 16)])
def test_a_run_on_images_that_are_not_square_makes_such_images(
    tmp_path: Path, rng: np.random.Generator, height: int, width: int
) -> None:
    source = pictures(tmp_path / "in", rng, height, width, 3)
    convert_dataset(source, tmp_path / "out.zip", (width, height))
    dataset = ImageDataset(tmp_path / "out.zip")
    cfg = config(dataset, aug="fixed", aug_p=0.8, aug_pipeline="bgcfnc")
    assert cfg.r1_gamma == pytest.approx(1.6 / 64**2 * height * width)
    assert training_cost(cfg, 1).macs_per_image > 0
    trainer = Trainer(cfg, dataset)
    stats = trainer.train_step()
    assert np.isfinite(list(stats.values())).all()
    assert save_first_grids(trainer, tmp_path, is_new=True).shape == (6, height, width, 3)
    assert save(trainer, tmp_path).shape[1:] == (height, width, 3)
    assert read_config(tmp_path / "snapshot.safetensors") == cfg
    written = read_generator(tmp_path / "model.safetensors").config
    assert (written.height, written.width) == (height, width)


def test_a_run_on_alpha_and_one_on_values_keep_their_channels(tmp_path: Path, rng: np.random.Generator) -> None:
    convert_dataset(pictures(tmp_path / "in", rng, 16, 16, 4), tmp_path / "alpha.zip", 16, alpha=True)
    np.save(tmp_path / "values.npy", rng.normal(size=(6, 6, 16, 16)) * 40 + 270)
    convert_arrays(tmp_path / "values.npy", tmp_path / "values.zip", 16)
    shown = {"alpha": (6, 16, 16, 4), "values": (6, 32, 48, 1)}
    for name, shape in shown.items():
        dataset = ImageDataset(tmp_path / f"{name}.zip")
        trainer = Trainer(config(dataset, aug="fixed", aug_p=0.5, aug_pipeline="bg"), dataset)
        assert np.isfinite(list(trainer.train_step().values())).all()
        (tmp_path / name).mkdir()
        assert save_first_grids(trainer, tmp_path / name, is_new=True).shape == shape
        save(trainer, tmp_path / name)
        written = read_generator(tmp_path / name / "model.safetensors").config
        assert isinstance(written, type(trainer.cfg.generator))
        assert written == trainer.cfg.generator
        assert written.image_channels == dataset.image_channels


def test_a_run_is_not_continued_on_values_of_another_range(tmp_path: Path, rng: np.random.Generator) -> None:
    for i in (1, 2):
        np.save(tmp_path / "a.npy", rng.normal(size=(6, 2, 16, 16)) * i)
        convert_arrays(tmp_path / "a.npy", tmp_path / f"{i}.zip", 16)
    first, second = (ImageDataset(tmp_path / f"{i}.zip") for i in (1, 2))
    with pytest.raises(DataError, match="other names, units or ranges"):
        Trainer(config(first), second)


@pytest.mark.parametrize("pipeline", ["bg", "filter", "noise", "cutout"])
def test_augmentations_without_colors_take_any_channels(pipeline: str) -> None:
    images = torch.rand(4, 6, 16, 24) * 2 - 1
    assert augment(images, 1.0, pipeline).shape == images.shape
    same = augment(images[:, :1].repeat(1, 6, 1, 1), 1.0, "bg")
    torch.testing.assert_close(same, same[:, :1].expand_as(same))  # all channels move together


def test_colors_of_other_channels_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another aug_pipeline than bgc, such as bg"):
        resolve("cpu-small", 16, img_channels=4, **SMALL, aug="ada")
    with pytest.raises(ValueError, match="projected discriminator takes square images, not 32x16 px"):
        resolve("cpu-small", 16, **SMALL, const_width=8, projected=128)
    with pytest.raises(ValueError, match="G makes images of 32x16 px, and D takes 16 px"):
        cfg = resolve("cpu-small", 16, **SMALL)
        TrainConfig.from_dict({**cfg.to_dict(), "generator": {**cfg.generator.to_dict(), "const_width": 8}})


def test_plans_of_square_pictures_stay_as_they_were() -> None:
    written = json.dumps(resolve("cpu-small", 64).to_dict())
    for name in ("const_height", "const_width", "image_channels"):
        assert name not in written
