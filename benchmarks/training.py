"""Training steps beside the plain form of the same steps: seconds per thousand images, and peak memory, in one run.

    python -m stylert.benchmarks.training --preset cpu --resolution 64 --json training.json

The plain form is what the papers write down: weights modulated per sample and a grouped convolution, PyTorch's own layout,
and upfirdn differentiated by autograd. Both forms take the same steps of the same networks (a test compares their losses).
Every form runs in a process of its own, in several rounds that go through both; its figure is the fastest round.

A step is main (both losses), and every 4th and 16th one has a regulariser too. They are timed apart, as medians, and
weighted as a run would: `main + path length / 4 + R1 / 16`.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from stylert.benchmarks.distribution import describe
from stylert.benchmarks.machine import peak_memory_mib
from stylert.benchmarks.results import Results, Row, write_results

FORMS = ("stylert", "plain")


@dataclass(frozen=True)
class TrainingRow:
    """One form's fastest round. Times are seconds per step; memory is the peak of the process, or of the GPU."""

    preset: str
    resolution: int
    form: str
    device: str
    batch: int
    main_s: float
    path_length_s: float
    r1_s: float
    sec_per_kimg: float
    peak_memory_mib: float
    rounds: tuple[float, ...] = ()  # seconds per thousand images of every round
    overrides: dict[str, Any] = field(default_factory=dict)  # what differs from the preset


def shared_row(row: TrainingRow) -> Row:
    """The row in the schema of all benchmarks. Its value is the fastest round; what is compared are all of them."""
    facts = asdict(row)
    work = {name: facts[name] for name in ("preset", "resolution", "batch")} | row.overrides
    rounds = [[s] for s in row.rounds or (row.sec_per_kimg,)]
    setup = {"backend": "torch", "form": row.form, "device": row.device}
    steps = {name: facts[name] for name in ("main_s", "path_length_s", "r1_s")}
    return Row(
        "training", work, setup, "time", "s/kimg", "lower", row.sec_per_kimg, rounds, describe(rounds),
        peak_memory_mib=row.peak_memory_mib, details=steps,
    )  # fmt: skip


def measure(
    preset: str, resolution: int, form: str, device: str = "cpu", threads: int | None = None, steps: int = 3, **overrides: Any
) -> TrainingRow:
    """Time `steps` steps of each kind, after one of each, in this process."""
    import torch

    from stylert.train.presets import resolve
    from stylert.train.trainer import Trainer

    if threads is not None:
        torch.set_num_threads(threads)
    cfg = resolve(preset, resolution, **overrides)
    with plain_forms() if form == "plain" else _as_it_is():
        trainer = Trainer(cfg, _noise(resolution, max(cfg.batch, 2)), device)

        def step(number: int) -> float:
            """Step numbers decide which regularisers a step has."""
            trainer.step = number
            start = time.perf_counter()
            trainer.train_step()  # returns numbers, so the device has finished
            return time.perf_counter() - start

        kinds = (cfg.d_reg_interval * cfg.g_reg_interval, cfg.g_reg_interval, 1)  # all; with path length; main alone
        for number in kinds:
            step(number)
        both, with_length, main = (statistics.median(step(number) for _ in range(steps)) for number in kinds)
    length, r1 = max(with_length - main, 0.0), max(both - with_length, 0.0)
    whole = main + length / cfg.g_reg_interval + r1 / cfg.d_reg_interval
    memory = torch.cuda.max_memory_allocated() / 2**20 if torch.device(device).type == "cuda" else peak_memory_mib()
    return TrainingRow(
        preset, resolution, form, device, cfg.batch, main, length, r1, whole / cfg.batch * 1000, round(float(memory), 1)
    )


def compare(
    preset: str,
    resolution: int,
    device: str = "cpu",
    threads: int | None = None,
    steps: int = 3,
    rounds: int = 2,
    **overrides: Any,
) -> list[TrainingRow]:
    """Both forms, `rounds` times in turn, each in a fresh process; the fastest round of each."""
    rows: dict[str, list[TrainingRow]] = {form: [] for form in FORMS}
    for _ in range(rounds):
        for form in FORMS:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
                row = child.submit(measure, preset, resolution, form, device, threads, steps, **overrides).result()
                rows[form].append(row)
    fastest = [min(rows[form], key=lambda row: row.sec_per_kimg) for form in FORMS]
    return [replace(row, rounds=tuple(r.sec_per_kimg for r in rows[row.form]), overrides=overrides) for row in fastest]


@contextmanager
def plain_forms() -> Iterator[None]:
    """While it lasts, new trainers and their steps use the plain forms."""
    import torch

    from stylert.plugins import ops
    from stylert.plugins import upfirdn2d as operator
    from stylert.train import networks, trainer

    class PlainLayout:
        """`torch`, where channels last is PyTorch's own layout."""

        channels_last = torch.contiguous_format

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    def by_autograd(x: Any, f: Any, spec: Any) -> Any:
        return operator._filter(x, f, spec)

    with (
        mock.patch.object(ops, "has_kernels", return_value=False),
        mock.patch.object(networks, "modulated_conv2d", grouped_modulated_conv2d),
        mock.patch.object(operator._Upfirdn2d, "apply", by_autograd),
        mock.patch.object(networks, "torch", PlainLayout()),
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
    """`stylert.plugins.modulated_conv2d` by weights of each sample's own, in one grouped convolution (Karras et al. 2020a)."""
    import torch.nn.functional as F

    from stylert.plugins.bias_act import bias_act
    from stylert.plugins.upfirdn2d import upfirdn2d

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
    from stylert.train.dataset import ImageDataset

    dataset = ImageDataset.__new__(ImageDataset)
    dataset.images = np.random.default_rng(0).integers(0, 256, (count, 3, resolution, resolution), np.uint8)
    dataset.labels = None
    return dataset


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cpu", help="comma-separated presets")
    parser.add_argument("--resolution", default="64", help="comma-separated, pixels")
    parser.add_argument("--batch", type=int, help="instead of the preset's")
    parser.add_argument("--half", help="none, fp16 or bf16, instead of the preset's")
    parser.add_argument("--channel-base", type=int, help="instead of the preset's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each kind")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    given = {"batch": args.batch, "half": args.half, "channel_base": args.channel_base}
    overrides = {k: v for k, v in given.items() if v is not None}
    rows: list[TrainingRow] = []
    for preset in args.preset.split(","):
        for resolution in map(int, args.resolution.split(",")):
            pair = compare(preset, resolution, args.device, args.threads, args.steps, args.rounds, **overrides)
            rows += pair
            for row in pair:
                print(f"{preset} {resolution} px {row.form}: {row.sec_per_kimg:.1f} s/kimg, {row.peak_memory_mib:.0f} MiB")
            print(
                f"{preset} {resolution} px: {pair[1].sec_per_kimg / pair[0].sec_per_kimg:.2f} times as fast as the plain form"
            )
    if args.json is not None:
        command = ["python", "-m", "stylert.benchmarks.training", *(sys.argv[1:] if arguments is None else arguments)]
        write_results(Results("training steps", [shared_row(row) for row in rows], command=command), args.json)


if __name__ == "__main__":
    main()
