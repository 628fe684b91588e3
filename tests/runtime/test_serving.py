"""`Generator` in an application: streams, threads, event loops, batches of any size, closing and long runs."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stylert.core.errors import BackendError, InputError, OutOfMemory
from stylert.core.images.similarity import psnr
from stylert.core.seeds import z_from_seeds
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends
from stylert.runtime.session import TensorSpec

EACH = [(b, p) for b in available_backends() for p in ("fp32", "int8") if b != "torch"] + [("torch", "fp32")]


class FakeEngine:
    """A session that takes only batches from `least` to `most`, as a GPU engine does, and records them."""

    device = "cpu"
    concurrency = 1
    notes = ()

    def __init__(self, least: int, most: int) -> None:
        self.ranges = [(least, most, most)]
        self.tensors = [TensorSpec("image", False, np.dtype(np.float32), (1,))]
        self.seen: list[int] = []
        self.closed = 0
        self.gate = threading.Event()
        self.gate.set()

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        n = len(inputs["ws"])
        assert self.ranges[0][0] <= n <= self.ranges[0][2]
        self.seen.append(n)
        self.gate.wait(30)
        return inputs["ws"][:, 0, :1].astype(np.float32)

    def close(self) -> None:
        self.closed += 1


def on_fake(bundle: Bundle, engine: FakeEngine, max_batch: int | None = None) -> Generator:
    return Generator(bundle, "fake", "fp32", engine, engine, None, max_batch)


def some_ws(bundle: Bundle, n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((n, bundle.num_ws, bundle.model["w_dim"]), np.float32)


@pytest.mark.parametrize(("least", "most", "max_batch"), [(1, 4, None), (2, 5, None), (1, 16, 3), (4, 4, None)])
def test_a_batch_of_any_size_is_split_into_batches_that_the_engine_takes(
    bundle: Bundle, rng: np.random.Generator, least: int, most: int, max_batch: int | None
) -> None:
    for n in range(1, 18):
        engine = FakeEngine(least, most)
        ws = some_ws(bundle, n, rng)
        np.testing.assert_array_equal(on_fake(bundle, engine, max_batch).synthesize(ws), ws[:, 0, :1])
        assert len(engine.seen) == -(-n // min(most, max_batch or most))


@pytest.mark.parametrize(
    ("images", "message"), [(1, "not enough memory for one image"), (17, r"17 images at once: .*max_batch, such as 8")]
)
def test_too_little_memory_is_one_call_and_the_error_names_a_smaller_batch(
    bundle: Bundle, rng: np.random.Generator, images: int, message: str
) -> None:
    """Under load, trying smaller batches would take the memory that other calls need."""

    class Full(FakeEngine):
        def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
            self.seen.append(len(inputs["ws"]))
            raise OutOfMemory("no")

    engine = Full(1, 32)
    with pytest.raises(BackendError, match=message):
        on_fake(bundle, engine).synthesize(some_ws(bundle, images, rng))
    assert engine.seen == [images]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_running_out_of_memory_is_one_line_and_the_next_batch_runs(bundle: Bundle) -> None:
    code = f"""
import resource
import numpy as np
from stylert.runtime import Generator
from stylert.core.errors import BackendError
g = Generator.load({str(bundle.path)!r}, threads=1)
expected = g([1])
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
try:
    g.synthesize(np.zeros((30_000, 6, 20), np.float32))
except BackendError as e:
    print(e)
np.testing.assert_array_equal(g([1]), expected)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "not enough memory for 30000 images at once: load with a smaller max_batch, such as 15000\n"


@pytest.mark.parametrize(("backend", "precision"), EACH)
def test_images_of_batches_from_1_to_17_agree_within_the_bundles_threshold(
    bundle: Bundle, backend: str, precision: str
) -> None:
    with Generator.load(bundle, "onnxruntime", "fp32") as g:
        reference = g(range(17), psi=0.7)
    threshold = bundle.precision(precision).min_psnr_db
    with Generator.load(bundle, backend, precision) as g:
        alone = np.concatenate([g([s], psi=0.7) for s in range(17)])
        assert np.mean([psnr(a, b) for a, b in zip(alone, reference, strict=True)]) >= threshold
        for n in range(2, 18):
            images = g(range(n), psi=0.7)
            assert np.mean([psnr(a, b) for a, b in zip(images, reference[:n], strict=True)]) >= threshold
            if precision != "int8":  # a difference in the last bit may cross the boundary between two 8-bit values
                assert np.abs(images.astype(int) - alone[:n].astype(int)).max() <= 1


def test_max_batch_changes_no_image(bundle: Bundle) -> None:
    with Generator.load(bundle) as whole, Generator.load(bundle, max_batch=4) as split:
        assert np.abs(whole(range(17)).astype(int) - split(range(17)).astype(int)).max() <= 1
    for bad in (0, -1, 1.5, True, "4"):
        with pytest.raises(InputError, match="max_batch"):
            Generator.load(bundle, max_batch=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("ahead", [1, 3])
def test_a_stream_returns_results_in_the_order_of_its_items(
    bundle: Bundle, rng: np.random.Generator, backend: str, ahead: int
) -> None:
    with Generator.load(bundle, backend) as g:
        batches = [g.map(z_from_seeds(range(i, i + n), 24)) for i, n in enumerate([1, 3, 2, 1, 4])]
        results = list(g.stream(iter(batches), ahead))
        assert [len(r) for r in results] == [1, 3, 2, 1, 4]
        for ws, images in zip(batches, results, strict=True):
            np.testing.assert_array_equal(images, g.synthesize(ws))
        assert list(g.stream([])) == []


def test_a_stream_computes_ahead_while_the_caller_is_busy_but_no_further(bundle: Bundle, rng: np.random.Generator) -> None:
    engine = FakeEngine(1, 8)
    taken: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(len(taken))
            yield some_ws(bundle, 1, rng)

    stream = on_fake(bundle, engine).stream(endless())
    next(stream)
    assert len(taken) == 2
    deadline = time.monotonic() + 20
    while len(engine.seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)  # the caller is busy with the first result
    assert len(engine.seen) == 2
    stream.close()  # type: ignore[attr-defined]
    assert len(taken) == 2


def test_a_stream_raises_the_errors_of_its_items_and_of_the_network(bundle: Bundle, rng: np.random.Generator) -> None:
    with Generator.load(bundle) as g:

        def failing() -> Iterator[np.ndarray]:
            yield some_ws(bundle, 1, rng)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(g.stream(failing()))
        stream = g.stream([some_ws(bundle, 1, rng), np.zeros((1, 2, 3), np.float32)])
        next(stream)
        with pytest.raises(InputError, match="ws must have shape"):
            next(stream)
        for bad in (0, -1, 1.5, True):
            with pytest.raises(InputError, match="ahead"):
                g.stream([], bad)  # type: ignore[arg-type]


def test_the_event_loop_is_not_blocked_while_images_are_made(bundle: Bundle) -> None:
    async def work(g: Generator) -> list[np.ndarray]:
        first, second, third = await asyncio.gather(
            g.generate_async([1, 2], psi=0.5), g.generate_async([3]), g.synthesize_async(g.map(z_from_seeds([4], 24)))
        )
        return [first, second, third]

    with Generator.load(bundle) as g:
        first, second, third = asyncio.run(work(g))
        np.testing.assert_array_equal(first, g([1, 2], psi=0.5))
        np.testing.assert_array_equal(second, g([3]))
        np.testing.assert_array_equal(third, g([4]))

    async def ticks() -> int:
        engine = FakeEngine(1, 8)
        engine.gate.clear()
        pending = asyncio.create_task(on_fake(bundle, engine).synthesize_async(np.zeros((1, 6, 20), np.float32)))
        seen = 0
        while not engine.seen or seen < 5:
            await asyncio.sleep(0.01)
            seen += 1
        assert not pending.done()
        engine.gate.set()
        await pending
        return seen

    assert asyncio.run(ticks()) >= 5


def test_closing_waits_for_running_calls_and_refuses_later_ones(bundle: Bundle) -> None:
    engine = FakeEngine(1, 8)
    engine.gate.clear()
    g = on_fake(bundle, engine)
    ws = np.zeros((1, 6, 20), np.float32)
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(g.synthesize, ws)
        while not engine.seen:
            time.sleep(0.01)
        closing = pool.submit(g.close)
        time.sleep(0.05)
        assert not closing.done()
        with pytest.raises(BackendError, match="closed"):
            g.synthesize(ws)
        engine.gate.set()
        assert len(call.result(30)) == 1
        closing.result(30)
    assert engine.closed == 2  # once as the mapping network and once as the synthesis network
    g.close()
    assert engine.closed == 2


@pytest.mark.parametrize("backend", available_backends())
def test_a_closed_generator_holds_no_network_and_says_so(bundle: Bundle, backend: str) -> None:
    g = Generator.load(bundle, backend)
    g([0])
    native = []
    for session in (g._mapping, g._synthesis):
        held = vars(session)
        networks = held.get("_networks", {}).values() or [held["_session"]]
        native += [weakref.ref(network) for network in networks]
    assert len(native) == 2
    del networks, held, session
    g.close()
    gc.collect()
    assert [ref() for ref in native] == [None, None]
    for call in (lambda: g([0]), lambda: g.map(z_from_seeds([0], 24)), lambda: list(g.stream([np.zeros((1, 6, 20))]))):
        with pytest.raises(BackendError, match="closed"):
            call()


INTERRUPTED = """
import os, signal, sys, time
from stylert.runtime import Generator
generators = [Generator.load(sys.argv[1], sys.argv[2]) for _ in range(2)]
for g in generators:
    g([0]), g([0, 1])
generators[int(sys.argv[3])].close()
del g, generators[int(sys.argv[3])]
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("closed", ["0", "1"])
@pytest.mark.parametrize("backend", available_backends())
def test_ctrl_c_is_an_exception_whatever_networks_are_open(bundle: Bundle, backend: str, closed: str) -> None:
    """OpenVINO sets the stack for signals on CPUs with AMX. It must not remove that stack while the process runs."""
    command = [sys.executable, "-c", INTERRUPTED, str(bundle.path), backend, closed]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "interrupted"), done.stderr


def test_a_cpu_backend_leaves_no_images_on_a_device(bundle: Bundle, rng: np.random.Generator) -> None:
    with Generator.load(bundle) as g, pytest.raises(BackendError, match="host memory"):
        g.synthesize_on_device(some_ws(bundle, 1, rng))


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's process statistics")
@pytest.mark.parametrize(("backend", "precision"), EACH)
def test_memory_does_not_grow_over_two_thousand_images(bundle: Bundle, backend: str, precision: str) -> None:
    # MNN's threads wait for each other without sleeping. On a busy machine, two of them need minutes for what one does in seconds.
    with Generator.load(bundle, backend, precision, threads=1) as g, ThreadPoolExecutor(4) as pool:
        expected = g([7])

        def some(first: int) -> None:
            for seed, n in ((first, 1), (first + 1, 3), (first + 4, 1)):
                g(range(seed, seed + n), psi=0.7)

        made, held = 0, []
        while made < 2000:
            list(pool.map(some, range(made, made + 200, 5)))
            made += 200
            gc.collect()
            held.append(resident_mib())
        np.testing.assert_array_equal(g([7]), expected)
    # The first rounds fill the backends' own memory pools. After that, memory must not grow with the number of images.
    assert max(held[4:]) - held[3] < 4, held


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's process statistics")
@pytest.mark.parametrize("backend", available_backends())
def test_memory_does_not_grow_when_loading_and_closing_repeatedly(bundle: Bundle, backend: str) -> None:
    held = []
    for _ in range(12):
        with Generator.load(bundle, backend) as g:
            g([0])
        gc.collect()
        held.append(resident_mib())
    assert max(held[6:]) - held[5] < 16, held
