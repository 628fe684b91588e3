"""The training loop: the moving average, lazy Adam, signals, statistics, and the files of a run."""

import json
import os
import signal
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stylert.core.errors import DataError, InputError
from stylert.core.images.grids import make_grid
from stylert.models.checkpoint import SNAPSHOT_FILE, load_generator, read_metadata, trained_kimg
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.networks import Generator
from stylert.train.loop import Trainer, TrainingError, train
from stylert.train.phase_losses import PhaseLosses
from stylert.train.sampling import sample_images
from stylert.train.stop_request import STOP_SIGNALS
from stylert.train.trainer import PHASES
from tests.train.small_runs import NETWORK, config


class Recorder:
    """A writer that keeps what it gets. `react` is called with each line."""

    def __init__(self, react=None):
        self.opened, self.lines, self.pictures, self.closed, self.react = [], [], [], 0, react

    def open(self, out, cfg, resumed):
        self.opened.append((out, cfg, resumed))

    def scalars(self, kimg, values):
        self.lines.append((kimg, dict(values)))
        if self.react is not None:
            self.react()

    def picture(self, kimg, name, image):
        self.pictures.append((kimg, name, image))

    def close(self):
        self.closed += 1


def test_all_parameters_of_a_network_have_made_as_many_steps_of_adam(dataset):
    trainer = Trainer(config(c_dim=2), dataset)
    for _ in range(4):
        trainer.train_step()
    for name, phases in (("G", 4 + 2), ("D", 4 + 2)):
        state = getattr(trainer, f"opt_{name}").state
        assert {int(slots["step"]) for slots in state.values()} == {phases}
        assert len(state) == len(trainer.trainable[name])


def test_the_generator_file_is_the_moving_average(unlabelled, tmp_path):
    path = train(config(), unlabelled, tmp_path)
    snapshot = load_file(tmp_path / "snapshot.safetensors")
    for name, t in load_generator(path).state_dict().items():
        assert torch.equal(t, snapshot[f"G_ema.{name}"])
    assert any(not torch.equal(snapshot[f"G_ema.{k[2:]}"], v) for k, v in snapshot.items() if k.startswith("G."))
    assert list(tmp_path.glob("fakes-*.png"))


def test_g_ema_follows_its_formula(unlabelled):
    trainer = Trainer(config(ema_kimg=0.1, ema_rampup=0.5), unlabelled)
    for step in range(4):
        before = {k: v.double() for k, v in trainer.G_ema.state_dict().items()}
        trainer.train_step()
        half_life = min(100, 0.5 * 4 * step)  # by the images before this step
        beta = 0.5 ** (4 / half_life) if half_life else 0
        for name, p in trainer.G.named_parameters():
            expected = beta * before[name] + (1 - beta) * p.detach().double()
            torch.testing.assert_close(trainer.G_ema.state_dict()[name].double(), expected, rtol=1e-5, atol=1e-5)
        for name, b in trainer.G.named_buffers():
            assert torch.equal(trainer.G_ema.state_dict()[name], b)


@pytest.mark.parametrize(("network", "off", "interval"), [("G", {"pl_weight": 0.0}, 2), ("D", {"r1_gamma": 0.0}, 3)])
def test_lazy_regularisation_scales_adam_by_k_over_k_plus_one(unlabelled, network, off, interval):
    (group,) = getattr(Trainer(config(), unlabelled), f"opt_{network}").param_groups
    ratio = interval / (interval + 1)
    assert group["lr"] == pytest.approx(0.002 * ratio)
    assert group["betas"] == pytest.approx((0.0, 0.99**ratio))
    assert group["eps"] == 1e-8
    (without,) = getattr(Trainer(config(**off), unlabelled), f"opt_{network}").param_groups
    assert (without["lr"], without["betas"]) == (group["lr"], group["betas"])


def test_regularisers_run_at_their_intervals_with_their_weights(unlabelled, monkeypatch):
    trainer, values = Trainer(config(pl_weight=3.0), unlabelled), []

    def recorded(loss):
        def compute(images, c):
            value, stats = loss(images, c)
            values.append(value.item())
            return value, stats

        return compute

    for name in ("generator", "path_length", "discriminator", "r1"):
        monkeypatch.setattr(trainer.phase_losses, name, recorded(getattr(trainer.phase_losses, name)))
    for step in range(7):
        values.clear()
        stats = trainer.train_step()
        assert ("path_length" in stats) == (step % 2 == 0)
        assert ("r1" in stats) == (step % 3 == 0)
        expected = [stats["loss_G"], stats.get("path_length", np.nan) * 3 * 2, stats["loss_D"], stats.get("r1", np.nan) * 3]
        assert values == pytest.approx([x for x in expected if np.isfinite(x)], rel=1e-5)


def test_a_step_changes_every_weight_and_w_avg(dataset):
    trainer = Trainer(config(c_dim=2), dataset)
    before = {n: {k: v.clone() for k, v in getattr(trainer, n).state_dict().items()} for n in ("G", "D")}
    trainer.train_step()
    for network, state in before.items():
        for name, t in getattr(trainer, network).state_dict().items():
            changed = not torch.equal(t, state[name])
            assert changed == (not name.endswith(("noise_const", "resample_filter"))), f"{network}.{name}"


def test_a_batch_is_the_next_images_of_the_stream(dataset):
    trainer = Trainer(config(c_dim=2, seed=5), dataset)
    trainer.train_step()
    images, labels = trainer.loader.batch(4)
    index = dataset.batch_indices(4, 4, 5)
    np.testing.assert_array_equal(images.numpy(), dataset.images[index])
    np.testing.assert_array_equal(labels.numpy(), dataset.labels[index])


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_saves_and_stops(unlabelled, tmp_path, number):
    handlers = [signal.getsignal(s) for s in STOP_SIGNALS]
    writer = Recorder(lambda: os.kill(os.getpid(), number))
    path = train(config(kimg=1000), unlabelled, tmp_path, writers=[writer])
    assert read_metadata(tmp_path / "snapshot.safetensors")["facts"] == {"nimg": 200, "step": 50}
    assert load_generator(path).cfg == config().generator
    assert [signal.getsignal(s) for s in STOP_SIGNALS] == handlers
    (text,) = (tmp_path / "stats.jsonl").read_text().splitlines()
    line = json.loads(text)
    assert [(line.pop("kimg"), line)] == [(kimg, values | {"step": 50}) for kimg, values in writer.lines]
    assert {"sec_per_kimg", "loss_G", "loss_D", "r1", "path_length", "grad_norm_G", "grad_norm_D"} <= set(line)
    for kind in ("real", "fake"):
        assert abs(line[f"{kind}_sign"]) <= 1
        assert line[f"{kind}_score"] != 0
    assert line["peak_memory_mib"] > 10
    assert {name for name in line if name.startswith("seconds_")} == {f"seconds_{x}" for x in ("data", *PHASES)}
    assert 0 < sum(value for name, value in line.items() if name.startswith("seconds_")) <= line["sec_per_kimg"] * 0.2


@pytest.mark.parametrize(("seconds", "steps"), [(-1.0, [1, 2, 3]), (1e9, [3])])
def test_statistics_are_written_after_some_seconds_and_at_the_end(unlabelled, tmp_path, monkeypatch, seconds, steps):
    monkeypatch.setattr("stylert.train.reporting.statistics.SECONDS_PER_LINE", seconds)
    train(config(kimg=0.012), unlabelled, tmp_path)
    assert [json.loads(line)["step"] for line in (tmp_path / "stats.jsonl").read_text().splitlines()] == steps


def make_nan(monkeypatch, name):
    """Multiply the loss of a phase and its statistics by NaN."""
    original = getattr(PhaseLosses, name)

    def compute(phase_losses, images, c):
        loss, stats = original(phase_losses, images, c)
        return loss * float("nan"), {key: value * float("nan") for key, value in stats.items()}

    monkeypatch.setattr(PhaseLosses, name, compute)


@pytest.mark.parametrize("name", ["generator", "discriminator", "r1", "path_length"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_snapshot(unlabelled, tmp_path, monkeypatch, name):
    train(config(), unlabelled, tmp_path)
    snapshot = (tmp_path / "snapshot.safetensors").read_bytes()
    make_nan(monkeypatch, name)
    with pytest.raises(TrainingError, match=r"is nan at .* kimg") as e:
        train(config(kimg=1), unlabelled, tmp_path, resume=tmp_path / "snapshot.safetensors")
    assert "\n" not in str(e.value)
    assert (tmp_path / "snapshot.safetensors").read_bytes() == snapshot


def test_snapshots_are_written_at_their_interval(unlabelled, tmp_path, monkeypatch):
    saved = []

    def save(trainer, out, snap_kimg, keep):
        saved.append(trainer.nimg)
        return np.zeros((1, 8, 8, 3), np.uint8)

    monkeypatch.setattr("stylert.train.loop.save", save)
    train(config(kimg=0.06), unlabelled, tmp_path, snap_kimg=0.02)
    assert saved[:2] == [20, 40]
    assert saved[-1] == 60


def test_refuses_data_that_does_not_fit_the_networks(dataset):
    with pytest.raises(DataError, match="2 label dimensions, the networks 0"):
        Trainer(config(), dataset)
    dataset.images = np.zeros((7, 1, 8, 8), np.uint8)
    with pytest.raises(DataError, match="8 px with 1 channels"):
        Trainer(config(c_dim=2), dataset)


@pytest.mark.parametrize(
    "values", [{"snap_kimg": x} for x in (np.inf, np.nan, -1.0, 0.0, 1e12)] + [{"keep": x} for x in (-1, 10**12, np.nan)]
)
def test_intervals_that_cannot_be_are_refused_before_anything_is_written(unlabelled, tmp_path, values):
    with pytest.raises(InputError, match=r"snapshots .*must lie in [^\n]{1,80}\Z"):
        train(config(), unlabelled, tmp_path / "out", **values)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("c_dim", [0, 3])
def test_samples_are_the_images_of_consecutive_seeds(c_dim):
    generator = Generator(GeneratorConfig(**NETWORK, z_dim=4, w_dim=4, c_dim=c_dim))
    images = sample_images(generator, 18, psi=0.5)
    assert (images.dtype, images.shape) == (np.uint8, (18, 8, 8, 3))
    z = torch.from_numpy(np.random.RandomState(17).randn(1, 4)).float()
    c = torch.eye(c_dim)[[17 % c_dim]] if c_dim else None
    with torch.no_grad():
        expected = generator(z, c, 0.5)[0].permute(1, 2, 0).double().numpy() * 127.5 + 128
    assert np.abs(images[17] - np.floor(np.clip(expected, 0, 255))).max() <= 1


def test_the_last_snapshots_are_kept_under_their_kimg(unlabelled, tmp_path):
    train(config(batch=100, kimg=5), unlabelled, tmp_path, snap_kimg=1, keep=2)
    assert sorted(p.name for p in tmp_path.glob("snapshot*")) == [
        "snapshot-000004.safetensors",
        "snapshot-000005.safetensors",
        "snapshot.safetensors",
    ]
    assert read_metadata(tmp_path / "snapshot-000004.safetensors")["facts"]["nimg"] == 4000
    (tmp_path / "snapshot-mine.safetensors").touch()
    train(config(batch=100, kimg=6), unlabelled, tmp_path, resume=tmp_path / "snapshot.safetensors", keep=1)
    assert {p.name for p in tmp_path.glob("snapshot-*")} == {"snapshot-000006.safetensors", "snapshot-mine.safetensors"}


def test_snapshots_less_than_a_kimg_apart_have_names_of_their_own_in_order(unlabelled, tmp_path):
    train(config(batch=100, kimg=1.3), unlabelled, tmp_path, snap_kimg=0.1, keep=3)
    kept = [f"snapshot-00000{k}.safetensors" for k in ("1.100", "1.200", "1.300")]
    assert sorted(p.name for p in tmp_path.glob("snapshot-*")) == kept
    assert [read_metadata(tmp_path / name)["facts"]["nimg"] for name in kept] == [1100, 1200, 1300]
    assert len(list(tmp_path.glob("fakes-0*.png"))) == 13
    # A resumed run with a larger interval: names without decimals are ordered among the others.
    train(config(batch=100, kimg=2.0), unlabelled, tmp_path, resume=tmp_path / "snapshot.safetensors", snap_kimg=1, keep=2)
    assert sorted(p.name for p in tmp_path.glob("snapshot-*")) == [kept[-1], "snapshot-000002.safetensors"]


@pytest.mark.parametrize("nonsense", [None, 3.0, {}, {"FD": "low"}, {"FD": None}, {3: 1.0}, {"FD": True}])
def test_an_evaluation_that_returns_no_numbers_is_refused_after_the_snapshot(unlabelled, tmp_path, nonsense):
    with pytest.raises(InputError, match="evaluate must return numbers by name, not "):
        train(config(kimg=0.02), unlabelled, tmp_path, snap_kimg=0.02, evaluate=lambda generator: nonsense)
    assert trained_kimg(tmp_path / SNAPSHOT_FILE) == 0.02
    assert not (tmp_path / "metrics.jsonl").exists()


def test_every_snapshot_is_evaluated_and_the_best_generator_kept(unlabelled, tmp_path, monkeypatch):
    measured, writer = iter([3.0, 1.0, 2.0, 1.5]), Recorder()
    run = {"snap_kimg": 0.02, "evaluate": lambda generator: {"FD": np.float32(next(measured))}, "writers": [writer]}
    train(config(kimg=0.06), unlabelled, tmp_path, **run)
    best = (tmp_path / "best.safetensors").read_bytes()
    reported = [kimg for kimg, values in writer.lines if "FD" in values]
    assert reported == [0.02, 0.04, 0.06]  # the final snapshot is evaluated once
    assert load_generator(tmp_path / "best.safetensors").cfg == config().generator
    assert read_metadata(tmp_path / "best.safetensors")["info"] == {"kimg": 0.04}
    train(config(kimg=0.08), unlabelled, tmp_path, resume=tmp_path / "snapshot.safetensors", **run)
    assert (tmp_path / "best.safetensors").read_bytes() == best
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["FD"] for line in lines] == [3.0, 1.0, 2.0, 1.5]


def test_grids_of_real_images_and_first_samples_are_written_once(unlabelled, tmp_path):
    changed = []
    train(config(kimg=0.02), unlabelled, tmp_path, start=lambda trainer: changed.append(sample_images(trainer.G_ema, 64)))
    with Image.open(tmp_path / "reals.png") as reals, Image.open(tmp_path / "fakes-init.png") as fakes:
        tiles = np.asarray(reals).reshape(reals.height // 8, 8, reals.width // 8, 8, 3).swapaxes(1, 2).reshape(-1, 8, 8, 3)
        np.testing.assert_array_equal(np.asarray(fakes), make_grid(changed[0]))
    expected = {image.tobytes() for image in unlabelled.images.transpose(0, 2, 3, 1)}
    assert {tile.tobytes() for tile in tiles} - {np.full((8, 8, 3), 255, np.uint8).tobytes()} == expected
    for name in ("reals.png", "fakes-init.png"):
        (tmp_path / name).write_bytes(b"mine")
    train(config(kimg=0.03), unlabelled, tmp_path, resume=tmp_path / "snapshot.safetensors")
    (tmp_path / "fakes-init.png").rename(tmp_path / "kept.png")
    train(config(kimg=0.04), unlabelled, tmp_path, resume=tmp_path / "snapshot.safetensors")
    assert (tmp_path / "reals.png").read_bytes() == b"mine"
    assert not (tmp_path / "fakes-init.png").exists()  # the first samples of a resumed run are gone


def test_evaluation_does_not_change_the_steps(unlabelled, tmp_path):
    for name, evaluate in (("a", None), ("b", lambda generator: {"FD": float(sample_images(generator, 3).mean())})):
        train(config(kimg=0.06), unlabelled, tmp_path / name, snap_kimg=0.02, evaluate=evaluate)
    assert (tmp_path / "a" / "snapshot.safetensors").read_bytes() == (tmp_path / "b" / "snapshot.safetensors").read_bytes()


def test_writers_get_the_grids_of_the_files_and_are_closed_also_after_an_error(unlabelled, tmp_path, monkeypatch):
    writer, cfg = Recorder(), config(kimg=0.04)
    train(cfg, unlabelled, tmp_path, snap_kimg=0.02, writers=[writer])
    assert writer.opened == [(tmp_path, cfg, False)]
    assert [(kimg, name) for kimg, name, _ in writer.pictures] == [(0.0, "reals"), (0.02, "fakes"), (0.04, "fakes")]
    for (_, _, pixels), name in zip(writer.pictures, ("reals", "fakes-000000.020", "fakes-000000.040"), strict=True):
        with Image.open(tmp_path / f"{name}.png") as image:
            np.testing.assert_array_equal(pixels, np.asarray(image))
    make_nan(monkeypatch, "generator")
    with pytest.raises(TrainingError):
        train(config(kimg=1), unlabelled, tmp_path, resume=tmp_path / "snapshot.safetensors", writers=[writer])
    assert (writer.opened[1][2], writer.closed) == (True, 2)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_that_is_ignored_as_by_nohup_stops_nothing(unlabelled, tmp_path, number):
    writer = Recorder(lambda: os.kill(os.getpid(), number))
    former = signal.signal(number, signal.SIG_IGN)
    try:
        train(config(kimg=0.4), unlabelled, tmp_path, writers=[writer])
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, former)
    assert read_metadata(tmp_path / "snapshot.safetensors")["facts"]["nimg"] == 400


def test_a_signal_ends_an_evaluation_and_the_run(unlabelled, tmp_path):
    """The snapshot is written before, and the metrics of a stopped run are not measured."""
    ended = []

    def evaluate(generator):
        assert (tmp_path / "snapshot.safetensors").exists()
        os.kill(os.getpid(), signal.SIGTERM)
        ended.append(True)
        return {"FD": 1.0}

    train(config(kimg=1000), unlabelled, tmp_path, snap_kimg=0.02, evaluate=evaluate)
    assert read_metadata(tmp_path / "snapshot.safetensors")["facts"]["nimg"] == 20
    assert not ended
    assert not (tmp_path / "metrics.jsonl").exists()
    with pytest.raises(KeyboardInterrupt):  # one that is not a signal is not taken for one
        train(config(kimg=1), unlabelled, tmp_path / "b", snap_kimg=0.02, evaluate=Mock(side_effect=KeyboardInterrupt))
