"""The served bundles by name, and their replacement while requests run.

A bundle is served as one model per precision. The first precision has the name of the bundle, each further one a suffix, such as
`cats64.int8`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stylert.core.errors import BackendError, BundleError, StylertError, shown
from stylert.core.images.grids import as_uint8
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.composition import Composition, composed_ws, moved_ws
from stylert.runtime.media.recipes import bundle_hash
from stylert.runtime.serving.batcher import Batcher
from stylert.runtime.serving.metrics import Metrics
from stylert.runtime.serving.named_bundle import NamedBundle, check_names
from stylert.runtime.serving.network_calls import NetworkCalls, load_calls
from stylert.runtime.serving.refusals import Refusal
from stylert.runtime.serving.served_directions import check_directions, directions_of
from stylert.runtime.serving.settings import ServerSettings
from stylert.runtime.steering.directions_file import Directions

LOG = logging.getLogger("stylert.serving")

#: One image to make: a composition, or the latents themselves `[num_ws, w_dim]`.
Item = Composition | np.ndarray


class MadeImage(NamedTuple):
    """One image that a network made.

    Attributes:
        image: uint8 `[H, W, C]`.
        ws: Its latents, float32 `[num_ws, w_dim]`, after its moves in w.
    """

    image: np.ndarray
    ws: np.ndarray


@dataclass(frozen=True)
class BundleSource(NamedBundle):
    """A bundle to serve. Without precisions, it is fp32, or the first that the bundle has.

    Attributes:
        backend: Name of a backend, or `auto`.
        threads: CPU threads; None leaves the number to the backend.
        require_signature: As in `Bundle.load`.
    """

    backend: str = "auto"
    threads: int | None = None
    require_signature: Path | None = None


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A loaded network with its queue. It is replaced as a whole, never changed.

    Attributes:
        name: Name in requests.
        bundle_hash: The sha256 of `bundle.json`, as in recipes.
        calls: The networks.
        batcher: The queue.
        directions: The directions that images can move along; None without any.
    """

    name: str
    bundle_hash: str
    calls: NetworkCalls
    batcher: Batcher[Item, MadeImage]
    directions: Directions | None = None

    @property
    def generator(self) -> Generator:
        """The networks with all threads."""
        return self.calls.whole

    @property
    def bundle(self) -> Bundle:
        return self.generator.bundle

    async def close(self) -> None:
        """Finish what the queue holds, then free the networks. A network that hangs keeps its memory."""
        await self.batcher.close()
        if not self.batcher.is_hung:
            await asyncio.to_thread(self.calls.close)


class ModelStore:
    """Loads bundles and finds them by name.

    Args:
        sources: The bundles. Their names differ.
        settings: Limits of the queues.
        metrics: Counts batches and reloads.
        directions: Files of directions. Each belongs to the network of a bundle.

    Raises:
        InputError: Two bundles have one name.
    """

    def __init__(
        self, sources: Sequence[BundleSource], settings: ServerSettings, metrics: Metrics, directions: Sequence[Path] = ()
    ) -> None:
        check_names(sources)
        self._sources = {source.name: source for source in sources}
        self._directions = tuple(directions)
        self._settings, self._metrics = settings, metrics
        self._models: dict[str, dict[str, ServedModel]] = {}
        self._locks = {name: asyncio.Lock() for name in self._sources}
        self._closing: set[asyncio.Task[None]] = set()

    def load(self) -> None:
        """Load every bundle.

        Raises:
            StylertError: As `Generator.load`, or a file of directions fits no bundle.
        """
        if self._directions:
            sources = self._sources.values()
            check_directions(self._directions, [Bundle.load(source.path, source.require_signature) for source in sources])
        for name, source in self._sources.items():
            self._models[name] = self._load(source)

    @property
    def bundle_names(self) -> list[str]:
        return list(self._sources)

    @property
    def models(self) -> list[ServedModel]:
        """Every model, in the order of the sources."""
        return [model for models in self._models.values() for model in models.values()]

    @property
    def hung(self) -> list[str]:
        """Names of the models whose network does not return."""
        return [model.name for model in self.models if model.batcher.is_hung]

    def find(self, name: str | None = None, precision: str | None = None) -> ServedModel:
        """The model of a bundle and precision.

        Args:
            name: Name of a bundle or of a model; None for the first bundle.
            precision: Name of a precision; None for the first, or the one that `name` has as its suffix.

        Raises:
            Refusal: There is none; status 404.
        """
        bundle_name, _, suffix = (next(iter(self._sources)) if name is None else name).partition(".")
        models = self._models.get(bundle_name)
        if models is None:
            raise Refusal(404, f"no model {shown(name)}, only: {', '.join(model.name for model in self.models)}")
        wanted = precision or suffix or next(iter(models))
        if wanted not in models or (suffix and precision not in (None, suffix)):
            raise Refusal(404, f"{bundle_name} is served in {', '.join(models)}, not in {shown(wanted)}")
        return models[wanted]

    async def reload(self, name: str) -> None:
        """Read a bundle and its directions again. Requests that were taken before finish on the old ones, which stay if this fails.

        Args:
            name: Name of a bundle.

        Raises:
            Refusal: There is no bundle of the name, status 404; or the new one cannot be loaded or makes no image, status 409.
        """
        if name not in self._sources:
            raise Refusal(404, f"no bundle {shown(name)}, only: {', '.join(self._sources)}")
        async with self._locks[name]:
            try:
                models = await asyncio.to_thread(self._load, self._sources[name])
            except Exception as e:  # of any class: its files may vanish while they are read, or no thread can be started
                reason = str(e) or ("not enough memory" if isinstance(e, MemoryError) else type(e).__name__)
                self._metrics.reloads.labels(name, "failed").inc()
                trace = None if isinstance(e, StylertError | OSError | MemoryError) else e
                LOG.error("reload failed", exc_info=trace, extra={"facts": {"bundle": name, "error": reason}})
                raise Refusal(409, f"{reason}; the old bundle stays") from None
            old, self._models[name] = self._models[name], models
        self._metrics.reloads.labels(name, "done").inc()
        LOG.info("reloaded", extra={"facts": {"bundle": name, "sha256": next(iter(models.values())).bundle_hash[:12]}})
        for model in old.values():
            task = asyncio.create_task(model.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Finish every queue and free every network."""
        await asyncio.gather(*(model.close() for model in self.models), *self._closing)

    def _load(self, source: BundleSource) -> dict[str, ServedModel]:
        """The models of a bundle by precision."""
        bundle = Bundle.load(source.path, source.require_signature)
        bundle.check_no_noise_inputs()
        directions = directions_of(bundle, self._directions)
        if directions is None and any(model.directions for model in self._models.get(source.name, {}).values()):
            raise BundleError(f"no file of directions belongs to the network of the new bundle {source.path}")
        default = bundle.default_precision
        digest = bundle_hash(bundle)
        models: dict[str, ServedModel] = {}
        try:
            for precision in source.precisions or (default,):
                name = source.name if not models else f"{source.name}.{precision}"
                models[precision] = self._model(name, source, bundle, precision, digest, directions)
            if bundle_hash(bundle) != digest:
                raise BackendError(f"bundle {source.path} was replaced while it was loaded; load it again")
        except BaseException:
            for model in models.values():
                model.calls.close()
            raise
        return models

    def _model(
        self, name: str, source: BundleSource, bundle: Bundle, precision: str, digest: str, directions: Directions | None
    ) -> ServedModel:
        begin = time.perf_counter()
        settings = self._settings
        calls = load_calls(bundle, source.backend, precision, source.threads, settings.max_batch, settings.incremental)
        try:
            whole = _compute_on(calls.whole, directions)
            narrow = [_compute_on(generator, directions) for generator in calls.narrow]
            label = 0 if bundle.model["c_dim"] else None
            for batch in sorted({1, settings.max_batch}):  # the first call of a batch also compiles and allocates
                for compute in (whole, *narrow):
                    compute([Composition((seed,) * bundle.num_ws, label=label) for seed in range(batch)])
        except BaseException:
            calls.close()
            raise
        batcher = Batcher(
            narrow or [whole] * calls.whole.concurrency,
            settings.max_batch,
            settings.max_delay_ms / 1000,
            settings.max_queue,
            whole if narrow else None,
            settings.request_seconds,
            self._metrics.batch_observer(name),
        )
        backend = calls.whole.backend
        facts = {"model": name, "backend": backend, "precision": precision, "seconds": round(time.perf_counter() - begin, 2)}
        LOG.info("loaded", extra={"facts": facts})
        return ServedModel(name, digest, calls, batcher, directions)


def _compute_on(generator: Generator, directions: Directions | None) -> Callable[[Sequence[Item]], list[MadeImage]]:
    """The function that makes the images of items by a generator."""

    def compute(items: Sequence[Item]) -> list[MadeImage]:
        moves = [item.parsed_moves if isinstance(item, Composition) else [] for item in items]
        ws, style_offsets = moved_ws(latents_of(generator, items), moves, directions)
        return list(map(MadeImage, as_uint8(generator.synthesize(ws, style_offsets=style_offsets)), ws))

    return compute


def latents_of(generator: Generator, items: Sequence[Item]) -> np.ndarray:
    """The latents of items before their moves, float32 `[N, num_ws, w_dim]`."""
    compositions = [item for item in items if isinstance(item, Composition)]
    composed = iter(composed_ws(generator, compositions)) if compositions else iter(())
    return np.stack([next(composed) if isinstance(item, Composition) else item for item in items])
