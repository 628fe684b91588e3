"""A model of small images has networks for several calls at the same time, and every way gives the same images."""

from __future__ import annotations

import numpy as np
import pytest

from stylert.core.errors import BackendError
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends
from stylert.runtime.serving import network_calls
from stylert.runtime.serving.network_calls import SHARES_NETWORK, load_calls

BACKENDS = [name for name in SHARES_NETWORK if name in available_backends()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_call_has_its_part_of_the_threads_and_makes_the_same_images(bundle: Bundle, backend: str) -> None:
    calls = load_calls(bundle, backend, "fp32", 2, 4)
    try:
        assert len(calls.narrow) == 2
        assert len(set(calls.narrow)) == (1 if SHARES_NETWORK[backend] else 2)
        expected = calls.whole([3, 4]).astype(int)
        for generator in calls.narrow:
            assert np.abs(generator([3, 4]) - expected).max() <= 1
    finally:
        calls.close()


def test_one_thread_and_large_images_have_one_network(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_calls(bundle, "onnxruntime", "fp32", 1, 4).narrow == ()
    monkeypatch.setattr(network_calls, "MAX_RESOLUTION", bundle.resolution - 1)
    assert load_calls(bundle, "onnxruntime", "fp32", 2, 4).narrow == ()


def test_networks_are_freed_if_one_cannot_be_loaded(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Generator] = []

    class Second(Generator):
        @classmethod
        def load(cls, *arguments: object) -> Generator:  # type: ignore[override]
            if loaded:
                raise BackendError("no memory")
            loaded.append(Generator.load(*arguments))  # type: ignore[arg-type]
            return loaded[0]

    monkeypatch.setattr(network_calls, "Generator", Second)
    with pytest.raises(BackendError, match="no memory"):
        load_calls(bundle, "onnxruntime", "fp32", 2, 4)
    with pytest.raises(BackendError, match="closed"):
        loaded[0]([0])
