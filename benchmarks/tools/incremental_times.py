"""Prints how much faster an image is when only its later latents have changed, for each block of a bundle.

    python benchmarks/tools/incremental_times.py BUNDLE [--backend onnxruntime] [--precision fp32] [--rounds 7]

A row stands for one drag: the first latent that changes belongs to the block, and all latents behind it change as well, to
values that no call before had. In each round the whole network and the incremental one make the same image, and the bytes are compared.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from stylert.core.images.similarity import psnr
from stylert.core.machine.host import cpu_identity
from stylert.core.programs.runner import run_program
from stylert.runtime import Generator
from stylert.runtime.style_levels import ws_resolution


def main() -> None:
    """Print a table in Markdown."""
    options = arguments()
    load = (options.bundle, options.backend, options.precision, options.threads)
    with Generator.load(*load) as whole, Generator.load(*load, incremental=True) as incremental:
        ws = latents(whole, 1)
        incremental.synthesize(ws)
        print(f"{whole.bundle.resolution} px, {whole.precision} on {whole.backend}, {cpu_identity()}\n")
        print("| first block that changes, px | whole, ms | incremental, ms | times as fast: median | least | most | image |")
        print("|---:|---:|---:|---:|---:|---:|---|")
        for first in range(1, whole.bundle.num_ws, 2):
            row = drag(whole, incremental, ws, first, options.rounds)
            print(f"| {ws_resolution(first, whole.bundle.num_ws)} | {row} |", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if not 1 <= options.rounds <= 1000:
        parser.error("--rounds is from 1 to 1000")
    return options


def latents(generator: Generator, seed: int) -> np.ndarray:
    """ws `[1, num_ws, w_dim]` of a seed."""
    return generator.map(np.random.default_rng(seed).standard_normal((1, generator.bundle.model["z_dim"])))


def drag(whole: Generator, incremental: Generator, ws: np.ndarray, first: int, rounds: int) -> str:
    """The cells of a row: the latents from `first` on change in every round."""
    times, least_psnr = [], float("inf")
    for i in range(rounds + 1):
        moved = ws.copy()
        moved[:, first:] = latents(whole, 1000 * first + i + 2)[:, first:]
        expected, whole_ms = timed(partial(whole.synthesize, moved))
        image, ms = timed(partial(incremental.synthesize, moved))
        if i:  # the first round warms up
            times.append((whole_ms, ms))
        if not np.array_equal(image, expected):
            least_psnr = min(least_psnr, psnr(image[0], expected[0]))
    whole_times, own_times = np.transpose(times)
    ratios = whole_times / own_times
    same = "same bytes" if np.isinf(least_psnr) else f"{least_psnr:.1f} dB or more"
    medians = f"{np.median(whole_times):.1f} | {np.median(own_times):.1f}"
    return f"{medians} | {np.median(ratios):.2f} | {ratios.min():.2f} | {ratios.max():.2f} | {same}"


def timed(call: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """The result of a call, and its milliseconds."""
    started = time.perf_counter()
    result = call()
    return result, 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    run_program("incremental_times", main)
