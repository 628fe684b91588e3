"""Latents of the fake engine, and the images that it makes of them."""

from __future__ import annotations

import numpy as np

from stylert.runtime import Bundle, Generator
from stylert.runtime.cuda.engine_session import CudaSession
from tests.runtime.cuda.fake_driver import NUM_WS, SIDE, W_DIM


def generator_on_gpu(bundle: Bundle, session: CudaSession, max_batch: int | None = None) -> Generator:
    return Generator(bundle, "fake", "fp32", session, session, None, max_batch)


def ws(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (n, NUM_WS, W_DIM)).astype(np.float32)


def at_address(array: np.ndarray, offset: int = 0) -> np.ndarray:
    """A copy at an address that is `offset` bytes after a multiple of 256."""
    memory = np.zeros(array.nbytes + 512, np.uint8)
    first = -memory.ctypes.data % 256 + offset
    copy = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def images_of(latents: np.ndarray) -> np.ndarray:
    """The images that the fake network computes."""
    return latents[:, -1, :4].astype(np.uint8).reshape(-1, SIDE, SIDE, 1)
