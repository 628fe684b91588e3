"""Times of the phases and layers of `CudaSession`, on a fake driver and a fake engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stylert.runtime import Bundle, Generator
from stylert.runtime.cuda.engine_session import CudaSession
from tests.runtime.cuda.fake_driver import NUM_WS, SIDE, W_DIM, FakeDriver
from tests.runtime.cuda.fake_tensorrt import COMPUTE_MS, LAYERS, FakeEngine, fake_trt
from tests.runtime.cuda.latents import generator_on_gpu, images_of, ws


@pytest.mark.parametrize("capturable", [True, False])
def test_a_timed_run_separates_copies_network_and_host(
    bundle: Bundle, driver: FakeDriver, plan: Path, rng: np.random.Generator, capturable: bool
) -> None:
    session = CudaSession(fake_trt(FakeEngine(driver, capturable=capturable)), plan)
    g = generator_on_gpu(bundle, session, max_batch=2)
    for n in (1, 1, 1, 2, 2, 3):
        times = g.timed_run(ws(n, rng))
        assert times is not None
        # The fake's clock takes 1 ms for each KiB that it copies, and COMPUTE_MS for each image.
        assert times.h2d == pytest.approx(n * NUM_WS * W_DIM * 4 / 2**10)
        assert times.compute == pytest.approx(n * COMPUTE_MS)
        assert times.d2h == pytest.approx(n * SIDE * SIDE / 2**10)
        assert times.enqueue is not None
        assert times.enqueue > 0
    # Graphs run the second and third call of one image, the second of two images, and the first chunk of three images.
    assert driver.launches == (4 if capturable else 0)
    assert g.timed_run(ws(1, rng)) is not None
    latents = ws(1, rng)
    np.testing.assert_array_equal(g.synthesize(latents), images_of(latents))
    session.close()
    assert (driver.memory, driver.events, driver.execs) == ({}, 0, 0)


def test_a_generator_in_host_memory_times_no_phases(bundle: Bundle, rng: np.random.Generator) -> None:
    with Generator.load(bundle) as g:
        assert (g.device, g.notes, g.timed_run(ws(1, rng))) == ("cpu", [], None)


def test_layer_times_profile_one_call_and_not_the_next(
    session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    for _ in range(2):
        session.run({"ws": ws(2, rng)})
    for n in (2, 5):
        times = session.layer_times({"ws": ws(n, rng)})
        assert times == [(name, n * ms) for name, ms in LAYERS.items()]
    launches = driver.launches
    for _ in range(3):
        latents = ws(2, rng)
        np.testing.assert_array_equal(session.run({"ws": latents}), images_of(latents))
    assert driver.launches == launches + 2  # profiling drops the graph; the second call captures a new one
