"""The command-line application: its object, the options that commands share, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylert.core.errors import InputError

app = typer.Typer(
    name="stylert",
    help="StyleGAN2 from weights to milliseconds.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

BundlePath = Annotated[Path, typer.Argument(help="Bundle folder, as `stylert export` writes it.")]
Backends = Annotated[str | None, typer.Option("--backend", help="Comma-separated; all installed ones by default.")]
Precisions = Annotated[str | None, typer.Option("--precision", help="Comma-separated; all in the bundle by default.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; the backend's own choice by default.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the results to this file as well.")]
OneBackend = Annotated[
    str,
    typer.Option(
        "--backend", help="onnxruntime, onnxruntime-cuda, openvino, tensorrt, tensorrt-rtx, torch, or auto: the fastest here."
    ),
]
OnePrecision = Annotated[str | None, typer.Option("--precision", help="fp32 or int8; fp32 where the bundle has it.")]
Psi = Annotated[float, typer.Option(help="Truncation: 1 is none, 0 the average image.")]
Cutoff = Annotated[int | None, typer.Option(min=0, help="Truncate only this many latents.")]
Label = Annotated[int | None, typer.Option("--class", min=0, help="Class of a conditional network.")]
Batch = Annotated[int, typer.Option(min=1, help="Images per call.")]


def split_list(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


def check_choice(value: str, allowed: tuple[str, ...], option: str) -> None:
    if value not in allowed:
        raise InputError(f"{option} is one of {', '.join(allowed)}, not {value!r}")


def positive(text: str, option: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65536):
        raise InputError(f"{option} takes whole numbers from 1 to 65536 (got {text!r})")
    return int(text)
