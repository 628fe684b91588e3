"""Runs `stylert train`: configures a run from preset and options, trains, and shows the progress."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stylert.cli.app import split_list
from stylert.cli.console import errors, print_line, print_note, print_table, progress
from stylert.core.errors import InputError, OutputError, missing_extra
from stylert.core.files.cache import cache_folder
from stylert.core.files.locks import locked_folder
from stylert.core.machine.allocation import keep_freed_memory

if TYPE_CHECKING:
    from stylert.train.configuration.train_config import TrainConfig
    from stylert.train.data.dataset import ImageDataset
    from stylert.train.parallel import Processes
    from stylert.train.reporting.writers import RunWriter
    from stylert.train.snapshots.best_snapshot import Evaluate

#: Number of images that measure a snapshot, for metrics whose name holds none.
SCORED_IMAGES = 2000
#: Resolution at which options are checked before the images are read.
SMALLEST = 8


@dataclass(frozen=True)
class Options:
    """The options of the command line. `overrides` are fields of `TrainConfig` by name."""

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
    wandb: str | None = None


def run_training(options: Options) -> None:
    """Start or resume a run.

    Raises:
        InputError: An option is wrong.
        OutputError: The folder already holds a run, and --resume is not given. Or another process trains there.
    """
    try:
        from stylert.train.parallel import launched_processes
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    _check(options)
    writes = launched_processes().is_first and not options.dry_run  # rank 0 writes for all
    # Held from here on, so that a second run is refused before it reads the images.
    with locked_folder(options.out) if writes else nullcontext():
        _run(options)


def _run(options: Options) -> None:
    from stylert.models.checkpoint import SNAPSHOT_FILE
    from stylert.train.compile_check import unavailable_reason
    from stylert.train.configuration.half_precision import has_instructions
    from stylert.train.configuration.resumed_settings import changes
    from stylert.train.data.dataset import ImageDataset
    from stylert.train.loop import Trainer, train
    from stylert.train.parallel import launched_processes, local_device, process_group
    from stylert.train.selection import training_images
    from stylert.train.snapshots.snapshot_file import read_config
    from stylert.train.transfer import read_networks, transfer

    snapshot, source = options.out / SNAPSHOT_FILE, options.transfer
    device = local_device(options.device)
    # Mistakes that do not depend on the images are found before the images are read.
    if source is not None:
        read_networks(source)
    checked = _config(options, {"resolution": SMALLEST}, launched_processes(), snapshot)
    has_labels = options.labels or checked.generator.c_dim > 0  # a resumed run keeps its labels
    if checked.class_balanced and not has_labels:
        raise InputError("--class-balanced draws each class equally often: add --cond")
    evaluate = None if options.metrics is None else _evaluate(options)
    writers = _writers(options)
    with progress() as bar:
        dataset = ImageDataset(options.data, has_labels, progress=bar)
    cfg = _config(options, _facts(dataset), launched_processes(), snapshot)
    if options.resume and launched_processes().is_first:
        for name, (old, new) in changes(read_config(snapshot), cfg).items():
            print_note(f"{name} changes from {old} to {new}")
    if launched_processes().is_first and not has_instructions(cfg.half, device):
        print_note(f"{cfg.half} is slow here: this processor has no instructions for it. --set half=none trains in float32")
    if options.dry_run:
        if launched_processes().is_first:
            show_plan(cfg, training_images(dataset, cfg), launched_processes(), device)
        return

    if device == "cpu":
        keep_freed_memory()
    with process_group(device) as processes:
        compiled = options.compiled
        if compiled and (reason := unavailable_reason(device)) is not None:
            compiled = False
            if processes.is_first:
                print_note(f"training continues without torch.compile, which does not work here: {reason}")

        def start(trainer: Trainer) -> None:
            for taken in [] if source is None else transfer(trainer, source):
                if processes.is_first:
                    print_note(str(taken))

        with _Display(cfg.kimg, processes.is_first) as display:
            model = train(
                cfg,
                dataset,
                options.out,
                resume=snapshot if options.resume else None,
                start=start,
                snap_kimg=options.snap,
                keep=options.keep,
                evaluate=evaluate,
                writers=[display, *writers],
                device=device,
                processes=processes,
                compiled=compiled,
            )
        if processes.is_first:
            if 0 < display.kimg < cfg.kimg:
                print_note(f"stopped at {display.kimg:g} of {cfg.kimg:g} kimg: --resume continues")
            print_line(f"wrote {model}")


class _Display:
    """A `RunWriter` that shows the progress on stderr: a bar in a terminal, one line per report elsewhere."""

    def __init__(self, total_kimg: float, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[line]}"), TimeRemainingColumn())
        self._bars = Progress(*columns, console=errors, disable=not (errors.is_terminal and shown))
        self._task = self._bars.add_task("train", total=total_kimg, line="")
        self._total = total_kimg
        self.kimg = 0.0

    def open(self, out: Path, cfg: TrainConfig, resumed: bool) -> None:
        """See `RunWriter`."""

    def scalars(self, kimg: float, values: Mapping[str, float]) -> None:
        """Show a line of `stats.jsonl`, or the metrics of a snapshot."""
        self.kimg = kimg
        if "loss_G" not in values:
            print_note(f"{kimg:.1f} kimg  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()))
            return
        text = f"{kimg:.1f} kimg  {values['sec_per_kimg']:.1f} s/kimg  G {values['loss_G']:.2f}  D {values['loss_D']:.2f}"
        text += f"  p {values['aug_p']:.3f}" if "aug_p" in values else ""
        scores = f"real {values['real_score']:.2f}  fake {values['fake_score']:.2f}"
        details = f"{scores}  {values['peak_memory_mib']:.0f} MiB  {_shares(values)}"
        self._bars.update(self._task, completed=kimg, line=f"{text}\n{details}")
        if not errors.is_terminal:
            left = max(self._total - kimg, 0) * values["sec_per_kimg"]
            print_note(f"{text}  {details}  {timedelta(seconds=round(left))} left")

    def picture(self, kimg: float, name: str, image: np.ndarray) -> None:
        """See `RunWriter`. A terminal shows no pictures."""

    def close(self) -> None:
        """See `RunWriter`."""

    def __enter__(self) -> _Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


def _shares(values: Mapping[str, float]) -> str:
    """The share of each phase in the time of all phases, such as `G 50% D 40% data 10%`."""
    seconds = {name.removeprefix("seconds_"): value for name, value in values.items() if name.startswith("seconds_")}
    total = sum(seconds.values()) or 1.0
    return " ".join(f"{phase} {value / total:.0%}" for phase, value in seconds.items())


def _writers(options: Options) -> list[RunWriter]:
    """TensorBoard and wandb, where they are asked for. Raises BackendError for one that is not installed."""
    writers: list[RunWriter] = []
    if options.tensorboard:
        from stylert.train.reporting.tensorboard import TensorBoardWriter

        writers.append(TensorBoardWriter())
    if options.wandb is not None:
        from stylert.train.reporting.weights_and_biases import WandbWriter

        writers.append(WandbWriter(options.wandb, print_note))
    return writers


def show_plan(cfg: TrainConfig, dataset: ImageDataset, processes: Processes, device: str) -> None:
    """Print the configuration, and the cost of the run: operations, memory, and least time."""
    from stylert.train.run_cost import convolution_rate, training_cost

    g = cfg.generator
    rows = [(k, str(v)) for k, v in cfg.to_dict().items() if k not in ("generator", "discriminator")]
    rows += [(f"generator.{k}", str(v)) for k, v in g.to_dict().items()]
    rows += [(f"discriminator.{k}", str(v)) for k, v in cfg.discriminator.to_dict().items()]
    print_table("plan", ["<option", "<value"], rows)
    counted, rate = training_cost(cfg, processes.world_size), convolution_rate(device)
    hours = counted.hours(cfg.kimg, rate * processes.world_size)
    rows = [
        ("images", f"{len(dataset)} of {dataset.size_text}, {_where(dataset)}"),
        ("parameters", f"G {counted.parameters_G / 1e6:.2f} M, D {counted.parameters_D / 1e6:.2f} M"),
        ("synthesis", f"{_operations(g.macs())} per image"),
        ("training step", f"{_operations(counted.macs_per_image)} per image, forward and backward"),
        ("memory", f"{counted.state_bytes / 2**20:.0f} MiB for weights, gradients and moments"),
        ("", f"{counted.activation_bytes / 2**20:.0f} MiB kept for backward passes, per process, at most"),
        (
            "time",
            f"at least {_span(hours)}, at {rate / 1e9:.0f} GMAC/s of a float32 convolution here, times {processes.world_size}",
        ),
    ]
    print_table("cost", ["<", "<"], rows)


def _operations(macs: float) -> str:
    return f"{macs / 1e9:.2f} GMAC" if macs >= 1e8 else f"{macs / 1e6:.2f} MMAC"


def _span(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.1f} s"


def _where(dataset: ImageDataset) -> str:
    size = f"{math.prod(dataset.images.shape) * dataset.images.dtype.itemsize / 2**20:.0f} MiB"
    return f"{size} in memory" if dataset.in_memory else f"{size}: decoded when needed, not kept in memory"


def read_settings(texts: list[str]) -> dict[str, Any]:
    """Read settings of the form `NAME=VALUE`. Raises InputError for an unknown name or a value of another type."""
    from stylert.train.configuration.settings import parse_setting

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


def _evaluate(options: Options) -> Evaluate:
    """The function that measures snapshots. Raises InputError for a metric that is no distance."""
    from stylert.train.metrics.evaluation_inputs import EvaluationInputs
    from stylert.train.metrics.evaluator import Evaluator
    from stylert.train.metrics.metric import DISTANCES, Metric

    chosen = [Metric.parse(name, SCORED_IMAGES) for name in split_list(options.metrics) or []]
    for metric in chosen:
        if metric.name not in DISTANCES:
            raise InputError(f"--metrics of a run takes {', '.join(DISTANCES)}, not {metric.name}")
    return Evaluator(
        chosen, EvaluationInputs(options.data, inception=options.inception, cache=cache_folder() / "features")
    ).evaluate


def _check(options: Options) -> None:
    from stylert.models.checkpoint import SNAPSHOT_FILE
    from stylert.train.data.image_files import refuse_run_among_images
    from stylert.train.loop import check_saving
    from stylert.train.snapshots.run_folder import check_links, check_new_run

    check_saving(options.snap, options.keep)
    snapshot = options.out / SNAPSHOT_FILE
    if options.out.exists() and not options.out.is_dir():
        raise OutputError(f"cannot write into {options.out}: it is a file")
    refuse_run_among_images(options.data, options.out)
    if options.resume and options.transfer is not None:
        raise InputError("--resume continues a run, --transfer starts a new one: choose one")
    if options.resume and not snapshot.is_file():
        raise InputError(f"nothing to resume: {snapshot} does not exist")
    (check_links if options.resume else check_new_run)(options.out)


def _facts(dataset: ImageDataset) -> dict[str, Any]:
    """The arguments of `resolve` that the images and labels decide."""
    from stylert.models.stylegan2.config import network_size

    resolution, const_height, const_width = network_size(*dataset.images.shape[2:])
    return {
        "resolution": resolution,
        "const_height": const_height,
        "const_width": const_width,
        "c_dim": dataset.c_dim,
        "img_channels": dataset.images.shape[1],
        "image_channels": dataset.image_channels,
    }


def _config(options: Options, facts: dict[str, Any], processes: Processes, snapshot: Path) -> TrainConfig:
    from stylert.train.configuration.half_precision import fastest_half
    from stylert.train.configuration.presets import FROM_TRAINED_NETWORKS, resolve
    from stylert.train.configuration.resumed_settings import resumed_config
    from stylert.train.snapshots.snapshot_file import read_config

    try:
        if options.resume:
            cfg = resumed_config(read_config(snapshot), options.overrides)
        else:
            from_networks = {} if options.transfer is None else FROM_TRAINED_NETWORKS
            overrides = {**from_networks, **options.overrides}
            cfg = resolve(options.preset, gpus=processes.world_size, **facts, **overrides)
            if "half" not in overrides:
                cfg = dataclasses.replace(cfg, half=fastest_half(cfg.half, options.device))
    except (TypeError, ValueError) as e:
        raise InputError(str(e)) from None
    if "aug_p" in options.overrides and cfg.aug != "fixed":
        raise InputError("--p is the probability of --aug fixed")
    if options.overrides.get("aug") == "fixed" and cfg.aug_p == 0:
        raise InputError("--aug fixed needs its probability: add --p")
    return cfg
