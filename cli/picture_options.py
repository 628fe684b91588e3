"""Command-line options of the commands that draw images: generate, mix, sweep and interpolate.

`PictureOptions` holds them. The decorator `with_picture_options` adds them to a command.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylert.cli.app import Batch, NoSign, OneBackend, RequireSignature, Threads
from stylert.cli.console import print_note
from stylert.core.errors import InputError, shown
from stylert.core.numerals import read_number
from stylert.runtime.build_options import LATENCY

if TYPE_CHECKING:
    from stylert.runtime.bundle import Bundle
    from stylert.runtime.media.recipes import Recipe
    from stylert.runtime.steering.latents_file import Latents


MinPsnr = Annotated[
    float | None,
    typer.Option(
        help="With --precision auto: least PSNR to fp32 in dB. By default what the bundle promises for each precision."
    ),
]


@dataclass(frozen=True)
class PictureOptions:
    """How images are drawn. The annotations are those of the command line."""

    cutoff: Annotated[int | None, typer.Option(min=0, help="Truncate only the first so many latents.")] = None
    label: Annotated[int | None, typer.Option("--class", min=0, help="Class, for a network with classes.")] = None
    label_vector: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Label as numbers, such as 0.1,0.9, in place of a class.")
    ] = None
    backend: OneBackend = "onnxruntime"
    precision: Annotated[
        str | None,
        typer.Option(
            help="Any that the bundle holds, or auto: the fastest that is accurate enough here. By default fp32, or its first."
        ),
    ] = None
    min_psnr: MinPsnr = None
    latents: Annotated[
        Path | None,
        typer.Option(
            help="File that `stylert project` wrote. Seeds are then numbers of its pictures, from 0 on.", metavar="FILE"
        ),
    ] = None
    batch: Batch = 8
    threads: Threads = None
    no_sign: NoSign = False
    require_signature: RequireSignature = None

    def recipe(
        self,
        bundle: Bundle,
        command: str,
        seeds: Sequence[int],
        psi: Sequence[float],
        latents: Latents | None = None,
        **facts: Any,
    ) -> Recipe:
        """The recipe of a picture that `command` draws from `bundle` with these options.

        `auto` is decided here, and the reason is printed, because a recipe names the backend and precision that drew it.

        Args:
            bundle: The bundle.
            command: Name of the command.
            seeds: Seeds of the picture.
            psi: Truncation factors.
            latents: The pictures that seeds number, as of `read_latents`.
            **facts: Further fields of `Recipe`.

        Raises:
            InputError: The label vector is no list of numbers, or a value is out of range.
        """
        from stylert.runtime.media.recipes import Recipe, bundle_hash

        backend, precision = self._backend_and_precision(bundle)
        return Recipe(
            command=command,
            bundle=bundle_hash(bundle),
            backend=backend,
            precision=precision,
            seeds=tuple(seeds),
            psi=tuple(psi),
            cutoff=self.cutoff,
            label=self.label,
            label_vector=None if self.label_vector is None else _numbers(self.label_vector),
            ws=None if latents is None else latents.sha256,
            **{"batch": self.batch, **facts},
        )

    def read_latents(self, bundle: Bundle) -> Latents | None:
        """The pictures of `--latents`, or None.

        Raises:
            InputError: The file is missing or damaged.
            BundleError: The latents belong to another network.
        """
        if self.latents is None:
            return None
        from stylert.runtime.steering.latents_file import read_latents

        latents = read_latents(self.latents)
        latents.check_network(bundle)
        return latents

    def _backend_and_precision(self, bundle: Bundle) -> tuple[str, str]:
        from stylert.runtime.choice.auto import AUTO, resolved

        precision = self.precision or bundle.default_precision
        if self.min_psnr is not None and precision != AUTO:
            raise InputError("--min-psnr is for --precision auto")
        asked = (self.backend, precision)
        backend, precision, why = resolved(bundle, *asked, self.threads, LATENCY, self.min_psnr)
        if AUTO in asked:
            print_note(f"auto: {why}")
        return backend, precision


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers of `--label-vector`."""
    try:
        return tuple(read_number(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--label-vector takes numbers such as 0.1,0.9, not {shown(text)}") from None


def with_picture_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the fields of `PictureOptions` to the options of a Typer command, which receives them as `options`."""
    signature = inspect.signature(command, eval_str=True)
    shared = inspect.signature(PictureOptions, eval_str=True).parameters
    own = [p for p in signature.parameters.values() if p.name != "options"]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared.values())]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        options = PictureOptions(**{name: values.pop(name) for name in shared})
        command(**values, options=options)

    # Typer reads both: the signature for names and defaults, the annotations for types and help texts.
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return run
