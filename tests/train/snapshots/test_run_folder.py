"""The folder of a run: its files are no links, and it counts no file of others as its own."""

import json
import os
import shutil

import numpy as np
import pytest

from stylert.core.errors import CheckpointError, OutputError
from stylert.core.files.atomic import append_line
from stylert.core.files.partials import remove_stale_partials
from stylert.models.checkpoint import read_metadata
from stylert.train.loop import Trainer, train
from stylert.train.reporting.statistics import Statistics
from stylert.train.snapshots.best_snapshot import keep_if_best
from stylert.train.snapshots.run_folder import check_links, check_new_run, save, save_first_grids
from stylert.train.snapshots.trainer_state import restore_state, trainer_state
from tests.faults import forget_swept_folders
from tests.train.small_runs import config

#: Each file that a run writes, with the functions that write it.
WRITERS = {
    "snapshot.safetensors": lambda trainer, out: save(trainer, out),
    "model.safetensors": lambda trainer, out: save(trainer, out),
    "fakes-000000.png": lambda trainer, out: save(trainer, out),
    "snapshot-000000.safetensors": lambda trainer, out: check_links(out),
    "reals.png": lambda trainer, out: save_first_grids(trainer, out, is_new=True),
    "fakes-init.png": lambda trainer, out: save_first_grids(trainer, out, is_new=True),
    "stats.jsonl": lambda trainer, out: Statistics(trainer, out, []).record_changes({"lr": (1, 2)}),
    "best.safetensors": lambda trainer, out: keep_if_best(out, out / "m", 1.0, {"FD": 1.0}),
    "metrics.jsonl": lambda trainer, out: keep_if_best(out, out / "m", 1.0, {"FD": np.inf}),
}


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("name", WRITERS)
def test_no_file_of_a_run_is_written_through_a_link(unlabelled, tmp_path, name, exists):
    out, diary = tmp_path / "run", tmp_path / "diary"
    out.mkdir()
    (out / "m").touch()
    if exists:
        diary.write_text("")
    (out / name).symlink_to("../diary")
    trainer = Trainer(config(), unlabelled)
    if name in ("reals.png", "fakes-init.png"):  # what is there stays
        WRITERS[name](trainer, out)
    else:
        with pytest.raises(OutputError, match=rf"{name} is a link"):
            WRITERS[name](trainer, out)
    assert (out / name).is_symlink()
    assert diary.exists() == exists
    assert not exists or diary.read_bytes() == b""


@pytest.mark.parametrize("name", [*WRITERS, "fakes-000012.345.png", "wandb.json", "tensorboard", "wandb"])
def test_a_run_with_a_link_among_its_files_is_refused_before_its_first_step(unlabelled, tmp_path, monkeypatch, name):
    train(config(kimg=0), unlabelled, tmp_path / "run")
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to("../diary")
    monkeypatch.setattr(Trainer, "train_step", lambda self: pytest.fail("a step was made"))
    with pytest.raises(OutputError, match=rf"{name} is a link"):
        train(config(), unlabelled, tmp_path / "run")
    assert not (tmp_path / "diary").exists()


def test_a_line_is_appended_through_a_link_only_where_nobody_else_made_the_folder(tmp_path):
    (tmp_path / "link").symlink_to("lines")
    append_line(tmp_path / "link", {"a": 1})
    with pytest.raises(OutputError, match="is a link"):
        append_line(tmp_path / "link", {"a": 2}, within=tmp_path)
    assert [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()] == [{"a": 1}]


def numbered(out):
    return {p.name: read_metadata(p)["facts"]["nimg"] for p in out.glob("snapshot-*")}


def test_a_resumed_run_neither_replaces_nor_deletes_nor_counts_backups_under_numbered_names(unlabelled, tmp_path):
    snapshot = tmp_path / "snapshot.safetensors"
    train(config(kimg=0.02), unlabelled, tmp_path)
    for name in ("snapshot-000000.safetensors", "snapshot-000001.safetensors", "snapshot-000000.040.safetensors"):
        shutil.copyfile(snapshot, tmp_path / name)
    backups = numbered(tmp_path)
    for kimg, own in ((0.032, {"snapshot-000000.032.safetensors": 32}), (0.036, {"snapshot-000000.036.safetensors": 36})):
        train(config(kimg=kimg), unlabelled, tmp_path, resume=snapshot, keep=1)
        assert numbered(tmp_path) == backups | own
    train(config(kimg=0.04), unlabelled, tmp_path, resume=snapshot, keep=1)  # both names are taken
    assert numbered(tmp_path) == backups | own
    train(config(kimg=0.044), unlabelled, tmp_path, resume=snapshot, keep=1)
    assert numbered(tmp_path) == backups | {"snapshot-000000.044.safetensors": 44}
    assert read_metadata(snapshot)["facts"]["nimg"] == 44


def test_a_file_that_has_taken_the_place_of_an_own_snapshot_stays(unlabelled, tmp_path):
    snapshot = tmp_path / "snapshot.safetensors"
    train(config(batch=100, kimg=2), unlabelled, tmp_path, snap_kimg=1, keep=2)
    assert numbered(tmp_path) == {"snapshot-000001.safetensors": 1000, "snapshot-000002.safetensors": 2000}
    shutil.copyfile(snapshot, tmp_path / "snapshot-000001.safetensors")
    (tmp_path / "snapshot-000000.500.safetensors").write_bytes(b"no checkpoint")
    train(config(batch=100, kimg=4), unlabelled, tmp_path, resume=snapshot, snap_kimg=1, keep=1)
    assert (tmp_path / "snapshot-000000.500.safetensors").read_bytes() == b"no checkpoint"
    (tmp_path / "snapshot-000000.500.safetensors").unlink()
    assert numbered(tmp_path) == {"snapshot-000001.safetensors": 2000, "snapshot-000004.safetensors": 4000}


def test_a_numbered_snapshot_is_another_name_of_the_snapshot_with_its_permissions(unlabelled, tmp_path):
    mask = os.umask(0o022)
    try:
        train(config(), unlabelled, tmp_path, keep=1)
    finally:
        os.umask(mask)
    status = (tmp_path / "snapshot-000000.safetensors").stat()
    assert os.path.samestat(status, (tmp_path / "snapshot.safetensors").stat())
    assert (status.st_mode & 0o777, status.st_nlink) == (0o644, 2)


@pytest.mark.parametrize("kept", [5, [], {"../snapshot-000001.safetensors": 1}, {"snapshot-000001.safetensors": "1"}, {"x": 1}])
def test_a_list_of_numbered_snapshots_of_another_form_is_refused(unlabelled, kept):
    trainer = Trainer(config(), unlabelled)
    tensors, facts = trainer_state(trainer)
    with pytest.raises(CheckpointError, match="list of numbered snapshots"):
        restore_state(trainer, tensors, facts | {"kept": kept})


def test_another_command_leaves_a_numbered_snapshot_that_is_being_made(unlabelled, tmp_path, monkeypatch):
    """Its partial is a link, so the lock cannot be that of the file."""

    def interrupted(source, target, link=os.link):
        link(source, target)
        forget_swept_folders(monkeypatch)
        remove_stale_partials(tmp_path)

    trainer = Trainer(config(), unlabelled)
    save(trainer, tmp_path)
    monkeypatch.setattr(os, "link", interrupted)
    save(trainer, tmp_path, keep=1)
    assert numbered(tmp_path) == {"snapshot-000000.safetensors": 0}
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_new_run_takes_the_folder_of_one_that_was_killed_before_its_first_snapshot(unlabelled, tmp_path):
    trainer = Trainer(config(), unlabelled)
    save_first_grids(trainer, tmp_path, is_new=True)
    statistics = Statistics(trainer, tmp_path, [])
    statistics.add(trainer.train_step())
    statistics.flush()
    (tmp_path / "wandb.json").write_text('{"project": "cats", "id": "abc"}')
    before = (tmp_path / "stats.jsonl").read_bytes()
    check_new_run(tmp_path)
    train(config(), unlabelled, tmp_path)
    assert (tmp_path / "stats.jsonl").read_bytes().startswith(before)
    with pytest.raises(OutputError, match="already holds a run"):
        check_new_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("stats.jsonl", b'{"kimg": 1}\n'),
        ("stats.jsonl", b"[1]\n"),
        ("stats.jsonl", b"\n"),
        ("stats.jsonl", b"{" * 2**17),
        ("wandb.json", b""),
        ("wandb.json", b'{"project": "cats"}'),
        ("model.safetensors", b""),
        ("metrics.jsonl", b'{"kimg": 1, "step": 1}\n'),
    ],
)
def test_a_file_that_no_killed_run_leaves_is_not_taken_for_one(tmp_path, name, content):
    (tmp_path / "stats.jsonl").write_bytes(b'{"kimg": 1, "step": 250}\n')
    check_new_run(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OutputError, match=r"already holds \w+\.\w+: choose another folder"):
        check_new_run(tmp_path)


@pytest.mark.parametrize("name", ["stats.jsonl", "wandb.json"])
def test_a_pipe_in_the_folder_of_a_new_run_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(OutputError, match=f"already holds {name}"):
        check_new_run(tmp_path)
