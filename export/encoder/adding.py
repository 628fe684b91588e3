"""Adds an encoder to a bundle of its network, in several precisions, each judged by images that nothing has seen before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from stylert.core.errors import InputError, shown
from stylert.core.files.atomic import atomic_file
from stylert.core.files.digests import sha256_of
from stylert.core.files.locks import changing_folder
from stylert.core.files.temporary import temporary_folder
from stylert.core.images.grids import as_uint8
from stylert.core.images.similarity import psnr_each
from stylert.core.progress import Progress
from stylert.export.encoder.networks import float_network, write_byte_network
from stylert.runtime.bundle import Bundle
from stylert.runtime.bundle_files import EncoderEntry, file_entries
from stylert.runtime.generator import Generator
from stylert.runtime.steering.encoder_file import EncoderWeights
from stylert.runtime.steering.picture_encoder import PictureEncoder

#: The precisions, and the most by which the images of each may be farther from the pictures than those of fp32, in dB
MOST_LOST_DB = {"fp32": 0.0, "fp16": 0.1, "int8": 1.0}
#: The images that set the steps of 8 bits: their first seed, their number for each psi, and these
FIRST_CALIBRATION_SEED, CALIBRATION_IMAGES, CALIBRATION_PSIS = 2_000_000, 64, (1.0, 0.7)
#: The first seed of the images that judge the networks
FIRST_TEST_SEED = 3_000_000
BATCH = 16


class EncoderAccuracy(NamedTuple):
    """Images of fresh seeds, encoded in one precision and drawn again by the bundle's network.

    Attributes:
        precision: The precision.
        psnr_db: Mean PSNR of the images that are drawn again.
        worst_psnr_db: That of the worst one.
        lost_db: By how much the mean is below that of fp32.
        bytes: Size of the network's file.
    """

    precision: str
    psnr_db: float
    worst_psnr_db: float
    lost_db: float
    bytes: int

    @property
    def passed(self) -> bool:
        """Whether the precision loses no more than `MOST_LOST_DB`."""
        return self.lost_db <= MOST_LOST_DB[self.precision]


def add_encoder(
    path: str | Path,
    encoder: EncoderWeights,
    precisions: Sequence[str] = tuple(MOST_LOST_DB),
    test_images: int = 64,
    progress: Progress | None = None,
) -> list[EncoderAccuracy]:
    """Add an encoder to a bundle of its network. One that is there already is replaced.

    Args:
        path: The bundle.
        encoder: The encoder, of `read_encoder`.
        precisions: Names from `MOST_LOST_DB`.
        test_images: Images that judge each precision.
        progress: Called as the stages go on.

    Returns:
        The accuracy of each precision. One that has not `passed` is left out of the bundle.

    Raises:
        InputError: The encoder belongs to another network or is damaged, a precision is unknown, or the bundle takes noise as
            inputs.
        BackendError: PyTorch, EfficientNet-Lite0 or onnxscript is not installed.
        BundleError: The bundle is damaged.
        OutputError: A file cannot be written.
    """
    for name in precisions or ("",):
        if name not in MOST_LOST_DB:
            raise InputError(f"an encoder has the precisions {', '.join(MOST_LOST_DB)}, not {shown(name)}")
    bundle = Bundle.load(path)
    bundle.require_stylegan2("stylert encoder export")
    bundle.check_no_noise_inputs()
    encoder.check_network(str(bundle.provenance.get("checkpoint_sha256")))
    with Generator.load(bundle, precision=bundle.default_precision) as generator, temporary_folder("encoder") as folder:
        files = _write_networks(encoder, list(precisions), generator, folder, progress)
        entries = {name: EncoderEntry(file) for name, file in files.items()}
        written = replace(bundle, path=folder, files=file_entries(folder, list(files.values())), encoder=entries)
        psnr_of = {name: _psnr_of_images(generator, written, name, test_images) for name in files}
        rows = [
            EncoderAccuracy(
                name,
                float(psnr_of[name].mean()),
                float(psnr_of[name].min()),
                float(psnr_of["fp32"].mean() - psnr_of[name].mean()),
                written.files[files[name]].bytes,
            )
            for name in precisions
        ]
        _put_into(bundle, folder, files, encoder, [row for row in rows if row.passed], test_images)
    return rows


def _write_networks(
    encoder: EncoderWeights, precisions: list[str], generator: Generator, folder: Path, progress: Progress | None
) -> dict[str, str]:
    """Write the networks into a folder, and fp32 always. Returns the names of the files."""
    float32 = float_network(encoder, "fp32")
    files = {name: f"encoder.{name}.onnx" for name in dict.fromkeys(["fp32", *precisions])}
    for done, (name, file) in enumerate(files.items()):
        if name == "int8":
            seeds = range(FIRST_CALIBRATION_SEED, FIRST_CALIBRATION_SEED + CALIBRATION_IMAGES)
            images = [_images(generator, seeds, psi) for psi in CALIBRATION_PSIS]
            write_byte_network(float32, folder / file, np.concatenate(images))
        else:
            onnx.save(float32 if name == "fp32" else float_network(encoder, name), folder / file)
        if progress is not None:
            progress("encoder networks", done + 1, len(files))
    return files


def _psnr_of_images(generator: Generator, bundle: Bundle, precision: str, count: int) -> np.ndarray:
    """The PSNR `[count]` of images of fresh seeds, encoded and drawn again."""
    rows = []
    with PictureEncoder.load(bundle, precision) as encoder:
        for first in range(FIRST_TEST_SEED, FIRST_TEST_SEED + count, BATCH):
            images = _images(generator, range(first, min(first + BATCH, FIRST_TEST_SEED + count)), 1.0)
            rows.append(psnr_each(as_uint8(generator.synthesize(encoder(images))), images))
    return np.concatenate(rows)


def _images(generator: Generator, seeds: range, psi: float) -> np.ndarray:
    """Images uint8 `[N, R, R, C]` of seeds. A conditional network draws its classes in turn."""
    classes = generator.bundle.model["c_dim"]
    labels = [seed % classes for seed in seeds] if classes else None
    return as_uint8(generator(seeds, psi, labels=labels))


def _put_into(
    bundle: Bundle, folder: Path, files: dict[str, str], encoder: EncoderWeights, rows: Sequence[EncoderAccuracy], images: int
) -> None:
    """Copy the networks into the bundle: first the files under new names, and then the manifest, which lists them."""
    recipe = {"encoder_sha256": encoder.sha256, **encoder.facts}
    entries = {}
    for row in rows:
        figures = {"psnr_db": round(row.psnr_db, 3), "worst_psnr_db": round(row.worst_psnr_db, 3), "images": images}
        name = f"encoder.{row.precision}.{sha256_of(folder / files[row.precision])[:8]}.onnx"
        entries[row.precision] = EncoderEntry(name, recipe, figures | {"lost_db": round(row.lost_db, 3)})
    with changing_folder(bundle.path):
        now = Bundle.load(bundle.path)
        encoder.check_network(str(now.provenance.get("checkpoint_sha256")))
        for precision, entry in entries.items():
            with atomic_file(bundle.path / entry.file, within=bundle.path) as temporary:
                temporary.write_bytes((folder / files[precision]).read_bytes())
        changed = replace(now, encoder=entries)
        listed = now.files | file_entries(bundle.path, [entry.file for entry in entries.values()])
        replace(changed, files={name: file for name, file in listed.items() if name in changed.networks}).save()
        for file in set(now.files) - changed.networks:
            (bundle.path / file).unlink(missing_ok=True)
