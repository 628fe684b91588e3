"""The candidates of a comparison: the ways to run one network, with stylert and without it.

The peers are PyTorch eager and torch.compile on the textbook network, and the export of the textbook network with
`torch.onnx.export(dynamo=True)` on ONNX Runtime and OpenVINO.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: Makes images from ws `[N, num_ws, w_dim]`: uint8 `[N, H, W, C]`, or float32 `[N, C, H, W]`.
Runner = Callable[[np.ndarray], np.ndarray]

#: Precisions that the bundle must have.
PRECISIONS = ("fp32", "bf16", "int8")


@dataclass(frozen=True)
class Candidate:
    """One way to run the network.

    Attributes:
        kind: `ours` or `peer`.
        form: `stylert`, or a form of the textbook network: `grouped` or `scaled`.
        engine: `eager`, `torch.compile`, `onnxruntime` or `openvino`.
        precision: `fp32`, `bf16` or `int8`.
    """

    kind: str
    form: str
    engine: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.form} on {self.engine} {self.precision}"


CANDIDATES = (
    Candidate("peer", "grouped", "eager", "fp32"),
    Candidate("peer", "grouped", "torch.compile", "fp32"),
    Candidate("peer", "grouped", "onnxruntime", "fp32"),
    Candidate("peer", "grouped", "openvino", "fp32"),
    Candidate("peer", "scaled", "eager", "fp32"),
    Candidate("peer", "scaled", "torch.compile", "fp32"),
    Candidate("peer", "scaled", "onnxruntime", "fp32"),
    Candidate("peer", "scaled", "openvino", "fp32"),
    Candidate("peer", "grouped", "openvino", "bf16"),
    Candidate("peer", "scaled", "openvino", "bf16"),
    Candidate("ours", "stylert", "onnxruntime", "fp32"),
    Candidate("ours", "stylert", "openvino", "fp32"),
    Candidate("ours", "stylert", "openvino", "bf16"),
    Candidate("ours", "stylert", "onnxruntime", "int8"),
    Candidate("ours", "stylert", "openvino", "int8"),
)


@dataclass(frozen=True)
class Workspace:
    """The files and the number of threads that all candidates share.

    Attributes:
        checkpoint: Checkpoint of the generator, for the peers.
        bundle: Folder of its bundle, for stylert.
        folder: Folder for the latents, the reference images and the peers' exports.
        threads: Threads of every candidate.
    """

    checkpoint: Path
    bundle: Path
    folder: Path
    threads: int


def write_latents(workspace: Workspace, images: int) -> None:
    """Write the ws of some seeds, and their images by stylert in float32 on ONNX Runtime as the reference."""
    from stylert.core.images.grids import as_uint8
    from stylert.core.seeds import z_from_seeds
    from stylert.runtime import Generator

    with Generator.load(workspace.bundle) as generator:
        ws = generator.map(z_from_seeds(range(images), generator.bundle.model["z_dim"]))
        references = [as_uint8(generator.synthesize(ws[i : i + 1])) for i in range(images)]
    np.save(workspace.folder / "ws.npy", ws)
    np.save(workspace.folder / "reference.npy", np.concatenate(references))


def read_ws(workspace: Workspace) -> np.ndarray:
    """The latents of the comparison, `[images, num_ws, w_dim]`."""
    ws: np.ndarray = np.load(workspace.folder / "ws.npy")
    return ws


def read_references(workspace: Workspace) -> np.ndarray:
    """The reference images, uint8 `[images, H, W, C]`."""
    references: np.ndarray = np.load(workspace.folder / "reference.npy")
    return references


def load_runner(candidate: Candidate, workspace: Workspace) -> Runner:
    """Load a candidate in this process. A peer's export is written to the workspace unless it exists."""
    if candidate.kind == "ours":
        return _stylert_runner(candidate, workspace)
    if candidate.engine in ("eager", "torch.compile"):
        return _torch_runner(candidate, workspace)
    exported = workspace.folder / f"{candidate.form}.onnx"
    if not exported.exists():
        _export_textbook_network(candidate.form, workspace.checkpoint, exported)
    if candidate.engine == "onnxruntime":
        return _onnxruntime_runner(exported, workspace.threads)
    return _openvino_runner(candidate.precision, exported, workspace.threads)


def _stylert_runner(candidate: Candidate, workspace: Workspace) -> Runner:
    from stylert.runtime import Generator

    generator = Generator.load(workspace.bundle, candidate.engine, candidate.precision, workspace.threads)
    return lambda ws: generator.synthesize(ws)


def _torch_runner(candidate: Candidate, workspace: Workspace) -> Runner:
    import torch

    torch.set_num_threads(workspace.threads)
    module: Any = _textbook_network(candidate.form, workspace.checkpoint)
    if candidate.engine == "torch.compile":
        module = torch.compile(module)

    def run(ws: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(ws)).numpy()

    return run


def _onnxruntime_runner(path: Path, threads: int) -> Runner:
    from stylert.runtime.backends.onnxruntime import library

    ort = library()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda ws: session.run(None, {"ws": ws})[0]


def _openvino_runner(precision: str, path: Path, threads: int) -> Runner:
    from stylert.runtime.backends.openvino import shared_core

    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    config = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    core = shared_core()
    request = core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
    return lambda ws: request.infer({"ws": ws}, share_inputs=True)[0].copy()


def _textbook_network(form: str, checkpoint: Path) -> Any:
    from stylert.benchmarks.peers.textbook_network import TextbookSynthesis
    from stylert.models.checkpoint import load_generator

    return TextbookSynthesis(load_generator(checkpoint).synthesis, form).eval().requires_grad_(False)  # type: ignore[arg-type]


def _export_textbook_network(form: str, checkpoint: Path, path: Path) -> None:
    import torch

    module = _textbook_network(form, checkpoint)
    cfg = module.network.cfg
    ws = torch.zeros(1, cfg.num_ws, cfg.w_dim)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about every optional package that is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(module, (ws,), dynamo=True, input_names=["ws"], output_names=["image"], verbose=False)
    assert program is not None
    program.save(str(path))
