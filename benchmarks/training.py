"""Training steps beside the plain form of the same steps: seconds per thousand images, and peak memory, in one run.

    python -m stylert.benchmarks.training --preset cpu --resolution 64 --json training.json

The plain form is what the papers write down: weights modulated per sample and a grouped convolution, PyTorch's own layout,
and upfirdn differentiated by autograd. Both forms take the same steps of the same networks (a test compares their losses).
`--forms stylert,compiled` sets torch.compile beside ours. Every form runs in a process of its own, in several rounds that
go through all; a figure is the median of its rounds.

A step is main (both losses), and every 4th and 16th one has a regulariser too. They are timed apart, as medians, and
weighted as a run would: `main + path length / 4 + R1 / 16`.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from stylert.benchmarks.distribution import describe
from stylert.benchmarks.machine.facts import peak_memory_mib
from stylert.benchmarks.machine.interference import Interference, as_json_values, instability_remarks, merge_interference, watch
from stylert.benchmarks.report.tables import number, ratio_facts
from stylert.benchmarks.schema import Results, Row, row_name, write_results
from stylert.core.atomic import check_writable
from stylert.core.errors import OutputError
from stylert.core.statistics import median_ratio

FORMS = ("stylert", "plain", "compiled")


@dataclass(frozen=True)
class Round:
    """What one process measured. Times are seconds per step; memory is the peak of the process, or of the GPU."""

    batch: int
    main_s: float
    path_length_s: float
    r1_s: float
    sec_per_kimg: float
    peak_memory_mib: float
    disturbance: Interference | None  # None where the machine's counters cannot be read


def measure(
    preset: str, resolution: int, form: str, device: str = "cpu", threads: int | None = None, steps: int = 3, **overrides: Any
) -> Round:
    """Time `steps` steps of each kind, after one of each, in this process."""
    import torch

    from stylert.train.presets import resolve
    from stylert.train.trainer import Trainer

    if threads is not None:
        torch.set_num_threads(threads)
    cfg = resolve(preset, resolution, **overrides)
    with plain_forms() if form == "plain" else _as_it_is():
        trainer = Trainer(cfg, _noise(resolution, max(cfg.batch, 2)), device, compiled=form == "compiled")

        def step(number: int) -> float:
            """Step numbers decide which regularisers a step has."""
            trainer.step = number
            start = time.perf_counter()
            trainer.train_step()  # returns numbers, so the device has finished
            return time.perf_counter() - start

        kinds = (cfg.d_reg_interval * cfg.g_reg_interval, cfg.g_reg_interval, 1)  # all; with path length; main alone
        for number in kinds:
            step(number)
        with _watched() as watched:
            both, with_length, main = (statistics.median(step(number) for _ in range(steps)) for number in kinds)
    length, r1 = max(with_length - main, 0.0), max(both - with_length, 0.0)
    whole = main + length / cfg.g_reg_interval + r1 / cfg.d_reg_interval
    memory = torch.cuda.max_memory_allocated() / 2**20 if torch.device(device).type == "cuda" else peak_memory_mib()
    seen = watched and watched.interference
    return Round(cfg.batch, main, length, r1, whole / cfg.batch * 1000, round(float(memory), 1), seen)


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
    """A row of each form, from `rounds` fresh processes that took turns."""
    found: dict[str, list[Round]] = {form: [] for form in forms}
    for _ in range(rounds):
        for form in forms:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
                one = child.submit(measure, preset, resolution, form, device, threads, steps, **overrides).result()
                found[form].append(one)
    setup = {"backend": "torch", "device": device, "threads": threads}
    work = {"preset": preset, "resolution": resolution} | overrides
    return [row(work, setup | {"form": form}, found[form]) for form in forms]


def row(work: dict[str, Any], setup: dict[str, Any], rounds: Sequence[Round]) -> Row:
    """One form's rounds in the schema of all benchmarks."""
    samples = [[r.sec_per_kimg] for r in rounds]
    distribution = describe(samples)
    seen = [r.disturbance for r in rounds if r.disturbance is not None]
    disturbance = merge_interference(seen) if seen else None
    return Row(
        "training",
        work | {"batch": rounds[0].batch},
        setup,
        "time",
        "s/kimg",
        "lower",
        statistics.median(r.sec_per_kimg for r in rounds),
        samples,
        distribution,
        instability_remarks(distribution if len(rounds) > 1 else None, disturbance),
        peak_memory_mib=max(r.peak_memory_mib for r in rounds),
        disturbance=as_json_values(disturbance),
        details={k: statistics.median(getattr(r, k) for r in rounds) for k in ("main_s", "path_length_s", "r1_s")},
    )


@contextmanager
def _watched() -> Iterator[Any]:
    """What disturbs the block, where psutil is there to tell: a GPU machine may have nothing but PyTorch."""
    if importlib.util.find_spec("psutil") is None:
        yield None
    else:
        with watch() as watched:
            yield watched


@contextmanager
def plain_forms() -> Iterator[None]:
    """While it lasts, new trainers and their steps use the plain forms."""
    import torch

    from stylert.models.stylegan2 import discriminator, generator
    from stylert.plugins import ops
    from stylert.plugins.reference import upfirdn2d as operator
    from stylert.train import trainer

    class PlainLayout:
        """`torch`, where channels last is PyTorch's own layout."""

        channels_last = torch.contiguous_format

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    def by_autograd(x: Any, f: Any, spec: Any) -> Any:
        return operator._filter(x, f, spec)

    with (
        mock.patch.object(ops, "has_kernels", return_value=False),
        mock.patch.object(generator, "modulated_conv2d", grouped_modulated_conv2d),
        mock.patch.object(operator._Upfirdn2d, "apply", by_autograd),
        mock.patch.object(generator, "torch", PlainLayout()),
        mock.patch.object(discriminator, "torch", PlainLayout()),
        mock.patch.object(trainer, "torch", PlainLayout()),
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
    """`stylert.plugins.reference.modulated_conv2d` by weights of each sample's own, in one grouped convolution (Karras et al. 2020a)."""
    import torch.nn.functional as F

    from stylert.plugins.reference.bias_act import bias_act
    from stylert.plugins.reference.upfirdn2d import upfirdn2d

    n, i, h, w = x.shape
    o, _, k, _ = weight.shape
    own = weight[None] * style[:, None, :, None, None]
    if demod is not None:
        own = own * demod[:, :, None, None, None]
    own = own.to(x.dtype)
    x = x.reshape(1, n * i, h, w)
    if up == 1:
        x = F.conv2d(x, own.reshape(n * o, i, k, k), padding=k // 2, groups=n)
    else:
        x = F.conv_transpose2d(x, own.transpose(1, 2).reshape(n * i, o, k, k), stride=2, groups=n)
    x = x.reshape(n, o, *x.shape[2:])
    if up == 2:
        total = f.shape[0] - 1 - (k - 2)
        x = upfirdn2d(x, f, padding=[math.ceil(total / 2), total // 2] * 2, gain=4.0)
    if noise is not None:
        x = x + noise.to(x.dtype)
    return bias_act(x, bias, activation=activation, gain=gain, clamp=clamp)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def _noise(resolution: int, count: int) -> Any:
    """A dataset of random pixels: how long a step takes does not depend on what they show."""
    from stylert.train.data.dataset import ImageDataset

    dataset = ImageDataset.__new__(ImageDataset)
    dataset.images = np.random.default_rng(0).integers(0, 256, (count, 3, resolution, resolution), np.uint8)
    dataset.labels = None
    return dataset


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cpu", help="comma-separated presets")
    parser.add_argument("--resolution", default="64", help="comma-separated, pixels")
    parser.add_argument("--forms", default="stylert,plain", help=f"comma-separated: {', '.join(FORMS)}")
    parser.add_argument("--batch", type=int, help="instead of the preset's")
    parser.add_argument("--half", help="none, fp16 or bf16, instead of the preset's")
    parser.add_argument("--channel-base", type=int, help="instead of the preset's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each form, which take turns")
    parser.add_argument("--json", type=Path, help="results for stylert bench compare and stylert bench report")
    args = parser.parse_args(arguments)
    forms, presets = args.forms.split(","), args.preset.split(",")
    try:
        resolutions = [int(text) for text in args.resolution.split(",")]
        given = {"batch": args.batch, "half": args.half, "channel_base": args.channel_base}
        overrides = {k: v for k, v in given.items() if v is not None}
        _check(presets, resolutions, forms, overrides)
        check_writable(args.json)
    except (ValueError, OutputError) as e:
        parser.error(str(e))
    if min(args.steps, args.rounds, args.threads or 1) < 1:
        parser.error("--steps, --rounds and --threads are at least 1")
    command = ["python", "-m", "stylert.benchmarks.training", *(sys.argv[1:] if arguments is None else arguments)]
    effort = {"steps": args.steps, "rounds": args.rounds}
    rows: list[Row] = []
    faster: dict[str, dict[str, Any]] = {}
    for preset in presets:
        for resolution in resolutions:
            found = compare(preset, resolution, args.device, args.threads, args.steps, args.rounds, forms, **overrides)
            rows += found
            for r in found:
                print(f"{row_name(r)}: {number(r.value)} s/kimg, {r.peak_memory_mib:.0f} MiB", *r.remarks, sep="; ")
            for r in found[1:]:
                ratio = median_ratio([their[0] / our[0] for their, our in zip(r.rounds, found[0].rounds, strict=True)])
                name = f"training, {preset}, {resolution} px, over the {r.setup['form']} form"
                faster[name] = ratio_facts(ratio, r.setup["form"], forms[0])
                print(f"{preset} {resolution} px: {forms[0]} is {ratio} times as fast as {r.setup['form']}")
            if args.json is not None:  # after each, so that what ends a long run early loses nothing
                conditions = {"effort": effort, "times faster": faster}
                write_results(Results("Training steps", rows, conditions=conditions, command=command), args.json)


def _check(presets: Sequence[str], resolutions: Sequence[int], forms: Sequence[str], overrides: dict[str, Any]) -> None:
    """Raises ValueError for what would only be found when its turn comes."""
    from stylert.train.presets import resolve

    for form in forms:
        if form not in FORMS:
            raise ValueError(f"unknown form {form!r}: choose from {', '.join(FORMS)}")
    if len(set(forms)) < len(forms):
        raise ValueError("a form is named twice")
    for preset in presets:
        for resolution in resolutions:
            resolve(preset, resolution, **overrides)


if __name__ == "__main__":
    main()
