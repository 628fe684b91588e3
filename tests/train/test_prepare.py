"""From every kind of source to the official layout: pixels, labels, the same bytes; damage and attacks refused in one line."""

import gzip
import io
import json
import pickle
import pickletools
import stat
import struct
import tarfile
import zipfile

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stylert.runtime.errors import DataError, InputError, StylertError
from stylert.train.dataset import ImageDataset
from stylert.train.prepare import prepare
from stylert.train.sources import files, idx
from stylert.train.sources.cifar import OPERATIONS_OF_PYTHON_2


def encoded(array, form="png", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def labels_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("dataset.json"))["labels"]


def refusal(kind, *arguments, **options):
    with pytest.raises(kind) as e:
        prepare(*arguments, **options)
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (5, 16, 16, 3), np.uint8)


@pytest.fixture
def pictures(pixels):
    """The same, out of the sight of hypothesis, which prints what it draws."""
    return type("Pictures", (), {"all": pixels, "__repr__": lambda self: "pictures"})()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "data.zip"


@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize("labels", [None, [3, 0, 1, 1, 2], [[0.5, 1.0]] * 5])
def test_an_official_dataset_comes_through_unchanged(pixels, write_dataset, out, kind, labels):
    names = [f"00000/img{i:08d}.png" for i in range(5)]
    table = None if labels is None else [list(row) for row in zip(names, labels, strict=True)]
    source = write_dataset(dict(zip(names, pixels, strict=True)), table, kind)
    assert prepare(source, out, 16) == (5, [])
    made = ImageDataset(out, use_labels=labels is not None)
    assert made.names == names
    np.testing.assert_array_equal(made.images.transpose(0, 2, 3, 1), pixels)
    assert labels_of(out) == table


def test_the_same_pictures_give_the_same_bytes(pixels, write_dataset, tmp_path):
    a = write_dataset({f"{i}.png": x for i, x in enumerate(pixels)}, name="a")
    b = write_dataset({f"{i}.png": x for i, x in reversed(list(enumerate(pixels)))}, kind="folder", name="b")
    prepare(a, tmp_path / "x.zip", 8)
    prepare(b, tmp_path / "y.zip", 8)
    assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "y.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}


def test_many_images_are_numbered_in_folders_of_a_thousand(tmp_path):
    prepare(fashion(tmp_path, np.zeros((1002, 28, 28), np.uint8)), tmp_path / "x.zip", 4)
    assert ImageDataset(tmp_path / "x.zip").names[-2:] == ["00001/img00001000.png", "00001/img00001001.png"]


@pytest.mark.parametrize(("w", "h"), [(48, 32), (32, 48), (31, 17)])
def test_center_crop_keeps_the_middle_square(rng, write_dataset, out, w, h):
    image = rng.integers(0, 256, (h, w, 3), np.uint8)
    prepare(write_dataset({"a.png": image}), out, 16, "center-crop")
    side, left, top = min(w, h), (w - min(w, h)) // 2, (h - min(w, h)) // 2
    expected = Image.fromarray(image[top : top + side, left : left + side]).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(ImageDataset(out).images[0].transpose(1, 2, 0), np.asarray(expected))


def test_center_crop_wide_keeps_four_to_three_between_black_bars(write_dataset, out):
    image = np.full((30, 80, 3), 255, np.uint8)
    image[:, :20] = image[:, 60:] = 100  # outside of the middle 40 x 30
    prepare(write_dataset({"a.png": image}), out, 32, "center-crop-wide")
    made = ImageDataset(out).images[0]
    assert (made[:, 4:28] == 255).all()
    assert not made[:, :4].any()
    assert not made[:, 28:].any()


def test_pad_shows_all_between_black_bars(write_dataset, out):
    prepare(write_dataset({"a.png": np.full((20, 40, 3), 255, np.uint8)}), out, 32, "pad")
    made = ImageDataset(out).images[0]
    assert (made[:, 8:24] == 255).all()
    assert not made[:, :8].any()
    assert not made[:, 24:].any()


def test_an_oblong_picture_needs_a_transform(rng, write_dataset, out):
    source = write_dataset({"a.png": rng.integers(0, 256, (8, 12, 3), np.uint8)})
    assert "12x8, not square" in refusal(DataError, source, out, 8)
    assert not out.exists()


def test_transparency_is_laid_over_white_and_orientation_followed(rng, tmp_path, write_dataset):
    clear = np.zeros((8, 8, 4), np.uint8)
    prepare(write_dataset({"a.png": clear}, name="clear"), tmp_path / "white.zip", 8)
    assert (ImageDataset(tmp_path / "white.zip").images == 255).all()
    image, exif = rng.integers(0, 256, (8, 8, 3), np.uint8), Image.Exif()
    exif[0x112] = 6  # to be turned by 90 degrees clockwise
    prepare(write_dataset({"a.png": encoded(image, exif=exif)}, name="turned"), tmp_path / "upright.zip", 8)
    np.testing.assert_array_equal(ImageDataset(tmp_path / "upright.zip").images[0].transpose(1, 2, 0), np.rot90(image, -1))


def test_grey_pictures_stay_grey_and_mixed_ones_become_colored_or_are_refused(rng, write_dataset, tmp_path):
    grey, color = rng.integers(0, 256, (8, 8), np.uint8), rng.integers(0, 256, (8, 8, 3), np.uint8)
    first_grey = write_dataset({"a.png": grey, "b.png": color}, name="g")
    first_color = write_dataset({"a.png": color, "b.png": grey}, name="c")
    assert "'b.png' has colors" in refusal(DataError, first_grey, tmp_path / "x.zip", 8)
    prepare(first_grey, tmp_path / "x.zip", 8, grey=True)
    made = ImageDataset(tmp_path / "x.zip").images
    assert made.shape == (2, 1, 8, 8)
    np.testing.assert_array_equal(made[0, 0], grey)
    prepare(first_color, tmp_path / "y.zip", 8)
    np.testing.assert_array_equal(ImageDataset(tmp_path / "y.zip").images[1], np.stack([grey] * 3))


def test_corrupt_pictures_are_listed_or_skipped_and_their_labels_with_them(pixels, write_dataset, out):
    images = {f"{i}.png": encoded(x) for i, x in enumerate(pixels)}
    images["1.png"] = images["1.png"][:50]
    images["3.png"] = b"nothing"
    source = write_dataset(images, [[n, i] for i, n in enumerate(images)])
    message = refusal(DataError, source, out, 16)
    assert all(part in message for part in ("2 of 5", "1.png", "3.png", "--skip-corrupt"))
    assert not out.exists()
    assert not list(out.parent.iterdir())
    count, skipped = prepare(source, out, 16, skip_corrupt=True)
    assert count == 3
    assert [s.partition(" ")[0] for s in skipped] == ["1.png", "3.png"]
    np.testing.assert_array_equal(ImageDataset(out).images.transpose(0, 2, 3, 1), pixels[[0, 2, 4]])
    assert [label for _, label in labels_of(out)] == [0, 2, 4]


def test_a_source_of_nothing_but_damage_is_refused(write_dataset, out):
    assert "no picture that can be decoded" in refusal(DataError, write_dataset({"a.png": b"x"}), out, 8, skip_corrupt=True)


def test_a_decompression_bomb_is_not_decoded(write_dataset, out, monkeypatch):
    monkeypatch.setattr("stylert.train.prepare.MAX_PIXELS", 1000)
    source = write_dataset({"a.png": np.zeros((40, 40, 3), np.uint8)})
    assert "40x40 pixels are too many" in refusal(DataError, source, out, 8)


def test_an_archive_that_explodes_or_holds_a_huge_picture_is_refused(tmp_path, out, monkeypatch):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10_000_000))
    assert "times its size" in refusal(DataError, bomb, out, 8)
    monkeypatch.setattr(files, "limited", lambda name, size: (_ for _ in ()).throw(DataError(f"{name!r} is huge")))
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("a.png", bytes(100))
    assert "'a.png' is huge" in refusal(DataError, bomb, out, 8)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "x/../../a.png", "..\\a.png", "C:/a.png"])
def test_names_that_lead_out_of_an_archive_are_refused(pixels, tmp_path, out, name):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr(name, encoded(pixels[0]))
    assert "leads out" in refusal(DataError, tmp_path / "s.zip", out, 16)


def test_links_are_refused(pixels, tmp_path, out):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(pixels[0]))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").symlink_to(secret)
    assert "link that leads out" in refusal(DataError, tmp_path / "in", out, 16)
    info = zipfile.ZipInfo("a.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr(info, "secret.png")
    assert "is a link" in refusal(DataError, tmp_path / "s.zip", out, 16)


@pytest.mark.parametrize(
    "labels", [[["0.png", 1]], [[f"{i}.png", -1] for i in range(5)], [[f"{i}.png", "x"] for i in range(5)], 3]
)
def test_labels_that_are_incomplete_or_none_are_refused(pixels, write_dataset, out, labels):
    source = write_dataset({f"{i}.png": x for i, x in enumerate(pixels)}, labels)
    assert "dataset.json" in refusal(DataError, source, out, 16)


def fashion(folder, images, labels=None, zipped=True):
    """idx files as MNIST and Fashion-MNIST come."""
    pack = gzip.compress if zipped else bytes
    suffix = ".gz" if zipped else ""
    path = folder / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(pack(struct.pack(">4I", 0x803, *images.shape) + images.tobytes()))
    if labels is not None:
        (folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(struct.pack(">2I", 0x801, len(labels)) + bytes(labels)))
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_is_padded_to_32_with_its_labels(rng, tmp_path, out, zipped):
    images, labels = rng.integers(0, 256, (6, 28, 28), np.uint8), rng.integers(0, 10, 6).tolist()
    prepare(fashion(tmp_path, images, labels, zipped), out, 32)
    made = ImageDataset(out).images
    assert made.shape == (6, 1, 32, 32)
    np.testing.assert_array_equal(made[:, 0], np.pad(images, [(0, 0), (2, 2), (2, 2)]))
    assert [label for _, label in labels_of(out)] == labels


def test_idx_files_that_lie_are_refused(rng, tmp_path, out, monkeypatch):
    images = rng.integers(0, 256, (6, 28, 28), np.uint8)
    path = fashion(tmp_path, images, [0] * 5)
    assert "5 labels for 6" in refusal(DataError, path, out, 32)
    whole = gzip.decompress(path.read_bytes())
    for wrong in (whole[:-1], whole + b"x", whole[:10], b"\0" * 100):
        path.write_bytes(gzip.compress(wrong))
        refusal(DataError, path, out, 32)
    path.write_bytes(gzip.compress(whole)[:-20])
    refusal(DataError, path, out, 32)
    monkeypatch.setattr(idx, "MAX_TOTAL", 1000)
    path.write_bytes(gzip.compress(whole))
    assert "declares" in refusal(DataError, path, out, 32)


def python2(value):
    """Pickle protocol 2 as Python 2 wrote CIFAR: byte strings, and an array through numpy.core.multiarray."""
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(k) + python2(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(python2(v) for v in value) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode("latin-1")
    data = value.tobytes()
    rebuild = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01" + python2(value.shape[0]) + python2(value.shape[1]) + b"\x86" + dtype + b"\x89"
    return rebuild + state + b"T" + struct.pack("<I", len(data)) + data + b"tb"


def tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("writer", ["python 2", "python 3"])
def test_cifar_is_read_from_its_pickles_without_unpickling(rng, tmp_path, out, writer, monkeypatch):
    images = rng.integers(0, 256, (7, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, 7).tolist()
    rows = images.transpose(0, 3, 1, 2).reshape(7, -1)
    members = {"data_batch_2": (4, 7), "data_batch_1": (0, 4), "readme.html": None}
    packed = {}
    for name, span in members.items():
        batch = {"batch_label": "x", "labels": labels[slice(*span)], "data": rows[slice(*span)]} if span else None
        if span is None:
            packed[name] = b"<html>"
        elif writer == "python 2":
            packed[name] = b"\x80\x02" + python2(batch) + b"."
            assert pickle.loads(packed[name], encoding="latin-1")["labels"] == batch["labels"]  # the test's own writer is right
        else:
            packed[name] = pickle.dumps(batch | {"data": np.ascontiguousarray(batch["data"])}, protocol=4)
    path = tar(tmp_path / "cifar-10-python.tar.gz", packed)
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "load", None)
    monkeypatch.setattr(pickle, "Unpickler", None)
    assert prepare(path, out, 32) == (7, [])
    np.testing.assert_array_equal(ImageDataset(out).images.transpose(0, 2, 3, 1), images)
    assert [label for _, label in labels_of(out)] == labels


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("form", ["call", "labels", "length", "list", "garbage", "empty"])
def test_hostile_and_damaged_cifar_batches_are_refused_and_run_nothing(tmp_path, out, capsys, form):
    rows = np.zeros((2, 3072), np.uint8)
    data = {
        "call": pickle.dumps({"data": Evil(), "labels": [1, 2]}, protocol=2),
        "labels": b"\x80\x02" + python2({"labels": [1, 999], "data": rows}) + b".",
        "length": b"\x80\x02" + python2({"labels": [1], "data": rows}) + b".",
        "list": b"\x80\x02" + python2([1, 2]) + b".",
        "garbage": b"\xff" * 100,
        "empty": b"",
    }[form]
    refusal(DataError, tar(tmp_path / "cifar-10-python.tar.gz", {"data_batch_1": data}), out, 32)
    assert capsys.readouterr().out == ""


def test_python_2s_strings_are_opcodes_of_cifar_alone():
    from stylert.train.importers.pickle_reader import OPERATIONS

    names = {op.code: op.name for op in pickletools.opcodes}
    assert {names[chr(code)] for code in OPERATIONS_OF_PYTHON_2.keys() - OPERATIONS.keys()} == {"SHORT_BINSTRING", "BINSTRING"}


def test_lsuns_database_is_read_in_the_order_of_its_keys(pixels, tmp_path, out):
    folder = tmp_path / "church_lmdb"
    database = lmdb.open(str(folder), map_size=2**20)
    with database.begin(write=True) as transaction:
        for key, image in zip((b"c", b"a", b"e", b"b", b"d"), pixels, strict=True):
            transaction.put(key, encoded(image, "webp", lossless=True))
    database.close()
    assert prepare(folder, out, 16)[0] == 5
    np.testing.assert_array_equal(ImageDataset(out).images.transpose(0, 2, 3, 1), pixels[[1, 3, 0, 4, 2]])
    (folder / "data.mdb").write_bytes(b"no database" * 1000)
    refusal(DataError, folder, tmp_path / "x.zip", 16)


def table_of(pixels, labels=None, plain=False):
    data = [encoded(x) for x in pixels]
    column = data if plain else [{"bytes": d, "path": None} for d in data]
    columns = {"note": ["text"] * len(pixels), "image": column}
    return pa.table(columns | ({} if labels is None else {"label": labels}))


@pytest.mark.parametrize("form", ["parquet", "parquet folder", "plain binary", "datasets stream", "datasets file"])
def test_tables_of_hugging_face_are_read_row_by_row(pixels, tmp_path, out, form):
    table, labels = table_of(pixels, [4, 0, 2, 2, 1], form == "plain binary"), [4, 0, 2, 2, 1]
    source = tmp_path / "data"
    source.mkdir()
    if form.startswith("datasets"):
        (source / "state.json").write_text("{}")
        writer = pa.ipc.new_stream if form.endswith("stream") else pa.ipc.new_file
        for i, part in enumerate((table.slice(0, 2), table.slice(2))):
            with writer(str(source / f"data-{i:05d}-of-00002.arrow"), table.schema) as f:
                f.write_table(part)
    elif form == "parquet folder":
        pq.write_table(table.slice(0, 3), source / "train-00000-of-00002.parquet")
        pq.write_table(table.slice(3), source / "train-00001-of-00002.parquet")
    else:
        source = source / "train.parquet"
        pq.write_table(table, source)
    assert prepare(source, out, 16) == (5, [])
    np.testing.assert_array_equal(ImageDataset(out).images.transpose(0, 2, 3, 1), pixels)
    assert [label for _, label in labels_of(out)] == labels


def test_tables_without_pictures_without_labels_and_with_missing_ones(pixels, tmp_path, out):
    pq.write_table(table_of(pixels), tmp_path / "plain.parquet")
    prepare(tmp_path / "plain.parquet", out, 16)
    assert labels_of(out) is None
    pq.write_table(table_of(pixels, [1, None, 2, 3, 4]), tmp_path / "some.parquet")
    assert "4 of 5" in refusal(DataError, tmp_path / "some.parquet", out, 16)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    assert "no column" in refusal(DataError, tmp_path / "text.parquet", out, 16)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "plain.parquet").read_bytes()[:-100])
    refusal(DataError, tmp_path / "cut.parquet", out, 16)
    for split in ("train", "test"):
        (tmp_path / "both" / split).mkdir(parents=True)
        pq.write_table(table_of(pixels), tmp_path / "both" / split / "0.parquet")
    assert "name one of them" in refusal(DataError, tmp_path / "both", out, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [((48, "none"), "power of two"), ((2, "none"), "power of two"), ((16, "squeeze"), "unknown transform 'squeeze'")],
)
def test_refuses_what_cannot_be_made(pixels, write_dataset, out, options, message):
    assert message in refusal(InputError, write_dataset({"a.png": pixels[0]}), out, *options)


def test_refuses_unknown_sources_and_outputs(pixels, write_dataset, tmp_path, out):
    source = write_dataset({"a.png": pixels[0]})
    assert "must end in .zip" in refusal(InputError, source, tmp_path / "folder", 16)
    assert "the source itself" in refusal(InputError, source, source, 16)
    assert "does not exist" in refusal(DataError, tmp_path / "none", out, 16)
    (tmp_path / "text.txt").write_text("hello")
    assert "none of what can be read" in refusal(DataError, tmp_path / "text.txt", out, 16)
    (tmp_path / "bare").mkdir()
    assert "no pictures" in refusal(DataError, tmp_path / "bare", out, 16)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=4), data=st.data())
def test_damage_anywhere_is_one_line_or_a_dataset(pictures, tmp_path, write_dataset, cut, flips, data):
    form = data.draw(st.sampled_from(["zip", "idx", "cifar", "parquet"]))
    if form == "zip":
        path = write_dataset({"a.png": pictures.all[0], "b.png": pictures.all[1]}, [["a.png", 0], ["b.png", 1]])
    elif form == "idx":
        path = fashion(tmp_path, np.zeros((2, 28, 28), np.uint8), [1, 2], zipped=data.draw(st.booleans()))
    elif form == "cifar":
        batch = b"\x80\x02" + python2({"labels": [1, 2], "data": np.zeros((2, 3072), np.uint8)}) + b"."
        path = tar(tmp_path / "cifar-10-python.tar.gz", {"data_batch_1": batch})
    else:
        path = tmp_path / "x.parquet"
        pq.write_table(table_of(pictures.all, [1] * 5), path)
    raw = bytearray(path.read_bytes())
    for place, mask in flips:
        raw[int(place * len(raw))] ^= mask
    path.write_bytes(raw[: int(cut * len(raw)) + 1])
    out = tmp_path / "fuzzed.zip"
    out.unlink(missing_ok=True)
    try:
        count, _ = prepare(path, out, 32, skip_corrupt=data.draw(st.booleans()))
    except StylertError as e:
        assert "\n" not in str(e)
        assert not out.exists()
    else:
        assert len(ImageDataset(out)) == count
