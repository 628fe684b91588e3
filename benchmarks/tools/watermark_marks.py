"""Marked networks for the tables of robustness: trained, exported and drawn from, all of it by seeds.

`stylert watermark train` draws its key from the system. Here a seed decides key and patterns too, so that a run can be repeated.
Such a mark is no secret, and its network is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stylert.core.machine.host import usable_cores
from stylert.export.pipeline import export_bundle
from stylert.models.checkpoint import GeneratorWeights, digest, generator_module, write_generator
from stylert.models.stylegan2.networks import Generator as Network
from stylert.models.stylegan2.state_dict import generator_shapes
from stylert.runtime import Generator
from stylert.runtime.watermark.detection import Detector, Finding
from stylert.runtime.watermark.detector_file import FORMAT_VERSION, DetectorFacts, View, read_detector, write_detector
from stylert.train.watermark.fine_tuning import TuningSettings
from stylert.train.watermark.marking import MarkSettings, mark_generator

#: Second word of the seed of a key.
KEY_STREAM = 1
BATCH = 64


@dataclass(frozen=True)
class Marked:
    """A marked network.

    Attributes:
        network: The network of PyTorch.
        bundle: Its bundle.
        detector: Its detector.
        settings: Settings of its training.
    """

    network: Network
    bundle: Path
    detector: Detector
    settings: MarkSettings

    @property
    def bits(self) -> int:
        """Bits of the key."""
        return len(self.detector.facts.key)

    @property
    def name(self) -> str:
        """The mark in the head of a column."""
        return f"{self.bits} bits, seed {self.settings.tuning.seed}"


def mark_settings(seed: int, steps: int, decoder_steps: int, images: int, psnr: float) -> MarkSettings:
    """The settings of `stylert watermark train`, with patterns of a known seed."""
    return MarkSettings(seed, images, decoder_steps, tuning=TuningSettings(steps=steps, psnr=psnr, seed=seed))


def marked_network(
    weights: GeneratorWeights, bits: int, settings: MarkSettings, folder: Path, precisions: tuple[str, ...]
) -> Marked:
    """Mark a network, and write its checkpoint, detector and bundle into a folder, as the commands do."""
    key = [int(bit) for bit in np.random.default_rng([settings.pattern_seed, KEY_STREAM]).integers(0, 2, bits)]
    marked = mark_generator(generator_module(weights), key, settings)
    state = {name: tensor.numpy() for name, tensor in marked.generator.state_dict().items()}
    arrays = {name: state[name] for name in generator_shapes(weights.config)}
    views = tuple(View(view.length, view.mirrored) for view in marked.views)
    facts = DetectorFacts(FORMAT_VERSION, "".join(map(str, key)), views, digest(arrays), weights.config.resolution)
    folder.mkdir()
    info = {**weights.info, "watermark": {"bits": bits, "psnr": round(marked.psnr[0], 3)}}
    write_generator(folder / "marked.safetensors", weights.config, arrays, info=info)
    write_detector(folder / "marked.detector.onnx", marked.detector_arrays(), facts)
    export_bundle(folder / "marked.safetensors", folder / "bundle", precisions)
    detector = Detector(read_detector(folder / "marked.detector.onnx"), threads=1)
    return Marked(marked.generator, folder / "bundle", detector, settings)


def drawn(bundle: Path, seeds: range, precision: str = "fp32", psi: float = 1.0, backend: str = "onnxruntime") -> np.ndarray:
    """Images of a bundle, uint8 `[N, R, R, 3]`."""
    with Generator.load(bundle, backend=backend, precision=precision, threads=1) as generator:
        images = np.concatenate([generator(seeds[i : i + BATCH], psi) for i in range(0, len(seeds), BATCH)])
    return np.repeat(images, 3, 3) if images.shape[3] == 1 else images


def findings(detector: Detector, images: Iterable[np.ndarray | Image.Image]) -> list[Finding]:
    """The finding of each image. One thread per core reads them, which changes no result."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(detector.detect, images))
