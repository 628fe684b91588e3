"""`Generator`: seeds or latents in, images out, on any backend."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from stylert.core.errors import BackendError, InputError, OutOfMemory
from stylert.core.seeds import z_from_seeds
from stylert.runtime.backends import backend
from stylert.runtime.batching import BatchChunk, batch_chunks, limited
from stylert.runtime.build_options import LATENCY
from stylert.runtime.bundle import MAPPING_FILE, Bundle
from stylert.runtime.cuda.arrays import OnDevice, on_device, on_host
from stylert.runtime.engines import open_synthesis
from stylert.runtime.session import DeviceSession, Session, Timings

if TYPE_CHECKING:
    from stylert.runtime.cuda.device_array import DeviceArray


class Generator:
    """A generator ready to run.

        with Generator.load("bundle/", precision="int8") as g:
            images = g(seeds=[0, 1, 2], psi=0.7)  # uint8 [3, H, W, 3]

    Calls may come from several threads. `z` for seed s is `RandomState(s).randn(1, z_dim)`, as in the official tools.
    A batch larger than `max_batch`, or than the engine takes, runs in several steps. `why` says how the backend was
    chosen. After `close` every call raises BackendError.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend_name: str,
        precision: str,
        mapping: Session,
        synthesis: Session,
        engine: Path | None,
        max_batch: int | None = None,
        why: str = "asked for",
    ) -> None:
        self.bundle, self.backend, self.precision, self.engine, self.why = bundle, backend_name, precision, engine, why
        self._mapping, self._synthesis, self._max_batch = mapping, synthesis, max_batch
        self._calls = Calls()

    @classmethod
    def load(
        cls,
        path: str | Path | Bundle,
        backend: str = "onnxruntime",
        precision: str = "fp32",
        threads: int | None = None,
        max_batch: int | None = None,
        hint: str = LATENCY,
    ) -> Generator:
        """Load a bundle's two networks, from a built engine where a matching one is there.

        `backend="auto"` takes the fastest of those that run here, as `choose_backend` says. `max_batch` bounds the memory of
        one step. `hint="throughput"` makes OpenVINO divide the cores among calls that come from several threads, or from `stream`,
        instead of giving each call all of them.

        Raises BundleError for damaged files, InputError for a precision that the bundle lacks or an unknown backend, and
        BackendError for a backend that is not installed or has no device, or no engine for it.
        """
        bundle = path if isinstance(path, Bundle) else Bundle.load(path)
        if max_batch is not None and (isinstance(max_batch, bool) or not isinstance(max_batch, int) or max_batch < 1):
            raise InputError(f"max_batch is a whole number from 1, not {max_batch!r}")
        why = "asked for"
        if backend == "auto":
            from stylert.runtime.choice import choose_backend

            if hint != LATENCY:
                raise InputError("auto chooses by latency: name the backend, openvino, with another hint")
            backend, why = choose_backend(bundle, precision, threads)
        with ThreadPoolExecutor(1) as pool:  # beside the synthesis network, which takes longer
            opening = pool.submit(_open_mapping, bundle, threads)
            synthesis, engine = open_synthesis(bundle, backend, precision, threads, hint)
        try:
            mapping = opening.result()
        except BaseException:
            synthesis.close()
            raise
        return cls(bundle, backend, precision, mapping, synthesis, engine, max_batch, why)

    def __call__(
        self,
        seeds: Iterable[int],
        psi: float = 1.0,
        cutoff: int | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        noise: dict[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Images of `seeds`: uint8 `[N, H, W, C]`, or float32 `[N, C, H, W]` for a bundle with float output."""
        z = z_from_seeds(seeds, self.bundle.model["z_dim"])
        return self.synthesize(self.map(z, psi=psi, cutoff=cutoff, labels=labels), noise)

    def map(
        self, z: Any, psi: float = 1.0, cutoff: int | None = None, labels: Sequence[int] | np.ndarray | None = None
    ) -> np.ndarray:
        """z `[N, z_dim]` to ws `[N, num_ws, w_dim]`, truncated by `psi` on the first `cutoff` latents (all by default).

        `labels`: class indices `[N]` or vectors `[N, c_dim]`, for a conditional network.
        """
        model, num_ws = self.bundle.model, self.bundle.num_ws
        z = _float32(z, ("N", model["z_dim"]), "z")
        if isinstance(psi, bool) or not isinstance(psi, (int, float, np.floating, np.integer)) or not math.isfinite(psi):
            raise InputError(f"psi must be a finite number, not {psi!r}")
        if cutoff is not None and (
            isinstance(cutoff, bool) or not isinstance(cutoff, (int, np.integer)) or not 0 <= cutoff <= num_ws
        ):
            raise InputError(f"cutoff must be a whole number from 0 to {num_ws}, not {cutoff!r}")
        factors = np.ones((len(z), num_ws), np.float32)
        factors[:, :cutoff] = psi
        inputs = {"z": z, "psi": factors}
        if model["c_dim"]:
            inputs["c"] = _one_hot(labels, len(z), model["c_dim"])
        elif labels is not None:
            raise InputError("this network takes no labels")
        with self._calls:
            return self._mapping.run(inputs)

    def synthesize(self, ws: Any, noise: dict[str, Any] | None = None) -> np.ndarray:
        """ws `[N, num_ws, w_dim]` to images. `noise` gives `noise_<resolution>_<layer>` for bundles that take it.

        Arrays of other libraries are taken through DLPack or `__cuda_array_interface__` without a copy; those on a GPU by
        GPU backends only, as float32, and there they are not looked at for values that are not finite.
        """
        inputs = self._synthesis_inputs(ws, noise)
        with self._calls:
            try:
                parts = [self._synthesis.run(_part(inputs, step))[: step.images] for step in self._steps(len(inputs["ws"]))]
            except OutOfMemory:
                raise self._too_many(inputs) from None
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def synthesize_on_device(self, ws: Any, noise: dict[str, Any] | None = None, out: Any = None) -> DeviceArray:
        """The images, left on the GPU for others to take through DLPack or `__cuda_array_interface__`.

        They are in new memory, or in `out`, a GPU array of another library with the shape and type of the images, which is
        then what comes back. Nothing passes through the host, and the images are there when this returns.

        Raises BackendError on a backend that has no device, InputError for an `out` that does not fit.
        """
        inputs = self._synthesis_inputs(ws, noise)
        session = self._on_gpu
        if session is None:
            raise BackendError(f"{self.backend} computes in host memory; only a GPU backend can leave images on a device")
        with self._calls:
            plan = self._steps(len(inputs["ws"]))
            padding = max(step.first + step.batch for step in plan) - len(inputs["ws"])
            images = session.new_images(len(inputs["ws"]), padding) if out is None else out
            told = on_device(images)
            shape = (len(inputs["ws"]), *session.image.shape)
            if told is None or (told.shape, told.dtype, told.writable) != (shape, session.image.dtype, True):
                raise InputError(f"out must be a writable GPU array of {session.image.dtype} {list(shape)}")
            if out is not None and padding:
                raise InputError(f"this engine runs {len(inputs['ws'])} images with {padding} more, for which out has no room")
            try:
                for step in plan:
                    session.run_into(_part(inputs, step), told.pointer + step.first * told.row_bytes)
            except OutOfMemory:
                raise self._too_many(inputs) from None
        return images

    def timed_run(self, ws: Any, noise: dict[str, Any] | None = None) -> Timings | None:
        """As `synthesize`, for where the time goes: copies, network and the host's part. None on a backend without a device.

        First calls of a batch compile, plan and capture: repeat it as often as the call that it is to explain.
        """
        session = self._on_gpu
        if session is None:
            return None
        inputs = self._synthesis_inputs(ws, noise)
        with self._calls:
            each = [session.timed_run(_part(inputs, step)) for step in self._steps(len(inputs["ws"]))]
        return sum(each[1:], each[0])

    @property
    def notes(self) -> list[str]:
        """What to know of times measured on this generator, such as that no CUDA graph could be captured."""
        return [] if self._on_gpu is None else list(self._on_gpu.notes)

    @property
    def device(self) -> str:
        """Where the synthesis network computes: "cpu" or "cuda"."""
        return self._synthesis.device

    @property
    def _on_gpu(self) -> DeviceSession | None:
        return cast(DeviceSession, self._synthesis) if self.device == "cuda" else None

    def _steps(self, n: int) -> list[BatchChunk]:
        """How a batch runs: engines say which sizes they take, the others take any."""
        ranges = getattr(self._synthesis, "ranges", None) or [(1, n, n)]
        return batch_chunks(n, ranges if self._max_batch is None else limited(ranges, self._max_batch))

    def stream(self, ws: Iterable[Any], ahead: int = 1) -> Iterator[np.ndarray]:
        """Images for each ws `[N, num_ws, w_dim]` of an iterable, in its order, double-buffered.

        While the caller uses one result, the next `ahead` are computed in another thread; that many items are taken from
        the iterable before the first result comes. A GPU has two under way at once, so that one's copies run beside the
        other's kernels. Abandoning the iterator cancels what has not begun.
        """
        if isinstance(ahead, bool) or not isinstance(ahead, int) or ahead < 1:
            raise InputError(f"ahead is a whole number from 1, not {ahead!r}")
        return self._stream(ws, ahead)

    def _stream(self, ws: Iterable[Any], ahead: int) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(getattr(self._synthesis, "concurrency", 1), thread_name_prefix="stylert-stream") as pool:
            pending: deque[Future[np.ndarray]] = deque()
            try:
                for item in ws:
                    pending.append(pool.submit(self.synthesize, item))
                    if len(pending) > ahead:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    async def generate_async(
        self,
        seeds: Iterable[int],
        psi: float = 1.0,
        cutoff: int | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        noise: dict[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """As calling the generator; the event loop goes on meanwhile."""
        import asyncio  # here, because it costs every other start tens of milliseconds

        return await asyncio.to_thread(self, seeds, psi, cutoff, labels, noise)

    async def synthesize_async(self, ws: Any, noise: dict[str, Any] | None = None) -> np.ndarray:
        """As `synthesize`; the event loop goes on meanwhile."""
        import asyncio

        return await asyncio.to_thread(self.synthesize, ws, noise)

    def close(self) -> None:
        """Give back the networks and their memory, once the calls that are running have ended. Closing twice is harmless."""
        if self._calls.end():
            self._mapping.close()
            self._synthesis.close()

    def _too_many(self, inputs: dict[str, np.ndarray | OnDevice]) -> BackendError:
        """The error for a batch without memory. The batch that it names is the first that runs of half as many, and so on."""
        n = max(step.batch for step in self._steps(len(inputs["ws"])))
        fits = n // 2
        while fits:
            try:
                self._synthesis.run(_part(inputs, BatchChunk(0, fits, fits)))
                return BackendError(f"not enough memory for {n} images at once; {fits} fit: load with max_batch={fits}")
            except OutOfMemory:
                fits //= 2
        return BackendError("not enough memory for one image")

    def _synthesis_inputs(self, ws: Any, noise: dict[str, Any] | None) -> dict[str, np.ndarray | OnDevice]:
        model = self.bundle.model
        inputs = {"ws": self._input(ws, ("N", self.bundle.num_ws, model["w_dim"]), "ws")}
        expected = self.bundle.noise_inputs
        if set(noise or {}) != set(expected):
            wanted = f"exactly the noise inputs {', '.join(sorted(expected))}" if expected else "no noise inputs"
            raise InputError(f"this bundle takes {wanted}")
        for name, value in (noise or {}).items():
            inputs[name] = self._input(value, (len(inputs["ws"]), 1, expected[name], expected[name]), name)
        return inputs

    def _input(self, value: Any, shape: tuple[int | str, ...], name: str) -> np.ndarray | OnDevice:
        there = on_device(value)
        if there is None:
            return _float32(value, shape, name)
        if self._on_gpu is None:
            raise InputError(f"{name} is on a GPU, and {self.backend} computes in host memory: copy it there first")
        if there.dtype != np.float32:
            raise InputError(f"{name} must be float32 on the GPU, not {there.dtype}")
        _check_shape(there.shape, shape, name)
        return there

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Calls:
    """Counts the calls that are running, so that closing waits for them and later ones are refused."""

    def __init__(self) -> None:
        self._running, self._ended = 0, False
        self._change = threading.Condition()

    def __enter__(self) -> None:
        with self._change:
            if self._ended:
                raise BackendError("this generator is closed; load it again")
            self._running += 1

    def __exit__(self, *error: object) -> None:
        with self._change:
            self._running -= 1
            self._change.notify_all()

    def end(self) -> bool:
        """Refuse further calls and wait for the running ones. True for the first caller."""
        with self._change:
            first = not self._ended
            self._ended = True
            self._change.wait_for(lambda: self._running == 0)
            return first


# `Generator.load` has a parameter of the name `backend`, as the API promises.
_module = backend


def _open_mapping(bundle: Bundle, threads: int | None) -> Session:
    """The mapping network is a thousandth of the work and decides every pixel: always float32 on ONNX Runtime."""
    return _module("onnxruntime").load(bundle.checked_file(MAPPING_FILE), "fp32", threads)


def _part(inputs: dict[str, np.ndarray | OnDevice], step: BatchChunk) -> dict[str, np.ndarray | OnDevice]:
    """The rows of one step; those of a padded one are filled up with copies of the last."""
    part: dict[str, np.ndarray | OnDevice] = {}
    for name, value in inputs.items():
        if isinstance(value, OnDevice):
            if step.batch != step.images:
                raise InputError(f"this engine runs {step.images} images as {step.batch}: pass {name} with so many rows")
            part[name] = value.rows(step.first, step.images)
        else:
            rows = value[step.first : step.first + step.images]
            spare = step.batch - step.images
            part[name] = np.concatenate([rows, np.repeat(rows[-1:], spare, 0)]) if spare else rows
    return part


def _float32(value: Any, shape: tuple[int | str, ...], name: str) -> np.ndarray:
    array = on_host(value)
    if array is None or array.dtype not in (np.float32, np.float64, np.float16):
        kind = type(value).__name__ if array is None else f"an array of {array.dtype}"
        raise InputError(f"{name} must be a float array, not {kind}")
    _check_shape(array.shape, shape, name)
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds values that are not finite")
    return np.ascontiguousarray(array, dtype=np.float32)


def _check_shape(have: tuple[int, ...], want: tuple[int | str, ...], name: str) -> None:
    fits = len(have) == len(want) and all(isinstance(w, str) or h == w for h, w in zip(have, want, strict=True))
    if not fits or have[0] == 0:
        raise InputError(f"{name} must have shape [{', '.join(map(str, want))}] with N at least 1, not {list(have)}")


def _one_hot(labels: Sequence[int] | np.ndarray | None, n: int, c_dim: int) -> np.ndarray:
    if labels is None:
        raise InputError(f"this network takes labels: one class from 0 to {c_dim - 1} per image")
    array = np.asarray(labels)
    if array.ndim == 2:
        return _float32(array.astype(np.float32), (n, c_dim), "labels")
    if array.shape != (n,) or array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= c_dim:
        raise InputError(f"labels must be {n} classes from 0 to {c_dim - 1}")
    return np.eye(c_dim, dtype=np.float32)[array]
