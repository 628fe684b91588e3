"""Random networks, as NumPy arrays for the exporter and as PyTorch modules for the reference, and ways to run them."""

from __future__ import annotations

import numpy as np
import onnx
import torch

from stylert.export.quantization.evaluation import cpu_session
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.networks import Generator
from stylert.plugins.reference.upfirdn2d import upsample2d
from tests.conftest import random_arrays, small_config
from tests.draws import fresh


def random_weights(**changes: object) -> GeneratorWeights:
    """Weights of `small_config(**changes)`."""
    cfg = small_config(**changes)
    return GeneratorWeights(cfg, random_arrays(cfg, fresh()), {})


def random_network(**changes: object) -> tuple[GeneratorWeights, Generator]:
    """The same weights as arrays, and as a PyTorch generator in float64."""
    weights = random_weights(**changes)
    generator = Generator(weights.config)
    generator.load_state_dict({name: torch.from_numpy(array) for name, array in weights.arrays.items()})
    return weights, generator.double().requires_grad_(False)


def random_ws(weights: GeneratorWeights, n: int) -> np.ndarray:
    """`[n, num_ws, w_dim]`, standard normal."""
    return np.random.standard_normal((n, weights.config.num_ws, weights.config.w_dim)).astype(np.float32)


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    """The first output of a model on ONNX Runtime, with exact products of bytes."""
    return cpu_session(model).run(None, inputs)[0]


def synthesize64(generator: Generator, ws: np.ndarray, noise_mode: str) -> np.ndarray:
    """The images of a float64 generator. Its synthesis would cast ws to float32, so this calls the blocks."""
    x = img = None
    w = torch.from_numpy(ws).double()
    for res in generator.cfg.block_resolutions:
        x, img = _double_block(getattr(generator.synthesis, f"b{res}"), x, img, w, noise_mode)
    return img.numpy()


def _double_block(block, x, img, ws, noise_mode):  # type: ignore[no-untyped-def]
    x = block.const.unsqueeze(0).expand(len(ws), -1, -1, -1) if x is None else x
    img = None if img is None else upsample2d(img, block.resample_filter)
    for spec in block.specs:
        layer = getattr(block, spec.name.split(".")[1])
        if spec.kind == "torgb":
            y = layer(x, ws[:, spec.ws_index])
            img = y if img is None else img + y
        else:
            x = layer(x, ws[:, spec.ws_index], noise_mode)
    return x, img


def assert_close(images: np.ndarray, expected: np.ndarray, relative: float) -> None:
    """The greatest error is at most `relative` times the greatest expected magnitude."""
    assert images.shape == expected.shape
    assert np.abs(images - expected).max() <= relative * np.abs(expected).max()


def peak_snr_db(images: np.ndarray, expected: np.ndarray) -> float:
    """The greatest expected magnitude over the rms error, in dB."""
    return float(20 * np.log10(np.abs(expected).max() / np.sqrt(np.square(images - expected).mean())))
