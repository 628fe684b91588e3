"""Drags of a server: what drags, given by the command line because it needs torch, and the rule of one at a time."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from stylert.core.errors import BundleError, InputError, shown
from stylert.core.images.handles import Handle, check_handles
from stylert.runtime.bundle import Bundle
from stylert.runtime.serving.refusals import Refusal
from stylert.runtime.serving.settings import ServerSettings

#: Seconds of one drag, at most.
MAX_SECONDS = 20.0
#: The part of the time for an answer that a drag may take. The rest is for its images.
SHARE = 0.8


class Dragged(Protocol):
    """The result of a drag.

    Attributes:
        ws: The latents of the new image, float32 `[num_ws, w_dim]`.
        points: The place of each handle at the end, `[N, 2]`, x and y in pixels.
        distances: The distance of each to its target.
        steps: Steps that were taken.
        ending: `reached`, or the limit that came first: `steps`, `seconds` or `stopped`.
        outside_psnr: PSNR in dB outside of the mask. None without a mask.
    """

    @property
    def ws(self) -> np.ndarray: ...
    @property
    def points(self) -> np.ndarray: ...
    @property
    def distances(self) -> Sequence[float]: ...
    @property
    def steps(self) -> int: ...
    @property
    def ending(self) -> str: ...
    @property
    def outside_psnr(self) -> float | None: ...


class Dragger(Protocol):
    """Drags handles of the images of one network. It may be slow, and is called from one thread at a time.

    Attributes:
        network: sha256 of the network's checkpoint.
    """

    network: str

    def drag(
        self,
        ws: np.ndarray,
        handles: Sequence[Handle],
        mask: np.ndarray | None = None,
        *,
        seconds: float | None = None,
        is_stopped: Callable[[], bool],
    ) -> Dragged:
        """Drag the image of ws `[num_ws, w_dim]`.

        Args:
            ws: The latents.
            handles: Points and targets.
            mask: bool `[R, R]`, true where the image may change.
            seconds: Time, at most.
            is_stopped: Asked often whether to end.

        Raises:
            InputError: The handles or the mask do not fit the network.
        """


def check_dragger(dragger: Dragger, bundles: Sequence[Bundle]) -> None:
    """Raise BundleError unless one of the bundles was exported from the network that drags."""
    if not any(drags(dragger, bundle) for bundle in bundles):
        names = ", ".join(str(bundle.path) for bundle in bundles)
        raise BundleError(f"the checkpoint of --drag is {dragger.network[:12]}, and it is the origin of none of these: {names}")


def drags(dragger: Dragger, bundle: Bundle) -> bool:
    """Whether a bundle was exported from the network that drags."""
    return bundle.provenance.get("checkpoint_sha256") == dragger.network


class DragService:
    """Runs one drag at a time, in a thread of its own.

    Args:
        dragger: The network that drags.
        settings: Those of the server, for the time of an answer.

    Attributes:
        max_seconds: Seconds of one drag, at most.
    """

    def __init__(self, dragger: Dragger, settings: ServerSettings) -> None:
        self.dragger = dragger
        self.max_seconds = min(MAX_SECONDS, SHARE * settings.request_seconds)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="stylert-drag")
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._end = 0.0

    def check(self, bundle: Bundle, handles: Sequence[Handle]) -> None:
        """Raise InputError unless the network of a bundle can be dragged by these handles, and Refusal while another drag runs."""
        if not drags(self.dragger, bundle):
            origin = shown(str(bundle.provenance.get("checkpoint_sha256"))[:12])
            raise InputError(f"this server drags images of the network {self.dragger.network[:12]}, and this model is {origin}")
        check_handles(handles, bundle.resolution)
        if self._turn.locked():
            raise self._busy()

    async def drag(self, ws: np.ndarray, handles: Sequence[Handle], mask: np.ndarray | None, seconds: float) -> Dragged:
        """Drag. If this is cancelled, the drag ends with its step.

        Raises:
            Refusal: Another drag runs; status 429.
            InputError: The handles or the mask do not fit the network.
        """
        if not self._turn.acquire(blocking=False):
            raise self._busy()
        stop = self._stop = threading.Event()
        seconds = min(seconds, self.max_seconds)
        self._end = time.monotonic() + seconds

        def run() -> Dragged:
            try:
                return self.dragger.drag(ws, handles, mask, seconds=seconds, is_stopped=stop.is_set)
            finally:
                self._turn.release()

        try:
            future = self._pool.submit(run)
        except BaseException:
            self._turn.release()
            raise
        try:
            # The shield keeps a thread that has not begun from being left out, since it alone gives the turn back.
            return await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            stop.set()
            raise

    def close(self) -> None:
        """End the drag that runs."""
        self._stop.set()
        self._pool.shutdown(wait=False)

    def _busy(self) -> Refusal:
        wait = max(1, math.ceil(self._end - time.monotonic()))
        return Refusal(429, "another drag is running, and this server runs one at a time", {"Retry-After": str(wait)})
