"""Images come to the host in one copy. Their memory is pinned, is used again, and has a limit. Ordinary memory stands in for it."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stylert.runtime.backends.torch_network import host_images
from stylert.runtime.backends.torch_network.host_images import HostImages

torch = pytest.importorskip("torch")


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all pinned memory that was asked for."""
    shapes: list[tuple[int, ...]] = []
    empty = torch.empty

    def pinned_empty(shape: Any, dtype: Any, pin_memory: bool) -> Any:
        assert pin_memory
        shapes.append(tuple(shape))
        return empty(shape, dtype=dtype)

    monkeypatch.setattr(torch, "empty", pinned_empty)
    stream = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    return shapes


def test_images_are_copies_in_pinned_memory(allocated: list[tuple[int, ...]], rng: np.random.Generator) -> None:
    images = torch.from_numpy(rng.integers(0, 256, (2, 4, 4, 3), np.uint8))
    expected = images.numpy().copy()
    copy = HostImages(pinned=True).copy_of(images)
    images.zero_()
    np.testing.assert_array_equal(copy, expected)
    assert copy.flags.writeable
    assert allocated == [(2, 4, 4, 3)]


def test_memory_counts_as_lent_as_long_as_a_part_of_the_images_is_used(
    allocated: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.zeros(4, 100, dtype=torch.uint8)
    monkeypatch.setattr(host_images, "MAX_LENT_BYTES", 800)
    host = HostImages(pinned=True)
    first, second = host.copy_of(images), host.copy_of(images)
    part = first[1:2]
    del first
    gc.collect()
    host.copy_of(images)  # in ordinary memory, because 800 bytes are lent
    assert len(allocated) == 2
    del part
    gc.collect()
    host.copy_of(images)
    assert len(allocated) == 3
    assert second.nbytes == 400


def test_on_a_cpu_nothing_is_pinned(allocated: list[tuple[int, ...]]) -> None:
    assert HostImages(pinned=False).copy_of(torch.ones(1, 3)).tolist() == [[1, 1, 1]]
    assert allocated == []
