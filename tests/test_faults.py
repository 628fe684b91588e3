"""Kills, full disks and signals while a command writes: each output is whole or absent, and nothing else is lost."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stylert.cli import main as cli
from stylert.cli.latents.drawing import interpolate
from stylert.cli.picture_options import PictureOptions
from stylert.cli.pipeline.generate import generate_images
from stylert.core.errors import OutputError
from stylert.core.files.atomic import append_line
from stylert.core.files.outputs import write_json
from stylert.core.programs import runner
from stylert.export.pipeline import export_bundle
from stylert.models.checkpoint import read_metadata, write_generator
from stylert.runtime import engines
from stylert.runtime.bundle import Bundle
from stylert.train.data.dataset_tool import convert_dataset
from tests.conftest import random_arrays, small_config
from tests.draws import draws_of
from tests.faults import forget_swept_folders, full_disk, recorded_states, run_killed, small_disk

#: Writes version 1 or 2 of its outputs into a folder.
Write = Callable[[Path, int], object]


def silent(stage: str, done: int, total: int) -> None:
    pass


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is not hidden, by its name below `folder`."""
    files = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder): path for path in files}
    return {str(name): path.read_bytes() for name, path in names.items() if not any(p.startswith(".") for p in name.parts)}


def hidden(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob(".*")]


@pytest.fixture
def writers(bundle: Bundle, checkpoint: Path, tmp_path: Path) -> dict[str, Write]:
    """What writes files, by name. Apart from `build`, a version always has the same bytes."""
    options = PictureOptions(batch=2)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(2):
        save_random_picture(pictures / f"{i}.png")

    def build(folder: Path, version: int) -> None:
        if not (folder / "b").exists():
            export_bundle(checkpoint, folder / "b", ["fp32"], backends=[])
        engines.build_engine(Bundle.load(folder / "b"), "onnxruntime", "fp32", force=True)
        if version == 1:  # an engine that is damaged, but whole enough to tell it from the next one
            for file in (folder / "b").glob("engines/*/*"):
                file.write_bytes(file.read_bytes() + b" ")

    def train(folder: Path, version: int) -> None:
        from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
        from stylert.train.configuration.train_config import TrainConfig
        from stylert.train.snapshots.run_folder import save
        from stylert.train.trainer import Trainer

        network = {"resolution": 8, "channel_base": 32, "channel_max": 4, "mapping_layers": 1}
        cfg = TrainConfig(
            GeneratorConfig(**network, z_dim=4, w_dim=4), DiscriminatorConfig(**network), batch=4, kimg=1.0, seed=version
        )
        images = np.zeros((4, 3, 8, 8), np.uint8)
        dataset = SimpleNamespace(images=images, labels=None, resolution=8, c_dim=0, image_channels=None)
        trainer = Trainer(cfg, dataset)  # type: ignore[arg-type]
        if (folder / "snapshot.safetensors").exists():  # as a resumed run, it replaces the snapshots that it has kept
            trainer.kept = read_metadata(folder / "snapshot.safetensors")["facts"]["kept"]
        save(trainer, folder, keep=1)

    def weights(folder: Path, version: int) -> None:
        cfg = small_config(resolution=8)
        write_generator(folder / "model.safetensors", cfg, random_arrays(cfg, draws_of(f"faults {version}")))

    return {
        "export": lambda folder, version: export_bundle(
            checkpoint, folder / "b", ["fp32"], "const" if version == 1 else "none", backends=[]
        ),
        "build": build,
        "train": train,
        "import": weights,
        "generate": lambda folder, version: generate_images(
            bundle.path, [0, 1], folder / "o", version / 2, False, options, silent
        ),
        "interpolate": lambda folder, version: interpolate(
            bundle.path, [0, 1], 0.2, 10, False, "w", folder / "v.webp", version / 2, options, silent
        ),
        "dataset": lambda folder, version: convert_dataset(pictures, folder / "d.zip", 8, max_images=version),
        "json": lambda folder, version: write_json(folder / "r.json", {"version": version}),
    }


def save_random_picture(path: Path) -> None:
    from PIL import Image

    Image.fromarray(draws_of(path.name).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


#: Outputs that are one file each; the others are one folder.
FILES = ("train", "import", "generate", "interpolate", "dataset", "json")


@pytest.mark.parametrize("name", ["export", "build", *FILES])
def test_at_every_moment_of_a_write_the_outputs_are_old_or_new_and_a_new_run_leaves_nothing_hidden(
    name: str, writers: dict[str, Write], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, place = writers[name], tmp_path / "place"
    place.mkdir()
    write(place, 1)
    old = contents(place)
    with recorded_states(place, tmp_path / "states") as states:
        write(place, 2)
    new = contents(place)
    assert old.keys() == new.keys() or name == "train"
    assert old != new
    assert hidden(place) == []
    seen = []
    for state in states:
        left = contents(state)
        if name in FILES:
            for file in {**old, **new}:
                assert left.get(file) in (old.get(file), new.get(file)), (state, file)
        else:
            assert left in (old, new), state
        if left in seen and not hidden(state):
            continue  # the same state again: the same rerun
        seen.append(left)
        forget_swept_folders(monkeypatch)
        write(state, 2)
        assert hidden(state) == []
        if name == "build":  # ONNX Runtime's bytes differ from build to build
            bundle = Bundle.load(state / "b")
            assert engines.find_engine(bundle, engines.engine_key(bundle, "onnxruntime", "fp32")) is not None
        else:
            assert contents(state) == new
    assert old in seen
    assert new in seen


@pytest.mark.parametrize("name", ["export", "train", "import", "dataset", "json"])
def test_on_a_full_disk_each_write_is_one_line_and_the_old_outputs_stay(
    name: str, writers: dict[str, Write], tmp_path: Path
) -> None:
    write, place = writers[name], tmp_path / "place"
    place.mkdir()
    write(place, 1)
    old = contents(place)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))
    try:
        with pytest.raises(OutputError) as e:
            write(place, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in str(e.value)
    assert len(str(e.value).splitlines()) == 1
    assert contents(place) == old
    assert hidden(place) == []


@pytest.mark.parametrize("name", ["export", "train", "import", "dataset", "json"])
def test_on_a_disk_without_space_each_write_is_one_line_and_the_old_outputs_stay(
    name: str, writers: dict[str, Write], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 64 * 2**20) as disk:
        place = disk / "place"
        place.mkdir()
        writers[name](place, 1)
        old = contents(place)
        with (
            full_disk(disk, min(map(len, old.values())) // 2),
            pytest.raises(OutputError, match="No space left on device") as e,
        ):
            writers[name](place, 2)
        assert len(str(e.value).splitlines()) == 1
        assert contents(place) == old
        assert hidden(place) == []
        writers[name](place, 2)


def test_a_line_that_cannot_be_appended_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "stats.jsonl").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"stats\.jsonl: No space left on device"):
        append_line(tmp_path / "stats.jsonl", {"kimg": 1.0})


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_during_an_export_leaves_the_old_bundle_and_nothing_hidden(
    number: signal.Signals,
    status: int,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    export_bundle(checkpoint, tmp_path / "b", ["fp32"], backends=[])
    old = contents(tmp_path)

    def stop(*args: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    monkeypatch.setattr("stylert.export.networks.stylegan2.calibrate", stop)
    monkeypatch.setattr(sys, "argv", ["stylert", "export", str(checkpoint), "--out", str(tmp_path / "b")])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == status
    assert capfd.readouterr().err.splitlines()[-1] == "stopped"
    assert contents(tmp_path) == old
    assert hidden(tmp_path) == []


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nohup stylert` goes on when its terminal closes."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(sys, "argv", ["stylert", "--version"])
        monkeypatch.setattr(runner, "_run", lambda *_: os.kill(os.getpid(), signal.SIGHUP) or 0)
        with pytest.raises(SystemExit) as e:
            cli.main()
        assert e.value.code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_an_export_that_is_killed_at_any_call_leaves_the_old_bundle_or_the_new_one(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the recorded states, with real kills of the whole command."""
    out = tmp_path / "b"
    common = ("--precision", "fp32", "--backend", "onnxruntime", "--verify-seeds", "0")
    arguments = ["stylert", "export", str(checkpoint), "--out", str(out), *common]
    code = f"import sys; sys.argv = {[*arguments, '--noise', 'none']}\nfrom stylert.cli.main import main; main()"
    export_bundle(checkpoint, out, ["fp32"], "none", backends=["onnxruntime"])
    new = contents(out)
    for number in range(0, 60, 3):
        shutil.rmtree(out)
        export_bundle(checkpoint, out, ["fp32"], backends=["onnxruntime"])
        old = contents(out)
        status = run_killed(code, number)
        assert contents(out) in (old, new)
        assert status in (0, -signal.SIGKILL)
        forget_swept_folders(monkeypatch)
        export_bundle(checkpoint, out, ["fp32"], "none", backends=["onnxruntime"])
        assert hidden(tmp_path) == []
        assert contents(out) == new
        if status == 0:
            break
    assert status == 0
