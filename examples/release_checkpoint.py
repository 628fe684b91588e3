#!/usr/bin/env python3
"""Make a file to publish from a training run: G_ema in float16, with facts for its users.

    python examples/release_checkpoint.py runs/cats64/snapshot.safetensors examples/cats64.safetensors \\
        --info data="40,000 cat avatars, examples/make_cats.py" --info credit="drawings by David Revoy, CC BY 4.0"
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
from pathlib import Path

from stylert.core.errors import printable, shown
from stylert.core.files.outputs import check_output
from stylert.core.programs.runner import run_program
from stylert.models.checkpoint import read_generator, trained_kimg, write_generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--info", action="append", default=[], metavar="KEY=VALUE", help="a fact that the file carries")
    args = parser.parse_args()
    check_output(args.target, "safetensors", (args.source,))
    if wrong := [pair for pair in args.info if "=" not in pair]:
        parser.error(f"--info takes KEY=VALUE, not {shown(wrong[0])}")
    info = dict(pair.split("=", 1) for pair in args.info)
    if (kimg := trained_kimg(args.source)) is not None:
        info["kimg"] = kimg
    weights = read_generator(args.source)
    write_generator(args.target, weights.config, weights.arrays, half=True, info={**weights.info, **info})
    print(printable(f"{args.target}: {args.target.stat().st_size / 2**20:.1f} MiB"))


if __name__ == "__main__":
    run_program("release_checkpoint", main)
