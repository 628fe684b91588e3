"""Images in host memory, copied from the device once.

A copy to ordinary memory goes through a pinned buffer of the driver, and fresh memory costs a page fault for every page. So
the images are copied to pinned memory, and the caller gets that. When the caller drops the images, PyTorch keeps the memory
for the next ones.
"""

from __future__ import annotations

import ctypes
import itertools
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

#: Pinned memory that callers may hold. No other program can use it, so a caller that keeps more images gets ordinary memory.
MAX_LENT_BYTES = 2**30


class HostImages:
    """Makes copies of images on the device. With `pinned` false they are in ordinary memory."""

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._lent: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()

    def copy_of(self, images: torch.Tensor) -> np.ndarray:
        """A copy of `images`, complete, of the same shape and type. It lives as long as the caller uses it or a part of it."""
        import torch

        lent = sum(ctypes.sizeof(buffer) for buffer in list(self._lent.values()))
        if not self._pinned or lent + images.nbytes > MAX_LENT_BYTES:
            ordinary: np.ndarray = images.to("cpu", copy=True).numpy()
            return ordinary
        host = torch.empty(images.shape, dtype=images.dtype, pin_memory=True)
        host.copy_(images, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        buffer = (ctypes.c_uint8 * host.nbytes).from_address(host.data_ptr())
        buffer.memory = host  # type: ignore[attr-defined]  # NumPy's array keeps the buffer alive, and that keeps the tensor
        self._lent[next(self._numbers)] = buffer
        dtype = np.dtype(str(host.dtype).removeprefix("torch."))
        return np.frombuffer(memoryview(buffer), dtype).reshape(host.shape)
