"""A new run is started only where it replaces and continues no file, by `train` and by `import --training`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_cli import refuse
from tests.test_faults import contents

REFUSED = (
    "snapshot-000000.safetensors",
    "snapshot-000012.345.safetensors",
    "model.safetensors",
    "best.safetensors",
    "fakes-000000.png",
    "fakes-000012.345.png",
    "stats.jsonl",
    "metrics.jsonl",
    "wandb.json",
)
#: A run makes these only if they do not exist.
STAY = ("reals.png", "fakes-init.png")


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, tuple[object, ...]]:
    """The words of each command that starts a run in the folder `run`."""
    from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
    from stylert.models.stylegan2.networks import Discriminator, Generator
    from tests.models.importers.official_files import official_file

    network: dict[str, Any] = {"resolution": 8, "channel_base": 64, "channel_max": 8, "mapping_layers": 2}
    cfg = GeneratorConfig(**network, z_dim=8, w_dim=8)
    nets = Generator(cfg).eval(), Generator(cfg).eval(), Discriminator(DiscriminatorConfig(**network)).eval()
    official_file(tmp_path / "x.pkl", *nets)
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    run = tmp_path / "place" / "run"
    run.mkdir(parents=True)
    return {
        "train": ("train", "--data", tmp_path / "images", "--out", run, "--preset", "cpu-small", "--kimg", 0.01),
        "import": ("import", tmp_path / "x.pkl", "--out", tmp_path / "place" / "m.safetensors", "--training", run),
    }


@pytest.mark.parametrize("command", ["train", "import"])
def test_a_folder_with_a_file_that_the_run_would_replace_or_continue_is_refused(
    command: str, commands, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    for name in REFUSED:
        for target in (None, "nowhere"):
            file = place / "run" / name
            file.write_text("of the user") if target is None else file.symlink_to(target)
            before = contents(place)
            assert f"already holds {name}: choose another folder" in refuse(capfd, monkeypatch, *commands[command])
            assert contents(place) == before
            file.unlink()
    (place / "run" / "snapshot.safetensors").write_text("of the user")
    assert "already holds a run" in refuse(capfd, monkeypatch, *commands[command])
    assert contents(place) == {"run/snapshot.safetensors": b"of the user"}


def test_other_files_stay_beside_a_new_run(
    commands, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylert.cli.pipeline.importing import run_import

    run = tmp_path / "place" / "run"
    for name in (*STAY, "fakes-mine.png", "notes.txt"):
        (run / name).write_text("of the user")
    run_import(tmp_path / "x.pkl", tmp_path / "m.safetensors", run, "cpu")
    assert (run / "snapshot.safetensors").is_file()
    assert all((run / name).read_text() == "of the user" for name in (*STAY, "fakes-mine.png", "notes.txt"))


def test_the_imported_generator_is_no_file_that_the_run_will_replace(
    commands, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "place" / "run"
    for name in ("snapshot.safetensors", "model.safetensors", "best.safetensors"):
        words = ("import", tmp_path / "x.pkl", "--out", run / name, "--training", run)
        assert "both write" in refuse(capfd, monkeypatch, *words)
        assert contents(tmp_path / "place") == {}


def test_a_resumed_run_with_a_link_to_another_place_is_refused_before_its_images_are_read(
    commands, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylert.cli.pipeline.importing import run_import

    run = tmp_path / "place" / "run"
    run_import(tmp_path / "x.pkl", tmp_path / "m.safetensors", run, "cpu")
    monkeypatch.setattr(
        "stylert.train.data.dataset.ImageDataset.__init__", lambda *_, **__: pytest.fail("the images were read")
    )
    for name in ("stats.jsonl", "model.safetensors", "fakes-000000.png"):
        (run / name).symlink_to("../diary.txt")
        words = ("train", "--data", tmp_path / "images", "--out", run, "--resume", "--kimg", 0.01)
        assert f"{name} is a link" in refuse(capfd, monkeypatch, *words)
        (run / name).unlink()
    assert sorted(contents(tmp_path / "place")) == ["run/snapshot.safetensors"]
