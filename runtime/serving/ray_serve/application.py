"""The application that Ray Serve imports: replicas that make the pictures of a bundle, with the routes for pictures of `stylert serve`.

- `GET /v1/images/SEED.png?psi=0.7` is the image of one seed.
- `POST /v1/images` takes the JSON object of `stylert serve`. One image comes as a picture, several as a ZIP file or JSON.

Requests are checked one by one before they share a batch, so a wrong one fails alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from stylert.core.errors import BackendError, BundleError, InputError, shown
from stylert.core.images.grids import as_uint8
from stylert.core.seeds import MAX_SEED
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.recipes import bundle_hash
from stylert.runtime.serving.image_request import ImageOrder, ImagesRequest, image_order, read_request, single_image
from stylert.runtime.serving.image_response import JSON, ZIP, encoded, json_of, several_type, zip_of
from stylert.runtime.serving.model_store import Item, ServedModel, latents_of
from stylert.runtime.serving.network_calls import NetworkCalls
from stylert.runtime.serving.ray_serve.deployment import DEPLOYMENT
from stylert.runtime.serving.refusals import Refusal, error_body, status_of
from stylert.runtime.serving.settings import ServerSettings


class ImageArguments(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The arguments in `serve.yaml`. `ray_serve.deployment` writes them and says what they mean."""

    bundle: str
    sha256: str
    backend: str
    precision: str
    threads: int
    max_batch: int
    max_delay_ms: float
    timeout_seconds: float


class Images:
    """A replica.

    Args:
        arguments: Those of the configuration.

    Raises:
        StylertError: As `Generator.load`, or the bundle is another one than the configuration names.
    """

    def __init__(self, arguments: ImageArguments) -> None:
        bundle = Bundle.load(Path(arguments.bundle))
        digest = bundle_hash(bundle)
        if digest != arguments.sha256:
            raise BundleError(f"bundle {bundle.path} has the hash {digest[:12]}, and serve.yaml names {arguments.sha256[:12]}")
        generator = Generator.load(bundle, arguments.backend, arguments.precision, arguments.threads, arguments.max_batch)
        for count in sorted({1, arguments.max_batch}):  # the first call of a batch also compiles and allocates
            generator(range(count), labels=[0] * count if bundle.model["c_dim"] else None)
        self._generator, self._timeout = generator, arguments.timeout_seconds
        # Its batches form here, and not in a batcher of `stylert serve`.
        self._model = ServedModel("images", digest, NetworkCalls(generator, ()), cast(Any, None))
        self._settings = ServerSettings()
        self._call_began: float | None = None
        delay_s = arguments.max_delay_ms / 1000
        batch: Any = serve.batch(max_batch_size=arguments.max_batch, batch_wait_timeout_s=delay_s)
        self._image: Callable[[Item], Awaitable[np.ndarray]] = batch(self._images)

    async def __call__(self, request: Request) -> Response:
        """Answer a request. An error is a JSON object with one line, as of `stylert serve`."""
        try:
            return await self._answer(request)
        except Exception as e:
            status, message, headers = status_of(e)
            return Response(error_body(message), status, headers, JSON)

    def check_health(self) -> None:
        """Ray replaces a replica for which this raises: one whose call of the network does not return."""
        began = self._call_began
        if began is not None and time.monotonic() - began > self._timeout:
            raise BackendError(f"a call of the network has not returned within {self._timeout:g} s")

    async def _answer(self, request: Request) -> Response:
        path, method = request.url.path, request.method
        if path == "/v2/health/ready":
            return Response()
        if path == "/v1/images" and method == "POST":
            order = self._order(read_request(await request.body(), self._settings))
        elif path.startswith("/v1/images/") and method == "GET":
            seed, _, suffix = path.removeprefix("/v1/images/").rpartition(".")
            if not (seed.isascii() and seed.isdigit() and len(seed) <= 10 and int(seed) <= MAX_SEED):
                raise InputError(f"an image is named by its seed, such as 7.png, not {shown(path)}")
            order = self._order(single_image(request.query_params.multi_items(), int(seed), suffix))
        else:
            raise Refusal(404, f"no route {method} {shown(path)}; there are GET /v1/images/SEED.png and POST /v1/images")
        several = several_type(request.headers.get("accept", ""), order.media_type)
        images = await asyncio.gather(*map(self._image, order.items))
        pictures = await asyncio.to_thread(lambda: [encoded(order, i, image) for i, image in enumerate(images)])
        if several == JSON:
            return Response(json_of(order, pictures), media_type=JSON)
        if several is None and len(pictures) == 1:
            return Response(pictures[0], media_type=order.media_type)
        return Response(zip_of(order, pictures), media_type=ZIP)

    def _order(self, request: ImagesRequest) -> ImageOrder:
        return image_order(request, self._model, self._settings)

    async def _images(self, items: list[Item]) -> Sequence[Any]:
        """One call of the networks for a batch. Ray gives each item its image."""
        self._call_began = time.monotonic()
        try:
            return await asyncio.to_thread(self._made, items)
        finally:
            self._call_began = None

    def _made(self, items: Sequence[Item]) -> list[Any]:
        return list(as_uint8(self._generator.synthesize(latents_of(self._generator, items))))

    def __del__(self) -> None:
        generator = getattr(self, "_generator", None)
        if generator is not None:
            generator.close()


def application(arguments: dict[str, Any]) -> Any:
    """The application for the arguments of a configuration. Raises InputError if they are others."""
    try:
        checked = msgspec.convert(arguments, ImageArguments)
    except msgspec.ValidationError as e:
        raise InputError(f"serve.yaml: {e}") from None
    return serve.deployment(name=DEPLOYMENT)(Images).bind(checked)
