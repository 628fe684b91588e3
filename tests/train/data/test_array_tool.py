"""The dataset tool on arrays of measured values, and the dataset that training reads from its zip."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stylert.core.errors import DataError, InputError
from stylert.core.images.channels import Channel, in_units
from stylert.train.data.array_tool import convert_arrays
from stylert.train.data.channels_file import ChannelRange
from stylert.train.data.dataset import ImageDataset
from stylert.train.selection import Selection, random_sample


@pytest.fixture
def values(rng: np.random.Generator) -> np.ndarray:
    return (
        rng.normal(size=(5, 3, 16, 16)) * np.array([30.0, 1e-3, 5.0])[:, None, None]
        + np.array([270.0, 0.0, -2.0])[:, None, None]
    )


def sources(folder: Path, values: np.ndarray) -> dict[str, Path]:
    """The same images in every form that is read."""
    np.save(folder / "stack.npy", values)
    np.save(folder / "last.npy", values.transpose(0, 2, 3, 1))
    np.savez(folder / "archive.npz", **{f"a{i}": image for i, image in enumerate(values)})
    (folder / "files").mkdir()
    with zipfile.ZipFile(folder / "files.zip", "w") as archive:
        for i, image in enumerate(values):
            np.save(folder / "files" / f"{i}.npy", image)
            archive.write(folder / "files" / f"{i}.npy", f"x/{i}.npy")
    return {name: folder / name for name in ("stack.npy", "last.npy", "archive.npz", "files", "files.zip")}


def test_every_form_gives_the_same_dataset_whose_units_are_those_of_the_source(tmp_path: Path, values: np.ndarray) -> None:
    zips = {}
    for name, source in sources(tmp_path, values).items():
        out = tmp_path / f"{name}.out.zip"
        assert convert_arrays(source, out, 16, layout="hwc" if name == "last.npy" else "chw").images == 5
        zips[name] = out.read_bytes()
    assert len(set(zips.values())) == 1
    dataset = ImageDataset(tmp_path / "stack.npy.out.zip")
    assert dataset.images.dtype == np.float32
    assert np.abs(dataset.images).max() <= 1 + 1e-6
    assert dataset.image_channels is not None
    np.testing.assert_allclose(in_units(dataset.images, dataset.image_channels), values, rtol=1e-5, atol=1e-6)


def test_a_user_gives_names_units_and_ranges(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", values)
    described = [{"name": "t2m", "unit": "K", "low": 220, "high": 320}, {"name": "q"}, {"name": "u10", "unit": "m/s"}]
    (tmp_path / "channels.json").write_text(json.dumps(described), encoding="utf-8")
    convert_arrays(tmp_path / "a.npy", tmp_path / "out.zip", 16, channels=tmp_path / "channels.json")
    first, second, third = ImageDataset(tmp_path / "out.zip").image_channels or ()
    assert first == Channel("t2m", "K", 50.0, 270.0)
    assert (second.name, second.scale) == ("q", pytest.approx(np.ptp(values[:, 1]) / 2))
    assert third.unit == "m/s"


def test_channels_are_resampled_within_their_range(tmp_path: Path, rng: np.random.Generator) -> None:
    values = (rng.random((2, 1, 40, 64)) > 0.5).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    for transform in ("center-crop", "pad"):
        convert_arrays(tmp_path / "a.npy", tmp_path / f"{transform}.zip", 16, transform)
        images = ImageDataset(tmp_path / f"{transform}.zip").images[:]
        assert images.shape == (2, 1, 16, 16)
        assert np.abs(images).max() <= 1
    assert (images[:, :, 0] == 0).all()  # the border


def test_lazy_selected_and_mirrored_values_are_those_in_memory(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", values)
    convert_arrays(tmp_path / "a.npy", tmp_path / "out.zip", 16)
    held, lazy = ImageDataset(tmp_path / "out.zip"), ImageDataset(tmp_path / "out.zip", memory=0)
    assert held.in_memory
    assert not lazy.in_memory
    np.testing.assert_array_equal(lazy.images[:], held.images)
    mirrored = Selection(lazy, np.array([3, 1]), mirror=True)
    mirrored.load()
    np.testing.assert_array_equal(mirrored.images, np.concatenate([held.images[[3, 1]], held.images[[3, 1]][..., ::-1]]))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((2, 1, 16, 16), np.nan), "not finite"),
        (np.zeros((2, 16, 16, 1)), "channels as chw"),
        (np.zeros((2, 1, 16, 24)), "not square"),
        (np.zeros(7), "not an image"),
        (np.zeros((2, 1, 16, 16), complex), "complex128"),
    ],
)
def test_what_is_no_image_of_values_is_refused_and_nothing_is_written(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=words):
        convert_arrays(tmp_path / "a.npy", tmp_path / "out.zip", 16)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def test_channels_that_do_not_fit_and_a_wrong_layout_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(InputError, match="layout"):
        convert_arrays(tmp_path / "a.npy", tmp_path / "out.zip", 16, layout="cwh")
    for text in ('[{"name": "a"}]', "[]", '[{"name": "a", "low": 1, "high": 1}, {"name": "b"}, {"name": "c"}]', "{"):
        (tmp_path / "channels.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"channels\.json"):
            convert_arrays(tmp_path / "a.npy", tmp_path / "out.zip", 16, channels=tmp_path / "channels.json")


def test_a_channel_of_one_value_keeps_it() -> None:
    assert ChannelRange("mask").channel(3.0, 3.0) == Channel("mask", "", 1.0, 3.0)
    with pytest.raises(ValueError, match="empty"):
        ChannelRange("a", low=5.0).channel(0.0, 2.0)


def test_what_takes_pictures_refuses_values(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", values)
    convert_arrays(tmp_path / "a.npy", tmp_path / "out.zip", 16)
    with pytest.raises(DataError, match="holds measured values \\(channel0, channel1, channel2\\)"):
        random_sample(tmp_path / "out.zip", None)
