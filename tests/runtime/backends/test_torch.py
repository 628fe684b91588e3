"""The torch backend runs the bundle's ONNX file and gives the images of the checkpoint's own network."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import BackendError, BundleError, InputError, OutOfMemory
from stylert.core.images.grids import as_uint8
from stylert.core.images.similarity import psnr
from stylert.core.machine.devices import Driver, Gpu
from stylert.export.pipeline import export_bundle
from stylert.models.checkpoint import generator_module
from stylert.models.importers.import_checkpoint import read_any_generator
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.backends.base import LoadOptions
from stylert.runtime.backends.torch import TorchSession
from stylert.runtime.backends.torch_network.graph import TorchGraph
from stylert.runtime.cuda.arrays import DeviceView
from stylert.runtime.engines import build_engine

torch = pytest.importorskip("torch")
pytree = pytest.importorskip("torch.utils._pytree")
_disable_current_modes = pytest.importorskip("torch.utils._python_dispatch")._disable_current_modes
TorchDispatchMode = pytest.importorskip("torch.utils._python_dispatch").TorchDispatchMode


@pytest.fixture(scope="module")
def half_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(checkpoint, tmp_path_factory.mktemp("torch") / "bundle", ["fp32", "fp16"], backends=[])


def images_of_checkpoint(checkpoint: Path, z: np.ndarray, labels: list[int] | None = None, noise: str = "const") -> np.ndarray:
    """PyTorch's float32 images `[N, C, H, W]` of the training code's own network."""
    module = generator_module(read_any_generator(checkpoint)).eval()
    c = None if labels is None else torch.eye(3)[labels]
    with torch.inference_mode():
        return module.synthesis(module.mapping(torch.from_numpy(z), c), noise_mode=noise).numpy()


def assert_promise_kept(bundle: Bundle, images: np.ndarray, expected: np.ndarray) -> None:
    """Every single image has the PSNR that the float32 bundle promises, with [-1, 1] scaled to 255 steps."""
    for image, wanted in zip(127.5 * images, 127.5 * expected, strict=True):
        assert psnr(image, wanted) >= bundle.precision("fp32").min_psnr_db


def test_its_images_are_those_of_the_checkpoints_own_network(
    half_bundle: Bundle, checkpoint: Path, rng: np.random.Generator
) -> None:
    z = rng.standard_normal((5, 24), np.float32)
    expected = as_uint8(images_of_checkpoint(checkpoint, z))
    for precision in ("fp32", "fp16"):
        with Generator.load(half_bundle, "torch", precision) as g:
            assert (g.backend, g.engine) == ("torch", None)
            images = g.synthesize(g.map(z))
        apart = [psnr(a, b) for a, b in zip(images, expected, strict=True)]
        assert np.mean(apart) >= half_bundle.precision(precision).min_psnr_db


def test_bundles_with_labels_float_output_and_no_noise_run(
    make_checkpoint: Callable[..., Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    path = make_checkpoint(c_dim=3)
    z = rng.standard_normal((2, 24), np.float32)
    expected = images_of_checkpoint(path, z, [2, 0], "none")
    bundle = export_bundle(path, tmp_path / "b", ["fp32"], noise="none", output="float")
    with Generator.load(bundle, "torch") as g:
        images = g.synthesize(g.map(z, labels=[2, 0]))
    assert (images.dtype, images.shape) == (np.float32, (2, 3, 16, 16))
    assert_promise_kept(bundle, images, expected)


@pytest.mark.parametrize(
    "changes", [{"architecture": "resnet"}, {"architecture": "orig", "img_channels": 1}, {"resolution": 4}]
)
def test_every_architecture_that_can_be_exported_runs(
    make_checkpoint: Callable[..., Path], tmp_path: Path, rng: np.random.Generator, changes: dict[str, Any]
) -> None:
    path = make_checkpoint(**changes)
    z = rng.standard_normal((2, 24), np.float32)
    expected = images_of_checkpoint(path, z)
    bundle = export_bundle(path, tmp_path / "b", ["fp32"], output="float", backends=[])
    with Generator.load(bundle, "torch") as g:
        assert_promise_kept(bundle, g.synthesize(g.map(z)), expected)


def test_noise_inputs_have_the_effect_that_they_have_on_onnxruntime(
    make_checkpoint: Callable[..., Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    bundle = export_bundle(make_checkpoint(), tmp_path / "b", ["fp32"], noise="input")
    noise = {n: rng.standard_normal((2, 1, r, r), np.float32) for n, r in bundle.noise_inputs.items()}
    with Generator.load(bundle, "torch") as g, Generator.load(bundle) as expected:
        a, b = (h([0, 1], noise=noise).astype(int) for h in (g, expected))
    assert np.abs(a - b).max() <= 1


def test_threads_streams_and_split_batches_work_as_on_other_backends(half_bundle: Bundle) -> None:
    with Generator.load(half_bundle, "torch", max_batch=2) as g, ThreadPoolExecutor(3) as pool:
        alone = [g([s]) for s in range(6)]
        for image, expected in zip(pool.map(lambda s: g([s]), range(6)), alone, strict=True):
            np.testing.assert_array_equal(image, expected)
        assert np.abs(g(range(5)).astype(int) - np.concatenate(alone[:5]).astype(int)).max() <= 1
        assert [len(images) for images in g.stream([g.map(np.ones((1, 24)) * i) for i in range(3)])] == [1, 1, 1]
    with pytest.raises(BackendError, match="closed"):
        g([0])


def session_of(bundle: Bundle, capture: bool = False) -> Any:
    return TorchSession(TorchGraph(bundle.path / "synthesis.fp32.onnx", "cpu"), "cpu", capture)


def test_images_are_written_to_a_given_address_and_latents_are_read_from_one(bundle: Bundle, rng: np.random.Generator) -> None:
    session = session_of(bundle)
    for n in (2, 2, 3):
        latents = rng.standard_normal((n, bundle.num_ws, 20), np.float32)
        device_latents = DeviceView(latents.ctypes.data, latents.shape, latents.dtype, False, None, latents)
        expected = session.run({"ws": latents})
        np.testing.assert_array_equal(session.run({"ws": device_latents}), expected)
        images = session.new_images(n, 2)
        out = np.from_dlpack(images)
        assert (images.shape, images.dtype) == ((n, 16, 16, 3), np.uint8)
        session.run_into({"ws": device_latents}, out.ctypes.data)
        np.testing.assert_array_equal(out, expected)
        kept = images.to_host()
        session.run_into({"ws": np.zeros_like(latents)}, out.ctypes.data)
        np.testing.assert_array_equal(kept, expected)
        assert torch.from_dlpack(images).data_ptr() == out.ctypes.data


def test_on_a_cpu_it_leaves_no_images_on_a_device(bundle: Bundle, rng: np.random.Generator) -> None:
    with Generator.load(bundle, "torch") as g:
        if g.device == "cuda":
            pytest.skip("this machine has a GPU")
        with pytest.raises(BackendError, match="torch computes in host memory"):
            g.synthesize_on_device(rng.standard_normal((1, bundle.num_ws, 20), np.float32))


class FakeGraph:
    """A stand-in for PyTorch's CUDA graph. It records the operations of a capture, and repeats them into the same memory.

    As on a GPU, the host must not read a value during the capture, or replays would not follow the inputs.
    """

    captured = replayed = 0
    capture_error: Exception | None = None

    def __init__(self) -> None:
        self.steps: list[tuple[Any, ...]] = []

    def replay(self) -> None:
        type(self).replayed += 1
        for operation, arguments, options, results in self.steps:
            again = operation(*arguments, **options)
            for old, new in zip(pytree.tree_leaves(results), pytree.tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextmanager
def fake_capture(graph: FakeGraph) -> Iterator[None]:
    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            results = operation(*arguments, **(options or {}))
            graph.steps.append((operation, arguments, options or {}, results))
            return results

    with Recorder():
        yield
    if FakeGraph.capture_error is not None:
        raise FakeGraph.capture_error
    FakeGraph.captured += 1


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> type[FakeGraph]:
    """Stand-ins for PyTorch's streams, events and graphs that work with tensors in host memory."""
    for name in ("captured", "replayed", "capture_error"):
        monkeypatch.setattr(FakeGraph, name, None if name == "capture_error" else 0)
    ticks = itertools.count()
    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)

    def event(enable_timing: bool) -> Any:
        made = SimpleNamespace(at=-1)
        made.record = lambda: setattr(made, "at", next(ticks))
        made.elapsed_time = lambda later: float(later.at - made.at)
        return made

    for name, value in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda s: nullcontext(),
        "CUDAGraph": FakeGraph,
        "graph": fake_capture,
        "Event": event,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return FakeGraph


def test_batches_that_change_all_the_time_are_never_captured(
    bundle: Bundle, rng: np.random.Generator, fake_cuda: type[FakeGraph]
) -> None:
    session = session_of(bundle, capture=True)
    for n in (1, 2, 1, 2, 3, 1):
        session.run({"ws": rng.standard_normal((n, bundle.num_ws, 20), np.float32)})
    assert (fake_cuda.captured, fake_cuda.replayed) == (0, 0)


def test_a_batch_is_captured_once_and_replayed_with_the_inputs_of_each_call(
    bundle: Bundle, rng: np.random.Generator, fake_cuda: type[FakeGraph]
) -> None:
    session, plain = session_of(bundle, capture=True), session_of(bundle)
    results = []
    for n in (1, 1, 1, 2, 2, 1):
        latents = rng.standard_normal((n, bundle.num_ws, 20), np.float32)
        results.append((session.run({"ws": latents}), plain.run({"ws": latents})))
        out = np.zeros((n, 16, 16, 3), np.uint8)
        session.run_into({"ws": latents}, out.ctypes.data)
        np.testing.assert_array_equal(out, results[-1][1])
    for images, expected in results:  # no later call has overwritten them
        np.testing.assert_array_equal(images, expected)
    assert (fake_cuda.captured, fake_cuda.replayed) == (3, 9)  # the first call after a change of batch has no graph
    times = session.timed_run({"ws": latents})
    assert (times.h2d, times.compute, times.d2h) == (1, 1, 1)  # the fake clock ticks once between two events
    assert times.enqueue is not None
    assert times.enqueue > 0


def test_a_graph_of_launches_follows_the_inputs_of_each_call(
    make_checkpoint: Callable[..., Path], tmp_path: Path, rng: np.random.Generator, fake_cuda: type[FakeGraph],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In Triton's interpreter a launch is no operation of PyTorch. So the stand-in of the graph records it apart."""
    pytest.importorskip("triton")
    from stylert.plugins.triton import modulated_conv2d, to_rgb

    recording: list[FakeGraph] = []
    counts = {"modulated_conv2d_into": 0, "to_rgb_into": 0}

    def recorded(name: str, run: Callable[..., None]) -> Callable[..., None]:
        def launch(*operands: Any, **options: Any) -> None:
            counts[name] += 1
            if recording:
                recording[0].steps.append((run, operands, options, None))
            with _disable_current_modes():  # the interpreter's own operations are none of the graph's
                run(*operands, **options)

        return launch

    for module, name in ((modulated_conv2d, "modulated_conv2d_into"), (to_rgb, "to_rgb_into")):
        monkeypatch.setattr(module, name, recorded(name, getattr(module, name)))

    @contextmanager
    def capture(graph: FakeGraph) -> Iterator[None]:
        recording.append(graph)
        with fake_capture(graph):
            yield
        recording.clear()

    monkeypatch.setattr(torch.cuda, "graph", capture)
    small = make_checkpoint(resolution=8, channel_base=128, channel_max=16)
    bundle = export_bundle(small, tmp_path / "small", ["fp32"], backends=[])
    latents = rng.standard_normal((3, 2, bundle.num_ws, 20), np.float32)
    plain = session_of(bundle)
    expected = [plain.run({"ws": ws}) for ws in latents]
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr("stylert.runtime.backends.torch_network.fusion.RGB_CHANNELS", 8)  # so that both launches occur
    session = session_of(bundle, capture=True)
    for ws, images in zip(latents, expected, strict=True):
        assert psnr(session.run({"ws": ws}), images) > 60
    assert (fake_cuda.captured, fake_cuda.replayed) == (1, 2)
    # The first call, the one that compiles, and the capture launch each layer: three convolutions and two torgbs.
    assert counts == {"modulated_conv2d_into": 3 * 3, "to_rgb_into": 3 * 2}


def test_a_session_that_cannot_capture_a_graph_runs_without_and_notes_it_once(
    bundle: Bundle, rng: np.random.Generator, fake_cuda: type[FakeGraph], caplog: pytest.LogCaptureFixture
) -> None:
    fake_cuda.capture_error = RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
    session, plain = session_of(bundle, capture=True), session_of(bundle)
    for n in (1, 1, 2, 1):
        latents = rng.standard_normal((n, bundle.num_ws, 20), np.float32)
        np.testing.assert_array_equal(session.run({"ws": latents}), plain.run({"ws": latents}))
    assert fake_cuda.replayed == 0
    assert session.notes == ["without a CUDA graph, because capturing one failed"]
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()


def test_too_little_memory_for_a_capture_is_an_out_of_memory_error(
    bundle: Bundle, rng: np.random.Generator, fake_cuda: type[FakeGraph]
) -> None:
    fake_cuda.capture_error = torch.OutOfMemoryError("CUDA out of memory")
    session = session_of(bundle, capture=True)
    latents = rng.standard_normal((2, bundle.num_ws, 20), np.float32)
    session.run({"ws": latents})
    with pytest.raises(OutOfMemory):
        session.run({"ws": latents})
    fake_cuda.capture_error = None
    for _ in range(2):
        session.run({"ws": latents})
    assert (session.notes, fake_cuda.replayed) == ([], 1)


def test_it_is_listed_as_available_only_on_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def driver(*gpus: Gpu) -> Any:
        return lambda: Driver("13.0", gpus, None if gpus else "no NVIDIA driver is installed")

    monkeypatch.setattr("stylert.runtime.backends.find_gpus", driver())
    assert "torch" not in available_backends()
    monkeypatch.setattr("stylert.runtime.backends.find_gpus", driver(Gpu(0, "a GPU", (9, 0), 2**36)))
    assert "torch" in available_backends()


def test_networks_that_it_cannot_run_and_a_missing_library_are_errors_of_one_line(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendError, match="fp32, fp16, not int8"):
        Generator.load(bundle, "torch", "int8")
    with pytest.raises(InputError, match="no engines"):
        build_engine(bundle, "torch", "fp32")
    with pytest.raises(BundleError, match=r"does not know .*QuantizeLinear"):
        backend("torch").load(bundle.path / "synthesis.int8.onnx", LoadOptions("fp32"))
    (tmp_path / "x.onnx").write_bytes(b"not a network")
    with pytest.raises(BundleError, match="not a network") as e:
        backend("torch").load(tmp_path / "x.onnx", LoadOptions("fp32"))
    assert "\n" not in str(e.value)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r"pip install 'stylert\[gpu\]'"):
        Generator.load(bundle, "torch")


@pytest.mark.parametrize("newer", [False, True], ids=["older settings", "newer settings"])
def test_float32_has_no_tf32_and_the_settings_of_the_program_come_back(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, newer: bool
) -> None:
    """By default PyTorch takes TF32 in convolutions, which misses the accuracy of fp32."""
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this PyTorch has the older settings alone, and no others to compare with")
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    at_first = (matmul.fp32_precision, conv.fp32_precision)
    if newer:  # the older settings cannot say this, and cannot be read then
        matmul.fp32_precision, conv.fp32_precision = "tf32", "ieee"
    before = (matmul.fp32_precision, conv.fp32_precision)
    assert "tf32" in before
    during = []
    run = TorchGraph.__call__
    monkeypatch.setattr(
        TorchGraph,
        "__call__",
        lambda self, *arguments: during.append((matmul.fp32_precision, conv.fp32_precision)) or run(self, *arguments),
    )
    try:
        with Generator.load(bundle, "torch") as g:
            g.synthesize(np.zeros((1, bundle.num_ws, 20), np.float32))
        assert during
        assert all("tf32" not in precisions for precisions in during)
        assert (matmul.fp32_precision, conv.fp32_precision) == before
    finally:
        matmul.fp32_precision, conv.fp32_precision = at_first
