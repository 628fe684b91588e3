"""`stylert import`: a checkpoint of another project as stylert's own, and what became of its parts."""

from __future__ import annotations

from pathlib import Path

from stylert.cli.console import console
from stylert.core.errors import CheckpointError, InputError, missing_extra
from stylert.models.importers.imported import import_checkpoint, write_imported


def run_import(file: Path, out: Path, training: Path | None = None, preset: str = "auto") -> None:
    """Convert `file` to `out`, and with `training` write a run in that folder that starts from its G and D.

    Nothing is written when anything is refused. Prints what was converted, dropped and assumed.
    """
    if file.resolve() == out.resolve():
        raise InputError(f"--out is the file that is imported: {file}")
    imported = import_checkpoint(file, training=training is not None)
    plan = None
    if training is not None:
        try:
            from stylert.train.imported_run import training_plan, write_training_start
        except ImportError:
            raise missing_extra("PyTorch", "train") from None
        if imported.format == "stylert":
            raise CheckpointError(f"{file} is stylert's own: training goes on from the snapshot itself, with --resume")
        plan = training_plan(training, imported, preset)
    write_imported(out, imported)
    lines = [f"{file}: {imported.format}", *(f"  {note}" for note in imported.notes), f"wrote {out}"]
    if training is not None and plan is not None:
        snapshot = write_training_start(training, imported, plan)
        lines += [f"wrote {snapshot}: go on with stylert train --resume --out {training} --data DATA"]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
