"""A model of small images has networks for several calls at the same time, and every way gives the same images."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from stylert.core.errors import BackendError
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends
from stylert.runtime.incremental.session import IncrementalSession
from stylert.runtime.serving import network_calls
from stylert.runtime.serving.network_calls import SHARES_NETWORK, load_calls
from tests.runtime.serving.conftest import running, source

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


def test_an_incremental_network_takes_all_calls(bundle: Bundle) -> None:
    calls = load_calls(bundle, "onnxruntime", "fp32", 2, 4, incremental=True)
    assert calls.narrow == ()
    assert isinstance(calls.whole._synthesis, IncrementalSession)
    calls.close()


def test_an_incremental_server_makes_the_pictures_of_another_one(bundle: Bundle) -> None:
    paths = ["/v1/images/1.png", "/v1/images/1.png?psi=0.5", "/v1/images/1.png?mix=4-5:2", "/v1/images/1.png?mix=4-5:3"]
    pictures = []
    for incremental in (False, True):
        with running([source(bundle)], incremental=incremental) as server:
            pictures.append([httpx.get(server.url + path, timeout=60) for path in paths])
    assert [answer.status_code for answer in pictures[1]] == [200] * len(paths)
    assert [a.content for a in pictures[0]] == [a.content for a in pictures[1]]


def test_networks_are_freed_if_one_cannot_be_loaded(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Generator] = []

    class Second(Generator):
        @classmethod
        def load(cls, *arguments: Any, **options: Any) -> Generator:
            if loaded:
                raise BackendError("no memory")
            loaded.append(Generator.load(*arguments, **options))
            return loaded[0]

    monkeypatch.setattr(network_calls, "Generator", Second)
    with pytest.raises(BackendError, match="no memory"):
        load_calls(bundle, "onnxruntime", "fp32", 2, 4)
    with pytest.raises(BackendError, match="closed"):
        loaded[0]([0])
