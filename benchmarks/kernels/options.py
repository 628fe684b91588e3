"""Command-line options that the kernel benchmarks share, and the networks that they measure."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from stylert.core.errors import InputError, StylertError, printable
from stylert.core.files.atomic import check_writable
from stylert.models.stylegan2.config import GeneratorConfig

CONFIG_F = GeneratorConfig(1024)
#: A dry run measures this network. It has every kind of layer and is small enough for Triton's interpreter.
TINY = GeneratorConfig(8, channel_base=48, channel_max=8)


def benchmark_parser(
    name: str, doc: str | None, *, resolutions: str, batches: str, seconds: float, seconds_spent: str = "on each figure"
) -> argparse.ArgumentParser:
    """A parser with `--resolutions`, `--batches`, `--seconds` and `--dry-run`.

    Args:
        name: Module of the command, below `stylert.benchmarks`.
        doc: Its docstring; the first line becomes the description.
        resolutions: Default, comma-separated; empty for all of the network.
        batches: Default, comma-separated.
        seconds: Default.
        seconds_spent: How the seconds are spent, for the help text.
    """
    parser = argparse.ArgumentParser(prog=f"python -m stylert.benchmarks.{name}", description=(doc or "").splitlines()[0])
    parser.add_argument(
        "--resolutions", default=resolutions, help=f"comma-separated, default: {resolutions or 'all of 4 to 1024'}"
    )
    parser.add_argument("--batches", default=batches, help=f"comma-separated, default: {batches}")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"to spend {seconds_spent}; default: {seconds:g}")
    parser.add_argument("--dry-run", action="store_true", help="run everything, tiny and on the CPU; the figures mean nothing")
    return parser


def run_command(
    command: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> int:
    """Parse `arguments`, check the shared options, and run `command` with them.

    Returns:
        The exit status of `command`, or 2 after a `StylertError`, which is printed as one line.
    """
    options = parser.parse_args(arguments)
    try:
        options.resolutions = parse_numbers(options.resolutions, "resolutions")
        options.batches = parse_numbers(options.batches, "batches")
        if not options.batches or not options.seconds > 0:
            raise InputError("give at least one batch, and seconds above 0")
        check_writable(getattr(options, "json", None))
        return command(options)
    except StylertError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """Comma-separated whole numbers. Raises InputError for anything else and for numbers below 1."""
    try:
        values = tuple(int(value) for value in text.split(",") if value)
    except ValueError:
        raise InputError(f"{option} are whole numbers with commas between, not {text!r}") from None
    if any(value < 1 for value in values):
        raise InputError(f"{option} are at least 1, not {text}")
    return values


def parse_names(text: str, known: Sequence[str], kind: str) -> list[str]:
    """Comma-separated names. Raises InputError for a name that is not in `known`."""
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"unknown {kind} {', '.join(unknown)}: choose from {', '.join(known)}")
    return names


def selected_layers(options: argparse.Namespace) -> tuple[GeneratorConfig, tuple[int, ...]]:
    """The network to measure, and the resolutions of the layers to measure.

    Raises:
        InputError: The network has no layer at a resolution.
    """
    config = TINY if options.dry_run else CONFIG_F
    if unknown := [str(r) for r in options.resolutions if r not in config.block_resolutions]:
        known = ", ".join(map(str, config.block_resolutions))
        raise InputError(f"no layer has resolution {', '.join(unknown)}: choose from {known}")
    return config, options.resolutions or tuple(config.block_resolutions)
