"""Prints what a signature costs: milliseconds and bytes for each picture, warm, with a certificate for trying.

    python benchmarks/tools/signing_times.py

The pictures are noise, which is larger than a network's images. The encoding of the unsigned picture is shown beside the signing.
The last line says whether a PNG of 256 px keeps its bar.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import json
import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from stylert.core.files.temporary import temporary_folder
from stylert.core.programs.runner import run_program
from stylert.core.provenance.credentials import SWITCH, write_test_credential
from stylert.core.provenance.signing import active_signer, signed
from stylert.core.provenance.verification import verify_files
from stylert.runtime.media.pictures import encoded_image

RUNS, WARM_UP = 100, 10
#: The most that the signature of a PNG of 256 px may take, in milliseconds.
BAR_PICTURE, BAR_MS = (".png", 256), 10.0
PICTURES = ((".png", 256), (".jpg", 256), (".webp", 256), (".png", 1024))
RECIPE = json.dumps({"AI-generated": True, "command": "generate", "bundle": "ab" * 32, "seeds": "7", "psi": [0.7], "batch": 8})


def main() -> None:
    """Print a table in Markdown."""
    print("| picture | encoded, ms | signed, ms: median | 95 % | bytes added |")
    print("|---|---:|---:|---:|---:|")
    with temporary_folder("signing") as folder:
        os.environ[SWITCH] = "off"
        without = milliseconds(active_signer)
        images = {side: noise(side) for _, side in PICTURES}
        plain = {(suffix, side): encoded_image(images[side], suffix) for suffix, side in PICTURES}
        encoding = {key: milliseconds(partial(encoded_image, images[key[1]], key[0])) for key in PICTURES}
        write_test_credential(folder / "key")
        os.environ[SWITCH] = str(folder / "key")
        signing = {}
        for (suffix, side), data in plain.items():
            times = signing[suffix, side] = milliseconds(partial(signed, data, suffix, RECIPE))
            added = len(signed(data, suffix, RECIPE)) - len(data)
            medians = np.median(encoding[suffix, side]), np.median(times), np.percentile(times, 95)
            print(f"| {suffix[1:]}, {side} px | {' | '.join(f'{value:.2f}' for value in medians)} | {added:,} |")
        paths = [folder / f"{i}.png" for i in range(100)]
        for path in paths:
            path.write_bytes(signed(plain[".png", 256], ".png", RECIPE))
        started = time.perf_counter()
        verify_files(paths)
        print(
            f"\n`verify` of 100 PNG files of 256 px: {time.perf_counter() - started:.2f} s, the start of its process included."
        )
    print(f"Without a key the search for it takes {1000 * float(np.median(without)):.1f} µs.")
    slowest = float(np.percentile(signing[BAR_PICTURE], 95))
    verdict = "kept" if slowest <= BAR_MS else "missed"
    print(f"Bar: a PNG of 256 px is signed in at most {BAR_MS:g} ms. It is {verdict}: 95 % took {slowest:.2f} ms or less.")


def noise(side: int) -> np.ndarray:
    """A picture of noise, uint8 `[side, side, 3]`."""
    return np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)


def milliseconds(action: Callable[[], object]) -> list[float]:
    """The times of `RUNS` calls, after some to warm up."""
    times = []
    for _ in range(WARM_UP + RUNS):
        started = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - started))
    return times[WARM_UP:]


if __name__ == "__main__":
    run_program("signing_times", main)
