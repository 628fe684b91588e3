"""Zips and folders of the official layout are read, batches follow the endless stream of epochs, damage is one line."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.core.errors import DataError
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset


class Images(dict):
    """A dictionary with a short representation, because hypothesis prints what it draws."""

    def __repr__(self):
        return f"{len(self)} images"


@pytest.fixture
def images(rng):
    """Five images with the names of the official layout."""
    return Images({f"{i:05d}/img{i * 10000:08d}.png": rng.integers(0, 256, (8, 8, 3), np.uint8) for i in range(5)})


def refusal(path, **options):
    with pytest.raises(DataError) as e:
        ImageDataset(path, **options)
    assert "\n" not in str(e.value)
    assert str(path) in str(e.value)
    return str(e.value)


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_images_are_read_exactly_in_the_order_of_their_names(images, write_dataset, kind):
    shuffled = dict(reversed(images.items()))
    dataset = ImageDataset(write_dataset(shuffled | {"README.txt": b"no image"}, kind=kind))
    assert dataset.names == sorted(images)
    assert (len(dataset), dataset.resolution, dataset.c_dim, dataset.labels) == (5, 8, 0, None)
    for name, array in zip(dataset.names, dataset.images, strict=True):
        np.testing.assert_array_equal(array.transpose(1, 2, 0), images[name])


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_class_indices_become_one_hot(images, write_dataset, rng, kind):
    classes = [2, *rng.integers(0, 3, 4).tolist()]
    labels = [[name, k] for name, k in zip(images, classes, strict=True)]
    dataset = ImageDataset(write_dataset(images, labels[::-1], kind), use_labels=True)
    assert dataset.c_dim == 3
    assert dataset.labels.dtype == np.float32
    np.testing.assert_array_equal(dataset.labels, np.eye(3)[classes])


@pytest.mark.parametrize("folder", ["", "run/"])
def test_the_folder_of_a_run_is_refused_as_a_dataset(images, write_dataset, tmp_path, folder):
    path = write_dataset(
        {f"{folder}fakes-000000.png": images["00000/img00000000.png"], f"{folder}snapshot.safetensors": b""}, kind="folder"
    )
    assert "folder of a training run" in refusal(path)
    with pytest.raises(DataError, match="folder of a training run"):
        convert_dataset(path, tmp_path / "out.zip", 8)


def test_label_vectors_are_kept(images, write_dataset, rng):
    vectors = rng.normal(size=(5, 4))
    path = write_dataset(images, [[n, v] for n, v in zip(images, vectors.tolist(), strict=True)])
    np.testing.assert_array_equal(ImageDataset(path, use_labels=True).labels, vectors.astype(np.float32))
    assert ImageDataset(path).labels is None


def test_grey_images_keep_one_channel_and_others_become_rgb(write_dataset, rng):
    grey = rng.integers(0, 256, (4, 4), np.uint8)
    np.testing.assert_array_equal(ImageDataset(write_dataset({"a.png": grey})).images, grey[None, None])
    rgba = rng.integers(0, 256, (4, 4, 4), np.uint8)
    rgba[:2, :, 3], rgba[2:, :, 3] = 255, 0
    dataset = ImageDataset(write_dataset({"a.PNG": rgba}, name="rgba"))
    np.testing.assert_array_equal(dataset.images[0, :, :2], rgba[:2, :, :3].transpose(2, 0, 1))
    assert (dataset.images[0, :, 2:] == 255).all()


def test_limit_takes_the_first_names_and_progress_is_reported(images, write_dataset):
    reports = []
    dataset = ImageDataset(write_dataset(images), limit=3, progress=lambda *report: reports.append(report))
    assert dataset.names == sorted(images)[:3]
    assert reports == [("read images", i, 3) for i in (1, 2, 3)]


class Sized(ImageDataset):
    """A dataset of `size` images without pixels, for `batch_indices` alone."""

    def __init__(self, size):
        self.images = np.empty(size)


@given(st.integers(1, 30), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_each_epoch_shows_every_image_once(size, epoch, seed):
    indices = Sized(size).batch_indices(epoch * size, size, seed)
    assert sorted(indices) == list(range(size))


@given(st.integers(1, 20), st.integers(0, 100), st.lists(st.integers(1, 25), min_size=1, max_size=6), st.integers(0, 9))
def test_the_stream_does_not_depend_on_how_it_is_split(size, start, counts, seed):
    dataset, parts, position = Sized(size), [], start
    for count in counts:
        parts.append(dataset.batch_indices(position, count, seed))
        assert len(parts[-1]) == count
        position += count
    np.testing.assert_array_equal(np.concatenate(parts), dataset.batch_indices(start, sum(counts), seed))


def test_every_epoch_and_every_seed_has_another_order():
    dataset = Sized(50)
    first, second, other = (dataset.batch_indices(start, 50, seed) for start, seed in ((0, 1), (50, 1), (0, 2)))
    assert len({tuple(x) for x in (first, second, other, range(50))}) == 4


def test_refuses_what_is_missing_or_empty(write_dataset, tmp_path):
    assert "does not exist" in refusal(tmp_path / "nothing.zip")
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refusal(tmp_path / "empty")
    assert "holds no pictures" in refusal(write_dataset({"a.txt": b"text"}))
    (tmp_path / "plain.zip").write_bytes(b"this is no archive")
    assert "cannot be read" in refusal(tmp_path / "plain.zip")


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_refuses_damaged_images(images, write_dataset, kind):
    last = max(images)
    assert last in refusal(write_dataset(images | {last: b"\x89PNG\r\n\x1a\n garbage"}, kind=kind))


def test_refuses_sizes_that_differ_or_that_no_network_has(images, write_dataset):
    last = max(images)
    for i, (wrong, message) in enumerate([((16, 16, 3), last), ((8, 8), last), ((8, 4, 3), last)]):
        files = images | {last: np.zeros(wrong, np.uint8)}
        assert message in refusal(write_dataset(files, name=f"mixed{i}"))
    assert "2x8" in refusal(write_dataset({"a.png": np.zeros((8, 2, 3), np.uint8)}, name="oblong"))
    assert "one power of two" in refusal(write_dataset({"a.png": np.zeros((67, 67, 3), np.uint8)}, name="odd"))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 0.999) | st.none(), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=3))
def test_a_damaged_zip_is_refused_or_loads(images, write_dataset, cut, flips):
    """Damage raises DataError or nothing, and a zip that was cut never loads."""
    path = write_dataset(images, [[n, 0] for n in images])
    data = bytearray(path.read_bytes())
    for position, mask in flips:
        data[int(position * len(data))] ^= mask
    path.write_bytes(data[: int(cut * len(data))] if cut is not None else data)
    try:
        dataset = ImageDataset(path, use_labels=True)
    except DataError as e:
        assert "\n" not in str(e)
    else:
        assert cut is None
        assert dataset.images.shape[2:] == (8, 8)


BAD_LABELS = {
    "none": None,
    "null": b'{"labels": null}',
    "empty": b'{"labels": []}',
    "no key": b"{}",
    "a list": b"[1]",
    "not JSON": b"{labels",
    "not text": b"\xff\xfe\x00",
    "one missing": [["00000/img00000000.png", 1]],
    "names alone": [["a"], ["b"]],
}
BAD_VALUES = [-1, 0.5, "cat", None, 10**12, {"a": 1}, float("nan"), [1.0, float("inf")], ["a", "b"], [], [[1], [2]], True]


@pytest.mark.parametrize("labels", BAD_LABELS.values(), ids=BAD_LABELS)
def test_refuses_missing_and_unreadable_labels(images, write_dataset, labels):
    assert "dataset.json" in refusal(write_dataset(images, labels), use_labels=True)


@pytest.mark.parametrize("value", BAD_VALUES, ids=str)
def test_refuses_labels_that_are_neither_classes_nor_vectors(images, write_dataset, value):
    labels = json.dumps({"labels": [[n, value] for n in images]}).encode()
    assert "labels" in refusal(write_dataset(images, labels), use_labels=True)


def test_refuses_mixed_kinds_of_labels(images, write_dataset):
    values = [1, [1, 2], 2, 3, 4]
    assert "labels" in refusal(write_dataset(images, [[n, v] for n, v in zip(images, values, strict=True)]), use_labels=True)


def test_a_compressed_zip_reads_like_a_stored_one(images, write_dataset, tmp_path):
    stored = write_dataset(images)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    np.testing.assert_array_equal(ImageDataset(stored).images, ImageDataset(tmp_path / "c.zip").images)


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_a_dataset_larger_than_the_memory_is_lazy_and_equal(images, write_dataset, rng, kind):
    path, reports = write_dataset(images, kind=kind), []
    in_memory = ImageDataset(path)
    lazy = ImageDataset(path, memory=5 * 8 * 8 * 3 - 1, progress=lambda *report: reports.append(report))
    assert (in_memory.in_memory, lazy.in_memory, reports) == (True, False, [])
    assert ImageDataset(path, memory=5 * 8 * 8 * 3).in_memory
    assert (len(lazy), lazy.resolution, lazy.images.shape) == (5, 8, in_memory.images.shape)
    for index in (rng.integers(0, 5, 30), slice(1, 4), slice(None), np.array([], int)):
        np.testing.assert_array_equal(lazy.images[index], in_memory.images[index])


@pytest.mark.parametrize("wrong", [b"\x89PNG garbage", np.zeros((16, 16, 3), np.uint8), np.zeros((8, 8), np.uint8)])
def test_a_lazy_dataset_reports_a_wrong_image_when_it_is_indexed(images, write_dataset, wrong):
    last = max(images)
    dataset = ImageDataset(write_dataset(images | {last: wrong}), memory=0)
    assert dataset.images[:4].shape == (4, 3, 8, 8)
    with pytest.raises(DataError, match=last):
        dataset.images[np.array([0, 4])]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("data.mdb", "an LMDB"),
        ("a/train.parquet", "a table"),
        ("data.parquet", "a table"),
        ("data.arrow", "a table"),
        ("cifar-10-python.tar.gz", "an archive of arrays"),
        ("train-images-idx3-ubyte.gz", "an archive of arrays"),
    ],
)
def test_sources_of_the_dataset_tool_are_named_with_it(tmp_path, name, kind):
    file = tmp_path / "source" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 100)
    is_file = kind == "an archive of arrays" or name.startswith("data.p") or name == "data.arrow"
    source = file if is_file else tmp_path / "source"
    assert f"{source} is {kind}: make a zip of it with stylert dataset {source} --out" in refusal(source)


def test_long_names_in_a_zip_are_shortened(tmp_path):
    for name in ("a" * 60_000 + ".png", "../" + "a" * 60_000, "b" * 60_000):
        path = tmp_path / "long.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"x")
            archive.writestr(name + "/" if "b" in name else "a.png", b"x")
        message = refusal(path)
        assert len(message) < 600
        with pytest.raises(DataError) as e:
            convert_dataset(path, tmp_path / "out.zip", 8)
        assert len(str(e.value)) < 1000


def test_an_encrypted_zip_is_told_as_such(tmp_path, images):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"secret")
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # zipfile writes no encrypted files itself
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    assert "'a.png' cannot be decoded: it is encrypted; unpack the zip first" in refusal(path)
