"""The command-line application, the options that several commands share, and the readers of their text."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from stylert.core.errors import InputError

app = typer.Typer(
    name="stylert",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"stylert {version('stylert')}")
        raise typer.Exit


@app.callback()
def stylert(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """StyleGAN2 from weights to milliseconds."""


BundlePath = Annotated[Path, typer.Argument(help="Bundle folder, written by `stylert export`.")]
Backends = Annotated[str | None, typer.Option("--backend", help="Comma-separated; by default all that are installed.")]
Precisions = Annotated[str | None, typer.Option("--precision", help="Comma-separated; by default all in the bundle.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; by default the backend decides.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")]
OneBackend = Annotated[
    str,
    typer.Option(
        "--backend",
        help="onnxruntime, onnxruntime-cuda, openvino, tensorrt, tensorrt-rtx, torch, or auto: the fastest on this machine.",
    ),
]
OnePrecision = Annotated[
    str | None, typer.Option("--precision", help="Any that the bundle holds; by default fp32, or its first.")
]
Psi = Annotated[float, typer.Option(help="Truncation: 1 is none, 0 is the average image.")]
Batch = Annotated[int, typer.Option(min=1, help="Images per call.")]


def split_list(text: str | None) -> list[str] | None:
    """The parts of a comma-separated text, or None for None."""
    return None if text is None else [part.strip() for part in text.split(",")]


def check_choice(value: str, allowed: tuple[str, ...], option: str) -> None:
    """Raise InputError unless `value` is one of `allowed`. `option` is the name that the message shows."""
    if value not in allowed:
        raise InputError(f"{option} is one of {', '.join(allowed)}, not {value!r}")


def positive(text: str, option: str) -> int:
    """Read a whole number from 1 to 65536. Raises InputError for other text; the message shows `option`."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65536):
        raise InputError(f"{option} takes whole numbers from 1 to 65536 (got {text!r})")
    return int(text)
