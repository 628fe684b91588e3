"""stylert beside what people do without it: the same network, inputs, threads and process conditions, in one run.

    python -m stylert.benchmarks.peers.comparison --model sg2-256 --json peers.json

`stylert bench --model sg2-256 --peers` measures the same beside everything else.

Peers: PyTorch eager and torch.compile of the textbook forms (`textbook_network.py`), and `torch.onnx.export(dynamo=True)` of them on ONNX
Runtime and on OpenVINO in float32 and bfloat16. Every candidate runs in a process of its own, in several rounds that go
through all of them, so that a slow minute of the machine does not fall on one; a candidate's figure is the median of its rounds'
medians, since a shared host may run any one round twice as fast as the others. Accuracy is PSNR against float32 on ONNX Runtime,
over images of seeds of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stylert.benchmarks.machine.facts import machine_facts
from stylert.benchmarks.machine.interference import Disturbance, watch
from stylert.benchmarks.models import Model, standard_model
from stylert.benchmarks.scenarios.measure import timed_calls
from stylert.benchmarks.standard import NAMES
from stylert.core.host import usable_cores

#: Makes images from ws `[N, num_ws, w_dim]`: uint8 `[N, H, W, C]`, or float32 `[N, C, H, W]`.
Runner = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """One way to run the network. `kind` is ours or peer; `form`, `engine` and `precision` name it."""

    kind: str
    form: str
    engine: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.form} on {self.engine} {self.precision}"


#: What the bundle must hold.
PRECISIONS = ("fp32", "bf16", "int8")

#: Of a candidate in a round, however slow it is.
LEAST_RUNS = 5

#: Precisions that round beyond float32 are compared with each other, int8 with everything.
CANDIDATES = (
    *(
        Candidate("peer", f, e, "fp32")
        for f in ("grouped", "scaled")
        for e in ("eager", "torch.compile", "onnxruntime", "openvino")
    ),
    *(Candidate("peer", f, "openvino", "bf16") for f in ("grouped", "scaled")),
    *(Candidate("ours", "stylert", e, p) for e, p in (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))),
    *(Candidate("ours", "stylert", e, "int8") for e in ("onnxruntime", "openvino")),
)


@dataclass(frozen=True)
class PeerRound:
    """What one process measured: milliseconds of every call, what else the machine did, and dB against float32 (or nan)."""

    samples_ms: list[float]
    disturbance: Disturbance
    psnr_db: float


@dataclass(frozen=True)
class Result:
    """A candidate with its rounds; `ms` for one image is the median of the rounds' medians."""

    candidate: Candidate
    rounds: tuple[PeerRound, ...]

    @property
    def medians_ms(self) -> tuple[float, ...]:
        return tuple(statistics.median(r.samples_ms) for r in self.rounds)

    @property
    def ms(self) -> float:
        return statistics.median(self.medians_ms)

    @property
    def psnr_db(self) -> float:
        """Of the first round: the images of the others would be the same."""
        return self.rounds[0].psnr_db


def compare(
    checkpoint: Path,
    bundle: Path,
    folder: Path,
    candidates: Sequence[Candidate] = CANDIDATES,
    threads: int | None = None,
    rounds: int = 2,
    seconds: float = 3.0,
    images: int = 8,
    say: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Measure every candidate on a checkpoint's generator and its bundle, batch 1. Files are written into `folder`."""
    threads = threads or usable_cores()
    _ws(bundle, folder, images)
    measured: dict[Candidate, list[PeerRound]] = {c: [] for c in candidates}
    for i in range(rounds):
        for candidate in candidates:
            say(f"round {i + 1} of {rounds}: {candidate.name}")
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                job = pool.submit(_measure, candidate, checkpoint, bundle, folder, threads, seconds, images if i == 0 else 0)
                measured[candidate].append(job.result())
    return [Result(c, tuple(rows)) for c, rows in measured.items()]


def _ws(bundle: Path, folder: Path, images: int) -> None:
    from stylert.core.seeds import z_from_seeds
    from stylert.runtime import Generator

    with Generator.load(bundle) as g:
        ws = g.map(z_from_seeds(range(images), g.bundle.model["z_dim"]))
        np.save(folder / "ws.npy", ws)
        np.save(folder / "reference.npy", np.concatenate([_bytes(g.synthesize(ws[i : i + 1])) for i in range(images)]))


def _measure(
    candidate: Candidate, checkpoint: Path, bundle: Path, folder: Path, threads: int, seconds: float, images: int
) -> PeerRound:
    """One round in this process, and the mean PSNR over `images` images (0 for none)."""
    from stylert.core.image_similarity import psnr

    ws, run = latents(folder), runner(candidate, checkpoint, bundle, folder, threads)
    accuracy = float("nan")
    if images:
        reference = np.load(folder / "reference.npy")[:images]
        accuracy = float(np.mean([psnr(_bytes(run(ws[i : i + 1]))[0], r) for i, r in enumerate(reference)]))
    for _ in range(2):
        run(ws[:1])
    with watch() as watched:
        samples = timed_calls(partial(run, ws[:1]), seconds, LEAST_RUNS)
    assert watched.disturbance is not None
    return PeerRound(samples, watched.disturbance, round(accuracy, 2))


def _bytes(images: np.ndarray) -> np.ndarray:
    from stylert.core.images import as_uint8

    return as_uint8(images)


def latents(folder: Path) -> np.ndarray:
    """The ws of a comparison, `[images, num_ws, w_dim]`."""
    ws: np.ndarray = np.load(folder / "ws.npy")
    return ws


def runner(candidate: Candidate, checkpoint: Path, bundle: Path, folder: Path, threads: int) -> Runner:
    """A candidate ready to run. A peer's export is written into `folder`, unless it is there."""
    return _ours(candidate, bundle, threads) if candidate.kind == "ours" else _peer(candidate, checkpoint, folder, threads)


def _ours(candidate: Candidate, bundle: Path, threads: int) -> Runner:
    from stylert.runtime import Generator

    generator = Generator.load(bundle, candidate.engine, candidate.precision, threads)
    return lambda ws: generator.synthesize(ws)


def _peer(candidate: Candidate, checkpoint: Path, folder: Path, threads: int) -> Runner:
    if candidate.engine in ("onnxruntime", "openvino"):
        exported = folder / f"{candidate.form}.onnx"
        if not exported.exists():
            _plain_export(candidate.form, checkpoint, exported)
        return _onnx_peer(candidate, exported, threads)
    import torch

    torch.set_num_threads(threads)
    module: Any = _plain(candidate.form, checkpoint)
    if candidate.engine == "torch.compile":
        module = torch.compile(module)

    def run(ws: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(ws)).numpy()

    return run


def _plain(form: str, checkpoint: Path) -> Any:
    from stylert.benchmarks.peers.textbook_network import PlainSynthesis
    from stylert.models.checkpoint import load_generator

    return PlainSynthesis(load_generator(checkpoint).synthesis, form).eval().requires_grad_(False)  # type: ignore[arg-type]


def _plain_export(form: str, checkpoint: Path, path: Path) -> None:
    import torch

    module = _plain(form, checkpoint)
    cfg = module.network.cfg
    ws = torch.zeros(1, cfg.num_ws, cfg.w_dim)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it would name every package that it can do without
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(module, (ws,), dynamo=True, input_names=["ws"], output_names=["image"], verbose=False)
    assert program is not None
    program.save(str(path))


def _onnx_peer(candidate: Candidate, path: Path, threads: int) -> Runner:
    if candidate.engine == "onnxruntime":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda ws: session.run(None, {"ws": ws})[0]
    import openvino as ov

    hint = {"fp32": "f32", "bf16": "bf16"}[candidate.precision]
    config = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = ov.Core().compile_model(ov.Core().read_model(path), "CPU", config).create_infer_request()
    return lambda ws: request.infer({"ws": ws}, share_inputs=True)[0].copy()


def table(results: Sequence[Result]) -> list[str]:
    lines = [f"{'form':9}{'engine':15}{'precision':11}{'ms':>9}{'PSNR dB':>10}   rounds"]
    for r in sorted(results, key=lambda r: r.ms):
        c, each = r.candidate, ", ".join(f"{ms:.1f}" for ms in r.medians_ms)
        lines.append(f"{c.form:9}{c.engine:15}{c.precision:11}{r.ms:9.1f}{r.psnr_db:10.2f}   {each}")
    return lines


def _exported(checkpoint: Path, folder: Path) -> Model:
    from stylert.export.pipeline import export_bundle

    return Model(checkpoint.stem, export_bundle(checkpoint, folder, PRECISIONS), checkpoint)


def main(arguments: Sequence[str] | None = None) -> None:
    from stylert.benchmarks.peers.interleaved import CYCLES, contests, lines, times_faster  # it builds on this module

    parser = argparse.ArgumentParser(
        prog="python -m stylert.benchmarks.peers.comparison", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", choices=NAMES, default="sg2-256", help="a standard model: config F, seeded random weights")
    parser.add_argument("--checkpoint", type=Path, help="a generator of your own instead")
    parser.add_argument("--threads", type=int, help="threads of every candidate (all cores)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="per candidate and round, at least 5 runs")
    parser.add_argument("--images", type=int, default=8, help="images for the accuracy")
    parser.add_argument("--only", default="", help="candidates whose name contains one of these, comma-separated")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--cycles", type=int, default=CYCLES, help="of turns, for the ratios of the best")
    options = parser.parse_args(arguments)
    say = partial(print, flush=True)
    chosen = [c for c in CANDIDATES if not options.only or any(part in c.name for part in options.only.split(","))]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print("export", flush=True)
        model = (
            _exported(options.checkpoint, folder / "bundle")
            if options.checkpoint
            else standard_model(options.model, PRECISIONS)
        )
        assert model.checkpoint is not None
        results = compare(
            model.checkpoint,
            model.bundle.path,
            folder,
            chosen,
            options.threads,
            options.rounds,
            options.seconds,
            options.images,
            say,
        )
        found = contests(results, model.checkpoint, model.bundle.path, folder, options.threads, options.cycles, say=say)
    print("\n".join([*table(results), *lines(found)]))
    if options.json:
        facts = {
            "model": str(options.checkpoint or options.model),
            "machine": machine_facts(),
            "times faster": times_faster(found),
            "results": [asdict(r) | {"ms": r.ms, "medians_ms": r.medians_ms} for r in results],
        }
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
