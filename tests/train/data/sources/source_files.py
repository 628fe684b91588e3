"""Helpers of the dataset tool's tests: small files of every kind, and the checks that all of them share."""

import gzip
import io
import json
import struct
import tarfile
import zipfile

import pyarrow as pa
import pytest
from PIL import Image

from stylert.train.data.dataset_tool import convert_dataset


def encoded(array, form="png", **options):
    """An image file in this format."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def labels_of(path):
    """The labels in the `dataset.json` of a zip."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("dataset.json"))["labels"]


def refusal(kind, *arguments, **options):
    """The message of the error that `convert_dataset` raises."""
    with pytest.raises(kind) as e:
        convert_dataset(*arguments, **options)
    assert "\n" not in str(e.value)
    return str(e.value)


def idx_files(folder, images, labels=None, zipped=True):
    """The idx files of MNIST, gzipped or plain. Returns the path of the pictures."""
    pack = gzip.compress if zipped else bytes
    suffix = ".gz" if zipped else ""
    path = folder / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(pack(struct.pack(">4I", 0x803, *images.shape) + images.tobytes()))
    if labels is not None:
        (folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(struct.pack(">2I", 0x801, len(labels)) + bytes(labels)))
    return path


def python2_pickle(value):
    """Opcodes of a pickle as Python 2 wrote CIFAR: byte strings, and an array through numpy.core.multiarray."""
    if isinstance(value, dict):
        return b"}(" + b"".join(python2_pickle(k) + python2_pickle(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(python2_pickle(v) for v in value) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode("latin-1")
    data = value.tobytes()
    rebuild = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01" + python2_pickle(value.shape[0]) + python2_pickle(value.shape[1]) + b"\x86" + dtype + b"\x89"
    return rebuild + state + b"T" + struct.pack("<I", len(data)) + data + b"tb"


def cifar_tar(path, members):
    """A CIFAR archive of files by name."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def table_of(pixels, labels=None, plain=False):
    """A table of PNG files as Hugging Face stores them, or (plain) as binary values."""
    data = [encoded(x) for x in pixels]
    column = data if plain else [{"bytes": d, "path": None} for d in data]
    columns = {"note": ["text"] * len(pixels), "image": column}
    return pa.table(columns | ({} if labels is None else {"label": labels}))
