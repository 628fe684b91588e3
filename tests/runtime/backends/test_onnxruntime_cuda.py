"""The bound session of ONNX Runtime, run on the CPU, and the errors without CUDA. No GPU runs in these tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import onnxruntime as ort
import pytest

from stylert.core.errors import BackendError, InputError
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.backends import onnxruntime as cpu
from stylert.runtime.backends.onnxruntime_cuda import MAX_BINDINGS, PROVIDER, BoundSession
from stylert.runtime.cuda.arrays import DeviceView
from stylert.runtime.engines import build_engine

CUDA = backend("onnxruntime-cuda")


def gpu_build() -> bool:
    try:
        return bool(version("onnxruntime-gpu"))
    except PackageNotFoundError:
        return False


@pytest.fixture
def session(bundle: Bundle) -> BoundSession:
    return bound_session(bundle)


def bound_session(bundle: Bundle) -> BoundSession:
    source = bundle.path / "synthesis.fp32.onnx"
    return BoundSession(lambda graphs: cpu.open_session(source, cpu.session_options(1)), "cpu", False)


def test_a_bound_session_gives_the_images_of_the_plain_session_for_any_order_of_batches(
    bundle: Bundle, session: BoundSession, rng: np.random.Generator
) -> None:
    with Generator.load(bundle, threads=1) as g:
        for n in (1, 2, 1, 3, 4, 5, 6, 1, 2, 2):
            ws = rng.standard_normal((n, bundle.num_ws, 20), np.float32)
            np.testing.assert_array_equal(session.run({"ws": ws}), g.synthesize(ws))
            assert len(session._bindings) <= MAX_BINDINGS


def test_a_result_is_not_overwritten_by_the_next_call_nor_by_another_thread(
    bundle: Bundle, session: BoundSession, rng: np.random.Generator
) -> None:
    several = [rng.standard_normal((2, bundle.num_ws, 20), np.float32) for _ in range(8)]
    alone = [session.run({"ws": ws}).copy() for ws in several]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda ws: session.run({"ws": ws}), several))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_binding_keeps_its_addresses_from_call_to_call(bundle: Bundle, session: BoundSession) -> None:
    ws = np.zeros((2, bundle.num_ws, 20), np.float32)
    session.run({"ws": ws})
    (first,) = session._bindings.values()
    addresses = (first.host_inputs["ws"].data_ptr(), first.image.data_ptr())
    session.run({"ws": ws})
    (again,) = session._bindings.values()
    assert (again.host_inputs["ws"].data_ptr(), again.image.data_ptr()) == addresses


def test_images_are_written_to_a_given_address_and_latents_are_read_from_one(
    bundle: Bundle, session: BoundSession, rng: np.random.Generator
) -> None:
    out = np.zeros((2, 16, 16, 3), np.uint8)
    latents = np.zeros((2, bundle.num_ws, 20), np.float32)
    device_latents = DeviceView(latents.ctypes.data, latents.shape, latents.dtype, False, None, latents)
    for _ in range(3):
        latents[...] = rng.standard_normal(latents.shape)
        expected = session.run({"ws": latents.copy()})
        np.testing.assert_array_equal(session.run({"ws": device_latents}), expected)
        session.run_into({"ws": device_latents}, out.ctypes.data)
        np.testing.assert_array_equal(out, expected)
        images = session.new_images(2, 1)
        session.run_into({"ws": latents.copy()}, np.from_dlpack(images).ctypes.data)
        np.testing.assert_array_equal(images.to_host(), expected)
        times = session.timed_run({"ws": latents})
        assert min(times.h2d, times.compute, times.d2h) > 0
        assert times.enqueue is None


class Uncapturable:
    """ONNX Runtime's session, except that it fails if a run asks for a CUDA graph, as a network that cannot be captured does."""

    def __init__(self, session: object, graphs: bool, graph_ids: list[str]) -> None:
        self._session, self._with_graphs, self._asked = session, graphs, graph_ids

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: object, options: ort.RunOptions) -> None:
        number = options.get_run_config_entry("gpu_graph_id") if self._with_graphs else "none"
        self._asked.append(number)
        if number not in ("none", "-1"):
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")
        self._session.run_with_iobinding(binding, ort.RunOptions())  # type: ignore[attr-defined]


def test_a_session_that_cannot_capture_a_graph_runs_without_and_notes_it_once(
    bundle: Bundle, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    graph_ids: list[str] = []
    cpu_session = cpu.open_session(bundle.path / "synthesis.fp32.onnx", cpu.session_options(1))
    session = BoundSession(lambda graphs: Uncapturable(cpu_session, graphs, graph_ids), "cpu", True)
    for n in (1, 2, 2, 1, 2):
        latents = rng.standard_normal((n, bundle.num_ws, 20), np.float32)
        np.testing.assert_array_equal(session.run({"ws": latents}), bound_session(bundle).run({"ws": latents}))
    assert graph_ids == ["-1", "-1", "2", "none", "none", "none"]
    assert session.notes == ["without a CUDA graph, because capturing one failed"]
    assert len(caplog.records) == 1


@pytest.mark.skipif(PROVIDER in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_the_error_without_cuda_names_the_install_command(bundle: Bundle) -> None:
    assert "onnxruntime-cuda" not in available_backends()
    with pytest.raises(BackendError, match=r"no CUDA: pip uninstall -y onnxruntime; pip install onnxruntime-gpu") as e:
        Generator.load(bundle, "onnxruntime-cuda")
    assert "\n" not in str(e.value)
    if not gpu_build():
        assert "pip install onnxruntime-gpu" in CUDA.unavailable_reason()


def test_a_cuda_provider_that_does_not_load_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself would fall back to the CPU, with a line in its log only."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDER, "CPUExecutionProvider"])
    open_session = cpu.open_session
    monkeypatch.setattr(cpu, "open_session", lambda source, options, providers: open_session(source, options))
    with pytest.raises(BackendError, match="CUDA does not load"):
        Generator.load(bundle, "onnxruntime-cuda")


def test_it_builds_no_engines_and_runs_no_int8(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="no engines"):
        build_engine(bundle, "onnxruntime-cuda", "fp32")
    with pytest.raises(BackendError, match="fp32, fp16, not int8"):
        Generator.load(bundle, "onnxruntime-cuda", "int8")
