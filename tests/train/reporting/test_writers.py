"""The writers for TensorBoard and wandb: what they hand on, also after a resume, and what happens where they fail."""

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stylert.core.errors import BackendError
from stylert.train.configuration.presets import resolve
from stylert.train.reporting import weights_and_biases
from stylert.train.reporting.tensorboard import TensorBoardWriter
from stylert.train.reporting.weights_and_biases import WandbWriter

CFG = resolve("cpu", 8)


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (6, 9, 3), np.uint8)


def write_run(writer, out: Path, image: np.ndarray, resumed: bool = False, start: float = 0.0) -> None:
    writer.open(out, CFG, resumed)
    writer.picture(start, "reals", image)
    for kimg in (start + 0.5, start + 1.25):
        writer.scalars(kimg, {"loss_G": kimg * 2, "FD": 7.0})
    writer.close()


def test_tensorboard_gets_values_and_pictures_by_number_of_images(tmp_path, image, monkeypatch):
    calls = []

    class Summary:
        def __init__(self, folder):
            calls.append(("open", folder))

        def __getattr__(self, name):
            return lambda *arguments, **options: calls.append((name, *arguments, *options.values()))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Summary))
    write_run(TensorBoardWriter(), tmp_path, image)
    assert calls[0] == ("open", str(tmp_path / "tensorboard"))
    assert [call for call in calls if call[0] == "add_scalar"] == [
        ("add_scalar", "loss_G", 1.0, 500),
        ("add_scalar", "FD", 7.0, 500),
        ("add_scalar", "loss_G", 2.5, 1250),
        ("add_scalar", "FD", 7.0, 1250),
    ]
    (picture,) = (call for call in calls if call[0] == "add_image")
    assert (picture[1], picture[3:]) == ("reals", (0, "HWC"))
    np.testing.assert_array_equal(picture[2], image)
    assert calls[-1] == ("close",)


def test_the_real_tensorboard_reads_the_values_and_the_picture(tmp_path, image):
    pytest.importorskip("tensorboard")
    from io import BytesIO

    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_run(TensorBoardWriter(), tmp_path, image)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss_G")] == [(500, 1.0), (1250, 2.5)]
    with Image.open(BytesIO(events.Images("reals")[0].encoded_image_string)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), image)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BackendError, match=r"stylert\[tensorboard\]"):
        TensorBoardWriter()
    with pytest.raises(BackendError, match=r"stylert\[wandb\]"):
        WandbWriter("cats", print)


class FakeWandb(SimpleNamespace):
    """The part of wandb's interface that is used, as version 0.31 has it. It keeps every call."""

    def __init__(self) -> None:
        super().__init__(calls=[], Settings=lambda **options: options, Image=lambda pixels: ("image", pixels))
        self.failing, self.may_finish = "", threading.Event()
        self.may_finish.set()

    def _call(self, name, /, *arguments, **options):
        self.calls.append((name, *arguments, options))
        if name == self.failing:
            raise ConnectionError("no\nserver")
        if name == "finish":
            self.may_finish.wait()

    def init(self, **options):
        self._call("init", **options)
        names = ("define_metric", "log", "finish")
        calls = {name: lambda *a, _name=name, **o: self._call(_name, *a, **o) for name in names}
        return SimpleNamespace(id=options["id"] or "new1", **calls)


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_gets_values_and_pictures_with_kimg_as_axis_and_a_resumed_run_keeps_its_id(wandb, tmp_path, image):
    notes = []
    write_run(WandbWriter("cats", notes.append), tmp_path, image)
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"project": "cats", "id": "new1"}
    write_run(WandbWriter("cats", notes.append), tmp_path, image[..., :1], resumed=True, start=1.25)
    write_run(WandbWriter("other", notes.append), tmp_path, image, resumed=True)
    starts = [call[-1] for call in wandb.calls if call[0] == "init"]
    assert [(s["project"], s["id"], s["resume"]) for s in starts] == [
        ("cats", None, None),
        ("cats", "new1", "allow"),
        ("other", None, None),
    ]
    assert starts[0]["config"] == CFG.to_dict()
    assert starts[0]["dir"] == str(tmp_path)
    assert ("define_metric", "*", {"step_metric": "kimg"}) in wandb.calls
    logged = [call[1] for call in wandb.calls if call[0] == "log"]
    assert logged[1] == {"loss_G": 1.0, "FD": 7.0, "kimg": 0.5}
    np.testing.assert_array_equal(logged[0]["reals"][1], image)
    assert logged[3]["reals"][1].shape == image.shape[:2]  # grey
    assert [call[0] for call in wandb.calls].count("finish") == 3
    assert notes == []


@pytest.mark.parametrize("failing", ["init", "define_metric", "log", "finish"])
def test_wherever_wandb_fails_it_is_said_once_and_the_run_goes_on(wandb, tmp_path, image, failing):
    wandb.failing, notes = failing, []
    write_run(WandbWriter("cats", notes.append), tmp_path, image)
    assert notes == ["training continues without wandb: no server"]
    names = [call[0] for call in wandb.calls]
    assert names.count(failing) == 1
    assert names[-1] == failing


def test_a_server_that_does_not_answer_does_not_hold_the_end_of_a_run(wandb, tmp_path, image, monkeypatch):
    monkeypatch.setattr(weights_and_biases, "FINISH_SECONDS", 0.05)
    wandb.may_finish.clear()
    notes = []
    write_run(WandbWriter("cats", notes.append), tmp_path, image)
    assert len(notes) == 1
    assert "wandb sync" in notes[0]
    wandb.may_finish.set()


@pytest.mark.slow
def test_the_real_wandb_writes_offline_and_a_resumed_run_has_the_same_id(tmp_path, image, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("HOME", str(tmp_path))):
        monkeypatch.setenv(name, value)
    notes = []
    for resumed in (False, True):
        write_run(WandbWriter("cats", notes.append), tmp_path, image, resumed=resumed)
    assert notes == []
    run_id = json.loads((tmp_path / "wandb.json").read_text())["id"]
    runs = list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}"))
    assert runs
    assert all(list(run.glob("*.wandb")) for run in runs)
