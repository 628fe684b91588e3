"""`stylert generate`: images from seeds, in batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stylert.cli.console import Report
from stylert.runtime.atomic import atomic_file
from stylert.runtime.bundle import Bundle
from stylert.runtime.errors import InputError, OutputError
from stylert.runtime.generator import Generator
from stylert.runtime.images import save_grid, save_image


def generate_images(
    bundle_path: Path,
    seeds: list[int],
    out: Path,
    psi: float,
    cutoff: int | None,
    label: int | None,
    grid: bool,
    backend: str,
    precision: str | None,
    batch: int,
    threads: int | None,
    report: Report,
) -> list[Path]:
    """Write `seed<number>.png` per seed, or one `grid.png`, and return the paths."""
    bundle = Bundle.load(bundle_path)
    if bundle.noise == "input":
        raise InputError("this bundle takes noise as inputs; generate from Python, or export with --noise const")
    if out.exists() and not out.is_dir():
        raise OutputError(f"cannot write into {out}: it is a file")
    precision = precision or ("fp32" if "fp32" in bundle.precisions else next(iter(bundle.precisions)))
    with Generator.load(bundle, backend, precision, threads) as generator:
        # The options are checked on the first seed, and the folder by a file in it, before the long part begins.
        labels = None if label is None else [label]
        generator.map(np.zeros((1, bundle.model["z_dim"]), np.float32), psi, cutoff, labels)
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
                    save_image(image, files[-1])
            report("generate", min(i + batch, len(seeds)), len(seeds))
    if grid:
        files.append(out / "grid.png")
        save_grid(np.concatenate(kept), files[-1])
    return files


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Images of either output type as uint8 `[N, H, W, C]`, converted as the official tools do."""
    if images.dtype == np.uint8:
        return images
    return np.clip(images.transpose(0, 2, 3, 1) * 127.5 + 128, 0, 255).astype(np.uint8)
