"""The command-line application, the options that several commands share, and the readers of their text."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperOption

from stylert.core.errors import InputError, shown
from stylert.core.numerals import is_whole_number
from stylert.core.provenance.credentials import SWITCH

#: Columns of help texts, and of tables that go into a file.
MAX_WIDTH = 160


class StrictCommand(TyperCommand):
    """A command that takes each option once, unless its help says that it may be repeated, and no empty values or arguments.

    Numbers are finite and in digits of ASCII.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after the command.

        Raises:
            InputError: An option is repeated, an option or argument is empty, or a number is infinite or not a number.
        """
        values, _, order = self.make_parser(ctx).parse_args(list(args))
        for option, times in Counter(order).items():
            # Otherwise the last value would win, and `--precision fp32 --precision int8` would be int8 alone.
            if isinstance(option, TyperOption) and times > 1 and not option.multiple:
                raise InputError(
                    f"{_name(option)} is given {times} times; give it once, with commas if it takes several values"
                )
            if isinstance(option, TyperOption | TyperArgument):
                _check_text(option, values.get(str(option.name)))
        rest = super().parse_args(ctx, args)
        for option in self.params:
            value = ctx.params.get(option.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{_name(option)} takes a finite number (got {value})")
        return rest


class CommandGroup(typer.Typer):
    """An application, or a group of it, whose commands are strict."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """See `typer.Typer.command`."""
        return super().command(name, cls=StrictCommand, **settings)


def _check_text(option: TyperOption | TyperArgument, value: object) -> None:
    """Raise InputError if a value is empty, or holds what only Python takes for a number: 1_0, or other digits.

    An empty path would be that of the working folder.
    """
    for text in value if isinstance(value, list | tuple) else [value]:
        if text == "":
            or_none = "" if option.required else ", or leave it out"
            raise InputError(f"{_name(option)} is empty: give a value{or_none}")
        is_number = option.type_descriptor.annotation in (int, float)
        if is_number and isinstance(text, str) and ("_" in text or not text.isascii()):
            raise InputError(f"{_name(option)} takes a number (got {shown(text)})")


def _name(option: Any) -> str:
    return str(option.name).upper() if isinstance(option, TyperArgument) else str(max(option.opts, key=len))


def _help_width() -> dict[str, Any]:
    """The width of help texts. A pipe or a file has none, so descriptions are not cut at 80 columns."""
    return {"max_content_width" if sys.stdout is not None and sys.stdout.isatty() else "terminal_width": MAX_WIDTH}


app = CommandGroup(
    name="stylert",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_help_width(),
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


def _check_threads(count: int | None) -> int | None:
    from stylert.runtime.build_options import check_threads

    try:
        check_threads(count)
    except InputError as e:
        raise InputError(f"--{e}") from None
    return count


Threads = Annotated[
    int | None,
    typer.Option(
        callback=_check_threads, help="CPU threads, at most 4 for each core that may be used; by default the backend decides."
    ),
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")]
OneBackend = Annotated[
    str,
    typer.Option(
        "--backend",
        help="onnxruntime, onnxruntime-cuda, openvino, mnn, tensorrt, tensorrt-rtx, torch, or auto: the fastest on this machine.",
    ),
]
Psi = Annotated[float, typer.Option(help="Truncation: 1 is none, 0 is the average image.")]
Batch = Annotated[int, typer.Option(min=1, max=256, help="Images per call.")]


def _leave_out_signatures(wanted: bool) -> bool:
    if wanted:
        os.environ[SWITCH] = "off"  # also for the processes that this one starts
    return wanted


NoSign = Annotated[
    bool,
    typer.Option(
        "--no-sign", callback=_leave_out_signatures, help="Leave pictures unsigned, whatever `stylert provenance init` set up."
    ),
]

RequireSignature = Annotated[
    Path | None,
    typer.Option(
        help="PEM file of signers or authorities that you trust: a bundle that none of them signed is refused.", metavar="CERT"
    ),
]


def split_list(text: str | None) -> list[str] | None:
    """The parts of a comma-separated text, each once, or None for None."""
    return None if text is None else list(dict.fromkeys(part.strip() for part in text.split(",")))


def check_choice(value: str, allowed: tuple[str, ...], option: str) -> None:
    """Raise InputError unless `value` is one of `allowed`. `option` is the name that the message shows."""
    if value not in allowed:
        raise InputError(f"{option} is one of {', '.join(allowed)}, not {value!r}")


def positive(text: str, option: str) -> int:
    """Read a whole number from 1 to 65536. Raises InputError for other text; the message shows `option`."""
    if not (is_whole_number(text) and 1 <= int(text) <= 65536):
        raise InputError(f"{option} takes whole numbers from 1 to 65536 (got {shown(text)})")
    return int(text)
