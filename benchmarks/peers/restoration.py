"""A restoration network with and without stylert, timed in alternation in one process.

    python -m stylert.benchmarks.peers.restoration GFPGANv1.4.pth --json restoration.json

The peer is the plain way: the network as its project writes it in PyTorch (`textbook_restoration.py`), by `torch.onnx.export`, on ONNX
Runtime. Every candidate sees the same photograph, and their images are compared first.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylert.benchmarks.peers.runners import export_module
from stylert.benchmarks.peers.textbook_restoration import textbook_form
from stylert.core.errors import InputError, printable
from stylert.core.files.outputs import check_output, write_json
from stylert.core.files.temporary import temporary_folder
from stylert.core.images.grids import as_uint8
from stylert.core.images.similarity import psnr
from stylert.core.machine.host import cpu_identity
from stylert.core.paired_timing import paired_ratio
from stylert.core.programs.runner import run_program
from stylert.core.statistics import Ratio
from stylert.export.quantization.evaluation import cpu_session
from stylert.export.restoration.network import restoration_model
from stylert.export.restoration.photographs import drawn_photograph
from stylert.export.restoration.verify import torch_network
from stylert.models.restoration.checkpoints import RestorerWeights, read_restorer
from stylert.runtime.backends import backend
from stylert.runtime.backends.base import LoadOptions
from stylert.runtime.restoration.bundle import PHOTO
from stylert.runtime.restoration.restorer import BACKENDS

#: Makes the image of one photograph, uint8 `[1, R, R, 3]`.
Call = Callable[[], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stylert.benchmarks.peers.restoration", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("checkpoint", type=Path, help="a public file of GFP-GAN or GPEN")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each of our candidates, about")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    if not 0 < options.seconds <= 3600:  # also for a value that is not a number
        raise InputError(f"--seconds is above 0 and at most 3600, not {options.seconds:g}")
    check_output(options.json, "JSON", (options.checkpoint,))
    weights = read_restorer(options.checkpoint)
    rows = compare(weights, options.seconds)
    cfg = weights.config
    print(printable(f"{cfg.title}, {cfg.resolution} px, float32, one photograph, {cpu_identity()}"))
    for name, row in rows.items():
        ratio: Ratio = row["ratio"]
        interval = f"[{ratio.low:.2f}, {ratio.high:.2f}]"
        print(f"{name}: {ratio.value:.2f} {interval} times as fast as the plain export, {row['psnr_db']:.1f} dB to its image")
    if options.json is not None:
        found = {
            name: {
                "times_faster": row["ratio"].value,
                "interval": [row["ratio"].low, row["ratio"].high],
                "psnr_db": row["psnr_db"],
            }
            for name, row in rows.items()
        }
        write_json(options.json, {"model": cfg.to_dict(), "processor": cpu_identity(), "faster_than_plain_export": found})


def compare(weights: RestorerWeights, seconds: float) -> dict[str, dict[str, Any]]:
    """For each backend that is installed, the time of the plain export over ours (`ratio`), and the PSNR of our image to its.

    Args:
        weights: The network.
        seconds: Time for each pair, about.
    """
    photo = drawn_photograph(weights.config.resolution, 0)[None]
    rows = {}
    with temporary_folder("peers") as folder:
        plain = plain_export(weights, photo, folder / "plain.onnx")
        expected = plain()
        file = folder / "ours.onnx"
        file.write_bytes(restoration_model(weights).SerializeToString())
        for name in BACKENDS:
            if backend(name).unavailable_reason() is not None:
                continue
            session = backend(name).load(file, LoadOptions("fp32"))

            def ours(session: Any = session) -> np.ndarray:
                images: np.ndarray = session.run({PHOTO: photo})
                return images

            rows[name] = {"psnr_db": round(psnr(ours(), expected), 2), "ratio": paired_ratio(plain, ours, seconds)}
            session.close()
    return rows


def plain_export(weights: RestorerWeights, photo: np.ndarray, file: Path) -> Call:
    """Write the plain export of a network. The result makes the image of `photo`, whose conversions from and to bytes it repeats."""
    pixels = torch.from_numpy(photo).permute(0, 3, 1, 2).float() / 127.5 - 1
    export_module(textbook_form(torch_network(weights)), pixels, "photo", file)
    session, feed = cpu_session(file), {"photo": pixels.numpy()}
    return lambda: as_uint8(session.run(None, feed)[0])


if __name__ == "__main__":
    run_program("restoration", main)
