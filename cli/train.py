"""`stylert train`: set up a run from preset and options, show its progress."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stylert.cli.console import console, errors, progress
from stylert.runtime.errors import InputError, OutputError, missing_extra


def run_training(
    data: Path,
    out: Path,
    preset: str,
    overrides: dict[str, Any],
    labels: bool,
    snap: float,
    resume: bool,
    source: Path | None,
    device: str,
) -> None:
    """Train or resume. Raises InputError for a bad option and OutputError when `out` holds a run that is not resumed."""
    try:
        from stylert.train.loop import SNAPSHOT_FILE, Trainer, train
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    import torch

    from stylert.train.checkpoint import read_metadata
    from stylert.train.dataset import ImageDataset
    from stylert.train.presets import resolve
    from stylert.train.snapshot import read_config
    from stylert.train.transfer import transfer

    snapshot = out / SNAPSHOT_FILE
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot write into {out}: it is a file")
    if resume and source is not None:
        raise InputError("--resume goes on with a run, --transfer starts a new one: choose one")
    if resume and not snapshot.is_file():
        raise InputError(f"nothing to resume: {snapshot} does not exist")
    if snapshot.exists() and not resume:
        raise OutputError(f"{out} already holds a run: add --resume, or choose another folder")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("no CUDA device is available: use --device cpu")
    try:
        torch.device(device)
    except RuntimeError:
        raise InputError(f"unknown device {device!r}: use cpu or cuda") from None
    if source is not None:
        read_metadata(source)  # before the images, which take longer
    with progress() as bar:
        dataset = ImageDataset(data, labels, progress=lambda done, total: bar("read images", done, total))
    try:
        if resume:
            fixed = sorted(set(overrides) - {"kimg", "seed"})
            if fixed:
                raise InputError(f"a resumed run keeps its settings: leave out {', '.join(fixed)}")
            cfg = read_config(snapshot)
            cfg = dataclasses.replace(cfg, kimg=overrides.get("kimg", cfg.kimg))
        else:
            cfg = resolve(preset, dataset.resolution, dataset.c_dim, dataset.images.shape[1], **overrides)
    except (TypeError, ValueError) as e:
        raise InputError(str(e)) from None
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as bars:
        task = bars.add_task("train", total=cfg.kimg, line="")

        def show(line: dict[str, Any]) -> None:
            text = f"{line['kimg']:.1f} kimg  {line['sec_per_kimg']:.1f} s/kimg  G {line['loss_G']:.2f}  D {line['loss_D']:.2f}"
            bars.update(task, completed=line["kimg"], line=text)
            if not errors.is_terminal:
                errors.print(text, highlight=False)

        def start(trainer: Trainer) -> None:
            if source is not None:
                for taken in transfer(trainer, source):
                    errors.print(str(taken), highlight=False)

        model = train(
            cfg, dataset, out, resume=snapshot if resume else None, start=start, snap_kimg=snap, device=device, report=show
        )
    console.print(f"wrote {model}", highlight=False, soft_wrap=True)
