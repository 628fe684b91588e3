"""The candidates of a comparison: the ways to run one network, with stylert and without it.

The peers are PyTorch eager and torch.compile on the textbook network, and the export of the textbook network with
`torch.onnx.export(dynamo=True)` on ONNX Runtime, OpenVINO and MNN. `runners.py` loads them.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Backends whose own graph forms the bundle of a checkpoint gets.
BACKENDS = ("onnxruntime", "openvino", "mnn")

#: Latents with which peers calibrate their 8 bits.
CALIBRATION_IMAGES = 64


@dataclass(frozen=True)
class Candidate:
    """One way to run the network.

    Attributes:
        kind: `ours` or `peer`.
        form: `stylert`, or a form of the textbook network: `grouped` or `scaled`.
        engine: `eager` or `torch.compile`, perhaps with ` channels_last`; `onnxruntime`, `openvino` or `mnn`; or
            `quantize_static` of ONNX Runtime and `nncf` of OpenVINO, which quantise the export.
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
    Candidate("peer", "scaled", "eager channels_last", "fp32"),
    Candidate("peer", "scaled", "torch.compile channels_last", "fp32"),
    Candidate("peer", "scaled", "eager", "bf16"),
    Candidate("peer", "scaled", "torch.compile", "bf16"),
    Candidate("peer", "grouped", "mnn", "fp32"),
    Candidate("peer", "scaled", "mnn", "fp32"),
    Candidate("peer", "scaled", "quantize_static", "int8"),
    Candidate("peer", "scaled", "nncf", "int8"),
    Candidate("ours", "stylert", "onnxruntime", "fp32"),
    Candidate("ours", "stylert", "openvino", "fp32"),
    Candidate("ours", "stylert", "mnn", "fp32"),
    Candidate("ours", "stylert", "openvino", "bf16"),
    Candidate("ours", "stylert", "onnxruntime", "int8"),
    Candidate("ours", "stylert", "openvino", "int8"),
)


def own_precisions(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Precisions that a bundle needs for the candidates of stylert, float32 first, which is also the reference of accuracy."""
    return tuple(dict.fromkeys(["fp32", *(c.precision for c in candidates if c.kind == "ours")]))


def with_precisions(candidates: Sequence[Candidate], precisions: Container[str]) -> list[Candidate]:
    """All peers, and the candidates of stylert in the precisions of a bundle."""
    return [c for c in candidates if c.kind == "peer" or c.precision in precisions]


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
    """Write the ws of some seeds, and their images by stylert in float32 on ONNX Runtime as the reference.

    The latents with which peers calibrate their 8 bits are of other seeds.
    """
    from stylert.core.images.grids import as_uint8
    from stylert.core.seeds import z_from_seeds
    from stylert.runtime import Generator

    with Generator.load(workspace.bundle) as generator:
        ws = generator.map(z_from_seeds(range(images), generator.bundle.model["z_dim"]))
        references = [as_uint8(generator.synthesize(ws[i : i + 1])) for i in range(images)]
        seeds = range(images, images + CALIBRATION_IMAGES)
        calibration = generator.map(z_from_seeds(seeds, generator.bundle.model["z_dim"]))
    np.save(workspace.folder / "calibration.npy", calibration)
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


def read_calibration(workspace: Workspace) -> np.ndarray:
    """The latents of the peers' calibration, `[CALIBRATION_IMAGES, num_ws, w_dim]`."""
    ws: np.ndarray = np.load(workspace.folder / "calibration.npy")
    return ws
