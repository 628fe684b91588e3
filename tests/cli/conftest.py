"""Shared by the tests of commands: a command that runs in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from stylert.cli import main as cli
from stylert.runtime import Bundle, Generator

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in this process, in `tmp_path`. Returns its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stylert", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return int(end.value.code or 0), out, err

    return call


@pytest.fixture
def photos(bundle: Bundle, tmp_path: Path) -> Path:
    """A folder of three images of the network of the tests."""
    folder = tmp_path / "photos"
    folder.mkdir()
    with Generator.load(bundle, threads=1) as generator:
        for name, image in zip("abc", generator([1, 2, 3], psi=0.7), strict=True):
            Image.fromarray(image).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def pixel_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projections compare pixels in place of features, which take longer."""
    from stylert.cli.latents import projecting, tuning
    from tests.train.projection.pixel_distance import PixelDistance

    for module in (projecting, tuning):
        monkeypatch.setattr(module, "perceptual_distance", lambda *_: PixelDistance())
