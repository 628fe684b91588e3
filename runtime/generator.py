"""`Generator`: from seeds or latents to images, on any backend."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from stylert.core.errors import BackendError, BundleError, InputError, OutOfMemory, shown
from stylert.core.seeds import z_from_seeds
from stylert.runtime.batching import BatchChunk, batch_chunks, limited
from stylert.runtime.build_options import LATENCY, check_threads
from stylert.runtime.bundle import Bundle
from stylert.runtime.choice.auto import resolved
from stylert.runtime.cuda.arrays import device_view
from stylert.runtime.forking import never_free, tell_after_fork
from stylert.runtime.in_flight import InFlight
from stylert.runtime.incremental.opening import check_one_call_at_a_time, open_incremental, stage_backends
from stylert.runtime.input_checks import chunk_inputs, whole_number, yes_or_no
from stylert.runtime.loading import open_mapping, open_synthesis
from stylert.runtime.network_inputs import mapping_inputs, synthesis_inputs
from stylert.runtime.session import HostInputs, Inputs, Session, Timings, device_session

if TYPE_CHECKING:
    from stylert.runtime.cuda.device_array import DeviceArray


class Generator:
    """A bundle's networks, loaded and ready to run.

        with Generator.load("bundle/", precision="int8") as g:
            images = g(seeds=[0, 1, 2], psi=0.7)  # uint8 [3, H, W, 3]

    Calls may come from several threads. A batch larger than `max_batch`, or than the engine takes, runs in chunks. After
    `close`, every call raises BackendError.

    Attributes:
        bundle: The bundle.
        backend: The name of the backend.
        precision: The precision of the synthesis network.
        engine: The main file of the built engine that runs; None if an ONNX file runs.
        why: How the backend and the precision were chosen, in one line.
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
        """Most callers use `load`."""
        self.bundle, self.backend, self.precision, self.engine, self.why = bundle, backend_name, precision, engine, why
        self._mapping, self._synthesis, self._max_batch = mapping, synthesis, max_batch
        self._device_session = device_session(synthesis)
        self._image_shape = next(tensor.shape for tensor in synthesis.tensors if not tensor.is_input)
        self._in_flight = InFlight()
        self._from_parent = False
        tell_after_fork(self)

    @classmethod
    def load(
        cls,
        path: str | Path | Bundle,
        backend: str = "onnxruntime",
        precision: str = "fp32",
        threads: int | None = None,
        max_batch: int | None = None,
        hint: str = LATENCY,
        min_psnr: float | None = None,
        require_signature: str | Path | None = None,
        incremental: bool = False,
    ) -> Generator:
        """Load a bundle's two networks. A built engine is used if the bundle has one that runs on this machine.

        Args:
            path: The bundle, or its folder.
            backend: The name of a backend, or `auto` for the fastest on this machine (see `choice.backend`).
            precision: The precision of the synthesis network, or `auto` for the fastest that is accurate enough on this
                machine (see `choice.precision`).
            threads: CPU threads of each network; None leaves the number to the library.
            max_batch: The most images that run at once. A smaller number needs less memory.
            hint: `latency`, or for OpenVINO `throughput`: the CPU's cores are then shared by calls from several threads
                or from `stream`, instead of all working on one call.
            min_psnr: With the precision `auto`, the least mean PSNR to float32 in dB. None takes for each precision what
                the bundle promises.
            require_signature: As in `Bundle.load`. A bundle that was loaded without is read again.
            incremental: Keep the features of the last calls, and compute only the layers behind the first latent that
                has changed (see `runtime.incremental`). Built engines are not used then.

        Raises:
            BundleError: A file of the bundle is damaged, or it lacks the required signature.
            InputError: The bundle lacks the precision, no precision is accurate enough, the backend is unknown or cannot run
                incrementally, or an argument is out of range.
            BackendError: The backend is not installed, has no device, or lacks an engine that it needs.
        """
        bundle = path if isinstance(path, Bundle) else Bundle.load(path, require_signature)
        if bundle is path and require_signature is not None:
            bundle = Bundle.load(bundle.path, require_signature)
        if max_batch is not None:
            max_batch = whole_number(max_batch, "max_batch", 1)
        check_threads(threads)
        if incremental := yes_or_no(incremental, "incremental"):
            check_one_call_at_a_time(hint)
        backend, precision, why = resolved(
            bundle, backend, precision, threads, hint, min_psnr, stage_backends() if incremental else None
        )
        with ThreadPoolExecutor(1) as pool:  # opens the mapping network while the larger one is opened here
            opening = pool.submit(open_mapping, bundle, threads)
            synthesis, engine = (
                (open_incremental(bundle, backend, precision, threads), None)
                if incremental
                else open_synthesis(bundle, backend, precision, threads, hint)
            )
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
        """Make one image for each seed. A seed's z is that of the official tools: `RandomState(seed).randn(1, z_dim)`.

        Args:
            seeds: Whole numbers from 0 to 2**32 - 1.
            psi: Truncation, see `map`.
            cutoff: How many latents are truncated, see `map`.
            labels: Labels of a conditional network, see `map`.
            noise: Noise inputs, see `synthesize`.

        Returns:
            Images as `synthesize`.

        Raises:
            InputError: An argument has another form, shape or range.
            BackendError: There is too little memory.
        """
        z = z_from_seeds(seeds, self.bundle.model["z_dim"])
        return self.synthesize(self.map(z, psi=psi, cutoff=cutoff, labels=labels), noise)

    def map(
        self, z: Any, psi: float = 1.0, cutoff: int | None = None, labels: Sequence[int] | np.ndarray | None = None
    ) -> np.ndarray:
        """Map z to the latents ws.

        Args:
            z: Float array `[N, z_dim]`.
            psi: Truncation: 1 leaves ws as they are, 0 gives the average w.
            cutoff: How many latents, from the first on, are truncated; None truncates all.
            labels: For a conditional network, class indices `[N]` or label vectors `[N, c_dim]`.

        Returns:
            ws, float32 `[N, num_ws, w_dim]`.

        Raises:
            InputError: An argument has another form, shape or range.
        """
        inputs = mapping_inputs(self.bundle, z, psi, cutoff, labels)
        with self._in_flight:
            return _of_shape(self._mapping.run(inputs), (len(inputs["z"]), self.bundle.num_ws, self.bundle.model["w_dim"]))

    def synthesize(self, ws: Any, noise: dict[str, Any] | None = None, style_offsets: Any = None) -> np.ndarray:
        """Make one image for each ws.

        Arrays of other libraries are read without a copy, through DLPack or `__cuda_array_interface__`. Only a GPU backend
        takes arrays on the GPU. They must be float32, and their values are not checked.

        Args:
            ws: Float array `[N, num_ws, w_dim]`.
            noise: For a bundle with noise inputs, `noise_<resolution>_<layer>` to a float array `[N, 1, R, R]`.
            style_offsets: For a bundle with that input, what is added to the styles of all layers, a float array `[N, S]`.
                None adds nothing.

        Returns:
            uint8 `[N, H, W, C]`, or float32 `[N, C, H, W]` in [-1, 1] from a bundle with float output.

        Raises:
            InputError: An array has another shape or type, or is not finite.
            BackendError: There is too little memory. The message names a smaller `max_batch`.
        """
        inputs = self._synthesis_inputs(ws, noise, style_offsets)
        with self._in_flight:
            try:
                parts = [self._images(inputs, chunk) for chunk in self._chunks(len(inputs["ws"]))]
            except OutOfMemory:
                raise self._memory_error(inputs) from None
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def synthesize_on_device(self, ws: Any, noise: dict[str, Any] | None = None, out: Any = None) -> DeviceArray:
        """Make images that stay on the GPU, for libraries that read DLPack or `__cuda_array_interface__`.

        The images are complete when this returns. None of them passes through host memory.

        Args:
            ws: As for `synthesize`.
            noise: As for `synthesize`.
            out: A GPU array of another library to write the images to, with their shape and type; None allocates one.

        Returns:
            `out`, or a new array.

        Raises:
            BackendError: The backend does not compute on a GPU, or there is too little memory.
            InputError: `out` does not fit, or an input is wrong as for `synthesize`.
        """
        inputs = self._synthesis_inputs(ws, noise)
        n = len(inputs["ws"])
        session = self._device_session
        if session is None:
            raise BackendError(f"{self.backend} computes in host memory; only a GPU backend can leave images on a device")
        with self._in_flight:
            chunks = self._chunks(n)
            padding = max(chunk.first + chunk.batch for chunk in chunks) - n
            images = session.new_images(n, padding) if out is None else out
            view = device_view(images)
            shape = (n, *session.image.shape)
            if view is None or (view.shape, view.dtype, view.writable) != (shape, session.image.dtype, True):
                raise InputError(f"out must be a writable GPU array of {session.image.dtype} {list(shape)}")
            if out is not None and padding:
                raise InputError(f"this engine runs {n} images with {padding} more, for which out has no room")
            try:
                for chunk in chunks:
                    session.run_into(chunk_inputs(inputs, chunk), view.pointer + chunk.first * view.row_bytes)
            except OutOfMemory:
                raise self._memory_error(inputs) from None
        return images

    def stream(self, ws: Iterable[Any], ahead: int = 1) -> Iterator[np.ndarray]:
        """Make images for a sequence of ws, computing the next ones while the caller uses the last.

        A GPU runs two items at a time, so that the copies of one overlap with the computation of the other. If the
        caller stops early, items that have not begun are cancelled.

        Args:
            ws: An iterable of `[N, num_ws, w_dim]`, where N may differ. `ahead` + 1 items are taken before the first result.
            ahead: How many items are computed in advance, at least 1.

        Returns:
            An iterator of images as `synthesize`, in the order of `ws`. It belongs to one thread. In a child of the process in
            which it has begun, it raises BackendError.

        Raises:
            InputError: `ahead` is out of range, or `ws` is not iterable.
        """
        ahead = whole_number(ahead, "ahead", 1)
        try:
            items = iter(ws)
        except (TypeError, ValueError):  # ValueError: a closed file
            raise InputError(f"a stream takes an iterable of ws, not {shown(ws)}") from None
        return self._stream(items, ahead)

    def _stream(self, ws: Iterator[Any], ahead: int) -> Iterator[np.ndarray]:
        process = os.getpid()
        pool = ThreadPoolExecutor(self._synthesis.concurrency, thread_name_prefix="stylert-stream")
        pending: deque[Future[np.ndarray]] = deque()
        try:
            for item in ws:
                _check_process(process)
                pending.append(pool.submit(self.synthesize, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
                    _check_process(process)
            while pending:
                yield pending.popleft().result()
                _check_process(process)
        finally:
            if os.getpid() == process:  # the threads of the pool may hold its locks, and a child has none of them
                for future in pending:
                    future.cancel()
                pool.shutdown()

    async def generate_async(
        self,
        seeds: Iterable[int],
        psi: float = 1.0,
        cutoff: int | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        noise: dict[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """As calling the generator, in a thread, so that the event loop is not blocked."""
        import asyncio  # slow to import, and few applications need it

        return await asyncio.to_thread(self, seeds, psi, cutoff, labels, noise)

    async def synthesize_async(self, ws: Any, noise: dict[str, Any] | None = None) -> np.ndarray:
        """As `synthesize`, in a thread, so that the event loop is not blocked."""
        import asyncio

        return await asyncio.to_thread(self.synthesize, ws, noise)

    def timed_run(self, ws: Any, noise: dict[str, Any] | None = None) -> Timings | None:
        """Run as `synthesize` and time the copies, the network and the host's part.

        The first calls of a batch also compile and capture. Repeat this as often as the call that it explains.

        Returns:
            The times, or None if the backend computes in host memory.
        """
        session = self._device_session
        if session is None:
            return None
        inputs = self._synthesis_inputs(ws, noise)
        with self._in_flight:
            timings = [session.timed_run(chunk_inputs(inputs, chunk)) for chunk in self._chunks(len(inputs["ws"]))]
        return sum(timings[1:], timings[0])

    @property
    def device(self) -> str:
        """The device of the synthesis network: "cpu" or "cuda"."""
        return self._synthesis.device

    @property
    def concurrency(self) -> int:
        """The number of calls that the synthesis network can run at the same time."""
        return self._synthesis.concurrency

    @property
    def notes(self) -> list[str]:
        """Remarks that belong beside times of this generator, such as a CUDA graph that could not be captured."""
        return list(self._synthesis.notes)

    def close(self) -> None:
        """Wait for the running calls, then free the networks. Closing twice is harmless.

        In a child of the process that loaded them, the networks stay in memory: to free them would wait without end.
        """
        if self._in_flight.stop() and not self._from_parent:
            self._mapping.close()
            self._synthesis.close()

    def after_fork(self) -> None:
        """Keep the networks, and forget the calls of the parent's other threads, which this process does not have."""
        self._from_parent = True
        never_free(self._mapping)
        never_free(self._synthesis)
        self._in_flight.after_fork()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self, inputs: Inputs) -> np.ndarray:
        if self._device_session is not None:
            return self._device_session.run(inputs)
        return self._synthesis.run(cast(HostInputs, inputs))  # `float_input` has refused arrays on a GPU

    def _images(self, inputs: Inputs, chunk: BatchChunk) -> np.ndarray:
        images = self._run(chunk_inputs(inputs, chunk))
        return _of_shape(images, (chunk.batch, *self._image_shape))[: chunk.images]

    def _chunks(self, n: int) -> list[BatchChunk]:
        ranges = self._synthesis.ranges
        return batch_chunks(n, ranges if self._max_batch is None else limited(ranges, self._max_batch))

    def _synthesis_inputs(self, ws: Any, noise: dict[str, Any] | None, style_offsets: Any = None) -> Inputs:
        return synthesis_inputs(self.bundle, ws, noise, style_offsets, self._device_session is not None, self.backend)

    def _memory_error(self, inputs: Inputs) -> BackendError:
        """The error for too little memory.

        Nothing is tried with less: under load, other calls need the memory, and a smaller batch that fits now may not fit then.
        """
        n = max(chunk.batch for chunk in self._chunks(len(inputs["ws"])))
        if n == 1:
            return BackendError("not enough memory for one image")
        return BackendError(f"not enough memory for {n} images at once: load with a smaller max_batch, such as {n // 2}")


def _check_process(begun_in: int) -> None:
    """Raise BackendError in a child of the process in which a stream has begun: it would wait for threads of its parent."""
    if os.getpid() != begun_in:
        raise BackendError("this stream has begun before this process was forked, and cannot go on here; begin another one")


def _of_shape(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A network's result. Raises BundleError if it does not have the shape that the network declares."""
    if images.shape != shape:
        raise BundleError(f"this network returns {list(images.shape)} in place of {list(shape)}")
    return images
