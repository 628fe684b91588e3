"""Runs `stylert import` and `stylert convert`: checkpoints from and to other projects, and what became of their parts."""

from __future__ import annotations

from pathlib import Path

from stylert.cli.console import print_line
from stylert.core.errors import CheckpointError, InputError, missing_extra
from stylert.core.files.outputs import check_output, is_same_file
from stylert.models.checkpoint import SNAPSHOT_FILE, check_generator_output, read_metadata
from stylert.models.converters.convert_checkpoint import PROJECTS, check_project, write_for_project
from stylert.models.converters.networks import NetworksToWrite
from stylert.models.importers.import_checkpoint import import_checkpoint, write_imported


def run_import(file: Path, out: Path, training: Path | None = None, preset: str = "auto") -> None:
    """Convert a checkpoint, and print what was converted, left out and assumed. A refusal writes nothing.

    Args:
        file: The checkpoint.
        out: The generator that is written.
        training: Folder of a training run that starts from the file's G and D, or None for no run.
        preset: Preset of that run.

    Raises:
        CheckpointError: The file is damaged, or of a kind that cannot be converted.
        InputError: `out` is a file that the run will write, or the preset does not fit.
        OutputError: `out` cannot be written, or is a file that would be lost, such as `file` itself. The folder of the run holds
            files that a new run would replace.
    """
    check_generator_output(out, (file,))
    if training is not None and is_same_file(out, training / SNAPSHOT_FILE):
        raise InputError(f"--out and --training both write {out}: choose another file")
    imported = import_checkpoint(file, training=training is not None)
    plan = None
    if training is not None:
        try:
            from stylert.train.imported_start import imported_run_config, write_first_snapshot
            from stylert.train.snapshots.run_folder import is_own_name
        except ImportError:
            raise missing_extra("PyTorch", "train") from None
        if is_same_file(out.parent, training) and is_own_name(out.name):
            raise InputError(f"--out and --training both write {out}, the run in its first snapshot: choose another file")
        if imported.format == "stylert":
            raise CheckpointError(f"{file} is a file of stylert: continue its training with stylert train --resume")
        plan = imported_run_config(training, imported, preset)
    write_imported(out, imported)
    lines = [f"{file}: {imported.format}", *(f"  {note}" for note in imported.notes), f"wrote {out}"]
    if training is not None and plan is not None:
        snapshot = write_first_snapshot(training, imported, plan)
        lines += [f"wrote {snapshot}: continue with stylert train --resume --out {training} --data DATA"]
    for line in lines:
        print_line(line)


def run_convert(file: Path, project: str, out: Path) -> None:
    """Write a checkpoint for another project, and print what was converted, left out and assumed. A refusal writes nothing.

    Args:
        file: A checkpoint of stylert, or of any project that `import_checkpoint` reads.
        project: A name from `PROJECTS`.
        out: The checkpoint that is written.

    Raises:
        CheckpointError: The file is damaged, or of a kind that cannot be read.
        InputError: The project is not known, or its code cannot represent the networks.
        OutputError: `out` cannot be written, or is a file that would be lost, such as `file` itself.
    """
    check_project(project)
    check_output(out, PROJECTS[project], (file,))
    networks, notes = _networks_of(file)
    notes += write_for_project(out, networks, project)
    for line in [f"{file}: converted for {project}", *(f"  {note}" for note in notes), f"wrote {out}"]:
        print_line(line)


def _networks_of(file: Path) -> tuple[NetworksToWrite, list[str]]:
    """The networks of any checkpoint, and notes for the user."""
    imported = import_checkpoint(file)
    config = imported.config
    if imported.format != "stylert":
        networks = NetworksToWrite(config, imported.arrays, imported.raw, imported.discriminator_config, imported.discriminator)
        return networks, list(imported.notes)
    if read_metadata(file)["kind"] == "generator":
        return NetworksToWrite(config, imported.arrays), []
    try:
        from stylert.train.snapshots.trained_networks import trained_networks
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    return trained_networks(file)
