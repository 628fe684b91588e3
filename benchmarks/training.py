"""Training steps in several forms: seconds per thousand images (s/kimg) and peak memory.

    python -m stylert.benchmarks.training --preset cpu --resolution 64 --json training.json

Forms:

- `stylert`: the training of this project.
- `plain`: the same steps in the form of the papers. Weights are modulated per sample, each with a grouped convolution. The
  memory layout is PyTorch's own, and upfirdn2d is differentiated by autograd.
- `compiled`: `stylert` with torch.compile.
- `returned`: `stylert`, with freed memory given back to the system (`core/machine/allocation.py`), as glibc does by itself.

Every process runs one form. Each round starts a process for every form, and a figure is the median over the rounds.

Every step has both losses; some steps add a regulariser. The parts are timed apart and weighted as in a run:
`main + path length / 4 + R1 / 16`, with the intervals of the preset.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import contextlib
import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from stylert.benchmarks.machine.interference import (
    Interference,
    Watch,
    as_json_values,
    instability_remarks,
    merge_interference,
    watch,
)
from stylert.benchmarks.processes import new_process
from stylert.benchmarks.report.tables import number, ratio_facts
from stylert.benchmarks.sample_statistics import describe
from stylert.benchmarks.schema import Results, Row, row_name, write_results
from stylert.core.errors import InputError, OutputError, printable
from stylert.core.files.atomic import check_writable
from stylert.core.machine.allocation import keep_freed_memory
from stylert.core.machine.host import peak_memory_mib
from stylert.core.programs.runner import run_program
from stylert.core.statistics import median_ratio
from stylert.runtime.build_options import check_threads

FORMS = ("stylert", "plain", "compiled", "returned")


@dataclass(frozen=True)
class TrainingRound:
    """The measurements of one process.

    Attributes:
        batch: Images of a step.
        main_s: Seconds of a step without regularisers.
        path_length_s: Seconds that the path length regulariser adds to its steps.
        r1_s: Seconds that the R1 regulariser adds to its steps.
        sec_per_kimg: Seconds for 1000 images.
        peak_memory_mib: Peak memory of the process, or of the GPU.
        interference: Use of the machine by others; None where its counters cannot be read.
    """

    batch: int
    main_s: float
    path_length_s: float
    r1_s: float
    sec_per_kimg: float
    peak_memory_mib: float
    interference: Interference | None


def measure(
    preset: str, resolution: int, form: str, device: str = "cpu", threads: int | None = None, steps: int = 3, **overrides: Any
) -> TrainingRound:
    """Time training steps in this process.

    Args:
        preset: Name of a preset.
        resolution: Pixels.
        form: One of `FORMS`.
        device: `cpu` or `cuda`.
        threads: Threads of PyTorch; None for its default.
        steps: Timed steps of each kind, after one untimed.
        **overrides: Fields of the preset to replace.
    """
    import torch

    from stylert.train.configuration.half_precision import fastest_half
    from stylert.train.configuration.presets import resolve
    from stylert.train.trainer import Trainer

    if threads is not None:
        torch.set_num_threads(threads)
    cfg = resolve(preset, resolution, **overrides)
    if "half" not in overrides:
        cfg = replace(cfg, half=fastest_half(cfg.half, device))
    if device == "cpu" and form != "returned":
        keep_freed_memory()
    with plain_form() if form == "plain" else contextlib.nullcontext():
        trainer = Trainer(cfg, _random_dataset(resolution, max(cfg.batch, 2)), device, compiled=form == "compiled")

        def step_seconds(number: int) -> float:
            """The number of a step decides which regularisers it has."""
            trainer.step = number
            start = time.perf_counter()
            trainer.train_step()  # returns numbers, so the device has finished
            return time.perf_counter() - start

        with_both, with_path_length, without = cfg.d_reg_interval * cfg.g_reg_interval, cfg.g_reg_interval, 1
        kinds = (with_both, with_path_length, without)
        for number in kinds:
            step_seconds(number)
        with _watch_if_possible() as watched:
            both_s, path_length_step_s, main_s = (
                statistics.median(step_seconds(number) for _ in range(steps)) for number in kinds
            )
    path_length_s, r1_s = max(path_length_step_s - main_s, 0.0), max(both_s - path_length_step_s, 0.0)
    mean_step_s = main_s + path_length_s / cfg.g_reg_interval + r1_s / cfg.d_reg_interval
    memory = torch.cuda.max_memory_allocated() / 2**20 if torch.device(device).type == "cuda" else peak_memory_mib()
    interference = watched.interference if watched is not None else None
    return TrainingRound(
        cfg.batch, main_s, path_length_s, r1_s, mean_step_s / cfg.batch * 1000, round(float(memory), 1), interference
    )


def compare(
    preset: str,
    resolution: int,
    device: str = "cpu",
    threads: int | None = None,
    steps: int = 3,
    rounds: int = 3,
    forms: Sequence[str] = ("stylert", "plain"),
    **overrides: Any,
) -> list[Row]:
    """A row of each form.

    Args:
        preset, resolution, device, threads, steps, **overrides: As in `measure`.
        rounds: Processes of each form; the forms alternate.
        forms: Some of `FORMS`.
    """
    rounds_of: dict[str, list[TrainingRound]] = {form: [] for form in forms}
    for _ in range(rounds):
        for form in forms:
            with new_process(f"a training step of {preset}") as call:
                step = partial(measure, preset, resolution, form, device, threads, steps, **overrides)
                rounds_of[form].append(call(step))
    setup = {"backend": "torch", "device": device, "threads": threads}
    work = {"preset": preset, "resolution": resolution} | overrides
    return [training_row(work, setup | {"form": form}, rounds_of[form]) for form in forms]


def training_row(work: dict[str, Any], setup: dict[str, Any], rounds: Sequence[TrainingRound]) -> Row:
    """The row of one form, from its rounds."""
    samples = [[r.sec_per_kimg] for r in rounds]
    distribution = describe(samples)
    known = [r.interference for r in rounds if r.interference is not None]
    interference = merge_interference(known) if known else None
    parts = ("main_s", "path_length_s", "r1_s")
    return Row(
        scenario="training",
        work=work | {"batch": rounds[0].batch},
        setup=setup,
        metric="time",
        unit="s/kimg",
        better="lower",
        value=statistics.median(r.sec_per_kimg for r in rounds),
        rounds=samples,
        distribution=distribution,
        remarks=instability_remarks(distribution if len(rounds) > 1 else None, interference),
        peak_memory_mib=max(r.peak_memory_mib for r in rounds),
        disturbance=as_json_values(interference),
        details={part: statistics.median(getattr(r, part) for r in rounds) for part in parts},
    )


@contextlib.contextmanager
def _watch_if_possible() -> Iterator[Watch | None]:
    """Watch the machine during the block, or yield None without psutil, which a GPU machine may lack."""
    if importlib.util.find_spec("psutil") is None:
        yield None
    else:
        with watch() as watched:
            yield watched


@contextlib.contextmanager
def plain_form() -> Iterator[None]:
    """Make new trainers and their steps use the `plain` form within the block."""
    import torch

    from stylert.models.stylegan2 import discriminator, generator
    from stylert.plugins import ops
    from stylert.plugins.reference import upfirdn2d
    from stylert.train import phase_losses, trainer

    class TorchWithoutChannelsLast:
        """The module `torch`, but with PyTorch's default layout in place of channels last."""

        channels_last = torch.contiguous_format

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    def differentiated_by_autograd(x: Any, f: Any, spec: Any) -> Any:
        return upfirdn2d._filter(x, f, spec)

    with (
        mock.patch.object(ops, "has_kernels", return_value=False),
        mock.patch.object(generator, "modulated_conv2d", grouped_modulated_conv2d),
        mock.patch.object(upfirdn2d._Upfirdn2d, "apply", differentiated_by_autograd),
        mock.patch.object(generator, "torch", TorchWithoutChannelsLast()),
        mock.patch.object(discriminator, "torch", TorchWithoutChannelsLast()),
        mock.patch.object(phase_losses, "torch", TorchWithoutChannelsLast()),
        mock.patch.object(trainer, "torch", TorchWithoutChannelsLast()),
    ):
        yield


def grouped_modulated_conv2d(
    x: Any,
    weight: Any,
    style: Any,
    demod: Any = None,
    noise: Any = None,
    bias: Any = None,
    *,
    up: int = 1,
    f: Any = None,
    activation: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Any:
    """`stylert.plugins.reference.modulated_conv2d` with one weight per sample, in one grouped convolution (Karras et al. 2020a).

    Arguments and result are those of the reference.
    """
    from stylert.benchmarks.peers.textbook_network import grouped_conv
    from stylert.plugins.reference.bias_act import bias_act
    from stylert.plugins.reference.upfirdn2d import upfirdn2d

    weights = weight[None] * style[:, None, :, None, None]
    if demod is not None:
        weights = weights * demod[:, :, None, None, None]
    x = grouped_conv(x, weights.to(x.dtype), up)
    if up == 2:
        padding = f.shape[0] - 1 - (weight.shape[2] - 2)
        x = upfirdn2d(x, f, padding=[math.ceil(padding / 2), padding // 2] * 2, gain=4.0)
    if noise is not None:
        x = x + noise.to(x.dtype)
    return bias_act(x, bias, activation=activation, gain=gain, clamp=clamp)


def _random_dataset(resolution: int, count: int) -> Any:
    """An `ImageDataset` of random pixels, since the time of a step does not depend on the images."""
    from stylert.train.data.dataset import ImageDataset

    dataset = ImageDataset.__new__(ImageDataset)
    dataset.images = np.random.default_rng(0).integers(0, 256, (count, 3, resolution, resolution), np.uint8)
    dataset.labels = None
    return dataset


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; exits with status 2 on a wrong argument."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cpu", help="comma-separated presets")
    parser.add_argument("--resolution", default="64", help="comma-separated, pixels")
    parser.add_argument("--forms", default="stylert,plain", help=f"comma-separated: {', '.join(FORMS)}")
    parser.add_argument("--batch", type=int, help="instead of the preset's")
    parser.add_argument("--half", help="none, fp16 or bf16, instead of the preset's")
    parser.add_argument("--channel-base", type=int, help="instead of the preset's")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each form; the forms alternate")
    parser.add_argument("--json", type=Path, help="results for stylert bench compare and stylert bench report")
    args = parser.parse_args(arguments)
    forms, presets = args.forms.split(","), args.preset.split(",")
    try:
        resolutions = [int(text) for text in args.resolution.split(",")]
        options = {"batch": args.batch, "half": args.half, "channel_base": args.channel_base}
        overrides = {name: value for name, value in options.items() if value is not None}
        _check(presets, resolutions, forms, overrides)
        check_threads(args.threads)
        check_writable(args.json)
    except (ValueError, InputError, OutputError) as error:
        parser.error(printable(str(error)))
    if min(args.steps, args.rounds) < 1:
        parser.error("--steps and --rounds are at least 1")
    command = ["python", "-m", "stylert.benchmarks.training", *(sys.argv[1:] if arguments is None else arguments)]
    rows: list[Row] = []
    times_faster: dict[str, dict[str, Any]] = {}
    conditions = {"effort": {"steps": args.steps, "rounds": args.rounds}, "times faster": times_faster}
    for preset in presets:
        for resolution in resolutions:
            new_rows = compare(preset, resolution, args.device, args.threads, args.steps, args.rounds, forms, **overrides)
            rows += new_rows
            for row in new_rows:
                print(f"{row_name(row)}: {number(row.value)} s/kimg, {row.peak_memory_mib:.0f} MiB", *row.remarks, sep="; ")
            for peer in new_rows[1:]:
                pairs = zip(peer.rounds, new_rows[0].rounds, strict=True)
                ratio = median_ratio([peer_samples[0] / our_samples[0] for peer_samples, our_samples in pairs])
                peer_form = peer.setup["form"]
                name = f"training, {preset}, {resolution} px, over the {peer_form} form"
                times_faster[name] = ratio_facts(ratio, peer_form, forms[0])
                print(f"{preset} {resolution} px: {forms[0]} is {ratio} times as fast as {peer_form}")
            if args.json is not None:  # after each resolution, so that an interrupted run keeps its results
                write_results(Results("Training steps", rows, conditions=conditions, command=command), args.json)


def _check(presets: Sequence[str], resolutions: Sequence[int], forms: Sequence[str], overrides: dict[str, Any]) -> None:
    """Check all options before the first measurement. Raises ValueError."""
    from stylert.train.configuration.presets import resolve

    for form in forms:
        if form not in FORMS:
            raise ValueError(f"unknown form {form!r}: choose from {', '.join(FORMS)}")
    if len(set(forms)) < len(forms):
        raise ValueError("a form is named twice")
    for preset in presets:
        for resolution in resolutions:
            resolve(preset, resolution, **overrides)


if __name__ == "__main__":
    run_program("training", main)
