"""`stylert generate`: images from seeds, in batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stylert.cli.console import Report, errors
from stylert.core.atomic import atomic_file
from stylert.core.errors import InputError, OutputError
from stylert.core.images import as_uint8, make_grid
from stylert.runtime.bundle import Bundle
from stylert.runtime.choice import choose_backend
from stylert.runtime.generator import Generator
from stylert.runtime.media.pictures import save_image
from stylert.runtime.media.recipes import Recipe, bundle_hash
from stylert.runtime.media.rendering import check_fits


@dataclass(frozen=True)
class Drawing:
    """How images are drawn: the options that generate, mix, sweep and interpolate share."""

    cutoff: int | None = None
    label: int | None = None
    backend: str = "onnxruntime"
    precision: str | None = None  # the bundle's first choice
    batch: int = 8
    threads: int | None = None

    def recipe(self, bundle: Bundle, command: str, seeds: list[int], psi: Sequence[float], **facts: Any) -> Recipe:
        """What the options mean for a bundle, written down. A backend `auto` is chosen here, after saying which and why."""
        precision = self.precision or default_precision(bundle)
        return Recipe(
            command=command,
            bundle=bundle_hash(bundle),
            backend=chosen_backend(bundle, self.backend, precision, self.threads),
            precision=precision,
            seeds=tuple(seeds),
            psi=tuple(psi),
            cutoff=self.cutoff,
            label=self.label,
            **{"batch": self.batch, **facts},
        )


def generate_images(
    bundle_path: Path, seeds: list[int], out: Path, psi: float, grid: bool, drawing: Drawing, report: Report
) -> list[Path]:
    """Write `seed<number>.png` per seed, or one `grid.png`, and each with its recipe, and return the paths."""
    bundle = Bundle.load(bundle_path)
    if bundle.noise == "input":
        raise InputError("this bundle takes noise as inputs; generate from Python, or export with --noise const")
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot write into {out}: it is a file")
    cutoff, label, batch = drawing.cutoff, drawing.label, drawing.batch
    recipe = drawing.recipe(bundle, "grid", seeds, [psi], batch=min(batch, len(seeds)))
    with Generator.load(bundle, recipe.backend, recipe.precision, drawing.threads) as generator:
        # The options are checked on the recipe, and the folder by a file in it, before the long part begins.
        generator.map(np.zeros((1, bundle.model["z_dim"]), np.float32), psi, cutoff, None if label is None else [label])
        if grid:
            check_fits(generator, recipe)
            comment = recipe.to_json()
        with atomic_file(out / ".probe"):
            pass
        (out / ".probe").unlink()
        files, kept = [], []
        for i in range(0, len(seeds), batch):
            chunk = seeds[i : i + batch]
            images = as_uint8(generator(chunk, psi, cutoff, None if label is None else [label] * len(chunk)))
            if grid:
                kept.append(images)
            else:
                for seed, image in zip(chunk, images, strict=True):
                    files.append(out / f"seed{seed:04d}.png")
                    own = dataclasses.replace(recipe, command="generate", seeds=(seed,), together=tuple(chunk))
                    save_image(image, files[-1], own.to_json())
            report("generate", min(i + batch, len(seeds)), len(seeds))
    if grid:
        files.append(out / "grid.png")
        save_image(make_grid(np.concatenate(kept)), files[-1], comment)
    return files


def default_precision(bundle: Bundle) -> str:
    """fp32 where the bundle has it, else its first."""
    return "fp32" if "fp32" in bundle.precisions else next(iter(bundle.precisions))


def chosen_backend(bundle: Bundle, backend: str, precision: str, threads: int | None) -> str:
    """`backend`, or for `auto` the fastest one, after saying which and why. A recipe names the one that made the picture."""
    if backend != "auto":
        return backend
    name, why = choose_backend(bundle, precision, threads)
    errors.print(f"auto: {why}", highlight=False, soft_wrap=True)
    return name
