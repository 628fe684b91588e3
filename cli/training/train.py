"""`stylert train`: set up a run from preset and options, show its progress."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stylert.cli.app import split_list
from stylert.cli.console import console, errors, progress, table
from stylert.core.cache import cache_folder
from stylert.core.errors import InputError, OutputError, missing_extra

if TYPE_CHECKING:
    from stylert.train.best import Score
    from stylert.train.data.dataset import ImageDataset
    from stylert.train.parallel import Processes
    from stylert.train.presets import TrainConfig

#: Kimg in which the augmentation may reach full strength when a run starts from trained networks (Karras et al. 2020b).
TRANSFER_ADA_KIMG = 100.0
#: Images that measure a snapshot, where the metric's name gives no number.
SCORED_IMAGES = 2000
#: Pixels of a side for which every option can be checked that does not depend on the images.
SMALLEST = 8


@dataclass(frozen=True)
class Options:
    """What the command line says; `overrides` are fields of the configuration."""

    data: Path
    out: Path
    preset: str
    overrides: dict[str, Any]
    labels: bool
    snap: float
    keep: int
    resume: bool
    transfer: Path | None
    tensorboard: bool
    dry_run: bool
    device: str
    metrics: str | None = None
    inception: Path | None = None
    compiled: bool = False


def run_training(options: Options) -> None:
    """Train or resume. Raises InputError for a bad option and OutputError when `out` holds a run that is not resumed."""
    try:
        from stylert.train.loop import Trainer, train
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    from stylert.models.checkpoint import SNAPSHOT_FILE, read_metadata
    from stylert.train.compiled import unavailable_reason
    from stylert.train.data.dataset import ImageDataset
    from stylert.train.parallel import connected, launched
    from stylert.train.transfer import transfer

    snapshot, source = options.out / SNAPSHOT_FILE, options.transfer
    _check(options, snapshot)
    device = _device(options.device)
    # What can be wrong without the images is found before these, which take longer.
    if source is not None:
        read_metadata(source)
    _config(options, SMALLEST, 0, 3, launched(), snapshot)
    score = None if options.metrics is None else _score(options)
    with progress() as bar:
        dataset = ImageDataset(options.data, options.labels, progress=lambda done, total: bar("read images", done, total))
    cfg = _config(options, dataset.resolution, dataset.c_dim, dataset.images.shape[1], launched(), snapshot)
    if options.dry_run:
        if launched().first:
            show_plan(cfg, dataset, launched(), device)
        return

    with connected(device) as processes:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"), TimeRemainingColumn())
        with Progress(*columns, console=errors, disable=not errors.is_terminal or not processes.first) as bars:
            task = bars.add_task("train", total=cfg.kimg, line="")

            reached = 0.0

            def show(line: dict[str, Any]) -> None:
                nonlocal reached
                reached = line["kimg"]
                if "loss_G" not in line:  # what a snapshot was measured at
                    values = "  ".join(f"{k} {v:.4g}" for k, v in line.items() if k != "kimg")
                    errors.print(f"{line['kimg']:.1f} kimg  {values}", highlight=False)
                    return
                text = f"{line['kimg']:.1f} kimg  {line['sec_per_kimg']:.1f} s/kimg"
                text += f"  G {line['loss_G']:.2f}  D {line['loss_D']:.2f}"
                text += f"  p {line['aug_p']:.3f}" if "aug_p" in line else ""
                bars.update(task, completed=line["kimg"], line=text)
                if not errors.is_terminal:
                    left = max(cfg.kimg - line["kimg"], 0) * line["sec_per_kimg"]
                    errors.print(f"{text}  {timedelta(seconds=round(left))} left", highlight=False)

            compiled = options.compiled
            if compiled and (why := unavailable_reason(device)) is not None:
                compiled = False
                if processes.first:
                    errors.print(f"training goes on without torch.compile, which does not work here: {why}", highlight=False)

            def start(trainer: Trainer) -> None:
                for taken in [] if source is None else transfer(trainer, source):
                    if processes.first:
                        errors.print(str(taken), highlight=False)

            model = train(
                cfg,
                dataset,
                options.out,
                resume=snapshot if options.resume else None,
                start=start,
                snap_kimg=options.snap,
                keep=options.keep,
                score=score,
                tensorboard=options.tensorboard,
                device=device,
                processes=processes,
                compiled=compiled,
                report=show,
            )
        if processes.first:
            if 0 < reached < cfg.kimg:
                errors.print(f"stopped at {reached:g} of {cfg.kimg:g} kimg: --resume goes on", highlight=False)
            console.print(f"wrote {model}", highlight=False, soft_wrap=True)


def show_plan(cfg: TrainConfig, dataset: ImageDataset, processes: Processes, device: str) -> None:
    """Print the resolved configuration, and what the run will compute, keep and at least last."""
    from stylert.train.plan import convolution_rate, plan

    g = cfg.generator
    rows = [(k, str(v)) for k, v in cfg.to_dict().items() if k not in ("generator", "discriminator")]
    rows += [(f"generator.{k}", str(v)) for k, v in g.to_dict().items()]
    rows += [(f"discriminator.{k}", str(v)) for k, v in cfg.discriminator.to_dict().items()]
    table("plan", ["<option", "<value"], rows)
    counted, rate = plan(cfg, processes.world), convolution_rate(device)
    hours = counted.hours(cfg.kimg, rate * processes.world)
    rows = [
        ("images", f"{len(dataset)} of {dataset.resolution} px, {_where(dataset)}"),
        ("parameters", f"G {counted.parameters_G / 1e6:.2f} M, D {counted.parameters_D / 1e6:.2f} M"),
        ("synthesis", f"{_operations(g.macs())} per image"),
        ("training step", f"{_operations(counted.macs_per_image)} per image, forward and backward"),
        ("memory", f"{counted.state_bytes / 2**20:.0f} MiB for weights, gradients and moments"),
        ("", f"{counted.activation_bytes / 2**20:.0f} MiB kept for backward passes, per process, at most"),
        ("time", f"at least {_span(hours)}, at {rate / 1e9:.0f} GMAC/s of a float32 convolution here, times {processes.world}"),
    ]
    table("what it takes", ["<", "<"], rows)


def _operations(macs: float) -> str:
    return f"{macs / 1e9:.2f} GMAC" if macs >= 1e8 else f"{macs / 1e6:.2f} MMAC"


def _span(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.1f} s"


def _where(dataset: ImageDataset) -> str:
    size = f"{math.prod(dataset.images.shape) / 2**20:.0f} MiB"
    return f"{size} in memory" if dataset.in_memory else f"{size}: decoded when wanted, not kept in memory"


def read_settings(texts: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` as fields of the configuration. Raises InputError for an unknown name or a value of another type."""
    from stylert.train.presets import parse_setting

    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            if not equals:
                raise ValueError(f"{text!r} is not of the form NAME=VALUE")
            values[name.strip()] = parse_setting(name.strip(), value.strip())
        except ValueError as e:
            raise InputError(f"--set: {e}") from None
    return values


def _score(options: Options) -> Score:
    """What measures snapshots. Raises InputError for a metric by which none can be the best."""
    from stylert.train.metrics.evaluator import DISTANCES, Evaluator, Metric, Source

    chosen = [Metric.parse(name, SCORED_IMAGES) for name in split_list(options.metrics) or []]
    for metric in chosen:
        if metric.name not in DISTANCES:
            raise InputError(f"--metrics of a run are of {', '.join(DISTANCES)}, the first decides; not {metric.name}")
    return Evaluator(chosen, Source(options.data, inception=options.inception, cache=cache_folder() / "features")).evaluate


def _check(options: Options, snapshot: Path) -> None:
    if options.out.exists() and not options.out.is_dir():
        raise OutputError(f"cannot write into {options.out}: it is a file")
    if options.resume and options.transfer is not None:
        raise InputError("--resume goes on with a run, --transfer starts a new one: choose one")
    if options.resume and not snapshot.is_file():
        raise InputError(f"nothing to resume: {snapshot} does not exist")
    if snapshot.exists() and not options.resume:
        raise OutputError(f"{options.out} already holds a run: add --resume, or choose another folder")
    if "aug_p" in options.overrides and options.overrides.get("aug") != "fixed":
        raise InputError("--p is the probability of --aug fixed")


def _device(name: str) -> str:
    """The device of this process: of several on one machine, each takes the GPU that torchrun numbers it by."""
    import torch

    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("no CUDA device is available: use --device cpu")
    try:
        torch.device(name)
    except RuntimeError:
        raise InputError(f"unknown device {name!r}: use cpu or cuda") from None
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if name.startswith("cuda"):
        torch.cuda.set_device(name)
    return name


def _config(options: Options, resolution: int, c_dim: int, channels: int, processes: Processes, snapshot: Path) -> TrainConfig:
    from stylert.train.presets import differing, resolve
    from stylert.train.snapshot import read_config

    try:
        if options.resume:
            cfg = read_config(snapshot)
            changed = differing(cfg, {k: v for k, v in options.overrides.items() if k not in ("kimg", "seed")})
            if changed:
                raise InputError(f"a resumed run keeps its settings: {', '.join(changed)} had other values")
            return dataclasses.replace(cfg, kimg=options.overrides.get("kimg", cfg.kimg))
        overrides = dict(options.overrides)
        if options.transfer is not None:
            overrides["ada_kimg"] = TRANSFER_ADA_KIMG
        return resolve(options.preset, resolution, c_dim, channels, processes.world, **overrides)
    except (TypeError, ValueError) as e:
        raise InputError(str(e)) from None
