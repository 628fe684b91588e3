"""Loads a candidate of the comparison as a function from latents to images."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stylert.benchmarks.peers.candidates import Candidate, Workspace
from stylert.benchmarks.peers.quantized_exports import quantized_by_nncf, quantized_by_onnxruntime

#: Makes images from ws `[N, num_ws, w_dim]`: uint8 `[N, H, W, C]`, or float32 `[N, C, H, W]`.
Runner = Callable[[np.ndarray], np.ndarray]


def load_runner(candidate: Candidate, workspace: Workspace) -> Runner:
    """Load a candidate in this process. A peer's export is written to the workspace unless it exists.

    Raises:
        BackendError: A library of the candidate is not installed. The message names the command that installs it.
    """
    if candidate.kind == "ours":
        return _stylert_runner(candidate, workspace)
    if candidate.engine.startswith(("eager", "torch.compile")):
        return _torch_runner(candidate, workspace)
    exported = workspace.folder / f"{candidate.form}.onnx"
    if not exported.exists():
        _export_textbook_network(candidate.form, workspace.checkpoint, exported)
    if candidate.engine == "onnxruntime":
        return _onnxruntime_runner(exported, workspace.threads)
    if candidate.engine == "quantize_static":
        return _onnxruntime_runner(quantized_by_onnxruntime(exported, workspace), workspace.threads)
    if candidate.engine == "nncf":
        return _openvino_runner(None, quantized_by_nncf(exported, workspace), workspace.threads)
    if candidate.engine == "mnn":
        return _mnn_runner(exported, workspace.threads)
    return _openvino_runner({"fp32": "f32", "bf16": "bf16"}[candidate.precision], exported, workspace.threads)


def _stylert_runner(candidate: Candidate, workspace: Workspace) -> Runner:
    from stylert.runtime import Generator

    generator = Generator.load(workspace.bundle, candidate.engine, candidate.precision, workspace.threads)
    return lambda ws: generator.synthesize(ws)


def _torch_runner(candidate: Candidate, workspace: Workspace) -> Runner:
    import torch

    torch.set_num_threads(workspace.threads)
    module: Any = _textbook_network(candidate.form, workspace.checkpoint)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[candidate.precision]
    module = module.to(dtype)
    if "channels_last" in candidate.engine:
        module = module.to(memory_format=torch.channels_last)
    if candidate.engine.startswith("torch.compile"):
        module = torch.compile(module)

    def run(ws: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(ws).to(dtype)).float().numpy()

    return run


def _onnxruntime_runner(path: Path, threads: int) -> Runner:
    from stylert.runtime.backends.onnxruntime import library

    ort = library()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda ws: session.run(None, {"ws": ws})[0]


def _openvino_runner(hint: str | None, path: Path, threads: int) -> Runner:
    """`hint` is the precision of the arithmetic. With None, OpenVINO chooses it, as for a user who sets nothing."""
    from stylert.runtime.backends.openvino import shared_core

    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if hint is not None:
        config["INFERENCE_PRECISION_HINT"] = hint
    core = shared_core()
    request = core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
    return lambda ws: request.infer({"ws": ws}, share_inputs=True)[0].copy()


def _mnn_runner(path: Path, threads: int) -> Runner:
    from stylert.runtime.backends.mnn import open_file
    from stylert.runtime.backends.mnn_network import run_converter

    converted = path.with_suffix(".mnn")
    if not converted.exists():
        run_converter(path, converted)
    session = open_file(converted, threads, path)
    return lambda ws: session.run({"ws": ws})


def _textbook_network(form: str, checkpoint: Path) -> Any:
    from stylert.benchmarks.peers.textbook_network import TextbookSynthesis
    from stylert.models.checkpoint import load_generator

    return TextbookSynthesis(load_generator(checkpoint).synthesis, form).eval().requires_grad_(False)  # type: ignore[arg-type]


def _export_textbook_network(form: str, checkpoint: Path, path: Path) -> None:
    import torch

    module = _textbook_network(form, checkpoint)
    cfg = module.network.cfg
    export_module(module, torch.zeros(1, cfg.num_ws, cfg.w_dim), "ws", path)


def export_module(module: Any, example: Any, name: str, path: Path) -> None:
    """The plain export of a PyTorch module with one input of this name, to one output `image`.

    Args:
        module: The module.
        example: An input of it.
        name: Name of the input.
        path: The ONNX file to write.
    """
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about every optional package that is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(module, (example,), dynamo=True, input_names=[name], output_names=["image"], verbose=False)
    assert program is not None
    program.save(str(path))
