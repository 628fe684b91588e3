"""Fixtures of the training tests: those of the network tests, and small datasets."""

import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.models.conftest import one_thread, randomize, reference, rng, seed
from tests.train.small_runs import dataset, unlabelled


def png(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def write_dataset(tmp_path: Path):
    """A function that writes `{name: array or bytes}` and labels as a zip or folder of the official layout."""

    def write(files: dict[str, np.ndarray | bytes], labels: object = None, kind: str = "zip", name: str = "data") -> Path:
        raw = {k: v if isinstance(v, bytes) else png(v) for k, v in files.items()}
        if labels is not None:
            raw["dataset.json"] = labels if isinstance(labels, bytes) else json.dumps({"labels": labels}).encode()
        path = tmp_path / (f"{name}.zip" if kind == "zip" else name)
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for k, v in raw.items():
                    archive.writestr(k, v)
        else:
            for k, v in raw.items():
                (path / k).parent.mkdir(parents=True, exist_ok=True)
                (path / k).write_bytes(v)
        return path

    return write


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (5, 16, 16, 3), np.uint8)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "data.zip"
