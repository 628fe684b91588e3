"""The folder of a run: its files are no links, and it counts no file of others as its own."""

import json

import numpy as np
import pytest

from stylert.core.errors import OutputError
from stylert.core.files.atomic import append_line
from stylert.train.loop import Trainer, train
from stylert.train.reporting.statistics import Statistics
from stylert.train.snapshots.best_snapshot import keep_if_best
from stylert.train.snapshots.run_folder import save, save_first_grids
from tests.train.small_runs import config

#: Each file that a run writes, with the functions that write it.
WRITERS = {
    "snapshot.safetensors": lambda trainer, out: save(trainer, out),
    "model.safetensors": lambda trainer, out: save(trainer, out),
    "fakes-000000.png": lambda trainer, out: save(trainer, out),
    "snapshot-000000.safetensors": lambda trainer, out: train(trainer.cfg, trainer.dataset, out, keep=1),
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
