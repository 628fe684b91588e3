"""The bound session of ONNX Runtime, run on the CPU, and the errors without CUDA. No GPU runs in these tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from stylert.core.errors import BackendError, BundleError, InputError
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.backends import onnxruntime as cpu
from stylert.runtime.backends.base import LoadOptions, is_out_of_memory
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
    with pytest.raises(
        BackendError, match=r"no CUDA: pip uninstall -y onnxruntime; pip install 'onnxruntime-gpu\[cuda,cudnn\]'"
    ) as e:
        Generator.load(bundle, "onnxruntime-cuda")
    assert "\n" not in str(e.value)
    if not gpu_build():
        assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in CUDA.unavailable_reason()


def test_a_cuda_provider_that_does_not_load_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself would fall back to the CPU, with a line in its log only."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDER, "CPUExecutionProvider"])
    open_session = cpu.open_session
    monkeypatch.setattr(cpu, "open_session", lambda source, options, providers: open_session(source, options))
    with pytest.raises(BackendError, match="CUDA does not load"):
        Generator.load(bundle, "onnxruntime-cuda")


class OfCuda:
    """ONNX Runtime's session on the CPU, which says that it is on CUDA."""

    def __init__(self, session: object) -> None:
        self._session = session

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return [PROVIDER, "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("precision", "accepted", "expected"),
    [
        ("fp32", {("0", "1")}, [("0", "1", "0")]),
        ("fp32", {("0", "0")}, [("0", "1", "0"), ("0", "0", "0")]),
        ("fp16", {("1", "1")}, [("1", "1", "1")]),
        ("fp16", {("0", "0")}, [("1", "1", "1"), ("1", "0", "1"), ("0", "1", "1"), ("0", "0", "1")]),
    ],
)
def test_float16_is_tried_channels_last_first_and_float32_has_no_tf32(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    precision: str,
    accepted: set[tuple[str, str]],
    expected: list[tuple[str, str, str]],
) -> None:
    open_session, tried, loaded = cpu.open_session, [], []

    def open_on_cuda(source: Path, options: object, providers: list[Any]) -> object:
        (name, values), cpu_name = providers
        assert (name, cpu_name, values["device_id"]) == (PROVIDER, "CPUExecutionProvider", "0")
        assert loaded  # CUDA's libraries are loaded before the session is opened
        tried.append((values.get("prefer_nhwc", "0"), values["enable_cuda_graph"], values["use_tf32"]))
        if tried[-1][:2] not in accepted:
            raise BundleError("this network cannot be arranged so")
        return OfCuda(open_session(source, options))

    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDER, "CPUExecutionProvider"])
    monkeypatch.setattr(
        ort, "preload_dlls", lambda: (loaded.append(True), print("Failed to load libcudnn.so.9")), raising=False
    )
    monkeypatch.setattr(cpu, "open_session", open_on_cuda)
    session = CUDA.load(bundle.path / "synthesis.fp32.onnx", LoadOptions(precision))
    assert tried == expected
    assert {tensor.name for tensor in session.tensors} == {"ws", "image"}
    assert capsys.readouterr().out == ""  # a command may write an image there


TOO_LITTLE = [
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; file=/src/cuda_call.cc ; line=9 ; expr=cudaMalloc(&p, size);",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&cublas_handle_);",
    "CUDNN failure 4004: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0 ; expr=cudnnCreate(&cudnn_handle_);",
    "CUDNN failure 2: CUDNN_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cudnnCreate(&cudnn_handle_);",
    "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 4294967296",
    "std::bad_alloc",
]
OTHER_FAILURES = [
    "CUDA failure 700: an illegal memory access was encountered ; file=/src/cuda_allocator.cc ; expr=cudaMalloc(&p, size);",
    "CUBLAS failure 14: CUBLAS_STATUS_INTERNAL_ERROR ; expr=cublasLtMatmulAlgoGetHeuristic(allocation);",
    "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; file=/src/cuda_allocator.cc",
    "CUDA failure 900: operation not permitted when stream is capturing",
]


@pytest.mark.parametrize("message", TOO_LITTLE + OTHER_FAILURES, ids=range(len(TOO_LITTLE + OTHER_FAILURES)))
def test_too_little_memory_is_told_by_the_number_of_the_failure(message: str) -> None:
    """The words of a message may be those of a source line in it."""
    assert is_out_of_memory(RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {message}")) == (message in TOO_LITTLE)


def test_it_builds_no_engines_and_runs_no_int8(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="no engines"):
        build_engine(bundle, "onnxruntime-cuda", "fp32")
    with pytest.raises(BackendError, match="fp32, fp16, not int8"):
        Generator.load(bundle, "onnxruntime-cuda", "int8")
