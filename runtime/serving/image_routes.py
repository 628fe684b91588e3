"""The routes for pictures: `POST /v1/images` and `GET /v1/images/SEED.png`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from stylert.core.errors import InputError, shown
from stylert.core.seeds import MAX_SEED
from stylert.runtime.serving.host_work import HostWork
from stylert.runtime.serving.image_request import (
    FORMATS,
    QUERY,
    ImageOrder,
    ImagesRequest,
    image_order,
    read_request,
    single_image,
)
from stylert.runtime.serving.image_response import (
    JSON,
    PARTS,
    ZIP,
    encoded,
    json_of,
    new_boundary,
    parts_of,
    several_type,
    zip_of,
)
from stylert.runtime.serving.model_store import MadeImage, ModelStore
from stylert.runtime.serving.settings import ServerSettings

MIXED_HEADERS = {"Cache-Control": "no-cache", "Vary": "Accept"}


@dataclass(frozen=True)
class ImageService:
    """Makes the pictures of orders.

    Attributes:
        store: The models.
        settings: The limits of requests.
        work: Reads large bodies, and makes picture files and answers.
    """

    store: ModelStore
    settings: ServerSettings
    work: HostWork

    async def posted_order(self, body: bytes) -> ImageOrder:
        """The checked order of a body. Raises InputError or Refusal."""
        return await self.work.run_if_large(len(body), lambda: self.order(read_request(body, self.settings)))

    def order(self, request: ImagesRequest) -> ImageOrder:
        """The checked order of a request. Raises InputError or Refusal."""
        return image_order(request, self.store.find(request.model, request.precision), self.settings)

    async def pictures(self, order: ImageOrder) -> AsyncIterator[bytes]:
        """The picture files of an order, in its sequence, each as soon as it is ready.

        Raises:
            Overloaded: The queue has no room for the images.
        """
        job = order.model.batcher.submit(order.items)
        encoding = [asyncio.ensure_future(self._picture(order, i, result)) for i, result in enumerate(job.results)]
        try:
            for picture in encoding:
                yield await picture
        finally:
            order.model.batcher.cancel(job)
            for picture in encoding:
                picture.cancel()
            await asyncio.gather(*encoding, return_exceptions=True)

    async def _picture(self, order: ImageOrder, index: int, made: asyncio.Future[MadeImage]) -> bytes:
        return await self.work.run(encoded, order, index, (await made).image)


def image_routes(service: ImageService) -> APIRouter:
    """The routes of a service."""
    router = APIRouter(tags=["images"])

    @router.post("/v1/images", summary="Make images", openapi_extra=_body_schema(), responses=_RESPONSES)
    async def make_images(request: Request) -> Response:
        """Make images. One image is a picture. Several are a ZIP file, or by `Accept` parts as they are ready, or JSON."""
        order = await service.posted_order(await request.body())
        several = several_type(request.headers.get("accept", ""), order.media_type)
        if several == PARTS:
            boundary = new_boundary()
            # The first picture is awaited here, so that a full queue is still answered by its status.
            stream = parts_of(order, service.pictures(order), boundary)
            first = await anext(stream)
            media_type = f"{PARTS}; boundary={boundary}"
            return StreamingResponse(_after(first, stream), media_type=media_type, headers=MIXED_HEADERS)
        pictures = [picture async for picture in service.pictures(order)]
        if several == JSON:
            return Response(await service.work.run(json_of, order, pictures), media_type=JSON, headers=MIXED_HEADERS)
        if several is None and len(pictures) == 1:
            return Response(pictures[0], media_type=order.media_type, headers=MIXED_HEADERS)
        headers = {**MIXED_HEADERS, "Content-Disposition": 'attachment; filename="images.zip"'}
        return Response(await service.work.run(zip_of, order, pictures), media_type=ZIP, headers=headers)

    @router.get(
        "/v1/images/{name}",
        summary="The image of one seed",
        openapi_extra={"parameters": _query_schema()},
        responses=_RESPONSES,
    )
    async def seed_image(name: str, request: Request) -> Response:
        """The image of one seed, such as `/v1/images/7.png?psi=0.7`. Its ETag lets browsers and proxies keep it."""
        seed, _, suffix = name.rpartition(".")
        if not (seed.isascii() and seed.isdigit() and len(seed) <= 10 and int(seed) <= MAX_SEED):
            raise InputError(f"an image is named by its seed, such as 7.png, not {shown(name)}")
        order = service.order(single_image(request.query_params.multi_items(), int(seed), suffix))
        headers = {"ETag": order.etag, "Cache-Control": "no-cache"}
        if _has_tag(request.headers.get("if-none-match", ""), order.etag):
            return Response(status_code=304, headers=headers)
        pictures = [picture async for picture in service.pictures(order)]
        return Response(pictures[0], media_type=order.media_type, headers=headers)

    return router


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in rest:
        yield part


def _has_tag(if_none_match: str, etag: str) -> bool:
    """Whether the header names the tag. Tags are compared weakly, as RFC 9110 says for this header."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag.removeprefix("W/") in tags


def _body_schema() -> dict[str, Any]:
    _, components = msgspec.json.schema_components([ImagesRequest], ref_template="#/components/schemas/{name}")
    return {"requestBody": {"content": {JSON: {"schema": components["ImagesRequest"]}}, "required": False}}


def _query_schema() -> list[dict[str, Any]]:
    types = {str: "string", int: "integer", float: "number"}
    return [{"name": name, "in": "query", "schema": {"type": types[kind]}} for name, kind in QUERY.items()]


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {} for kind in (*(media_type for _, media_type in FORMATS.values()), ZIP, PARTS, JSON)}},
    400: {"description": "The request has a mistake; the answer names it"},
    503: {"description": "The queue is full, or the server stops; `Retry-After` says when to try again"},
}
