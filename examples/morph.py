#!/usr/bin/env python3
"""A walk through latent space in the terminal, at a steady frame rate. A small application around a `Generator`.

python examples/morph.py out/demo/bundle --fps 24

Two pixels share a character, an upper half block: its foreground colour is the upper pixel, its background colour the
lower one. So any terminal with 24-bit colour shows the picture. It goes to stdout, the frame times to stderr. Ctrl-C ends,
after the frame times and the screenshot, and with exit code 130.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import itertools
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from stylert.core.images.grids import as_uint8
from stylert.core.programs.runner import run_program
from stylert.core.seeds import parse_seeds, z_from_seeds
from stylert.runtime import Generator
from stylert.runtime.media.interpolation import MAX_KEYFRAMES, keyframe_path
from stylert.runtime.media.pictures import check_commented, check_own_picture, save_image
from stylert.runtime.style_levels import mix_styles, parse_levels

HOME, CLEAR, HIDE_CURSOR, SHOW_CURSOR, PLAIN = "\x1b[H", "\x1b[2J", "\x1b[?25l", "\x1b[?25h", "\x1b[0m"
#: Comment of the screenshot. It says that a model made the picture, and lets this example replace it.
COMMENT = '{"AI-generated": true, "command": "examples/morph.py"}'
#: More than a year at 30 frames per second.
MAX_FRAMES = 10**9
MAX_FPS, MAX_SECONDS = 1000, 3600


def main() -> None:
    options = arguments()
    if options.screenshot is not None:
        check_commented(options.screenshot)
        check_own_picture(options.screenshot)
    # Layers in front of the first level that moves are the same in all frames.
    incremental = options.levels is not None
    with Generator.load(
        options.bundle, options.backend, options.precision, options.threads, incremental=incremental
    ) as generator:
        print(f"{generator.backend} {generator.precision}: {generator.why}", file=sys.stderr)
        pixels, times, stop = show(generator, walk(generator, options), options)
    print(summary(times, options.fps), file=sys.stderr)
    if options.screenshot is not None and pixels is not None:
        save_image(
            np.asarray(Image.fromarray(pixels).resize(8 * np.array(pixels.shape[:2]), Image.Resampling.NEAREST)),
            options.screenshot,
            COMMENT,
        )
    if stop is not None:
        raise stop


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--backend", default="auto", help="auto takes the fastest and prints its name")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--fps", type=float, default=24.0, help="frames per second")
    parser.add_argument("--frames", type=int, help="stop after so many frames; endless by default")
    parser.add_argument("--seeds", default="0-7", help="the keyframes, passed in a circle")
    parser.add_argument("--levels", help="move these alone, such as fine or 5-9; the others stay those of the first keyframe")
    parser.add_argument("--psi", type=float, default=0.7)
    parser.add_argument("--seconds", type=float, default=2.0, help="from one keyframe to the next")
    parser.add_argument("--screenshot", type=Path, help="write the last picture, with as many pixels as the terminal showed")
    options = parser.parse_args()
    if not (0.01 <= options.fps <= MAX_FPS and 0.01 <= options.seconds <= MAX_SECONDS):
        parser.error(f"--fps is a number from 0.01 to {MAX_FPS}, and --seconds one from 0.01 to {MAX_SECONDS}")
    if options.frames is not None and not 1 <= options.frames <= MAX_FRAMES:
        parser.error(f"--frames is from 1 to {MAX_FRAMES}")
    return options


def walk(generator: Generator, options: argparse.Namespace) -> Iterator[np.ndarray]:
    """ws `[1, num_ws, w_dim]` of each frame. The path is a closed curve through the keyframes."""
    seeds = parse_seeds(options.seeds, MAX_KEYFRAMES)
    keyframes = generator.map(z_from_seeds(seeds, generator.bundle.model["z_dim"]), options.psi)
    if options.levels is not None:
        bundle = generator.bundle
        keyframes = mix_styles(keyframes[0], keyframes, parse_levels(options.levels, bundle.num_ws, bundle.kind))
    steps = max(2, round(len(keyframes) * options.seconds * options.fps))
    rounds = (keyframe_path(keyframes, steps, loop=True, batch=1) for _ in itertools.count())
    return itertools.islice(itertools.chain.from_iterable(rounds), options.frames)


def show(
    generator: Generator, path: Iterator[np.ndarray], options: argparse.Namespace
) -> tuple[np.ndarray | None, list[float], KeyboardInterrupt | None]:
    """Draw each frame at its time. Returns the pixels of the last frame, the seconds between frames, and the signal that ended it.

    The stream computes the next image while this loop waits. So a frame is late only if an image takes longer than the
    time of a frame. After a late frame the clock starts again from it; later frames are not shown faster.
    """
    pixels, shown, stop = None, [], None
    print(HIDE_CURSOR + CLEAR, end="")
    due = 0.0
    try:
        for images in generator.stream(path):
            columns, lines = shutil.get_terminal_size((80, 40))
            pixels = shrink(as_uint8(images)[0], columns, lines - 1)
            picture = half_blocks(pixels)
            time.sleep(max(0.0, due - time.perf_counter()))
            sys.stdout.write(HOME + picture)
            sys.stdout.flush()
            now = time.perf_counter()
            shown.append(now)
            due = (now if now > due + 1 / options.fps else due) + 1 / options.fps
    except KeyboardInterrupt as e:  # of any signal that ends a program
        stop = e
    finally:
        print(PLAIN + SHOW_CURSOR)
    return pixels, [b - a for a, b in itertools.pairwise(shown)], stop


def shrink(image: np.ndarray, columns: int, lines: int) -> np.ndarray:
    """Shrink uint8 `[H, W, 1 to 4]` to square RGB that fits `columns` x `lines` half-block characters. Never enlarges."""
    side = max(2, min(columns, 2 * lines, image.shape[0]) // 2 * 2)
    colours = image[..., :3] if image.shape[2] >= 3 else image[..., :1]  # without transparency
    rgb = np.ascontiguousarray(np.broadcast_to(colours, (*image.shape[:2], 3)))
    return np.asarray(Image.fromarray(rgb).resize((side, side), Image.Resampling.BOX))


def half_blocks(pixels: np.ndarray) -> str:
    """RGB `[2 n, W, 3]` as n lines of W half blocks."""
    rows = []
    for above, below in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        colours = (";".join(map(str, (38, 2, *a, 48, 2, *b))) for a, b in zip(above, below, strict=True))
        rows.append("".join(f"\x1b[{c}m▀" for c in colours) + PLAIN)
    return "\n".join(rows)


def summary(times: list[float], fps: float) -> str:
    """One line about the seconds between frames."""
    if not times:
        return "no two frames were shown"
    ms = 1000 * np.asarray(times)
    late = int((ms > 1.5 * 1000 / fps).sum())
    p50, p99 = np.percentile(ms, [50, 99])
    return (
        f"{len(ms) + 1} frames at {1000 / ms.mean():.1f} per second (target {fps:g}): "
        f"frame time p50 {p50:.1f} ms, p99 {p99:.1f}, longest {ms.max():.1f}, {late} late"
    )


if __name__ == "__main__":
    run_program("morph", main)
